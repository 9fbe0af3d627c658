# Functions that rules share: the sheet of slides, paths, resources. No rule lives here.
import json
import os
from pathlib import Path

import pandas as pd
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.shell import shell
from snakemake.utils import update_config, validate

ROOT = Path(workflow.basedir).parent
os.environ.update(SPATIA_ROOT=str(ROOT))  # for envs/spatia.yaml
# Stages with a parameter file
STAGES = (
    "simulate",
    "ingest",
    "qc",
    "crop",
    "tile",
    "pretrain",
    "embed",
    "states",
    "pair",
    "flow",
    "generate",
    "features",
    "cellprofiler",
    "score",
)


def project_file(path):
    """Return `path` in the working directory if it is there, else the one shipped with the workflow."""
    return path if os.path.exists(path) else str(ROOT / path)


def load_config():
    """Fill the config: shipped or local config.yaml below what --configfile and --config gave, then config/site.yaml."""
    filled = {}
    if "slides" not in config:
        with open(project_file("config/config.yaml"), encoding="utf-8") as handle:
            update_config(filled, yaml.safe_load(handle) or {})
    site = project_file("config/site.yaml")
    if os.path.exists(site):
        with open(site, encoding="utf-8") as handle:
            update_config(filled, yaml.safe_load(handle) or {})
    update_config(filled, config)
    config.update(filled)
    validate(config, str(ROOT / "workflow/schemas/config.schema.yaml"))


def load_slides():
    """Return the sheet as {slide: {column: value}}, checked against its schema."""
    path = project_file(config["slides"])
    try:
        sheet = pd.read_csv(
            path,
            sep="\t",
            dtype=str,
            keep_default_na=False,
            comment="#",
            encoding="utf-8",
        )
    except (OSError, ValueError) as problem:
        raise WorkflowError(
            f"{path}: expected a tab-separated table of slides ({problem})"
        )
    if sheet.empty:
        raise WorkflowError(f"{path}: expected at least one slide, found none")
    doubled = (
        sheet.loc[sheet["slide"].duplicated(), "slide"].tolist()
        if "slide" in sheet
        else []
    )
    if doubled:
        raise WorkflowError(
            f"{path}: slide {doubled[0]!r} stands in two rows; names must differ"
        )
    schema_path = ROOT / "workflow/schemas/slides.schema.yaml"
    validate(sheet, str(schema_path))
    return {row["slide"]: row for row in sheet.to_dict("records")}


load_config()
SLIDES = load_slides()
SIMULATED = {slide for slide, row in SLIDES.items() if row["bundle"] == "simulated"}


wildcard_constraints:
    slide="[A-Za-z0-9][A-Za-z0-9_.-]*",


def slides_of(*splits):
    """Return the slides of these splits in the sheet's order; all slides if none is named."""
    return [
        slide for slide, row in SLIDES.items() if not splits or row["split"] in splits
    ]


def modelled_slides():
    """Return the slides that go further than their crops."""
    return slides_of("train", "val", "test", "apply")


def stage_params(stage):
    """Return the YAML file with the parameters of a stage; a changed value reruns the stage.

    The working directory's comes first, then the one in the folder `stages` of config.yaml, then the shipped one.
    """
    local = f"config/stages/{stage}.yaml"
    own = os.path.join(project_file(config["stages"]), f"{stage}.yaml")
    is_chosen = config["stages"] and not os.path.exists(local) and os.path.exists(own)
    return own if is_chosen else project_file(local)


def read_params(stage):
    """Return the parameters of a stage as written, for what a rule itself has to know."""
    with open(stage_params(stage), encoding="utf-8") as handle:
        return yaml.safe_load(handle) or {}


def gpu_of(stage):
    """Return the resource `gpu` where a stage's parameters ask for one."""
    wanted = read_params(stage)
    if wanted.get("device") != "cuda" or wanted.get("allow_cpu"):
        return {}
    return {"gpu": int(wanted.get("processes", 1))}


def launcher(stage="pretrain"):
    """Return how a training stage is started: by torchrun where it has several processes."""
    n = int(read_params(stage).get("processes", 1))
    if n == 1:
        return "spatia"
    # without the lone `--`, torchrun takes our --run for its --run-path
    return f"torchrun --standalone --nproc-per-node {n} -m -- spatia.cli"


def inception_weights():
    """Return the file of weights that the parameters of score name, or nothing."""
    weights = read_params("score").get("inception_weights")
    return [weights] if weights else []


def trains():
    """Whether this run trains its model itself."""
    return config["checkpoint"] == "train"


def pairs_of(wildcards):
    """Return the pairs of a slide, or nothing where there is no target to compare with."""
    has_pairs = SLIDES[wildcards.slide]["split"] != "apply" and slides_of("train")
    return [f"results/pair/{wildcards.slide}/pairs"] if has_pairs else []


