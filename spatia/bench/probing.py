"""What frozen embeddings tell, as tidy rows: image -> clusters and genes, genes -> image, clusters, imputation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from spatia.bench.regions import SCORES, Kind, Region, Task
from spatia.measure.bootstrap import Interval, bootstrap, bootstrap_difference, resampled, resampled_pearson
from spatia.measure.clusters import leiden_clusters
from spatia.measure.imputation import impute_by_chosen_neighbours, impute_by_ridge, log_counts
from spatia.measure.probes import knn_classes, probe_classes
from spatia.measure.scores import adjusted_rand_index, normalised_mutual_information
from spatia.measure.value_probes import probe_values

TASK_NAMES: dict[Kind, tuple[str, str]] = {
    "classes": ("image -> cluster", "balanced accuracy"),
    "values": ("image -> genes", "mean Pearson"),
}
IMPUTATION = ("imputation", "mean Pearson")
FEATURES, NEIGHBOURS, VISIBLE = "13 image features", "kNN in PCA", "ridge on visible genes"
ALL_GENES, COMPONENTS = "ridge on all genes", "PCA of genes"
N_NEAREST, N_COMPONENTS = 15, 50
N_SLOW = 200  # resamples of scores that are computed one by one

Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Train and test region in one line, and which cells are judged."""

    train: Region
    test: Region
    tissue: np.ndarray  # numbered over both regions
    is_test: np.ndarray

    @property
    def name(self) -> str:
        """How the pair is called in tables."""
        return f"{self.train.slide} -> {self.test.slide}"


def probe_image(pair: Pair, tasks: Sequence[Task], arrays: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """Yield a row per task and image-only embedding, and its paired difference to the hand-made features.

    Parameters
    ----------
    arrays
        Name of the embedding -> (n, d), cells of both regions in the pair's order.
    """
    features = np.concatenate([pair.train.features, pair.test.features])
    for task in tasks:
        name, metric = TASK_NAMES[task.kind]
        truth, score = task.target[task.test], SCORES[task.kind]
        base = read_out(features, pair, task)
        yield row(name, FEATURES, metric, bootstrap(truth, base, score, np.random.default_rng(0)), len(truth))
        for method, z in arrays.items():
            found = read_out(z, pair, task)
            yield row(name, method, metric, bootstrap(truth, found, score, np.random.default_rng(0)), len(truth))
            difference = bootstrap_difference(truth, found, base, score, np.random.default_rng(0))
            yield row(name, f"{method} minus {FEATURES}", metric, difference, len(truth))
            if task.kind == "classes":
                near = knn_classes(z[task.train], task.target[task.train], z[task.test], N_NEAREST)
                interval = bootstrap(truth, near, score, np.random.default_rng(0))
                yield row(name, f"{method}, {N_NEAREST} nearest", metric, interval, len(truth))


def probe_genes(
    pair: Pair, task: Task, targets: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> Iterator[Row]:
    """Yield a row per target and embedding of the genes alone, and one of ridge regression on the genes themselves.

    Parameters
    ----------
    task
        Whose train and test cells are taken.
    targets, arrays
        Name -> (n, d) what images look like, and embeddings that have seen no image; cells in the pair's order.
    """
    genes = np.concatenate([log_counts(region.counts) for region in (pair.train, pair.test)])
    for name, target in targets.items():
        asked = dataclasses.replace(task, kind="values", target=target)
        for method, z in {**arrays, ALL_GENES: genes}.items():
            found, truth = read_out(z, pair, asked), target[task.test]
            interval = bootstrap(truth, found, resampled_pearson, np.random.default_rng(0))
            yield row(f"genes -> {name}", method, "mean Pearson", interval, len(truth))


def compare_clusters(pair: Pair, task: Task, arrays: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """Yield how far Leiden clusters (resolution 1) of the test cells agree with the labels, per embedding.

    Labels are mostly clusters of expression: what has seen the genes has seen what they are made of.
    """
    n_train = len(pair.train.cell_ids)
    genes = log_counts(pair.test.counts)[task.test[n_train:]]
    truth = task.target[task.test]
    components = PCA(min(N_COMPONENTS, *genes.shape), random_state=0).fit_transform(genes)
    for method, z in {**{name: z[task.test] for name, z in arrays.items()}, COMPONENTS: components}.items():
        clusters = leiden_clusters(z, n_neighbors=min(N_NEAREST, len(z)))
        for metric, score in (("ARI", adjusted_rand_index), ("NMI", normalised_mutual_information)):
            interval = bootstrap(truth, clusters, resampled(score), np.random.default_rng(0), n_resamples=N_SLOW)
            yield row("clusters against labels", method, metric, interval, len(truth))


def read_out(z: np.ndarray, pair: Pair, task: Task) -> np.ndarray:
    """Return what a linear probe of ``z`` says about a task's test cells."""
    probe = probe_classes if task.kind == "classes" else probe_values
    generator = np.random.default_rng(0)
    return probe(z[task.train], task.target[task.train], z[task.test], generator, pair.tissue[task.train])


def impute(
    pair: Pair, hidden: Sequence[np.ndarray], arrays: Sequence[Mapping[str, np.ndarray]], judged: Sequence[str]
) -> Iterator[Row]:
    """Yield a row per method, over all draws of hidden genes, and what ``judged`` ones have more than each other.

    All methods learn from all cells of the train region, since the model has seen the counts of all of them; test
    cells are those far from the edge.

    Parameters
    ----------
    hidden
        Per draw, (genes,) bool.
    arrays
        Per draw, method -> (n, d) embeddings that have not seen the hidden genes.
    judged
        The methods that are compared with all others.
    """
    n_train = len(pair.train.cell_ids)
    train, test = pair.train.counts, pair.test.counts[pair.is_test[n_train:]]
    group = pair.tissue[:n_train]
    predictions: dict[str, list[np.ndarray]] = {}
    truth = []
    for is_hidden, found in zip(hidden, arrays, strict=True):
        truth.append(log_counts(test[:, is_hidden]))
        visible = [log_counts(counts[:, ~is_hidden]) for counts in (train, test)]
        for name, (z_train, z_test) in {
            **{name: (z[:n_train], z[pair.is_test]) for name, z in found.items()},
            VISIBLE: (visible[0], visible[1]),
        }.items():
            guess = impute_by_ridge(z_train, train, z_test, is_hidden, np.random.default_rng(0), group)
            predictions.setdefault(name, []).append(guess)
        nearest = impute_by_chosen_neighbours(train, test, is_hidden, np.random.default_rng(0), group)
        predictions.setdefault(NEIGHBOURS, []).append(nearest)
    whole = np.concatenate(truth, axis=1)
    joined = {name: np.concatenate(parts, axis=1) for name, parts in predictions.items()}
    for name, guess in joined.items():
        interval = bootstrap(whole, guess, resampled_pearson, np.random.default_rng(0))
        yield row(IMPUTATION[0], name, IMPUTATION[1], interval, len(whole))
    for best, (name, guess) in itertools.product(judged, joined.items()):
        if name not in judged:
            difference = bootstrap_difference(whole, joined[best], guess, resampled_pearson, np.random.default_rng(0))
            yield row(IMPUTATION[0], f"{best} minus {name}", IMPUTATION[1], difference, len(whole))


def row(task: str, method: str, metric: str, interval: Interval, n: int) -> Row:
    """Return one tidy row."""
    return {
        "task": task,
        "method": method,
        "metric": metric,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": n,
    }
