rule flow:
    """Pairs, crops and embeddings of the training slides -> the generator. Interrupted, it goes on where it was."""
    input:
        pairs=expand("results/pair/{slide}/pairs", slide=slides_of("train", "val")),
        signatures="results/pair/signatures",
        crops=expand("results/crop/{slide}/crops", slide=slides_of("train", "val")),
        embeddings=expand(
            "results/embed/{slide}/embeddings", slide=slides_of("train", "val")
        ),
        tiles=expand("results/tile/{slide}/tiles", slide=slides_of("train", "val")),
        zarrs=expand(
            "results/ingest/{slide}/slide.zarr", slide=slides_of("train", "val")
        ),
        transitions=project_file(config["transitions"]),
        params=stage_params("flow"),
    output:
        checkpoint=directory("results/flow/checkpoint"),
        history="results/flow/history.tsv",
    log:
        "logs/flow/run.log",
    benchmark:
        "logs/benchmarks/flow/run.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 2
    resources:
        **gpu_of("flow"),
        mem_mb=megabytes(8000, per_input=0.1),
        runtime=minutes(60, per_input_gb=60),
    params:
        launch=launcher("flow"),
        train=slides_of("train"),
        val=options_list("--val", slides_of("val")),
    shell:
        "{params.launch} flow --run . --train {params.train:q} {params.val:q} --transitions {input.transitions:q}"
        " --signatures {input.signatures:q} --params {input.params:q} --checkpoint {output.checkpoint:q}"
        " --history {output.history:q} --work results/flow/work --tensorboard logs/tensorboard/flow"
        " --threads {threads} --log {log:q}"
