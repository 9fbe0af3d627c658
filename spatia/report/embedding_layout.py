"""Embeddings as geometry: the cells most like a cell, and a plane in which like cells lie together."""

from __future__ import annotations

import warnings

import numpy as np

BLOCK_ROWS = 16_384  # of the embeddings that are in memory at a time
QUERY_ROWS = 1024
UMAP_NEIGHBOURS = 15
UMAP_EPOCHS = 200  # umap's own choice for large data; twice as many take twice as long and look the same
MIN_UMAP_CELLS = 8  # of fewer there is no map to speak of


def sample_rows(n_cells: int, most: int, generator: np.random.Generator) -> np.ndarray:
    """Return at most ``most`` different rows in random order, so that no group is always painted over another."""
    return generator.permutation(n_cells)[:most]


def nearest_cells(vectors: np.ndarray, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells most like some cells, by the cosine of their embeddings.

    Parameters
    ----------
    vectors : (n, width), may lie on disk
    rows : (m,) the cells asked for; a cell is never its own neighbour
    count : neighbours per cell, n - 1 at most

    Returns
    -------
    rows (m, count) of the neighbours, nearest first, and their cosines (m, count)
    """
    queries = _unit(vectors[rows])
    cosine = np.concatenate([queries @ _unit(block).T for block in _blocks(vectors)], axis=1)
    cosine[np.arange(len(rows)), rows] = -np.inf
    count = min(count, len(vectors) - 1)
    best = np.sort(np.argpartition(-cosine, count - 1, axis=1)[:, :count], axis=1)  # equal ones in the table's order
    order = np.argsort(-np.take_along_axis(cosine, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    return best, np.take_along_axis(cosine, best, axis=1)


def lay_out(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Return the UMAP (n, 2) of embeddings (n, width) by cosine; the same seed gives the same map.

    The neighbours are exact: at these numbers that is faster than compiling an approximate search.
    """
    import umap  # slow to import

    count = min(UMAP_NEIGHBOURS, len(vectors)) - 1
    parts = [
        nearest_cells(vectors, np.arange(start, min(start + QUERY_ROWS, len(vectors))), count)
        for start in range(0, len(vectors), QUERY_ROWS)
    ]
    itself = np.arange(len(vectors))[:, None]  # umap counts a cell as its own first neighbour
    neighbours = np.hstack([itself, np.concatenate([rows for rows, _ in parts])])
    distances = np.hstack([0.0 * itself, 1 - np.concatenate([cosine for _, cosine in parts])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no new cells can be placed: none will be
        model = umap.UMAP(
            n_neighbors=count + 1, n_epochs=UMAP_EPOCHS, metric="cosine", random_state=seed, n_jobs=1,
            precomputed_knn=(neighbours, np.clip(distances, 0, 2).astype(np.float32)),
        )  # fmt: skip
        return np.asarray(model.fit_transform(np.asarray(vectors)))


def _blocks(vectors: np.ndarray) -> list[np.ndarray]:
    return [vectors[start : start + BLOCK_ROWS] for start in range(0, len(vectors), BLOCK_ROWS)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length one; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors, np.float32) / np.maximum(length, 1e-12)
