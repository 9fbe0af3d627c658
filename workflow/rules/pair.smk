rule pair_basis:
    """States and counts of the training slides -> one joint PCA of expression."""
    input:
        tiles=expand("results/tile/{slide}/tiles", slide=slides_of("train")),
        states=expand("results/states/{slide}/states", slide=slides_of("train")),
        params=stage_params("pair"),
    output:
        basis=directory("results/pair/basis"),
    log:
        "logs/pair/basis.log",
    benchmark:
        "logs/benchmarks/pair/basis.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 2
    resources:
        mem_mb=megabytes(2000, per_input=4),
        runtime=minutes(15, per_input_gb=60),
    params:
        slides=slides_of("train"),
    shell:
        "spatia pair basis --slides {params.slides:q} --tiles {input.tiles:q} --states {input.states:q}"
        " --params {input.params:q} --out {output.basis:q} --log {log:q}"


rule pair:
    """States, counts and positions of a slide -> pairs of control and target cells, one plan per transition."""
    input:
        tiles="results/tile/{slide}/tiles",
        states="results/states/{slide}/states",
        basis="results/pair/basis",
        transitions=project_file(config["transitions"]),
        params=stage_params("pair"),
    output:
        pairs=directory("results/pair/{slide}/pairs"),
    log:
        "logs/pair/{slide}.log",
    benchmark:
        "logs/benchmarks/pair/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 2
    resources:
        mem_mb=megabytes(4000, per_input=4),
        runtime=minutes(30, per_input_gb=600),
    params:
        donor=sheet_value("donor"),
    shell:
        "spatia pair pairs --slides {wildcards.slide:q} --tiles {input.tiles:q} --states {input.states:q}"
        " --basis {input.basis:q} --transitions {input.transitions:q} --donor {params.donor:q}"
        " --params {input.params:q} --out {output.pairs:q} --log {log:q}"


rule pair_signatures:
    """Training pairs -> what each transition changes in expression (eq. 11)."""
    input:
        tiles=expand("results/tile/{slide}/tiles", slide=slides_of("train")),
        states=expand("results/states/{slide}/states", slide=slides_of("train")),
        pairs=expand("results/pair/{slide}/pairs", slide=slides_of("train")),
        basis="results/pair/basis",
        params=stage_params("pair"),
    output:
        signatures=directory("results/pair/signatures"),
    log:
        "logs/pair/signatures.log",
    benchmark:
        "logs/benchmarks/pair/signatures.tsv"
    conda:
        "../../envs/spatia.yaml"
    resources:
        mem_mb=megabytes(2000, per_input=4),
        runtime=minutes(15, per_input_gb=60),
    params:
        slides=slides_of("train"),
    shell:
        "spatia pair signatures --slides {params.slides:q} --tiles {input.tiles:q} --states {input.states:q}"
        " --pairs {input.pairs:q} --basis {input.basis:q} --params {input.params:q}"
        " --out {output.signatures:q} --log {log:q}"
