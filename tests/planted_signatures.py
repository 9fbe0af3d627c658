"""What a planted change of expression should look like in log1p units, without any counts: for tests of ``dg``."""

from __future__ import annotations

import numpy as np
from scipy import stats


def expected_log1p(fractions: np.ndarray, depths: np.ndarray, target_sum: float) -> np.ndarray:
    """Return E[log1p(target_sum * count / depth)] of every gene, ``(g,)``, over cells of these depths.

    A gene's count in a cell of ``depth`` transcripts is binomial. Log folds are no difference in log1p units: a gene
    that is hardly ever seen moves little, whatever its fold. This is the mean that infinitely many cells would have.

    Parameters
    ----------
    fractions
        ``(g,)`` of a cell's transcripts.
    depths
        ``(d,)`` transcripts per cell, all alike frequent.
    target_sum
        Of the normalisation.
    """
    found = np.zeros(len(fractions))
    for depth in depths.astype(int):
        k = np.arange(1, depth + 1)
        chance = stats.binom.pmf(k[:, None], depth, fractions[None, :])
        found += np.log1p(target_sum * k / depth) @ chance
    return found / len(depths)


def expected_difference(control: np.ndarray, log_fold: np.ndarray, depths: np.ndarray, target_sum: float) -> np.ndarray:
    """Return what ``dg`` should be, ``(g,)``: control fractions, changed by the planted log folds, minus unchanged."""
    target = control * np.exp(log_fold)
    return expected_log1p(target / target.sum(), depths, target_sum) - expected_log1p(control, depths, target_sum)
