rule generate:
    """A generator and the control cells of a slide -> images of what they would become."""
    input:
        checkpoint=generator_path(),
        zarr="results/ingest/{slide}/slide.zarr",
        crops="results/crop/{slide}/crops",
        embeddings="results/embed/{slide}/embeddings",
        tiles="results/tile/{slide}/tiles",
        states="results/states/{slide}/states",
        params=stage_params("generate"),
    output:
        generated=directory("results/generate/{slide}/generated"),
    log:
        "logs/generate/{slide}.log",
    benchmark:
        "logs/benchmarks/generate/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 2
    resources:
        **gpu_of("generate"),
        mem_mb=megabytes(3000, per_input=0.02),
        runtime=minutes(60),
    shell:
        "spatia generate --slide {wildcards.slide:q} --checkpoint {input.checkpoint:q} --zarr {input.zarr:q}"
        " --crops {input.crops:q} --embeddings {input.embeddings:q} --states {input.states:q}"
        " --tiles {input.tiles:q} --params {input.params:q} --out {output.generated:q} --threads {threads} --log {log:q}"
