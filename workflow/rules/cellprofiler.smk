# CellProfiler itself on the same images, as a check: `snakemake ... results/cellprofiler/SLIDE/comparison`
SHARDS = range(int(read_params("cellprofiler").get("shards", 2)))


rule cellprofiler_inputs:
    """Images and masks of some cells -> files for CellProfiler."""
    input:
        features="results/features/{slide}/features",
        generated="results/generate/{slide}/generated",
        crops="results/crop/{slide}/crops",
        params=stage_params("cellprofiler"),
        pipeline=project_file("resources/cellprofiler/measure.cppipe"),
    output:
        inputs=directory("results/cellprofiler/{slide}/inputs"),
    log:
        "logs/cellprofiler/{slide}_inputs.log",
    benchmark:
        "logs/benchmarks/cellprofiler/{slide}_inputs.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000, per_input=2),
        runtime=minutes(15, per_input_gb=60),
    shell:
        "spatia cellprofiler --log {log:q} prepare --slide {wildcards.slide:q} --features {input.features:q}"
        " --generated {input.generated:q} --crops {input.crops:q}"
        " --params {input.params:q} --pipeline {input.pipeline:q} --out {output.inputs:q}"


rule cellprofiler_shard:
    """One shard of the images -> CellProfiler's own tables. Image numbers are those of the whole."""
    input:
        inputs="results/cellprofiler/{slide}/inputs",
    output:
        tables=directory("results/cellprofiler/{slide}/shards/{shard}"),
    log:
        "logs/cellprofiler/{slide}_{shard}.log",
    benchmark:
        "logs/benchmarks/cellprofiler/{slide}_{shard}.tsv"
    conda:
        "../../envs/cellprofiler.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(3000),
        runtime=minutes(30, per_input_gb=6000),
    params:
        command=config["cellprofiler"]["command"],
    shell:
        # never --always-continue: it drops images that failed and says nothing
        "mkdir -p {output.tables:q};"
        ' range=$(awk -v shard={wildcards.shard} \'$1 == shard {{print "-f", $2, "-l", $3; exit $2 > $3}}\''
        " {input.inputs:q}/shards.tsv) || exit 0;"
        " {params.command} -c -r -p {input.inputs:q}/measure.cppipe --data-file {input.inputs:q}/load_data.csv"
        ' -i "$(realpath {input.inputs:q})" -o "$(realpath {output.tables:q})" $range > {log:q} 2>&1'


rule cellprofiler:
    """CellProfiler's tables -> one table, every image in it, and how far its columns are from ours."""
    input:
        inputs="results/cellprofiler/{slide}/inputs",
        shards=expand(
            "results/cellprofiler/{{slide}}/shards/{shard}", shard=list(SHARDS)
        ),
        features="results/features/{slide}/features",
    output:
        comparison=directory("results/cellprofiler/{slide}/comparison"),
    log:
        "logs/cellprofiler/{slide}.log",
    benchmark:
        "logs/benchmarks/cellprofiler/{slide}.tsv"
    conda:
        "../../envs/spatia.yaml"
    threads: 1
    resources:
        mem_mb=megabytes(2000, per_input=2),
        runtime=minutes(15),
    shell:
        "spatia cellprofiler --log {log:q} collect --inputs {input.inputs:q} --shards {input.shards:q}"
        " --features {input.features:q} --out {output.comparison:q}"
