rule score:
    """Generated and real cells -> KID, KS, Wasserstein distances and signed shifts per transition."""
    input:
        features="results/features/{slide}/features",
        generated="results/generate/{slide}/generated",
        crops="results/crop/{slide}/crops",
        pairs="results/pair/{slide}/pairs",
        params=stage_params("score"),
        weights=inception_weights(),
    output:
        scores="results/score/{slide}/scores.tsv",
    log:
        "logs/score/{slide}.log",
    benchmark:
        "logs/benchmarks/score/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 2
    resources:
        mem_mb=megabytes(3000, per_input=2),
        runtime=minutes(30, per_input_gb=60),
    shell:
        "spatia score --slide {wildcards.slide:q} --features {input.features:q} --generated {input.generated:q}"
        " --crops {input.crops:q} --pairs {input.pairs:q} --params {input.params:q} --out {output.scores:q}"
        " --threads {threads} --log {log:q}"


rule generation:
    """Scores of all test slides -> the table of one generation experiment."""
    input:
        scores=expand("results/score/{slide}/scores.tsv", slide=scored_slides()),
    output:
        rows="results/tables/generation.csv",
        table="results/tables/generation.md",
    log:
        "logs/generation/table.log",
    benchmark:
        "logs/benchmarks/generation/table.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(1000),
        runtime=minutes(10),
    shell:
        "spatia generation --scores {input.scores:q} --rows {output.rows:q} --table {output.table:q} --log {log:q}"
