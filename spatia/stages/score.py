"""Generated and real cells of one slide -> tidy scores per transition, then their means (A7 to A11)."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from spatia import keys
from spatia.cells.crops import Crops, open_crops
from spatia.config import load_params
from spatia.errors import SpatiaError
from spatia.generated import Generated, judged_pairs, judged_plans, open_generated, real_frames
from spatia.io import read_table, write_table
from spatia.measure.cell_sets import CellSet
from spatia.measure.encoder import INCEPTION, RANDOM, InceptionEncoder, RandomEncoder, embed_images
from spatia.measure.generation import (
    CONTROL_ROWS,
    Score,
    Settings,
    average_scores,
    score_transition,
    why_not,
)
from spatia.progress import progress
from spatia.stages.features import REAL
from spatia.transition_params import ScoreParams

TASK = "generation"
MACRO = "macro"  # the `transition` of means over transitions
COLUMNS = ("task", "dataset", "method", "transition", "metric", "value", "low", "high", "seed", "n", "note")

log = logging.getLogger("spatia.score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia score``."""
    parser.add_argument("--slide", required=True, metavar="NAME")
    parser.add_argument("--features", type=Path, required=True, metavar="DIR", help="what features wrote")
    parser.add_argument("--generated", type=Path, required=True, metavar="DIR", help="what generate wrote")
    parser.add_argument("--crops", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pairs", type=Path, required=True, metavar="DIR", help="what pair wrote")
    parser.add_argument("--params", type=Path, required=True, metavar="YAML", help="as config/stages/score.yaml")
    parser.add_argument("--out", type=Path, required=True, metavar="TSV", help="table of scores to write")
    parser.add_argument("--threads", type=int, default=1, metavar="N")


def run(args: argparse.Namespace) -> None:
    """Score every transition; write tidy rows whole."""
    params = load_params(args.params, ScoreParams)
    torch.set_num_threads(args.threads)
    inputs = read_inputs(args.features, args.generated, args.crops, args.pairs)
    encoder, encoder_name = make_encoder(params.inception_weights)
    settings = make_settings(params, encoder_name)
    rows: list[dict[str, object]] = []
    scored: list[list[Score]] = []
    for number, plan in enumerate(progress(inputs.plans, f"score {args.slide}", unit="transition")):
        scores, reason = score_plan(inputs, plan, encoder, settings, np.random.default_rng([params.seed, number]))
        scored += [scores] if scores else []
        rows += tidy(scores, plan["transition_tag"], params) if scores else skipped(inputs, plan, settings, reason)
    rows += tidy(average_scores(scored), MACRO, params)
    table = pd.DataFrame([{"task": TASK, "dataset": args.slide, **row, "seed": params.seed} for row in rows])
    write_table(args.out, table.reindex(columns=list(COLUMNS)))
    log.info("%s: %d of %d transitions scored", args.slide, len(scored), len(inputs.plans))


@dataclass(frozen=True)
class Inputs:
    """What is compared.

    Attributes
    ----------
    features
        The features table, one row per image.
    columns
        Names of the features that count: no angles.
    generated, crops, pairs
        As other stages wrote them.
    plans
        The slide's transitions: ``transition_tag``, ``skipped``.
    """

    features: pd.DataFrame
    columns: list[str]
    generated: Generated
    crops: Crops
    pairs: pd.DataFrame
    plans: list[dict[str, str]]

    @property
    def methods(self) -> list[str]:
        """Names of the methods that generated images."""
        return [str(name) for name in self.generated.cells["method"].unique()]


def read_inputs(features: Path, generated: Path, crops: Path, pairs: Path) -> Inputs:
    """Read what is compared.

    Raises
    ------
    SpatiaError
        If features and generated images are not of the same run.
    """
    table = read_table(features / "features.parquet")
    columns = read_table(features / "columns.tsv")
    images = open_generated(generated)
    n_generated = int((table["kind"] != REAL).sum())
    if n_generated != len(images.cells):
        raise SpatiaError(
            f"{features}: expected features of the {len(images.cells)} images of {generated}, found {n_generated}; "
            "run 'spatia features' again"
        )
    return Inputs(
        features=table,
        columns=columns.loc[~columns["is_angle"].astype(bool), "name"].astype(str).tolist(),
        generated=images,
        crops=open_crops(crops),
        pairs=judged_pairs(pairs),
        plans=[{str(key): str(value) for key, value in row.items()} for row in judged_plans(pairs).to_dict("records")],
    )


def make_encoder(weights: str) -> tuple[nn.Module, str]:
    """Return the encoder of KID and FID, and what it is called in columns.

    Raises
    ------
    SpatiaError
        If the weights cannot be read.
    """
    if not weights:
        return RandomEncoder(), RANDOM
    try:
        return InceptionEncoder(torch.load(weights, map_location="cpu", weights_only=True)), INCEPTION
    except Exception as problem:
        line = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise SpatiaError(
            f"inception_weights {weights}: expected a file with the state of torchvision's inception_v3 ({line}); "
            "leave it empty for the random encoder"
        ) from None


def make_settings(params: ScoreParams, encoder: str) -> Settings:
    """Return how scores are computed."""
    return Settings(
        n_resamples=params.n_resamples,
        subset_size=params.subset_size,
        n_subsets=params.n_subsets,
        max_cells=params.max_cells,
        min_cells=params.min_cells,
        most_spreads=params.most_spreads,
        encoder=encoder,
    )


def score_plan(
    inputs: Inputs, plan: Mapping[str, str], encoder: nn.Module, settings: Settings, generator: np.random.Generator
) -> tuple[list[Score], str]:
    """Return the scores of one transition, or none and why."""
    tag = plan["transition_tag"]
    if plan.get("skipped"):
        return [], plan["skipped"]
    controls, targets = controls_of(inputs, tag), targets_of(inputs, tag)
    if not controls:
        return [], "nothing was generated"
    control_frames, target_frames = (frames_of(inputs, ids) for ids in (controls, targets))
    control_set = real_set(inputs, controls, embed_images(encoder, control_frames))
    target_set = real_set(inputs, targets, embed_images(encoder, target_frames))
    reason = why_not(int(control_set.is_segmented.sum()), int(target_set.is_segmented.sum()), settings)
    if reason:
        return [], reason
    outputs = {method: generated_set(inputs, tag, method, controls, encoder) for method in inputs.methods}

    def embed_mean(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        mean = np.floor(target_frames[rows].mean(axis=0, keepdims=True) + 0.5).astype(np.uint8)
        return embed_images(encoder, mean)[0]

    return score_transition(control_set, target_set, outputs, embed_mean, settings, generator), ""


def controls_of(inputs: Inputs, tag: str) -> list[str]:
    """Return the control cells for which every method gave an image, in the images' order."""
    own = inputs.generated.cells[inputs.generated.cells["transition_tag"] == tag]
    n_methods = own.groupby(keys.CELL_ID, sort=False)["method"].nunique()
    return [str(cell_id) for cell_id in n_methods.index[n_methods == len(inputs.methods)]]


def targets_of(inputs: Inputs, tag: str) -> list[str]:
    """Return the real cells that controls of this transition were paired with, each once."""
    own = inputs.pairs.loc[inputs.pairs["transition_tag"] == tag, "x_tgt_id"].astype(str).drop_duplicates()
    measured = inputs.features.loc[inputs.features["kind"] == REAL, keys.CELL_ID].astype(str)
    return own[own.isin(set(measured))].tolist()


def frames_of(inputs: Inputs, cell_ids: Sequence[str]) -> NDArray[np.uint8]:
    """Return the images of real cells as the generator sees them."""
    generated = inputs.generated
    return real_frames(inputs.crops, cell_ids, generated.stains, generated.image_px, str(generated.path))


def real_set(inputs: Inputs, cell_ids: Sequence[str], embedding: NDArray[np.float64]) -> CellSet:
    """Return real cells."""
    rows = inputs.features[inputs.features["kind"] == REAL].set_index(keys.CELL_ID)
    return make_set(inputs, rows, cell_ids, embedding)


def generated_set(inputs: Inputs, tag: str, method: str, cell_ids: Sequence[str], encoder: nn.Module) -> CellSet:
    """Return features and embeddings of one method's images, in the order of their control cells."""
    cells, features = inputs.generated.cells, inputs.features
    own = cells[(cells["transition_tag"] == tag) & (cells["method"] == method)].set_index(keys.CELL_ID)
    images = inputs.generated.images[own["row"].loc[list(cell_ids)].to_numpy()]
    rows = features[(features["transition_tag"] == tag) & (features["kind"] == method)].set_index(keys.CELL_ID)
    return make_set(inputs, rows, cell_ids, embed_images(encoder, images))


def make_set(inputs: Inputs, rows: pd.DataFrame, cell_ids: Sequence[str], embedding: NDArray[np.float64]) -> CellSet:
    """Return cells whose features stand in ``rows`` (index ``cell_id``)."""
    missing = set(cell_ids) - set(rows.index)
    if missing:
        raise SpatiaError(f"features: expected cell {min(missing)!r}, found none; run 'spatia features' again")
    own = rows.loc[list(cell_ids)]
    return CellSet(own[inputs.columns].to_numpy(np.float64), embedding, own["is_segmented"].to_numpy(bool))


def tidy(scores: Sequence[Score], transition: str, params: ScoreParams) -> list[dict[str, object]]:
    """Return scores as rows."""
    rows = []
    for score in scores:
        low, high = score.interval(params.level)
        rows.append({"method": score.method, "transition": transition, "metric": score.metric, "value": score.value,
                     "low": low, "high": high, "n": score.n, "note": score.note})  # fmt: skip
    return rows


def skipped(inputs: Inputs, plan: Mapping[str, str], settings: Settings, reason: str) -> list[dict[str, object]]:
    """Return rows without value for a transition that is not scored, with the reason."""
    return [
        {"method": method, "transition": plan["transition_tag"], "metric": metric, "n": 0, "note": reason}
        for method in (*inputs.methods, *CONTROL_ROWS)
        for metric in settings.metrics
    ]
