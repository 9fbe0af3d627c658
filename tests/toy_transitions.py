"""Invented files of states, pairs, generated cells, features and scores, for the tests of the report."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from spatia.measure.feature_columns import describe_column
from spatia.report.transition_section import GENERATOR, HISTORY, SCORES
from spatia.stages.generation import COLUMNS

TAG = "calm->busy"
NASTY = "calm-><script>alert('x')</script>"
PX = 16
STAINS = ("DAPI", "18S")
ENTRY = {"from": {"state": ["calm"]}, "to": {"state": ["busy"]}, "lineage": "epithelial", "task": "one"}
FEATURES = (("sizeshape", "Area", ""), ("sizeshape", "Eccentricity", ""),
            ("intensity", "Intensity_MeanIntensity", "DAPI"), ("zernike", "Zernike_2_0", ""))  # fmt: skip
METRICS = ("kid_random_encoder", "ks_complement", "shift_pearson", "shift_slope")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def write_states(folder, ids):
    folder.mkdir(parents=True)
    states = pd.DataFrame({"cell_id": ids, "cell_type": "tumour", "lineage": "epithelial"})
    states["state"] = np.where(np.arange(len(ids)) % 2 == 0, "calm", "busy")
    states["niche_immune"] = np.where(np.arange(len(ids)) % 3 == 0, "", "hot")
    states["split"] = "test"
    states.loc[0, "cell_type"] = ""
    states.to_parquet(folder / "states.parquet")
    columns = ("cell_type", "state", "niche_immune")
    write(folder / "states.json", {"counts": {name: states[name].value_counts().to_dict() for name in columns}})


def write_pairs(folder, controls, targets):
    folder.mkdir(parents=True)
    pairs = pd.DataFrame({"x_ctrl_id": controls, "x_tgt_id": targets, "transition_tag": TAG, "split": "test"})
    pairs["spatial_distance_um"] = np.linspace(10, 40, len(pairs))
    pairs["confidence"] = np.linspace(0.2, 0.9, len(pairs))
    pairs.to_parquet(folder / "pairs.parquet")
    names = ["transition_tag", "n_ctrl", "n_tgt", "skipped", "iterations", "marginal_error", "target_reuse",
             "max_reuse",
             "mean_confidence", "median_distance_um"]  # fmt: skip
    rows = [(TAG, len(pairs), 1234, "", 11, 6.04e-5, 3.385, 7, 0.411, 58.83),
            (NASTY, 31, 192, "31 control cells, fewer than 50", *[None] * 6)]  # fmt: skip
    plans = pd.DataFrame(rows, columns=names).assign(split="test")
    plans.to_csv(folder / "plans.tsv", sep="\t", index=False)


def write_generated(folder, controls):
    folder.mkdir(parents=True)
    rows = [(cell_id, TAG, method) for method in ("spatia", "unconditional") for cell_id in controls]
    cells = pd.DataFrame(rows, columns=["cell_id", "transition_tag", "method"])
    cells.insert(0, "row", np.arange(len(cells)))
    cells.to_parquet(folder / "cells.parquet")
    images = np.random.default_rng(0).integers(0, 255, (len(cells), len(STAINS), PX, PX), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    ways = np.repeat(images[:2, None], 3, axis=1)
    np.savez(folder / "trajectories.npz", cell_id=np.array(controls[:2], str), transition_tag=np.array([TAG] * 2),
             t=np.array([0, 0.5, 1]), images=ways)  # fmt: skip
    checkpoint = {"path": "models/g", "preset": "cpu", "slides": ["s1"], "seed": 3, "context": "full"}
    header = {"format": 1, "stains": STAINS, "image_px": PX, "pixel_size_um": 1.7, "target": "cell"}
    write(folder / "generate.json", {**header, "checkpoint": checkpoint})


def dictionary():
    lines = [describe_column("Cells", module, source, stain).__dict__ for module, source, stain in FEATURES]
    return pd.DataFrame(lines)


def write_features(folder, controls, targets):
    folder.mkdir(parents=True)
    columns = dictionary()
    columns.to_csv(folder / "columns.tsv", sep="\t", index=False)
    rng = np.random.default_rng(1)
    parts = [("real", [*controls, *targets], ""), ("spatia", controls, TAG), ("unconditional", controls, TAG)]
    table = pd.DataFrame([(kind, cell_id, tag) for kind, ids, tag in parts for cell_id in ids],
                         columns=["kind", "cell_id", "transition_tag"])  # fmt: skip
    table["is_segmented"], table["reason"] = True, ""
    for name in columns["name"]:
        table[name] = rng.normal(size=len(table))
    table.to_parquet(folder / "features.parquet")


def scores_of(tag=TAG, dataset="toy"):
    rows = []
    for place, method in enumerate(("spatia", "unconditional", "control_as_output")):
        for number, metric in enumerate(METRICS):
            value = 0.1234 + place + number / 10
            rows.append(
                ("generation", dataset, method, tag, metric, value, value - 0.05, value + 0.05, 0, 77, "4 features")
            )
    rows += [
        ("generation", dataset, "spatia", NASTY, metric, None, None, None, 0, 0, "few <b>cells</b>")
        for metric in METRICS
    ]
    rows += [(*row[:3], "macro", *row[4:]) for row in rows[: 3 * len(METRICS)]]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def generator_record():
    return {
        "format": 1, "preset": "cpu", "stains": STAINS, "image_px": 48, "window_um": 27.2, "slides": ["s1", "s2"],
        "seed": 5, "target": "cell", "species": "human", "n_cells": 1173, "n_pairs": {TAG: 1400}, "context": "full",
        "context_arrays": ["z"], "embedded_by": {"preset": "small", "slides": ["s1"]},
        "params": {"steps": 1000, "batch": 64, "contrast": "hinge", "rho": 0.05, "margin": 0.1},
        "shape": {"network": "unet", "latent": "pixel"}, "transitions": {TAG: ENTRY}, "vae_distance": None,
    }  # fmt: skip


def write_run_files(run):
    write(run / GENERATOR, generator_record())
    rows = [
        ("flow", step, 0.1, split, 0.5 / step, -0.01, 0.4 / step) for step in (1, 2, 3) for split in ("train", "val")
    ]
    history = pd.DataFrame(rows, columns=["phase", "step", "learning_rate", "split", "flow", "contrast", "total"])
    history.to_csv(run / HISTORY, sep="\t", index=False)
    (run / SCORES).parent.mkdir(parents=True)
    scores_of().to_csv(run / SCORES, index=False)
