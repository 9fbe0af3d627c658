rule crop:
    """slide.zarr -> the pixels of every kept cell, native resolution, 8 bit."""
    input:
        zarr="results/ingest/{slide}/slide.zarr",
        cells="results/qc/{slide}/cells.parquet",
        histograms="results/qc/{slide}/histograms.npz",
        params=stage_params("crop"),
    output:
        crops=directory("results/crop/{slide}/crops"),
    log:
        "logs/crop/{slide}.log",
    benchmark:
        "logs/benchmarks/crop/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    resources:
        mem_mb=megabytes(1500),
        runtime=minutes(30),
    shell:
        "spatia crop --slide {wildcards.slide:q} --zarr {input.zarr:q} --cells {input.cells:q}"
        " --histograms {input.histograms:q} --params {input.params:q} --out {output.crops:q} --log {log:q}"
