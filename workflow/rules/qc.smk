rule qc:
    """slide.zarr -> measures of every cell, which are kept and why not, grey-value histograms."""
    input:
        zarr="results/ingest/{slide}/slide.zarr",
        params=stage_params("qc"),
    output:
        cells="results/qc/{slide}/cells.parquet",
        summary="results/qc/{slide}/qc.json",
        histograms="results/qc/{slide}/histograms.npz",
    log:
        "logs/qc/{slide}.log",
    benchmark:
        "logs/benchmarks/qc/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    resources:
        mem_mb=megabytes(1500),
        runtime=minutes(30),
    shell:
        "spatia qc --slide {wildcards.slide:q} --zarr {input.zarr:q} --params {input.params:q}"
        " --cells {output.cells:q} --summary {output.summary:q} --histograms {output.histograms:q} --log {log:q}"
