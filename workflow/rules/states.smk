rule states:
    """Tiles and labels (or marker genes) -> type, lineage, state, niche classes and split of every kept cell."""
    input:
        tiles="results/tile/{slide}/tiles",
        labels=cell_labels,
        names=label_names,
        markers=marker_table,
        params=stage_params("states"),
    output:
        states=directory("results/states/{slide}/states"),
    log:
        "logs/states/{slide}.log",
    benchmark:
        "logs/benchmarks/states/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    resources:
        mem_mb=megabytes(2000, per_input=2),
        runtime=minutes(15, per_input_gb=60),
    params:
        options=state_options,
    shell:
        "spatia states --slide {wildcards.slide:q} --tiles {input.tiles:q} {params.options:q}"
        " --params {input.params:q} --out {output.states:q} --log {log:q}"
