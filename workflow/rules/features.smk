rule features:
    """Generated images and the real cells they are compared with -> CellProfiler's features."""
    input:
        generated="results/generate/{slide}/generated",
        crops="results/crop/{slide}/crops",
        pairs=pairs_of,
        params=stage_params("features"),
    output:
        features=directory("results/features/{slide}/features"),
    log:
        "logs/features/{slide}.log",
    benchmark:
        "logs/benchmarks/features/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 2
    resources:
        mem_mb=megabytes(2000, per_input=2),
        runtime=minutes(30, per_input_gb=600),
    params:
        pairs=lambda wildcards: options_list("--pairs", pairs_of(wildcards)),
    shell:
        "spatia features --slide {wildcards.slide:q} --generated {input.generated:q} --crops {input.crops:q}"
        " {params.pairs:q} --params {input.params:q} --out {output.features:q}"
        " --processes {threads} --log {log:q}"
