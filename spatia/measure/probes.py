"""What a simple model reads from embeddings: train embeddings and classes -> classes of test embeddings.

Features are standardised with the mean and spread of the train cells, and the penalty's strength is chosen by
cross-validation within the train cells; nothing about the test cells is used but their features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from spatia.measure.scores import balanced_accuracy

Matrix = NDArray[np.floating]

# l2 penalty per cell: mean loss + strength / 2 * |w|^2
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
N_FOLDS = 4
MAX_ITERATIONS = 300
PATIENCE = 2  # strengths in a row that are no better


@dataclass(frozen=True)
class Standardiser:
    """Mean and spread of the train features, each (d,)."""

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, z: Matrix) -> Standardiser:
        """Return what standardises ``z`` (n, d); a constant feature becomes 0."""
        spread = z.std(axis=0, dtype=np.float64)
        return cls(z.mean(axis=0, dtype=np.float64), np.where(spread > 0, spread, 1.0))

    def __call__(self, z: Matrix) -> NDArray[np.float64]:
        """Return ``z`` (n, d) on the scale where train features have mean 0 and spread 1."""
        return (np.asarray(z, np.float64) - self.mean) / self.spread


def inner_folds(
    n: int, groups: ArrayLike | None, generator: np.random.Generator, n_folds: int = N_FOLDS
) -> NDArray[np.int64]:
    """Return the fold of each of ``n`` cells: random ones, or whole groups dealt out so that folds are of like size.

    Parameters
    ----------
    n
        Number of train cells.
    groups
        (n,) what must not be torn apart: the tissue or niche of each cell, or None for none. With fewer groups than
        folds every group is a fold.
    generator
        Draws the order in which groups, or cells, are dealt out.
    n_folds
        Number of folds.

    Raises
    ------
    ValueError
        If there are not two groups.
    """
    if n_folds < 2:
        raise ValueError(f"n_folds: expected at least 2, found {n_folds}")
    group = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    if len(group) != n:
        raise ValueError(f"groups: expected one per train cell, {n}, found {len(group)}")
    sizes = np.bincount(group)
    if len(sizes) < 2:
        raise ValueError(f"groups: expected at least two to choose a penalty, found {len(sizes)} in {n} cells")
    fold_of_group = np.zeros(len(sizes), np.int64)
    fold_sizes = np.zeros(min(n_folds, len(sizes)), np.int64)
    shuffled = generator.permutation(len(sizes))
    for one in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:  # the largest first, small ones even it out
        fold_of_group[one] = fold_sizes.argmin()
        fold_sizes[fold_of_group[one]] += sizes[one]
    return fold_of_group[group]


@dataclass(frozen=True)
class ClassProbe:
    """Multinomial logistic regression on standardised features.

    Attributes
    ----------
    standardise
        What the features go through first.
    strength
        The penalty that was chosen.
    model
        The fitted ``sklearn.linear_model.LogisticRegression``.
    """

    standardise: Standardiser
    strength: float
    model: Any

    def predict(self, z: Matrix) -> NDArray[Any]:
        """Return the class of each row of ``z`` (n, d), as the train labels name it."""
        return self.model.predict(self.standardise(z))


def fit_class_probe(
    train_z: Matrix,
    train_labels: ArrayLike,
    generator: np.random.Generator,
    groups: ArrayLike | None = None,
    strengths: Sequence[float] = STRENGTHS,
    n_folds: int = N_FOLDS,
) -> ClassProbe:
    """Return logistic regression with classes weighted alike, fitted to the train cells.

    The strength is that of the best balanced accuracy of all held-out folds together, the strongest of equals. They
    are tried from the strongest on, until two in a row are worse than the best: weaker ones overfit and take longest.

    Parameters
    ----------
    train_z
        (n, d) features.
    train_labels
        (n,) numbers or names.
    generator
        Draws the folds.
    groups, n_folds
        As in :func:`inner_folds`.
    strengths
        To choose from; with one there are no folds.

    Raises
    ------
    ValueError
        If lengths differ or there are not two classes.
    """
    labels = np.asarray(train_labels)
    check_rows(train_z, labels)
    if len(np.unique(labels)) < 2:
        raise ValueError(f"train_labels: expected at least two classes, found {np.unique(labels).tolist()}")
    standardise = Standardiser.of(train_z)
    x = standardise(train_z)
    ordered = sorted(strengths, reverse=True)
    chosen = ordered[0]
    if len(ordered) > 1:
        chosen = _choose_strength(x, labels, inner_folds(len(x), groups, generator, n_folds), ordered)
    return ClassProbe(standardise, chosen, _fit_logistic(x, labels, chosen))


def probe_classes(
    train_z: Matrix,
    train_labels: ArrayLike,
    test_z: Matrix,
    generator: np.random.Generator,
    groups: ArrayLike | None = None,
    strengths: Sequence[float] = STRENGTHS,
    n_folds: int = N_FOLDS,
) -> NDArray[Any]:
    """Return the class that :func:`fit_class_probe` gives to each row of ``test_z`` (m, d)."""
    return fit_class_probe(train_z, train_labels, generator, groups, strengths, n_folds).predict(test_z)


def knn_classes(train_z: Matrix, train_labels: ArrayLike, test_z: Matrix, n_neighbors: int = 15) -> NDArray[Any]:
    """Return the commonest class among the nearest train cells, by Euclidean distance of standardised features.

    Raises
    ------
    ValueError
        If lengths differ or there are fewer train cells than neighbours.
    """
    labels = np.asarray(train_labels)
    check_rows(train_z, labels)
    if not 1 <= n_neighbors <= len(labels):
        raise ValueError(f"n_neighbors: expected 1 to {len(labels)}, the train cells, found {n_neighbors}")
    standardise = Standardiser.of(train_z)
    return KNeighborsClassifier(n_neighbors).fit(standardise(train_z), labels).predict(standardise(test_z))


def _choose_strength(
    x: NDArray[np.float64], labels: NDArray[Any], folds: NDArray[np.int64], from_strongest: Sequence[float]
) -> float:
    best, chosen, n_worse = -1.0, from_strongest[0], 0
    for strength in from_strongest:
        score = balanced_accuracy(labels, _held_out_classes(x, labels, folds, strength))
        n_worse = n_worse + 1 if score <= best else 0
        if score > best:
            best, chosen = score, strength
        if n_worse == PATIENCE:
            break
    return chosen


def _held_out_classes(
    x: NDArray[np.float64], labels: NDArray[Any], folds: NDArray[np.int64], strength: float
) -> NDArray[Any]:
    guess = labels.copy()
    for fold in np.unique(folds):
        is_out = folds == fold
        guess[is_out] = _fit_logistic(x[~is_out], labels[~is_out], strength).predict(x[is_out])
    return guess


def _fit_logistic(x: NDArray[np.float64], labels: NDArray[Any], strength: float) -> Any:
    if len(np.unique(labels)) < 2:  # a fold may hold all cells of the other class
        return DummyClassifier().fit(x, labels)
    model = LogisticRegression(C=1 / (strength * len(x)), class_weight="balanced", max_iter=MAX_ITERATIONS, tol=1e-3)
    with warnings.catch_warnings():
        # of weak penalties, which overfit long before they converge and are not chosen
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, labels)


def check_rows(train_z: Matrix, answers: NDArray[Any]) -> None:
    """Raise ValueError unless there is one row of features per answer."""
    if train_z.ndim != 2 or len(train_z) != len(answers):
        raise ValueError(f"train: expected (cells, features) for {len(answers)} answers, found shape {train_z.shape}")
