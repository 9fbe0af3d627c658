rule simulate:
    """A Xenium bundle with planted truth, for slides whose bundle is the word `simulated`."""
    input:
        params=stage_params("simulate"),
    output:
        bundle=directory("results/simulate/{slide}/bundle"),
        truth=directory("results/simulate/{slide}/truth"),
    log:
        "logs/simulate/{slide}.log",
    benchmark:
        "logs/benchmarks/simulate/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    resources:
        mem_mb=megabytes(3000),
        runtime=minutes(20),
    shell:
        "spatia simulate --slide {wildcards.slide:q} --params {input.params:q}"
        " --bundle {output.bundle:q} --truth {output.truth:q} --log {log:q}"
