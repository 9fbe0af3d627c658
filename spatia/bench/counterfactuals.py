"""Simulated cells whose true image in the target state is known: how near generated images come to it, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spatia import keys
from spatia.cells.crops import Crops
from spatia.cells.frames import shrink, shrink_weights
from spatia.errors import SpatiaError
from spatia.generated import Generated
from spatia.io import read_table
from spatia.measure.bootstrap import whole_and_drawn
from spatia.measure.cell_sets import CellSet, Scale, make_scale
from spatia.measure.distances import compare_features
from spatia.measure.generation import CONTROL, KID_UNIT, MEAN_TARGET
from spatia.measure.image_distances import make_kernel, squared_mmd
from spatia.measure.shifts import correlate, cosine, fit_slope, weighted_mean

Values = NDArray[np.float64]
COSINE, PEARSON, SLOPE, W1, W1_HALVES, KID = "cosine", "shift_pearson", "shift_slope", "w1", "w1_halves", "kid"
METRICS = (COSINE, PEARSON, SLOPE, W1, W1_HALVES, KID)
N_SPLITS = 20


@dataclass(frozen=True)
class Counterfactuals:
    """Control cells as they are and as they would be.

    Attributes
    ----------
    cells
        ``cell_id``, ``transition``, ``target_state``.
    factual, counterfactual
        (n, c, p, p) uint8, as the generator sees crops.
    """

    cells: pd.DataFrame
    factual: NDArray[np.uint8]
    counterfactual: NDArray[np.uint8]


def read_counterfactuals(truth: Path, crops: Crops, stains: Sequence[str], image_px: int) -> Counterfactuals:
    """Read planted pairs, scaled to 8 bit as the slide's crops, masked and shrunk.

    Raises
    ------
    SpatiaError
        If there are none, or the crops hold other stains.
    """
    cells = read_table(truth / "counterfactuals.parquet").reset_index(drop=True)
    if cells.empty:
        raise SpatiaError(
            f"{truth}: expected counterfactual cells, found none; simulate with n_counterfactuals above 0"
        )
    arrays = np.load(truth / "counterfactuals.npz")
    raw = arrays["factual"]
    missing = [stain for stain in stains if stain not in crops.scaling.stains]
    if missing or raw.shape[-1] != crops.window_px:
        raise SpatiaError(
            f"{truth}: expected windows of {crops.window_px} px and the stains {', '.join(stains)}, "
            f"found {raw.shape[-1]} px and {', '.join(crops.scaling.stains)}"
        )
    order = [crops.scaling.stains.index(stain) for stain in stains]
    luts = [crops.scaling.luts(raw.dtype)[k] for k in order]
    weights = shrink_weights(crops.window_px, image_px)
    frames = [
        np.stack([_as_frame(image[order], mask, luts, weights) for image, mask in zip(images, masks, strict=True)])
        for images, masks in (
            (raw, arrays["factual_mask"]),
            (arrays["counterfactual"], arrays["counterfactual_mask"]),
        )
    ]
    return Counterfactuals(cells, frames[0], frames[1])


def _as_frame(
    image: NDArray[np.integer], mask: NDArray[np.bool_], luts: Sequence[NDArray[np.uint8]], weights: Values
) -> NDArray[np.uint8]:
    scaled = np.stack([lut[plane] for lut, plane in zip(luts, image, strict=True)])
    return shrink(np.where(mask, scaled, 0).astype(np.uint8), weights)


def join_generated(truth: Counterfactuals, generated: Generated) -> dict[str, pd.DataFrame]:
    """Return, per transition, the cells that every method has: ``row`` of the truth, one column of rows per method.

    Raises
    ------
    SpatiaError
        If no cell has both a counterfactual and generated images.
    """
    wide = generated.cells.astype({keys.CELL_ID: str}).pivot_table(
        index=["transition_tag", keys.CELL_ID], columns="method", values="row", aggfunc="first"
    )
    wide = wide.dropna().astype(int)
    places = pd.MultiIndex.from_arrays([truth.cells["transition"], truth.cells[keys.CELL_ID].astype(str)])
    table = wide.reindex(places).reset_index(drop=True)
    table["truth_row"] = np.arange(len(table))
    table["transition"] = truth.cells["transition"].to_numpy()
    table = table.dropna()
    if table.empty:
        raise SpatiaError(
            f"{generated.path}: expected images of cells with counterfactuals, found none; set max_cells: null"
        )
    return {
        str(tag): own.drop(columns="transition").astype(int) for tag, own in table.groupby("transition", sort=False)
    }


@dataclass(frozen=True)
class Trial:
    """One transition's cells, row by row the same in all sets.

    Attributes
    ----------
    controls, targets
        As they are, as they would be.
    outputs
        Method -> what it gave.
    mean_target
        (features,) mean of real cells of the target state.
    """

    controls: CellSet
    targets: CellSet
    outputs: Mapping[str, CellSet]
    mean_target: Values

    def usable(self) -> Trial:
        """Return the cells whose real images could both be segmented."""
        rows = self.controls.is_segmented & self.targets.is_segmented
        outputs = {method: cells.take(rows) for method, cells in self.outputs.items()}
        return Trial(self.controls.take(rows), self.targets.take(rows), outputs, self.mean_target)


def score_trial(
    trial: Trial, most_spreads: float, n_resamples: int, generator: np.random.Generator
) -> dict[str, dict[str, Values]]:
    """Return method -> metric -> (1 + resamples,); the first is the value. All methods meet the same resamples.

    ``w1`` and ``kid`` compare one half of the true images with what came of the other half's controls, ``w1_halves``
    with the true images of that half; they are means over many splits.
    """
    trial = trial.usable()
    scale = make_scale(trial.controls, trial.targets, most_spreads)
    controls, targets = scale.real(trial.controls), scale.real(trial.targets)
    weights = whole_and_drawn(len(targets), n_resamples, generator)
    splits = [generator.permutation(len(targets)) for _ in range(N_SPLITS)]
    halves = _over_splits(splits, weights, partial(_w1, targets, targets))
    found = {}
    for method, cells in {**trial.outputs, CONTROL: trial.controls}.items():
        # the control as output moves nowhere, also where a gap of its own counts as the worst value
        output = controls if method == CONTROL else scale.output(cells)
        found[method] = {
            **_score_shift(output - controls, targets - controls, weights),
            W1: _over_splits(splits, weights, partial(_w1, targets, output)),
            W1_HALVES: halves,
            KID: _over_splits(splits, weights, partial(_kid, trial.targets.embedding, cells.embedding)),
        }
    found[MEAN_TARGET] = _score_shift(mean_target_shift(trial, scale), targets - controls, weights)
    return found


def mean_target_shift(trial: Trial, scale: Scale) -> Values:
    """Return the shift of every control to the mean of real target cells, (n, features)."""
    mean = (trial.mean_target[scale.is_kept] - scale.centre) / scale.spread
    return np.asarray(np.clip(mean, -scale.most, scale.most) - scale.real(trial.controls))


def _score_shift(shift: Values, true_shift: Values, weights: Values) -> dict[str, Values]:
    means = weighted_mean(true_shift, weights), weighted_mean(shift, weights)
    per_cell = weights @ cosine(shift, true_shift) / weights.sum(axis=1)
    return {COSINE: per_cell, PEARSON: correlate(*means), SLOPE: fit_slope(*means)}


Half = NDArray[np.int64]


def _over_splits(
    splits: Sequence[Half], weights: Values, measure: Callable[[Half, Half, Values, Values], Values]
) -> Values:
    """Return the mean over splits in front of resamples, which take the splits in turn."""
    found = np.empty(len(weights))
    values = []
    for number, order in enumerate(splits):
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        mine = np.concatenate([[0], np.arange(1 + number, len(weights), len(splits))])
        # a resample may leave out a whole half of few cells; it then counts every cell once
        u, v = (_never_empty(weights[mine][:, half]) for half in (first, second))
        scores = measure(first, second, u, v)
        found[mine] = scores
        values.append(scores[0])
    found[0] = np.mean(values)
    return found


def _never_empty(weights: Values) -> Values:
    return np.where((weights > 0).sum(axis=1, keepdims=True) > 1, weights, 1.0)


def _w1(targets: Values, output: Values, first: Half, second: Half, u: Values, v: Values) -> Values:
    return compare_features(targets[first], output[second], u, v).w1.mean(axis=1)


def _kid(targets: Values, output: Values, first: Half, second: Half, u: Values, v: Values) -> Values:
    return KID_UNIT * squared_mmd(make_kernel(targets[first], output[second]), u, v)


def average_trials(trials: Sequence[dict[str, dict[str, Values]]]) -> dict[str, dict[str, Values]]:
    """Return the mean over transitions of every method, metric and resample."""
    return {
        method: {metric: np.mean([trial[method][metric] for trial in trials], axis=0) for metric in trials[0][method]}
        for method in trials[0]
    }


def centred_interval(values: Values, level: float = 0.95) -> tuple[float, float, float]:
    """Return the value and the quantiles of its resamples, moved so that their mean is the value."""
    ends = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2]) - values[1:].mean() + values[0]
    return float(values[0]), float(ends[0]), float(ends[1])
