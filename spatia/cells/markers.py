"""Cell types from marker genes, for slides without labels: counts and a table of markers -> a type per cell."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

MIN_SEEDS = 20  # a type that fewer cells show has no profile
PSEUDOCOUNT = 0.5
COLUMNS = ("gene", "cell_type", "lineage", "weight")


def score_types(
    expression: sparse.csr_matrix,
    genes: NDArray[np.str_],
    markers: pd.DataFrame,
    is_reference: NDArray[np.bool_],
    n_background: int,
    min_genes: int,
) -> pd.DataFrame:
    """Return how strongly each cell shows the markers of each type, ``(n, types)``.

    The score is the weighted mean of the markers' standardised expression minus the mean of genes that are expressed
    alike: rich cells have more of every gene, and a type with rare markers would otherwise look like noise.

    Parameters
    ----------
    expression
        ``(n, g)`` log-normalised.
    genes
        ``(g,)`` names; matched without regard to case, so that ``Epcam`` of a mouse panel finds ``EPCAM``.
    markers
        ``gene, cell_type, lineage, weight``; a negative weight speaks against the type.
    is_reference
        ``(n,)`` cells that mean and standard deviation are taken from.
    n_background
        Genes of like expression for each marker.
    min_genes
        Types with fewer markers on the panel are left out.

    Raises
    ------
    ValueError
        If no type has enough markers on the panel.
    """
    mean, deviation = _moments(expression[np.flatnonzero(is_reference)])
    place = {str(gene).upper(): column for column, gene in enumerate(genes)}
    weights = {}
    for cell_type, rows in markers.groupby("cell_type", sort=False):
        known = rows[rows["gene"].str.upper().isin(list(place)).to_numpy()]
        if (known["weight"] > 0).sum() >= min_genes:
            columns = np.array([place[gene] for gene in known["gene"].str.upper()])
            weights[str(cell_type)] = _type_weights(columns, known["weight"].to_numpy(float), mean, n_background)
    if not weights:
        raise ValueError(
            f"expected at least {min_genes} marker genes of one cell type on the panel, found none among "
            f"{len(genes)} genes"
        )
    table = np.stack(list(weights.values()), axis=1) / deviation[:, None]
    return pd.DataFrame(np.asarray(expression @ table) - mean @ table, columns=list(weights))


def assign_types(scores: pd.DataFrame, least: float, margin: float) -> NDArray[np.object_]:
    """Return the best type of each cell, ``(n,)``; "" where its score is below ``least`` or close to the second's.

    Parameters
    ----------
    scores
        ``(n, types)``.
    least
        Smallest score that names a cell.
    margin
        Smallest distance to the second best.
    """
    values = scores.to_numpy(float)
    order = np.sort(values, axis=1)
    second = order[:, -2] if values.shape[1] > 1 else np.full(len(values), -np.inf)
    is_clear = (order[:, -1] >= least) & (order[:, -1] - second >= margin)
    best = scores.columns.to_numpy()[values.argmax(axis=1)]
    return np.where(is_clear, best, "").astype(object)


def spread_types(
    counts: sparse.csr_matrix,
    seeds: NDArray[np.object_],
    is_reference: NDArray[np.bool_],
    least: float,
) -> NDArray[np.object_]:
    """Return the likeliest type of each cell by all of its genes, ``(n,)``; "" where its chance is below ``least``.

    With some twenty transcripts a cell shows few markers. Those that do tell the profile of their type (the seeds),
    and under it every transcript of every cell counts: a cell's counts are multinomial, types are equally likely.
    A type with fewer than ``MIN_SEEDS`` seeds has no profile: its seeds keep it, and no other cell gets it.

    Parameters
    ----------
    counts
        ``(n, g)``.
    seeds
        ``(n,)`` types of the cells that markers name, "" elsewhere.
    is_reference
        ``(n,)`` cells that profiles are taken from.
    least
        Smallest probability that names a cell.
    """
    known = np.where(is_reference, seeds, "")
    types = [name for name in sorted(set(known)) if name and (known == name).sum() >= MIN_SEEDS]
    if len(types) < 2:  # the likeliest of one type would be that one everywhere
        return np.asarray(seeds, object)
    profiles = np.stack([np.asarray(counts[known == name].sum(axis=0)).ravel() + PSEUDOCOUNT for name in types])
    score = np.asarray(counts @ np.log(profiles / profiles.sum(axis=1, keepdims=True)).T)
    chance = np.exp(score - score.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    best = np.array(types, object)[chance.argmax(axis=1)]
    spread = np.where(chance.max(axis=1) >= least, best, "")
    return np.where(np.isin(seeds, ["", *types]), spread, seeds).astype(object)


def type_lineages(markers: pd.DataFrame) -> dict[str, str]:
    """Return the lineage of every cell type of a marker table.

    Raises
    ------
    ValueError
        If a column is missing, or a type stands under two lineages.
    """
    missing = [column for column in COLUMNS if column not in markers]
    if missing:
        raise ValueError(f"expected columns {', '.join(COLUMNS)}, found no {missing[0]}")
    pairs = markers[["cell_type", "lineage"]].drop_duplicates()
    twice = pairs.loc[pairs["cell_type"].duplicated(), "cell_type"]
    if len(twice):
        raise ValueError(f"expected one lineage per cell type, found several for {twice.iloc[0]!r}")
    return dict(zip(pairs["cell_type"], pairs["lineage"], strict=True))


def _type_weights(
    columns: NDArray[np.int64], weight: NDArray[np.float64], mean: NDArray[np.float64], n_background: int
) -> NDArray[np.float64]:
    """Return the weight of every gene in a type's score, ``(g,)``: markers add, their background takes away."""
    total = np.zeros(len(mean))
    share = weight / np.abs(weight).sum()
    others = np.setdiff1d(np.arange(len(mean)), columns)
    for column, part in zip(columns, share, strict=True):
        total[column] += part
        alike = others[np.argsort(np.abs(mean[others] - mean[column]), kind="stable")[:n_background]]
        total[alike] -= part / max(len(alike), 1)
    return total


def _moments(expression: sparse.csr_matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of every gene; 1 for a gene that never varies."""
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    deviation = np.sqrt(np.maximum(variance, 0))
    return mean, np.where(deviation > 1e-6, deviation, 1.0)
