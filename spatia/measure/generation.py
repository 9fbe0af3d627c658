"""Scores of generated cells: controls, targets and outputs of one transition -> numbers with intervals (A7 to A11).

All methods meet the same reference, one half of the real targets, with the same number of cells and the same
resamples. The other half is scored like a method: the best that a generator can expect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatia.measure.bootstrap import whole_and_drawn
from spatia.measure.cell_sets import CellSet, Scale, draw_rows, make_scale, mean_cell, split_rows
from spatia.measure.distances import compare_features
from spatia.measure.image_distances import frechet_distance, kernel_distance, make_kernel, squared_mmd
from spatia.measure.shifts import correlate, fit_slope, mean_shift

Values = NDArray[np.float64]
REAL_HALVES, CONTROL, MEAN_TARGET = "real_halves", "control_as_output", "mean_target"
CONTROL_ROWS = (REAL_HALVES, CONTROL, MEAN_TARGET)
FEATURE_METRICS = ("ks_complement", "ks_d", "w1_target", "wass_corr", "shift_pearson", "shift_slope", "failed_share")
BOUNDED = {
    "fid_random_encoder": (0, np.inf),
    "fid_inception": (0, np.inf),
    "ks_complement": (0, 1),
    "ks_d": (0, 1),
    "failed_share": (0, 1),
    "wass_corr": (-1, 1),
    "shift_pearson": (-1, 1),
    "w1_target": (0, np.inf),
}
FRECHET_RESAMPLES = 50  # each takes a singular value decomposition
KID_UNIT = 100  # KID x 100 (A10)


@dataclass(frozen=True)
class Settings:
    """How scores are computed: the fields of :class:`spatia.transition_params.ScoreParams`, and the encoder's name."""

    n_resamples: int
    subset_size: int
    n_subsets: int
    max_cells: int
    min_cells: int
    most_spreads: float
    encoder: str

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics."""
        return f"kid_{self.encoder}", f"fid_{self.encoder}", *FEATURE_METRICS


@dataclass(frozen=True)
class Score:
    """One number.

    Attributes
    ----------
    method, metric, value
        Which.
    resamples
        The same of resampled cells; empty where there is no interval.
    n
        Cells on either side.
    note
        What else must be said.
    """

    method: str
    metric: str
    value: float
    resamples: Values
    n: int
    note: str

    def interval(self, level: float) -> tuple[float, float]:
        """Return the quantiles of the resamples, moved so that their mean is the value.

        Resamples hold cells twice and so lie further apart than the cells themselves; moving them takes that out.
        """
        if not len(self.resamples):
            return float("nan"), float("nan")
        ends = np.quantile(self.resamples, [(1 - level) / 2, (1 + level) / 2]) - self.resamples.mean() + self.value
        low, high = np.clip(ends, *BOUNDED.get(self.metric, (-np.inf, np.inf)))
        return float(low), float(high)


@dataclass(frozen=True)
class Arena:
    """What every method of a transition meets.

    Attributes
    ----------
    scale
        Units.
    reference, controls
        (n, features) scaled; controls are those the outputs were made from, row by row.
    reference_embedding
        (n, d).
    reference_weights, output_weights
        (1 + resamples, n) how often each cell counts; row 0: each once.
    """

    scale: Scale
    reference: Values
    controls: Values
    reference_embedding: Values
    reference_weights: Values
    output_weights: Values

    @property
    def n(self) -> int:
        """Cells on either side."""
        return len(self.reference)


def why_not(n_controls: int, n_targets: int, settings: Settings) -> str:
    """Return why a transition with so many segmented cells cannot be scored; "" if it can."""
    if n_controls >= settings.min_cells and n_targets // 2 >= settings.min_cells:
        return ""
    return (
        f"{n_controls} generated controls and {n_targets} real targets: expected at least {settings.min_cells} "
        f"and {2 * settings.min_cells} (two halves)"
    )


def score_transition(
    controls: CellSet,
    targets: CellSet,
    methods: Mapping[str, CellSet],
    embed_mean: Callable[[NDArray[np.int64]], Values],
    settings: Settings,
    generator: np.random.Generator,
) -> list[Score]:
    """Return the scores of all methods and of the control rows along one transition.

    Parameters
    ----------
    controls
        Real cells that outputs were made from.
    targets
        Real cells of the target state.
    methods
        Name -> what came out, row by row for ``controls``.
    embed_mean
        Rows of ``targets`` -> (d,) embedding of the mean of their images.
    settings, generator
        How; draws halves, cells, subsets and resamples.

    Raises
    ------
    ValueError
        If there are too few cells (:func:`why_not`).
    """
    reason = why_not(int(controls.is_segmented.sum()), int(targets.is_segmented.sum()), settings)
    if reason:
        raise ValueError(reason)
    half, other = split_rows(np.flatnonzero(targets.is_segmented), generator)
    n = min(settings.max_cells, len(half), len(controls))
    half, other = draw_rows(half, n, generator), draw_rows(other, n, generator)
    rows = draw_rows(np.arange(len(controls)), n, generator)
    scale = make_scale(controls, targets, settings.most_spreads)
    arena = make_arena(scale, targets.take(half), controls.take(rows), settings.n_resamples, generator)
    outputs = {name: cells.take(rows) for name, cells in methods.items()}
    outputs[REAL_HALVES] = targets.take(other)
    outputs[CONTROL] = controls.take(rows)
    outputs[MEAN_TARGET] = mean_cell(targets.take(other), embed_mean(other), n)
    weights = {REAL_HALVES: whole_and_drawn(n, settings.n_resamples, generator)}
    return [
        score
        for name, cells in outputs.items()
        for score in score_output(name, cells, weights.get(name, arena.output_weights), arena, settings, generator)
    ]


def make_arena(
    scale: Scale, reference: CellSet, controls: CellSet, n_resamples: int, generator: np.random.Generator
) -> Arena:
    """Return what methods are compared with."""
    return Arena(
        scale=scale,
        reference=scale.real(reference),
        controls=scale.real(controls),
        reference_embedding=reference.embedding,
        reference_weights=whole_and_drawn(len(reference), n_resamples, generator),
        output_weights=whole_and_drawn(len(controls), n_resamples, generator),
    )


def score_output(
    method: str, cells: CellSet, weights: Values, arena: Arena, settings: Settings, generator: np.random.Generator
) -> list[Score]:
    """Return the scores of one method's cells."""
    # controls given back move nowhere, also where one could not be measured, which an output would pay for
    output = arena.controls if method == CONTROL else arena.scale.output(cells)
    found = score_features(output, weights, arena)
    found["failed_share"] = weights @ ~cells.is_segmented / weights.sum(axis=1)
    found |= score_images(cells.embedding, weights, arena, settings, generator)
    note = f"{int(arena.scale.is_kept.sum())} features, {arena.scale.n_dropped} dropped"
    return [
        Score(method, metric, float(found[metric][0]), found[metric][1:], arena.n, note) for metric in settings.metrics
    ]