def checkpoint_path():
    """Return the folder of the model that slides are embedded with."""
    if not trains():
        if not os.path.exists(os.path.join(config["checkpoint"], "model.json")):
            raise WorkflowError(
                f"checkpoint {config['checkpoint']}: expected the folder of a trained model (model.json and "
                "model.safetensors), found none; give results/pretrain/checkpoint of the run that trained it"
            )
        return config["checkpoint"]
    if modelled_slides() and not slides_of("train"):
        raise WorkflowError(
            f"{project_file(config['slides'])}: no slide has split train, so there is nothing to learn from; "
            "set checkpoint in config.yaml to the folder of a trained model"
        )
    return "results/pretrain/checkpoint"


def generator_path():
    """Return the folder of the generator; nothing where there is none and no slide to train one on."""
    if config["generator"] == "train":
        return ["results/flow/checkpoint"] if slides_of("train") else []
    if config["generator"] == "none":
        return []
    if not os.path.exists(os.path.join(config["generator"], "generator.json")):
        raise WorkflowError(
            f"generator {config['generator']}: expected the folder of a trained generator (generator.json and "
            "generator.safetensors), found none; give results/flow/checkpoint of the run that trained it"
        )
    return [config["generator"]]


def generated_slides():
    """Return the slides whose control cells are generated: all that the generator was not trained on.

    Of a training slide with a test block, that block's.
    """
    has_block = read_params("states").get("test_share")
    splits = ("val", "test", "apply", *(["train"] if has_block else []))
    return slides_of(*splits) if generator_path() else []


def generates_tiles():
    """Whether the generator makes niche tiles, which are not cells: they have no features and no scores."""
    if not generator_path() or config["generator"] == "train":
        return read_params("flow").get("target") == "niche"
    with open(
        os.path.join(config["generator"], "generator.json"), encoding="utf-8"
    ) as handle:
        return json.load(handle).get("target") == "niche"


def measured_slides():
    """Return the slides whose generated cells have features."""
    return [] if generates_tiles() else generated_slides()


def scored_slides():
    """Return the slides whose generated cells are compared with real targets: pairs need the training slides' PCA."""
    return [
        slide
        for slide in measured_slides()
        if slides_of("train") and SLIDES[slide]["split"] != "apply"
    ]


def trains_generator():
    """Whether this run trains a generator itself; also before a slide is there to generate, which then runs alone."""
    return bool(slides_of("train")) and config["generator"] == "train"


def paired_slides():
    """Return the slides whose controls are paired with targets: those a generator learns from or is scored on."""
    wanted = [
        *(slides_of("train", "val") if trains_generator() else []),
        *scored_slides(),
    ]
    return [slide for slide in SLIDES if slide in wanted]


def generation_results():
    """Return what a run ends with where cells are generated."""
    files = expand("results/generate/{slide}/generated", slide=generated_slides())
    files += expand("results/features/{slide}/features", slide=measured_slides())
    table = ["results/tables/generation.md"] if scored_slides() else []
    return generator_path() + files + table


def options_list(option, values):
    """Return an option with its values, or nothing."""
    return [option, *values] if values else []


def sheet_value(column):
    """Return a function of the wildcards that looks `column` up in the sheet."""
    return lambda wildcards: SLIDES[wildcards.slide].get(column, "")


def sheet_path(column):
    """Like sheet_value, for paths: relative ones start from `bundles`."""

    def look_up(wildcards):
        value = SLIDES[wildcards.slide].get(column, "")
        return os.path.join(config["bundles"], value) if value else ""

    return look_up


def bundle_path(wildcards):
    """Return the folder of a slide's bundle."""
    if wildcards.slide in SIMULATED:
        return f"results/simulate/{wildcards.slide}/bundle"
    return sheet_path("bundle")(wildcards)


# Files of a bundle whose change means that the slide has to be read again. Transcripts and analysis are left out:
# nothing is made from them by default and they are the largest.
WATCHED = (
    "experiment.xenium",
    "cells.parquet",
    "cells.csv.gz",
    "cell_feature_matrix.h5",
    "cells.zarr.zip",
    "cell_boundaries.parquet",
    "nucleus_boundaries.parquet",
    "morphology.ome.tif",
    "morphology_focus.ome.tif",
    "morphology_mip.ome.tif",
)


def bundle_files(wildcards):
    """Return what a slide is made from: the files that exist.

    A missing file is not an error here but in `spatia ingest`, so that one broken bundle does not stop the others.
    """
    folder = bundle_path(wildcards)
    if wildcards.slide in SIMULATED:
        return [folder]
    try:
        present = set(os.listdir(folder))
    except OSError:
        return []
    files = [os.path.join(folder, name) for name in WATCHED if name in present]
    focus = os.path.join(folder, "morphology_focus")
    if "morphology_focus" in present and os.path.isdir(focus):
        files += sorted(
            entry.path for entry in os.scandir(focus) if entry.name.endswith(".tif")
        )
    files += [
        path
        for path in (sheet_path("he")(wildcards), sheet_path("he_alignment")(wildcards))
        if os.path.exists(path)
    ]
    return files


