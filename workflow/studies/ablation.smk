# Variants of the model: trained on one region, probed on another.


def variant_params(wildcards):
    """Return the training parameters of one variant and seed, as YAML."""
    _, changes = VARIANTS[int(wildcards.variant)]
    common = merged(shipped_params("pretrain"), PLAN.get("params", {}))
    return yaml.safe_dump(merged(common, {**changes, "seed": int(wildcards.seed)}))


def label_paths():
    """Return the labels files of train and test."""
    return [os.path.join(config["bundles"], name) for name in PLAN["labels"]]


rule params:
    """The training parameters of one variant and seed."""
    output:
        "params/{variant}_{seed}.yaml",
    log:
        "logs/params/{variant}_{seed}.log",
    params:
        text=variant_params,
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule pretrain:
    """One model."""
    input:
        cells=cells_of(PLAN["train"]),
        params="params/{variant}_{seed}.yaml",
    output:
        checkpoint=directory("models/{variant}_{seed}/checkpoint"),
        history="models/{variant}_{seed}/history.tsv",
    log:
        "logs/pretrain/{variant}_{seed}.log",
    benchmark:
        "logs/benchmarks/pretrain/{variant}_{seed}.tsv"
    threads: 1  # a second thread helps one training little; two trainings side by side use two cores
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        run=RUN,
        train=PLAN["train"],
    shell:
        "spatia pretrain --run {params.run:q} --train {params.train:q} --params {input.params:q}"
        " --checkpoint {output.checkpoint:q} --history {output.history:q}"
        " --work models/{wildcards.variant}_{wildcards.seed}/work --threads {threads} --log {log:q}"


rule probe:
    """What its embeddings tell."""
    input:
        checkpoint="models/{variant}_{seed}/checkpoint",
        cells=cells_of(PLAN["train"], PLAN["test"]),
        labels=label_paths(),
    output:
        "scores/{variant}_{seed}.tsv",
    log:
        "logs/probe/{variant}_{seed}.log",
    benchmark:
        "logs/benchmarks/probe/{variant}_{seed}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        run=RUN,
        plan=PLAN,
        name=lambda wildcards: VARIANTS[int(wildcards.variant)][0],
    shell:
        "spatia probe --run {params.run:q} --checkpoint {input.checkpoint:q} --name={params.name:q}"
        " --train {params.plan[train]:q} --test {params.plan[test]:q} --labels {input.labels:q}"
        " --edge {params.plan[edge]:q} --draws {params.plan[draws]} --out {output:q} --threads {threads} --log {log:q}"


rule table:
    """All scores, tidy, and as a table with mean and spread over seeds."""
    input:
        expand(
            "scores/{variant}_{seed}.tsv", variant=list(VARIANTS), seed=PLAN["seeds"]
        ),
    output:
        scores="scores.tsv",
        table="table.md",
    log:
        "logs/table.log",
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "spatia table --scores {input:q} --out {output.scores:q} --table {output.table:q} --log {log:q}"