def score_features(output: Values, weights: Values, arena: Arena) -> dict[str, Values]:
    """Return the scores of features (n, features), each (1 + resamples,)."""
    apart = compare_features(arena.reference, output, arena.reference_weights, weights)
    true_moves = compare_features(arena.controls, arena.reference, arena.output_weights, arena.reference_weights).w1
    moves = compare_features(arena.controls, output, arena.output_weights, weights).w1
    true_shift = mean_shift(arena.reference, arena.controls, arena.reference_weights, arena.output_weights)
    shift = mean_shift(output, arena.controls, weights, arena.output_weights)
    return {
        "ks_complement": 1 - apart.ks.mean(axis=1),
        "ks_d": apart.ks.mean(axis=1),
        "w1_target": apart.w1.mean(axis=1),
        "wass_corr": correlate(true_moves, moves),
        "shift_pearson": correlate(true_shift, shift),
        "shift_slope": fit_slope(true_shift, shift),
    }


def score_images(
    output: Values, weights: Values, arena: Arena, settings: Settings, generator: np.random.Generator
) -> dict[str, Values]:
    """Return KID and FID of embeddings (n, d), each (1 + resamples,)."""
    kernel = make_kernel(arena.reference_embedding, output)
    kid = kernel_distance(kernel, min(settings.subset_size, arena.n), settings.n_subsets, generator)
    resampled = squared_mmd(kernel, arena.reference_weights[1:], weights[1:])
    pairs = list(zip(arena.reference_weights, weights, strict=True))[: 1 + FRECHET_RESAMPLES]
    fid = [frechet_distance(_repeat(arena.reference_embedding, u), _repeat(output, v)) for u, v in pairs]
    return {
        f"kid_{settings.encoder}": KID_UNIT * np.concatenate([[kid], resampled]),
        f"fid_{settings.encoder}": np.asarray(fid),
    }


def average_scores(transitions: Sequence[Sequence[Score]]) -> list[Score]:
    """Return the mean over transitions of every method and metric; intervals from the means of their resamples."""
    found: dict[tuple[str, str], list[Score]] = {}
    for score in (score for scores in transitions for score in scores):
        found.setdefault((score.method, score.metric), []).append(score)
    return [
        Score(
            method=method,
            metric=metric,
            value=float(np.mean([score.value for score in scores])),
            resamples=np.mean([score.resamples for score in scores], axis=0),
            n=min(score.n for score in scores),
            note=f"mean of {len(scores)} transitions; n is the smallest",
        )
        for (method, metric), scores in found.items()
    ]


def _repeat(cells: Values, weights: Values) -> Values:
    return np.repeat(cells, weights.astype(np.int64), axis=0)
