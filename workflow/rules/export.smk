rule export:
    """All tables of a slide -> AnnData, annotated SpatialData, cell groups for Xenium Explorer."""
    input:
        zarr="results/ingest/{slide}/slide.zarr",
        record="results/ingest/{slide}/ingest.json",
        cells="results/qc/{slide}/cells.parquet",
        crops="results/crop/{slide}/crops",
        tiles="results/tile/{slide}/tiles",
        embeddings="results/embed/{slide}/embeddings",
        labels=existing("labels"),
    output:
        h5ad="results/export/{slide}/{slide}.h5ad",
        store=directory("results/export/{slide}/{slide}.zarr"),
        explorer=directory("results/export/{slide}/explorer"),
    log:
        "logs/export/{slide}.log",
    benchmark:
        "logs/benchmarks/export/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    resources:
        mem_mb=megabytes(2000),
        runtime=minutes(20),
    params:
        options=options(labels=sheet_path("labels"), sample=sample_of),
    shell:
        "spatia export --slide {wildcards.slide:q} --zarr {input.zarr:q} --record {input.record:q}"
        " --qc-cells {input.cells:q} --crops {input.crops:q} --tiles {input.tiles:q}"
        " --embeddings {input.embeddings:q} {params.options:q}"
        " --h5ad {output.h5ad:q} --store {output.store:q} --explorer {output.explorer:q} --log {log:q}"
