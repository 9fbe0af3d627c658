rule tile:
    """slide.zarr -> niche and tissue grids, membership of every cell, summed counts."""
    input:
        zarr="results/ingest/{slide}/slide.zarr",
        cells="results/qc/{slide}/cells.parquet",
        params=stage_params("tile"),
    output:
        tiles=directory("results/tile/{slide}/tiles"),
    log:
        "logs/tile/{slide}.log",
    benchmark:
        "logs/benchmarks/tile/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    resources:
        mem_mb=megabytes(1500),
        runtime=minutes(15),
    shell:
        "spatia tile --slide {wildcards.slide:q} --zarr {input.zarr:q} --cells {input.cells:q}"
        " --params {input.params:q} --out {output.tiles:q} --log {log:q}"
