# Variants of pairing and generator: trained on one region, generated and scored on another.


def stage_text(wildcards):
    """Return the parameters of one stage, variant and seed, as YAML."""
    _, changes = VARIANTS[int(wildcards.variant)]
    common = merged(
        shipped_params(wildcards.stage), PLAN.get("params", {}).get(wildcards.stage, {})
    )
    return yaml.safe_dump(
        merged(
            common, {**changes.get(wildcards.stage, {}), "seed": int(wildcards.seed)}
        )
    )


def transitions_text():
    """Return the plan of the transitions that are studied, as YAML; all of them if the study names none."""
    with open(ROOT / "config/transitions.yaml", encoding="utf-8") as handle:
        whole = yaml.safe_load(handle)
    return yaml.safe_dump({tag: whole[tag] for tag in PLAN.get("transitions", whole)})


def names_of_all():
    """Return the names of the variants and the seeds, in the order of the score files."""
    names = [name for name, _ in VARIANTS.values() for _ in PLAN["seeds"]]
    return names, [seed for _ in VARIANTS for seed in PLAN["seeds"]]


wildcard_constraints:
    stage="pair|flow|generate",


rule params:
    """The parameters of one stage, variant and seed."""
    output:
        "params/{stage}/{variant}_{seed}.yaml",
    log:
        "logs/params/{stage}/{variant}_{seed}.log",
    params:
        text=stage_text,
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule transitions:
    """The transitions that are studied."""
    output:
        "params/transitions.yaml",
    log:
        "logs/params/transitions.log",
    params:
        text=transitions_text(),
    shell:
        "printf '%s' {params.text:q} > {output:q} 2> {log:q}"


rule pair:
    """The training pairs, with as much noise as the variant wants."""
    input:
        tiles=of_run("tile", PLAN["train"], "tiles"),
        states=of_run("states", PLAN["train"], "states"),
        basis=os.path.join(RUN, "results/pair/basis"),
        transitions="params/transitions.yaml",
        params="params/pair/{variant}_{seed}.yaml",
    output:
        pairs=directory("pair/{variant}_{seed}/pairs"),
    log:
        "logs/pair/{variant}_{seed}.log",
    benchmark:
        "logs/benchmarks/pair/{variant}_{seed}.tsv"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        slide=PLAN["train"],
    shell:
        "spatia pair pairs --slides {params.slide:q} --tiles {input.tiles:q} --states {input.states:q}"
        " --basis {input.basis:q} --transitions {input.transitions:q} --params {input.params:q}"
        " --out {output.pairs:q} --log {log:q}"


rule signatures:
    """What the transitions change in expression, by these pairs."""
    input:
        tiles=of_run("tile", PLAN["train"], "tiles"),
        states=of_run("states", PLAN["train"], "states"),
        basis=os.path.join(RUN, "results/pair/basis"),
        pairs="pair/{variant}_{seed}/pairs",
        params="params/pair/{variant}_{seed}.yaml",
    output:
        signatures=directory("pair/{variant}_{seed}/signatures"),
    log:
        "logs/signatures/{variant}_{seed}.log",
    benchmark:
        "logs/benchmarks/signatures/{variant}_{seed}.tsv"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        slide=PLAN["train"],
    shell:
        "spatia pair signatures --slides {params.slide:q} --tiles {input.tiles:q} --states {input.states:q}"
        " --pairs {input.pairs:q} --basis {input.basis:q} --params {input.params:q} --out {output.signatures:q}"
        " --log {log:q}"


