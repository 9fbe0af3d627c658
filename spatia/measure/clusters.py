"""Clusters of embeddings: nearest neighbours -> weighted graph -> Leiden communities."""

from __future__ import annotations

import igraph
import leidenalg
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

N_BISECTIONS = 64
SMALLEST_SCALE = 1e-3  # of a cell's kernel, relative to the mean distance (as umap-learn)


def leiden_clusters(
    z: NDArray[np.floating], resolution: float = 1.0, n_neighbors: int = 15, seed: int = 0
) -> NDArray[np.int64]:
    """Return the cluster of each cell, numbered from the largest.

    Modularity with ``resolution`` is maximised on the graph of :func:`neighbour_graph` until it rises no more. Seed
    and embeddings determine the result.

    Parameters
    ----------
    z
        (n, d) embeddings, compared by Euclidean distance as they are.
    resolution
        Higher gives more clusters.
    n_neighbors
        As in :func:`neighbour_graph`.
    seed
        Of Leiden's random visits; leidenalg takes no generator.
    """
    graph = sparse.triu(neighbour_graph(z, n_neighbors)).tocoo()
    edges = np.column_stack([graph.row, graph.col])
    found = leidenalg.find_partition(
        igraph.Graph(n=len(z), edges=edges),
        leidenalg.RBConfigurationVertexPartition,
        weights=graph.data,
        resolution_parameter=resolution,
        n_iterations=-1,
        seed=seed,
    )
    return np.asarray(found.membership, np.int64)


def neighbour_graph(z: NDArray[np.floating], n_neighbors: int = 15) -> sparse.csr_matrix:
    """Return the symmetric (n, n) graph of nearest neighbours with UMAP's weights, 0 to 1.

    These are the weights with which scanpy clusters (McInnes et al., arXiv 1802.03426, section 3.1), from exact
    neighbours: ``w = exp(-(d - d_nearest) / scale)`` with each cell's scale such that its weights sum to
    log2(n_neighbors), and the two directions of an edge united as ``w + w' - w w'``. ``n_neighbors`` counts the cell
    itself, as it does there.

    Raises
    ------
    ValueError
        If there are fewer cells than neighbours, or fewer than two neighbours.
    """
    if z.ndim != 2 or not 2 <= n_neighbors <= len(z):
        raise ValueError(f"n_neighbors: expected 2 to {len(z)}, the cells, found {n_neighbors} for shape {z.shape}")
    distance, neighbour = NearestNeighbors(n_neighbors=n_neighbors - 1).fit(z).kneighbors()
    weight = _membership(distance.astype(np.float64), np.log2(n_neighbors))
    row = np.repeat(np.arange(len(z)), n_neighbors - 1)
    directed = sparse.csr_matrix((weight.ravel(), (row, neighbour.ravel())), shape=(len(z), len(z)))
    back = directed.T.tocsr()
    return sparse.csr_matrix(directed + back - directed.multiply(back))


def _membership(distance: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Return weights (n, k) of sorted distances (n, k) to others that sum to ``total`` in every row, where they can."""
    is_apart = distance > 0
    nearest = np.where(is_apart, distance, np.inf).min(axis=1, initial=np.inf)
    beyond = np.maximum(distance - np.where(np.isfinite(nearest), nearest, 0)[:, None], 0)
    low, high = np.zeros(len(distance)), np.full(len(distance), np.inf)
    scale = np.ones(len(distance))
    for _ in range(N_BISECTIONS):
        is_wide = np.exp(-beyond / scale[:, None]).sum(axis=1) > total
        low, high = np.where(is_wide, low, scale), np.where(is_wide, scale, high)
        scale = np.where(np.isfinite(high), (low + high) / 2, scale * 2)
    # a row of equal distances would get scale 0; umap-learn counts the cell itself, at distance 0, into the mean
    share = distance.shape[1] / (distance.shape[1] + 1)
    mean = share * np.where(np.isfinite(nearest), distance.mean(axis=1), distance.mean())
    scale = np.maximum(scale, SMALLEST_SCALE * np.maximum(mean, np.finfo(np.float64).tiny))
    return np.exp(-beyond / scale[:, None])


def cluster_cells(
    z: NDArray[np.floating], resolution: float, n_neighbors: int, most: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return Leiden clusters (n,), numbered from the largest on, of any number of cells.

    Parameters
    ----------
    z
        (n, d) embeddings; read in blocks, so it may be a memory map.
    most
        Beyond this many cells, so many are drawn and clustered, and every other cell joins its nearest of them.
    """
    n = len(z)
    if n <= n_neighbors:
        return np.zeros(n, np.int64)
    seed = int(generator.integers(2**31))
    if n <= most:
        return _by_size(leiden_clusters(np.asarray(z), resolution, n_neighbors, seed))
    chosen = np.sort(generator.choice(n, most, replace=False))
    sample = np.asarray(z[chosen])
    clusters = leiden_clusters(sample, resolution, n_neighbors, seed)
    nearest = NearestNeighbors(n_neighbors=1).fit(sample)
    blocks = [nearest.kneighbors(z[start : start + most], return_distance=False)[:, 0] for start in range(0, n, most)]
    return _by_size(clusters[np.concatenate(blocks)])


def _by_size(clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number clusters from the largest on; of equal ones the first seen comes first."""
    _, first, inverse, counts = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(counts), np.int64)
    number[np.lexsort((first, -counts))] = np.arange(len(counts))
    return number[inverse]
