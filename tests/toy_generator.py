"""A run's folder with invented slides, embeddings, states and pairs, for the tests of flow and generate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from toy_crops import ToySlide, write_toy

from spatia.cli import main

GENES = ("A", "B", "C")
WIDTH = 6  # of every embedding
PLAN = {
    "calm->busy": {"from": {"state": "calm"}, "to": {"state": "busy"}, "lineage": "epithelial", "task": "one"},
    "calm->flat": {"from": {"state": "calm"}, "to": {"state": "flat"}, "lineage": "epithelial", "task": "one"},
}
STATES = ("calm", "busy", "flat")
TINY = {"preset": "tiny", "steps": 6, "batch": 8, "log_every": 3, "warmup_steps": 2, "save_every_s": 0.0}


def write_run(run: Path, slides: tuple[str, ...] = ("one", "two"), seed: int = 0, **options: object) -> list[ToySlide]:
    """Write everything that flow and generate read, as docs/outputs.md says; the first slide trains."""
    toys = []
    for number, name in enumerate(slides):
        toy = write_toy(run / "toys", name, genes=GENES, n_cells=45, shape=(1100, 1300), seed=seed + number, **options)
        toys.append(toy)
        for stage, source, target in (
            ("crop", toy.files.crops, "crops"),
            ("tile", toy.files.tiles, "tiles"),
            ("ingest", toy.files.image, "slide.zarr"),
        ):
            link = run / "results" / stage / name / target
            link.parent.mkdir(parents=True)
            link.symlink_to(source)
        rng = np.random.default_rng(number)
        write_embeddings(run / "results/embed" / name / "embeddings", toy, rng)
        states = write_states(run / "results/states" / name / "states", toy, "train" if number == 0 else "test")
        write_pairs(run / "results/pair" / name / "pairs", states, "train" if number == 0 else "test")
    rows = [(tag, gene, 0.1 * k - j) for j, tag in enumerate(PLAN) for k, gene in enumerate(GENES)]
    signatures = run / "results/pair/signatures"
    signatures.mkdir(parents=True)
    pd.DataFrame(rows, columns=["transition_tag", "gene", "dg"]).to_parquet(signatures / "signatures.parquet")
    (run / "transitions.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    return toys


def write_embeddings(folder: Path, toy: ToySlide, rng: np.random.Generator) -> None:
    """Write random embeddings of cells and niches."""
    folder.mkdir(parents=True)
    toy.cells.to_parquet(folder / "cells.parquet")
    for name in ("z", "z_cell", "z_niche", "z_tissue"):
        n = len(toy.niches) if name in ("z_niche", "z_tissue") else len(toy.cells)
        np.save(folder / f"{name}.npy", rng.normal(size=(n, WIDTH)).astype(np.float32))
    record = {
        "format": 1,
        "width": WIDTH,
        "levels": "tissue",
        "checkpoint": {"path": "x", "seed": 0, "slides": ["one"]},
    }
    (folder / "embed.json").write_text(json.dumps(record))


def write_states(folder: Path, toy: ToySlide, split: str) -> pd.DataFrame:
    """Write states in turn; the last cells are left out of the split."""
    n = len(toy.cells)
    states = pd.DataFrame({"cell_id": toy.cells["cell_id"], "cell_type": "tumour", "lineage": "epithelial"})
    states["state"] = [STATES[k % 3] for k in range(n)]
    states["niche_immune"] = "hot"
    states["split"] = np.where(np.arange(n) < n - 6, split, "")
    folder.mkdir(parents=True)
    states.to_parquet(folder / "states.parquet")
    return states


def write_pairs(folder: Path, states: pd.DataFrame, split: str) -> None:
    """Pair the k-th control with the k-th target; ten pairs of the first transition, five of the second."""
    rows = []
    ids = {state: states.loc[(states["state"] == state) & (states["split"] != ""), "cell_id"] for state in STATES}
    for tag, n in zip(PLAN, (10, 5), strict=True):
        for k in range(n):
            target = ids[PLAN[tag]["to"]["state"]].iloc[k]
            rows.append((ids["calm"].iloc[k], target, tag, 0.2 + 0.05 * k, split))
    folder.mkdir(parents=True)
    names = ["x_ctrl_id", "x_tgt_id", "transition_tag", "confidence", "split"]
    pd.DataFrame(rows, columns=names).to_parquet(folder / "pairs.parquet")


def run_flow(run: Path, out: Path, train: tuple[str, ...] = ("one",), val: tuple[str, ...] = (), **changes: object):
    """Train a tiny generator into ``out``; return the exit status."""
    params = out / "flow.yaml"
    params.parent.mkdir(parents=True, exist_ok=True)
    params.write_text(yaml.safe_dump({**TINY, **changes}))
    arguments = ["--run", run, "--train", *train, "--transitions", run / "transitions.yaml", "--params", params]
    arguments += ["--val", *val] if val else []
    arguments += ["--signatures", run / "results/pair/signatures", "--checkpoint", out / "checkpoint"]
    arguments += ["--history", out / "history.tsv", "--work", out / "work", "--threads", 1]
    return main(["flow", *map(str, arguments)])


def run_generate(run: Path, out: Path, slide: str = "two", name: str = "generated", **changes: object):
    """Generate for a slide with the generator in ``out``; return the exit status."""
    params = out / f"{name}.yaml"
    params.write_text(yaml.safe_dump({"steps": 2, "batch": 8, **changes}))
    results = run / "results"
    arguments = ["--slide", slide, "--checkpoint", out / "checkpoint", "--params", params, "--out", out / name]
    arguments += ["--zarr", results / "ingest" / slide / "slide.zarr", "--crops", results / "crop" / slide / "crops"]
    arguments += ["--states", results / "states" / slide / "states", "--threads", 1]
    arguments += ["--tiles", results / "tile" / slide / "tiles"]
    arguments += ["--embeddings", results / "embed" / slide / "embeddings"]
    return main(["generate", *map(str, arguments)])
