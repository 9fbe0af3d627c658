rule pretrain:
    """Crops, tiles and counts of the training slides -> the model. Interrupted, it goes on where it was."""
    input:
        crops=expand("results/crop/{slide}/crops", slide=slides_of("train", "val")),
        tiles=expand("results/tile/{slide}/tiles", slide=slides_of("train", "val")),
        zarrs=expand(
            "results/ingest/{slide}/slide.zarr", slide=slides_of("train", "val")
        ),
        params=stage_params("pretrain"),
    output:
        checkpoint=directory("results/pretrain/checkpoint"),
        history="results/pretrain/history.tsv",
    log:
        "logs/pretrain/run.log",
    benchmark:
        "logs/benchmarks/pretrain/run.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 2
    resources:
        **gpu_of("pretrain"),
        mem_mb=megabytes(4000, per_input=0.1),
        runtime=minutes(45, per_input_gb=120),
    params:
        launch=launcher(),
        train=slides_of("train"),
        val=options_list("--val", slides_of("val")),
    shell:
        "{params.launch} pretrain --run . --train {params.train:q} {params.val:q} --params {input.params:q}"
        " --checkpoint {output.checkpoint:q} --history {output.history:q} --work results/pretrain/work"
        " --tensorboard logs/tensorboard/pretrain --threads {threads} --log {log:q}"
