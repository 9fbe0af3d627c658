"""Every benchmark runs, on a small simulated run: what it measured there means nothing, that it ends does."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from workflow_run import ROOT, environment, make_run, snakemake, write_sheet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TRAIN, TEST = ("one", "two"), "three"
FEW = ("--min-cells=1", "--resamples=20", "--processes=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three slides up to its scores; two donors to learn from, one to judge."""
    folder = make_run(tmp_path_factory.mktemp("benchmarks") / "run", [*TRAIN, TEST])
    stages = folder / "config/stages"
    simulated = yaml.safe_load((stages / "simulate.yaml").read_text())
    simulated["defaults"]["n_stains"] = 4
    # whole tiles of an image, so that it can be tiled; two tissue windows, so that probes can leave one out
    simulated["slides"][TEST] |= {"width_px": 2048, "height_px": 1024, "n_counterfactuals": 40}
    (stages / "simulate.yaml").write_text(yaml.safe_dump(simulated))
    model = yaml.safe_load((stages / "pretrain.yaml").read_text()) | {"cell_epochs": 1, "joint_epochs": 1}
    (stages / "pretrain.yaml").write_text(yaml.safe_dump(model))
    generated = yaml.safe_load((stages / "generate.yaml").read_text()) | {"max_cells": 20, "n_trajectories": 0}
    (stages / "generate.yaml").write_text(yaml.safe_dump(generated))
    rows = [{"slide": slide, "donor": slide, "split": "test" if slide == TEST else "train"} for slide in (*TRAIN, TEST)]
    write_sheet(folder, rows)
    snakemake(folder, f"results/score/{TEST}/scores.tsv", f"results/embed/{TRAIN[1]}/embeddings")
    return folder


def output_of(script, *arguments, may_miss=False):
    """Return what a benchmark printed; with ``may_miss`` it may say by its exit status that a bar is missed."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=500, check=False
    )
    assert done.returncode in ((0, 1) if may_miss else (0,)), done.stdout[-1000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stdout


def bundle_of(run, slide):
    return run / "results/simulate" / slide / "bundle"


def test_none_is_forgotten(root):
    """A benchmark is named here, or its peer is not part of the environment."""
    tested = Path(__file__).read_text(encoding="utf-8")
    scripts = {path.stem for path in (root / "benchmarks").glob("*.py")}
    assert {name for name in scripts if f'("{name}"' not in tested} == {
        "features",  # CellProfiler
        "tiled_bundle",  # a part of "embedding" and "ingest"
    }


def test_speed_of_embedding(finished):
    bundle, checkpoint = bundle_of(finished, TEST), finished / "results/pretrain/checkpoint"
    printed = output_of("embedding", "--bundle", bundle, "--checkpoint", checkpoint, "--sides", 1, 2)
    assert printed.count("cells/s") == 2
    assert "time exponent" in printed


def test_speed_of_a_training_step(finished):
    few = ("--preset", "tiny", "--cells", 8, "--batches", 1, "--repeats", 1)
    printed = output_of("training_step", finished, "--slide", TRAIN[0], *few, "--whole-step")
    for row in ("dense", "ViTMAE", "joint step", "embedding"):
        assert row in printed


def test_speed_of_sampling():
    assert "ratio" in output_of("sampling", "--preset", "tiny", "--batches", 1, "--batch", 1)


def test_speed_of_sinkhorn():
    assert "POT log" in output_of("sinkhorn", "--size", 100, "--repeats", 1, "--large", 100)


def test_speed_of_ingest(finished):
    printed = output_of("ingest", "--bundle", bundle_of(finished, TEST), "--repeats", 1, "--areas", may_miss=True)
    assert "MB" in printed


def test_speed_of_cropping_and_loading(finished):
    results = finished / "results"
    zarr, cells = results / "ingest" / TEST / "slide.zarr", results / "qc" / TEST / "cells.parquet"
    assert "ratio" in output_of("cropping", "--zarr", zarr, "--cells", cells, "--peer-cells", 10, may_miss=True)
    few = ("--cells", 300, "--peer-cells", 100, "--peer-samples", 64, "--batch", 64, "--repeats", 1)
    assert "cells" in output_of("loading", *few, may_miss=True)


def test_what_was_planted_is_looked_for(finished):
    classes = output_of("planted_classes", finished, "--train", *TRAIN, "--test", TEST, may_miss=True)
    assert classes.count("context_class") > 5
    generated = finished / "results/generate" / TEST / "generated"
    cells = output_of("counterfactuals", "--run", finished, "--slide", TEST, "--generated", generated, *FEW)
    assert "mean over transitions" in cells
    flow, generate = (finished / "config/stages" / name for name in ("flow.yaml", "generate.yaml"))
    told = ("--train", *TRAIN, "--test", TEST, "--contexts", "none", "--flow", flow, "--generate", generate)
    assert "full minus this" in output_of("spatial_conditioning", finished, *told, *FEW)


def test_what_a_transition_changes_is_compared_between_slides(finished):
    printed = output_of("shifts_between_slides", finished, "--train", TRAIN[0], "--test", TEST, *FEW, "--cells=5")
    assert "real cells of the training slide" in printed


def test_probes_of_frozen_embeddings_and_their_references(finished):
    labels = ["--labels"]
    for slide in (TEST, TRAIN[0]):
        table = pd.read_parquet(finished / "results/simulate" / slide / "truth/cells.parquet")
        table[["cell_id", "type"]].to_csv(finished / f"{slide}.csv", index=False)
        labels.append(finished / f"{slide}.csv")
    slides = ("--train", TEST, "--test", TRAIN[0], "--buffer-px", 0, *labels)
    stored = finished / "references.npz"
    assert "cnn own" in output_of("references", finished, *slides, "--epochs", 1, "--out", stored)
    embeddings = ("--embeddings", finished / "results/embed", "--references", stored, "--arrays", "z")
    assert "| z | classes |" in output_of("embedding_probes", finished, *slides, *embeddings)


def test_how_real_the_simulator_is(finished):
    pair = [bundle_of(finished, slide) for slide in TRAIN]
    assert "13 image features" in output_of("simulator_realism", "--real", *pair, "--simulated", *pair, "--edge-px", 0)
