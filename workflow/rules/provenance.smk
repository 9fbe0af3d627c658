rule provenance:
    """What was run: config, parameters, versions, commit, checksums of the bundles."""
    input:
        records=expand("results/ingest/{slide}/ingest.json", slide=slides_of()),
        slides=project_file(config["slides"]),
        stages=[stage_params(stage) for stage in STAGES],
    output:
        provenance="results/provenance.json",
    log:
        "logs/provenance/run.log",
    benchmark:
        "logs/benchmarks/provenance/run.tsv"
    conda:
        "../../envs/spatia.yaml"
    resources:
        mem_mb=megabytes(1000),
        runtime=minutes(5),
    params:
        config=json.dumps(config, sort_keys=True),
    shell:
        "spatia provenance --run . --config-json {params.config:q} --slides {input.slides:q}"
        " --out {output.provenance:q} --log {log:q}"