rule flow:
    """One generator."""
    input:
        pairs="pair/{variant}_{seed}/pairs",
        signatures="pair/{variant}_{seed}/signatures",
        cells=cells_of(PLAN["train"]),
        embeddings=of_run("embed", PLAN["train"], "embeddings"),
        transitions="params/transitions.yaml",
        params="params/flow/{variant}_{seed}.yaml",
    output:
        checkpoint=directory("models/{variant}_{seed}/checkpoint"),
        history="models/{variant}_{seed}/history.tsv",
    log:
        "logs/flow/{variant}_{seed}.log",
    benchmark:
        "logs/benchmarks/flow/{variant}_{seed}.tsv"
    threads: 1  # two trainings side by side use two cores better than one with two threads
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        run=RUN,
        train=PLAN["train"],
    shell:
        "spatia flow --run {params.run:q} --train {params.train:q} --pairs {input.pairs:q}"
        " --transitions {input.transitions:q} --signatures {input.signatures:q} --params {input.params:q}"
        " --checkpoint {output.checkpoint:q} --history {output.history:q}"
        " --work models/{wildcards.variant}_{wildcards.seed}/work --threads {threads} --log {log:q}"


rule generate:
    """The controls of the other region."""
    input:
        checkpoint="models/{variant}_{seed}/checkpoint",
        zarr=of_run("ingest", PLAN["test"], "slide.zarr"),
        crops=of_run("crop", PLAN["test"], "crops"),
        embeddings=of_run("embed", PLAN["test"], "embeddings"),
        tiles=of_run("tile", PLAN["test"], "tiles"),
        states=of_run("states", PLAN["test"], "states"),
        params="params/generate/{variant}_{seed}.yaml",
    output:
        generated=directory("generate/{variant}_{seed}/generated"),
    log:
        "logs/generate/{variant}_{seed}.log",
    benchmark:
        "logs/benchmarks/generate/{variant}_{seed}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        slide=PLAN["test"],
    shell:
        "spatia generate --slide {params.slide:q} --checkpoint {input.checkpoint:q} --zarr {input.zarr:q}"
        " --crops {input.crops:q} --embeddings {input.embeddings:q} --tiles {input.tiles:q}"
        " --states {input.states:q} --params {input.params:q} --out {output.generated:q} --threads {threads}"
        " --log {log:q}"


rule features:
    """Features of generated and real cells."""
    input:
        generated="generate/{variant}_{seed}/generated",
        crops=of_run("crop", PLAN["test"], "crops"),
        pairs=of_run("pair", PLAN["test"], "pairs"),
        known=of_run("features", PLAN["test"], "features"),  # real cells are the same for all variants
        params=ROOT / "config/stages/features.yaml",
    output:
        features=directory("features/{variant}_{seed}/features"),
    log:
        "logs/features/{variant}_{seed}.log",
    benchmark:
        "logs/benchmarks/features/{variant}_{seed}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        slide=PLAN["test"],
    shell:
        "spatia features --slide {params.slide:q} --generated {input.generated:q} --crops {input.crops:q}"
        " --pairs {input.pairs:q} --known {input.known:q} --params {input.params:q}"
        " --out {output.features:q} --processes {threads}"
        " --log {log:q}"


rule score:
    """Scores of one generator."""
    input:
        features="features/{variant}_{seed}/features",
        generated="generate/{variant}_{seed}/generated",
        crops=of_run("crop", PLAN["test"], "crops"),
        pairs=of_run("pair", PLAN["test"], "pairs"),
        params=ROOT / "config/stages/score.yaml",
    output:
        scores="scores/{variant}_{seed}.tsv",
    log:
        "logs/score/{variant}_{seed}.log",
    benchmark:
        "logs/benchmarks/score/{variant}_{seed}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        slide=PLAN["test"],
    shell:
        "spatia score --slide {params.slide:q} --features {input.features:q} --generated {input.generated:q}"
        " --crops {input.crops:q} --pairs {input.pairs:q} --params {input.params:q} --out {output.scores:q}"
        " --threads {threads} --log {log:q}"


rule compare:
    """All scores, tidy, and as a table with mean and spread over seeds."""
    input:
        scores=expand(
            "scores/{variant}_{seed}.tsv", variant=list(VARIANTS), seed=PLAN["seeds"]
        ),
    output:
        scores="scores.tsv",
        table="table.md",
    log:
        "logs/compare.log",
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        models=names_of_all()[0],
        seeds=names_of_all()[1],
    shell:
        "spatia compare --scores {input.scores:q} --models {params.models:q} --seeds {params.seeds:q}"
        " --out {output.scores:q} --table {output.table:q} --log {log:q}"
