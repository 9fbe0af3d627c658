rule report:
    """Everything measured so far -> one page, the cohort table, figures."""
    input:
        records=expand("results/ingest/{slide}/ingest.json", slide=slides_of()),
        cells=expand("results/qc/{slide}/cells.parquet", slide=slides_of()),
        crops=expand("results/crop/{slide}/crops", slide=slides_of()),
        tiles=expand("results/tile/{slide}/tiles", slide=modelled_slides()),
        embeddings=expand("results/embed/{slide}/embeddings", slide=modelled_slides()),
        model=checkpoint_path() if modelled_slides() else [],
        history="results/pretrain/history.tsv" if trains() and modelled_slides() else [],
        labels=label_files(),
        generator="results/flow/history.tsv" if trains_generator() else [],
        states=expand(
            "results/states/{slide}/states",
            slide=sorted({*paired_slides(), *generated_slides()}),
        ),
        pairs=expand("results/pair/{slide}/pairs", slide=paired_slides()),
        generated=expand("results/generate/{slide}/generated", slide=generated_slides()),
        features=expand("results/features/{slide}/features", slide=measured_slides()),
        scores="results/tables/generation.csv" if scored_slides() else [],
        provenance="results/provenance.json",
        slides=project_file(config["slides"]),
    output:
        page=report(
            "results/report.html", caption="../report/page.rst", category="Cohort"
        ),
        cohort=report(
            "results/cohort.tsv", caption="../report/cohort.rst", category="Cohort"
        ),
        figures=report(
            directory("results/figures"),
            patterns=["{slide}/{figure}.png"],
            caption="../report/figure.rst",
            category="{slide}",
            labels={"figure": "{figure}"},
        ),
    log:
        "logs/report/run.log",
    benchmark:
        "logs/benchmarks/report/run.tsv"
    conda:
        "../../envs/spatia.yaml"
    resources:
        mem_mb=megabytes(2000),
        runtime=minutes(30 + 2 * len(SLIDES)),
    params:
        options=bundles_option(),
    shell:
        "spatia report --run . --slides {input.slides:q} --out {output.page:q} --cohort {output.cohort:q}"
        " --figures {output.figures:q} {params.options:q} --log {log:q}"