def existing(column):
    """Return a function of the wildcards that gives the file named in `column`, or nothing."""
    return lambda wildcards: [path for path in [sheet_path(column)(wildcards)] if path]


def label_files():
    """Return the labels files of all slides that are embedded."""
    names = [SLIDES[slide].get("labels", "") for slide in modelled_slides()]
    return [os.path.join(config["bundles"], name) for name in names if name]


def cell_labels(wildcards):
    """Return the file that names a slide's cells: its labels, or what was planted; nothing where marker genes do."""
    path = sheet_path("labels")(wildcards)
    if path:
        return [path]
    return (
        [f"results/simulate/{wildcards.slide}/truth"]
        if wildcards.slide in SIMULATED
        else []
    )


def label_names(wildcards):
    """Return the run's file of names for labels, where there are labels and such a file."""
    names = config["label_names"]
    return [project_file(names)] if names and sheet_path("labels")(wildcards) else []


def marker_table(wildcards):
    """Return the table of marker genes for a slide without labels."""
    return [] if cell_labels(wildcards) else [project_file(config["markers"])]


def state_options(wildcards, input):
    """Return the options of `spatia states` that depend on the slide."""
    row = SLIDES[wildcards.slide]
    labels = [
        (
            os.path.join(path, "cells.parquet")
            if os.path.basename(path) == "truth"
            else path
        )
        for path in input.labels
    ]
    given = {
        "labels": labels,
        "names": input.names,
        "markers": input.markers,
        "edge": [row.get("edge", "")],
        "split": [row["split"]],
    }
    return [
        f"--{name}={value}"
        for name, values in given.items()
        for value in values
        if value
    ]


def bundles_option():
    """Return the option that says from where relative paths of the sheet start."""
    return [f"--bundles={config['bundles']}"] if config["bundles"] else []


def sample_of(wildcards):
    """Return what the sheet says about the sample of a slide, as JSON."""
    row = SLIDES[wildcards.slide]
    columns = ("donor", "tissue", "disease", "species", "split")
    return json.dumps({column: row.get(column, "") for column in columns})


def options(**columns):
    """Return a function of the wildcards that gives command-line options for what the sheet says, none for the rest.

    `options(roi_um=sheet_value("roi_um"))` is ["--roi-um=1,2,3,4"] or [].
    """

    def look_up(wildcards):
        values = {name: value(wildcards) for name, value in columns.items()}
        return [
            f"--{name.replace('_', '-')}={value}"
            for name, value in values.items()
            if value
        ]

    return look_up


def megabytes(base, per_input=0.0):
    """Return a memory function: `base` + `per_input` x size of the inputs, doubled on every retry."""

    def grow(wildcards, input, attempt):
        return int((base + per_input * input.size_mb) * 2 ** (attempt - 1))

    return grow


def minutes(base, per_input_gb=0.0):
    """Return a run time function: `base` + minutes per GB of input, doubled on every retry."""

    def grow(wildcards, input, attempt):
        return int((base + per_input_gb * input.size_mb / 1000) * 2 ** (attempt - 1))

    return grow


# What snakemake-executor-plugin-slurm calls it, where that is not the key in config/site.yaml
SITE_RESOURCES = {"slurm_qos": "qos"}


def send_jobs_to_site(workflow, config):
    """Give every rule account, partition and QOS of config/site.yaml; GPU rules the ones under `gpu`."""
    site = config.get("site", {})
    plain = {key: value for key, value in site.items() if key != "gpu"}
    for step in workflow.rules:
        wanted = {**plain, **site.get("gpu", {})} if "gpu" in step.resources else plain
        for key, value in wanted.items():
            step.resources.setdefault(SITE_RESOURCES.get(key, key), value)


def warn_about_cores(workflow):
    """Say so when `--cores` would cap the threads of jobs that run on other machines (snakemake #2997)."""
    cores = workflow.resource_settings.cores
    threads = [step.resources["_cores"] for step in workflow.rules]
    widest = max(count.value for count in threads if not count.is_evaluable())
    if workflow.non_local_exec and cores is not None and cores < widest:
        logger.warning(
            f"--cores {cores} also caps the threads of cluster jobs; some want {widest}: say --cores {widest}."
        )


def report_what_there_is():
    """After a failure, still write the report: it names the slides that failed, and why.

    Its files are dated into the past, so that the next run makes them anew whatever changes.
    """
    slides = project_file(config["slides"])
    options = bundles_option()
    shell(
        "spatia report --run . --slides {slides:q} --out results/report.html --cohort results/cohort.tsv"
        " --figures results/figures {options:q} --failed-ok --log logs/report/partial.log"
        " && touch -d 2000-01-01 results/report.html results/cohort.tsv results/figures"
        " || echo 'spatia: the report of what there is could not be written; see logs/report/partial.log' >&2"
    )
