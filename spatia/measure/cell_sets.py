"""Sets of cells to compare: which features count, in which units, and what a failed cell is worth.

A failed segmentation, or a feature that could not be measured, counts against a method: it gets the worst value, the
end of the real cells' range (1 to 99 %) that lies further from the targets' mean. Real cells scored as outputs (the
other half of the targets, the controls) are treated the same; in what outputs are compared with, failed cells are left
out and single gaps take the median.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatia.measure.distances import standardise, varies

Values = NDArray[np.float64]
MEASURABLE_SHARE = 0.95  # of the real cells: a feature that fewer of them have is dropped
WORST_QUANTILES = (0.01, 0.99)


@dataclass(frozen=True)
class CellSet:
    """Cells of one kind.

    Attributes
    ----------
    features
        (n, features); NaN where a cell has none.
    embedding
        (n, d) of their images.
    is_segmented
        (n,); all features of the others are NaN.
    """

    features: Values
    embedding: Values
    is_segmented: NDArray[np.bool_]

    def __post_init__(self) -> None:
        lengths = {len(self.features), len(self.embedding), len(self.is_segmented)}
        if len(lengths) != 1:
            raise ValueError(f"cells: expected as many features as embeddings and flags, found {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> CellSet:
        """Return some cells."""
        return CellSet(self.features[rows], self.embedding[rows], self.is_segmented[rows])

    @property
    def segmented(self) -> CellSet:
        """The cells that were found."""
        return self.take(self.is_segmented)


@dataclass(frozen=True)
class Scale:
    """Units of features: the spread of the real controls.

    Attributes
    ----------
    is_kept
        (features,) those that count.
    centre, spread
        (kept,) mean and spread of the controls.
    worst
        (kept,) in units of the spread: what a failed cell gets.
    most
        Values further than so many spreads from the centre count as this far: a few moments and textures have tails
        of a thousand spreads, and one such cell would be the mean of all features.
    """

    is_kept: NDArray[np.bool_]
    centre: Values
    spread: Values
    worst: Values
    most: float

    @property
    def n_dropped(self) -> int:
        """Features that do not count."""
        return int((~self.is_kept).sum())

    def real(self, cells: CellSet) -> Values:
        """Return the features of cells that others are compared with; gaps take the set's median."""
        return self._clip((fill_gaps(cells.features[:, self.is_kept]) - self.centre) / self.spread)

    def output(self, cells: CellSet) -> Values:
        """Return the features of a method's cells; gaps take the worst value."""
        scaled = (cells.features[:, self.is_kept] - self.centre) / self.spread
        return self._clip(np.where(np.isfinite(scaled), scaled, self.worst))

    def _clip(self, scaled: Values) -> Values:
        return np.clip(scaled, -self.most, self.most)


def make_scale(controls: CellSet, targets: CellSet, most: float) -> Scale:
    """Return the units that real controls and targets give; generated cells have no say in them."""
    is_kept = choose_features(controls, targets)
    control, target = (fill_gaps(cells.segmented.features[:, is_kept]) for cells in (controls, targets))
    return Scale(
        is_kept=is_kept,
        centre=control.mean(axis=0),
        spread=control.std(axis=0),
        worst=find_worst(standardise(control, control), standardise(target, control)),
        most=most,
    )


def choose_features(controls: CellSet, targets: CellSet) -> NDArray[np.bool_]:
    """Return which features nearly all real cells have and are not constant over the controls."""
    own, other = controls.segmented.features, targets.segmented.features
    measurable = np.isfinite(np.concatenate([own, other])).mean(axis=0) >= MEASURABLE_SHARE
    return measurable & varies(np.where(measurable, fill_gaps(own), 0))


def find_worst(controls: Values, targets: Values) -> Values:
    """Return, per feature, the end of the real cells' range that lies further from the targets' mean."""
    low, high = np.quantile(np.concatenate([controls, targets]), WORST_QUANTILES, axis=0)
    centre = targets.mean(axis=0)
    return np.asarray(np.where(centre - low > high - centre, low, high))


def fill_gaps(values: Values) -> Values:
    """Return values (n, features) with NaN and infinity replaced by the feature's median; 0 where it has none."""
    finite = np.where(np.isfinite(values), values, np.nan)
    medians = np.nanmedian(np.where(np.isnan(finite).all(axis=0), 0, finite), axis=0)
    return np.where(np.isnan(finite), medians, finite)


def split_rows(rows: NDArray[np.int64], generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two random halves of the rows; the second is the larger of unequal ones."""
    order = generator.permutation(rows)
    return order[: len(rows) // 2], order[len(rows) // 2 :]


def draw_rows(rows: NDArray[np.int64], n: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return ``n`` of the rows in their order, none twice."""
    return np.sort(generator.choice(rows, n, replace=False))


def mean_cell(cells: CellSet, embedding: Values, n: int) -> CellSet:
    """Return the mean of cells, ``n`` times: what knows the targets' mean and nothing else.

    Parameters
    ----------
    cells
        Segmented ones.
    embedding
        (d,) of the mean of their images.
    n
        How often.
    """
    features = fill_gaps(cells.features).mean(axis=0)
    return CellSet(np.tile(features, (n, 1)), np.tile(embedding, (n, 1)), np.ones(n, bool))
