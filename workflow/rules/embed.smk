rule embed:
    """A model and a slide -> embeddings of its cells, niches and tissues."""
    input:
        checkpoint=checkpoint_path(),
        zarr="results/ingest/{slide}/slide.zarr",
        crops="results/crop/{slide}/crops",
        tiles="results/tile/{slide}/tiles",
        params=stage_params("embed"),
    output:
        embeddings=directory("results/embed/{slide}/embeddings"),
    log:
        "logs/embed/{slide}.log",
    benchmark:
        "logs/benchmarks/embed/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 2
    resources:
        **gpu_of("embed"),
        mem_mb=megabytes(3000, per_input=0.02),
        runtime=minutes(30, per_input_gb=60),
    shell:
        "spatia embed --slide {wildcards.slide:q} --checkpoint {input.checkpoint:q} --zarr {input.zarr:q}"
        " --crops {input.crops:q} --tiles {input.tiles:q} --params {input.params:q}"
        " --out {output.embeddings:q} --threads {threads} --log {log:q}"
