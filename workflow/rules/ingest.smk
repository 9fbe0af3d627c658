rule ingest:
    """Xenium bundle -> slide.zarr, written once."""
    input:
        bundle=bundle_files,
        params=stage_params("ingest"),
    output:
        zarr=directory("results/ingest/{slide}/slide.zarr"),
        record="results/ingest/{slide}/ingest.json",
    log:
        "logs/ingest/{slide}.log",
    benchmark:
        "logs/benchmarks/ingest/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 2
    resources:
        mem_mb=megabytes(2000, per_input=0.1),
        runtime=minutes(10, per_input_gb=10),
    params:
        bundle=bundle_path,
        species=sheet_value("species"),
        options=options(
            roi_um=sheet_value("roi_um"),
            he=sheet_path("he"),
            he_alignment=sheet_path("he_alignment"),
        ),
    shell:
        "spatia ingest {params.bundle:q} --slide {wildcards.slide:q} --species {params.species:q}"
        " --params {input.params:q} {params.options:q}"
        " --zarr {output.zarr:q} --record {output.record:q} --log {log:q}"
