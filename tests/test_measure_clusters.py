"""The neighbour graph and Leiden clusters."""

import numpy as np
import pytest
from scipy import sparse

from spatia.measure.clusters import leiden_clusters, neighbour_graph
from spatia.measure.scores import adjusted_rand_index


def blobs(n_each=(30, 20, 10), n_dimensions=4, seed=0):
    generator = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(n_each)), n_each)
    centre = 8.0 * np.eye(len(n_each), n_dimensions)
    return centre[label] + generator.normal(size=(len(label), n_dimensions)), label


def test_weights_are_those_of_umap_learn():
    # fuzzy_simplicial_set of umap-learn 0.5.12, 3 neighbours
    z = np.array([[0.0, 0], [1, 0], [0, 2], [3, 1], [5, 5], [6, 5]])
    expected = [
        [0, 1, 1, 0.585, 0, 0],
        [1, 0, 0.8277, 1, 0, 0],
        [1, 0.8277, 0, 0, 0, 0],
        [0.585, 1, 0, 0, 0.585, 0.585],
        [0, 0, 0, 0.585, 0, 1],
        [0, 0, 0, 0.585, 1, 0],
    ]
    assert neighbour_graph(z, 3).toarray() == pytest.approx(np.array(expected), abs=1e-4)


def test_the_graph_is_symmetric_without_loops_and_knows_no_scale():
    z, _ = blobs()
    graph = neighbour_graph(z, 8).toarray()
    assert np.array_equal(graph, graph.T)
    assert not np.diag(graph).any()
    assert graph.max() == pytest.approx(1)
    assert graph.max(axis=1) == pytest.approx(np.ones(len(z)))  # everyone's nearest neighbour
    assert neighbour_graph(7 * z + 3, 8).toarray() == pytest.approx(graph, abs=1e-9)
    assert np.count_nonzero(neighbour_graph(z, 12).toarray()) > np.count_nonzero(graph)


def test_equal_cells_are_neighbours():
    z = np.repeat([[0.0, 0], [9, 9]], [5, 4], axis=0)
    graph = neighbour_graph(z, 3).toarray()
    assert np.isfinite(graph).all()
    assert not graph[:5, 5:].any()


def test_clusters_find_blobs():
    z, label = blobs()
    found = leiden_clusters(z, resolution=0.3, n_neighbors=10)
    assert adjusted_rand_index(label, found) == 1
    assert np.bincount(found).tolist() == [30, 20, 10]  # numbered from the largest


def test_order_of_cells_does_not_matter_where_clusters_are_clear():
    z, label = blobs()
    order = np.random.default_rng(1).permutation(len(z))
    assert adjusted_rand_index(label[order], leiden_clusters(z[order], 0.3, 10)) == 1


@pytest.mark.parametrize(("along", "across", "expected"), [(1.0, 0.1, [0, 0, 1, 1]), (0.1, 1.0, [0, 1, 1, 0])])
def test_strong_edges_hold_clusters_together(monkeypatch, along, across, expected):
    ring = np.zeros((4, 4))
    ring[[0, 1, 2, 3], [1, 0, 3, 2]] = along
    ring[[1, 2, 3, 0], [2, 1, 0, 3]] = across
    monkeypatch.setattr("spatia.measure.clusters.neighbour_graph", lambda z, n_neighbors: sparse.csr_matrix(ring))
    assert adjusted_rand_index(expected, leiden_clusters(np.zeros((4, 1)))) == 1


def test_options_of_clusters():
    z = np.random.default_rng(0).normal(size=(300, 3))
    usual = leiden_clusters(z, 1.0, 15, seed=0)
    assert np.array_equal(usual, leiden_clusters(z, 1.0, 15, seed=0))
    assert not np.array_equal(usual, leiden_clusters(z, 1.0, 15, seed=1))
    assert not np.array_equal(usual, leiden_clusters(z, 1.0, 5, seed=0))
    assert leiden_clusters(z, 3.0, 15, seed=0).max() > usual.max() > leiden_clusters(z, 0.2, 15, seed=0).max()


@pytest.mark.parametrize("n_neighbors", [1, 7])
def test_impossible_numbers_of_neighbours(n_neighbors):
    with pytest.raises(ValueError, match=f"expected 2 to 6, the cells, found {n_neighbors}"):
        neighbour_graph(np.zeros((6, 2)), n_neighbors)
