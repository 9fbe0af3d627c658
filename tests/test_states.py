"""Cell types, states, niche classes and splits: by hand, and ``spatia states`` on made-up slides."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from toy_states import Run, make_cells, write_labels, write_tiles, write_yaml

from spatia.cells.markers import assign_types, score_types, spread_types, type_lineages
from spatia.cells.naming import name_cells
from spatia.cells.niche_classes import Condition, classify_share, neighbour_graph, neighbour_share, parse_axis
from spatia.config import load_params
from spatia.errors import SpatiaError
from spatia.io import read_table, write_table
from spatia.transition_params import PairParams, StatesParams
from spatia.transition_plan import load_transitions, transition_from_dict, transition_to_dict

NAMES = {"1": {"cell_type": "duct", "lineage": "epithelial"}, "2": {"cell_type": "T cell", "state": "naive"}}


# --- names ---
def test_clusters_are_translated_and_unknown_ones_stay_empty():
    named = name_cells(pd.DataFrame({"Cluster": ["2", "1", "7", None]}), NAMES)
    assert named["cell_type"].tolist() == ["T cell", "duct", "", ""]
    assert named["lineage"].tolist() == ["", "epithelial", "", ""]
    assert named["state"].tolist() == ["naive", "", "", ""]


def test_columns_are_taken_as_they_are_and_names_beat_them():
    labels = pd.DataFrame({"type": ["a", "b"], "state": ["2", None], "lineage": ["l", "m"]})
    assert name_cells(labels, {}).to_numpy().tolist() == [["a", "l", "2"], ["b", "m", ""]]
    named = name_cells(labels, {"2": {"state": "naive"}})
    assert named["state"].tolist() == ["naive", ""]
    assert named["cell_type"].tolist() == ["a", "b"]


def test_labels_that_name_nothing_are_refused():
    with pytest.raises(ValueError, match="expected a column cell_type, lineage, state, or names"):
        name_cells(pd.DataFrame({"Cluster": ["5"]}), NAMES)
    with pytest.raises(ValueError, match="names: 1: expected"):
        name_cells(pd.DataFrame({"Cluster": ["1"]}), {"1": {"type": "x"}})


# --- niches ---
def test_shares_by_hand():
    # 0 - 1 - 2 in a row 10 um apart, 3 alone
    position = np.array([[0, 0], [10, 0], [20, 0], [500, 0]], float)
    graph = neighbour_graph(position, 12)
    np.testing.assert_array_equal(graph.toarray(), [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    share = neighbour_share(graph, np.array([True, False, False, True]), 1)
    np.testing.assert_array_equal(share, [0, 0.5, 0, np.nan])
    assert np.isnan(neighbour_share(graph, np.ones(4, bool), 2)).tolist() == [True, False, True, True]
    classes = {"hot": Condition(True, 0.5), "cold": Condition(False, 0.1)}
    assert classify_share(np.array([0.5, 0.3, 0.05, np.nan]), classes).tolist() == ["hot", "", "cold", ""]


def test_graph_is_that_of_all_distances():
    position = np.random.default_rng(0).uniform(0, 200, (120, 2))
    away = np.hypot(*(position[:, None] - position[None]).transpose(2, 0, 1))
    np.testing.assert_array_equal(neighbour_graph(position, 40).toarray() > 0, (away <= 40) & (away > 0))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"radius_um": 40, "hot": ">= 0.1"}, "expected {of:"),
        ({"of": {"type": "x"}, "radius_um": 40, "hot": ">= 0.1"}, "unknown key 'type'"),
        ({"of": {"lineage": "x"}, "radius_um": 0, "hot": ">= 0.1"}, "radius_um above 0"),
        ({"of": {"lineage": "x"}, "radius_um": 40, "hot": "> 0.1"}, "expected a bound such as"),
        ({"of": {"lineage": "x"}, "radius_um": 40}, "one class with '>='"),
        ({"of": {"lineage": "x"}, "radius_um": 40, "hot": ">= 0.1", "cold": "< 0.2"}, "do not overlap"),
    ],
)
def test_bad_axes_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        parse_axis("immune", entry)
    with pytest.raises(ValueError, match=message):
        StatesParams(niches={"immune": entry})


# --- markers ---
MARKERS = pd.DataFrame(
    [
        ("EPCAM", "epi", "E", 1),
        ("KRT8", "epi", "E", 1),
        ("CD3E", "T", "T", 1),
        ("CD2", "T", "T", 1),
        ("INS", "islet", "N", 1),
    ],
    columns=["gene", "cell_type", "lineage", "weight"],
)


def marked_cells(n=60):
    """Return expression of two kinds of cells, genes ``Epcam, KRT8, CD3E, CD2`` and 12 others."""
    rng = np.random.default_rng(1)
    expression = rng.gamma(2.0, 0.3, (2 * n, 16))
    expression[:n, :2] += 2
    expression[n:, 2:4] += 2
    genes = np.array(["Epcam", "KRT8", "CD3E", "CD2", *(f"X{k}" for k in range(12))])
    return sparse.csr_matrix(expression), genes


def test_markers_name_cells_whatever_the_case_of_the_gene():
    expression, genes = marked_cells()
    scores = score_types(expression, genes, MARKERS, np.ones(120, bool), 5, 2)
    assert list(scores.columns) == ["epi", "T"]  # islet has no marker on the panel
    named, planted = assign_types(scores, 0.2, 0.1), np.repeat(["epi", "T"], 60)
    assert (named != "").mean() > 0.95
    assert (named == planted)[named != ""].all()


def test_score_by_hand():
    # two cells, standardised to -1 and 1 in both genes; the marker's background is the other gene
    expression = sparse.csr_matrix(np.array([[0.0, 2.0], [2.0, 0.0]]))
    markers = pd.DataFrame([("A", "t", "l", 1.0)], columns=MARKERS.columns)
    scores = score_types(expression, np.array(["A", "B"]), markers, np.ones(2, bool), 1, 1)
    np.testing.assert_allclose(scores["t"], [-2, 2])
    # a gene that speaks against the type; no gene is left for the background
    against = pd.DataFrame([("A", "t", "l", 1.0), ("B", "t", "l", -1.0)], columns=MARKERS.columns)
    scores = score_types(expression, np.array(["A", "B"]), against, np.ones(2, bool), 1, 1)
    np.testing.assert_allclose(scores["t"], [-1, 1])


def test_margin_and_least_score_leave_cells_unnamed():
    scores = pd.DataFrame({"a": [1.0, 0.5, 0.1], "b": [0.2, 0.45, 0.0]})
    assert assign_types(scores, 0.2, 0.1).tolist() == ["a", "", ""]
    assert assign_types(scores, 0.0, 0.0).tolist() == ["a", "a", "a"]


def test_cells_that_markers_name_tell_the_profile_that_names_the_others():
    counts = np.zeros((63, 4), int)
    counts[:30, 0], counts[30:60, 1] = 5, 5
    counts[[0, 30], [2, 3]] = 5  # genes 2 and 3 come with 0 and 1
    counts[60, 2], counts[61, 3] = 3, 3
    counts[62, [0, 1]] = 1
    seeds = np.array(["a"] * 30 + ["b"] * 30 + [""] * 3, object)
    found = spread_types(sparse.csr_matrix(counts), seeds, np.ones(63, bool), 0.9)
    assert found.tolist() == ["a"] * 30 + ["b"] * 30 + ["a", "b", ""]


def test_types_without_a_profile_keep_their_seeds():
    counts = np.repeat(5 * np.eye(3, dtype=int), [30, 30, 19], axis=0)
    counts = sparse.csr_matrix(np.concatenate([counts, np.eye(3, dtype=int)]))
    seeds = np.array(["a"] * 30 + ["b"] * 30 + ["c"] * 19 + [""] * 3, object)
    found = spread_types(counts, seeds, np.ones(82, bool), 0.8)
    assert found.tolist() == [*seeds[:79], "a", "b", ""]
    for n in (0, 49):  # no profile, or that of a alone, which every cell would be likeliest to have
        assert spread_types(counts, seeds, np.arange(82) < n, 0.8).tolist() == seeds.tolist()


def test_options_of_the_score_change_it():
    expression, genes = marked_cells()
    shipped = score_types(expression, genes, MARKERS, np.ones(120, bool), 5, 2)
    assert not np.allclose(shipped, score_types(expression, genes, MARKERS, np.ones(120, bool), 2, 2))
    half = np.arange(120) < 60
    assert not np.allclose(shipped, score_types(expression, genes, MARKERS, half, 5, 2))
    against = pd.concat([MARKERS, pd.DataFrame([("CD3E", "epi", "E", -1)], columns=MARKERS.columns)])
    assert not np.allclose(shipped["epi"], score_types(expression, genes, against, np.ones(120, bool), 5, 2)["epi"])
    with pytest.raises(ValueError, match="at least 3 marker genes"):
        score_types(expression, genes, MARKERS, np.ones(120, bool), 5, 3)


def test_marker_tables_are_checked(root):
    assert type_lineages(MARKERS)["epi"] == "E"
    with pytest.raises(ValueError, match="found no lineage"):
        type_lineages(MARKERS.drop(columns="lineage"))
    with pytest.raises(ValueError, match="several for 'epi'"):
        type_lineages(pd.concat([MARKERS, pd.DataFrame([("KRT7", "epi", "X", 1)], columns=MARKERS.columns)]))
    shipped = pd.read_csv(root / "resources/markers/human.tsv", sep="\t")
    assert len(type_lineages(shipped)) > 10
    assert not shipped.duplicated(["gene", "cell_type"]).any()


# --- transitions ---
def test_shipped_transitions_are_the_simulators_and_survive_a_round_trip(root):
    from spatia.xenium.simulate.states import TRANSITIONS

    found = {transition.tag: transition for transition in load_transitions(root / "config/transitions.yaml")}
    axes = load_params(root / "config/stages/states.yaml", StatesParams).axes()
    for planted in TRANSITIONS:
        assert found[planted.name].start.states == (planted.control,)
        assert found[planted.name].end.states == (planted.target,)
    for transition in found.values():
        assert transition_from_dict(transition.tag, transition_to_dict(transition)) == transition
        for state in (transition.start, transition.end):
            for axis, niche in state.niches.items():
                assert niche in axes[axis].classes
    assert load_params(root / "config/stages/pair.yaml", PairParams) == PairParams()


def test_a_state_may_be_a_type_in_a_niche():
    cells = pd.DataFrame(
        {
            "cell_type": ["T", "T", "T", "M"],
            "lineage": ["L", "L", "K", "L"],
            "state": "",
            "niche_immune": ["hot", "cold", "hot", "hot"],
        }
    )
    transition = transition_from_dict(
        "x",
        {
            "from": {"cell_type": ["T", "M"], "niche": {"immune": "cold"}},
            "to": {"cell_type": "T", "niche": {"immune": "hot"}},
            "lineage": "L",
        },
    )
    assert transition.controls(cells).tolist() == [False, True, False, False]
    assert transition.targets(cells).tolist() == [True, False, False, False]
    assert transition.end.name == "T in immune hot"
    assert transition.is_between_niches
    with pytest.raises(SpatiaError, match="unknown niche axis 'immune'; config/stages/states.yaml defines none"):
        transition.controls(cells.drop(columns="niche_immune"))


def test_a_cell_that_is_a_target_already_is_no_control():
    cells = pd.DataFrame({"cell_type": ["T", "T", "M"], "lineage": "L", "state": ["", "B", ""]})
    entry = {"from": {"cell_type": "T"}, "to": {"state": "B"}, "lineage": "L"}
    assert transition_from_dict("x", entry).controls(cells).tolist() == [True, False, False]
    assert transition_from_dict("x", entry).targets(cells).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ({}, {}, False),
        ({"niche": {"immune": "hot"}}, {"niche": {"immune": "hot"}}, False),
        ({"niche": {"immune": "cold"}}, {"niche": {"immune": "hot"}}, True),
        ({}, {"niche": {"immune": "hot"}}, True),
    ],
)
def test_a_transition_is_between_niches_where_the_surroundings_change(start, end, expected):
    sides = {"from": {"state": "a", **start}, "to": {"state": "b", **end}}
    assert transition_from_dict("x", {**sides, "lineage": "L"}).is_between_niches == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected 'name:"),
        ({"x": 3}, "x: expected a mapping"),
        ({"x": {"from": {"state": "A"}, "too": {}}}, "unknown key 'too'"),
        ({"x": {"from": {"state": "A"}, "to": {"state": "B"}}}, "expected a value for 'lineage'"),
        ({"x": {"from": {"state": "A"}, "to": {"state": "A"}, "lineage": "L"}}, "the same in from and to"),
        ({"x": {"from": {"states": "A"}, "to": {"state": "B"}, "lineage": "L"}}, "x: from: unknown key 'states'"),
        ({"x": {"from": {"state": "A"}, "to": {"state": None}, "lineage": "L"}}, "at least one of"),
    ],
)
def test_bad_transitions_are_refused(tmp_path, content, message):
    with pytest.raises(SpatiaError, match=message):
        load_transitions(write_yaml(tmp_path / "t.yaml", content))


# --- the stage ---
@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    run.cells = make_cells({"A": 120, "B": 80})
    write_tiles(run.path("tile", "s1", "tiles"), run.cells)
    run.labels = write_labels(tmp_path / "labels.csv", run.cells)
    return run


def read_states(folder):
    return read_table(folder / "states.parquet"), json.loads((folder / "states.json").read_text())


AXIS = {"n": {"of": {"state": "B"}, "radius_um": 150, "many": ">= 0.5", "few": "< 0.3"}}


def test_states_are_joined_by_cell_id(run):
    shuffled = run.cells.sample(frac=1, random_state=0)
    folder = run.states("s1", labels=write_labels(run.folder / "other.csv", shuffled), params={"niches": AXIS})
    states, record = read_states(folder)
    assert list(states.columns) == ["cell_id", "cell_type", "lineage", "state", "niche_n", "split"]
    assert states["cell_id"].tolist() == run.cells["cell_id"].tolist()
    assert states["state"].tolist() == run.cells["state"].tolist()
    assert set(states["niche_n"]) == {"many", "few", ""}
    assert record["counts"]["state"] == {"A": 120, "B": 80}
    assert record["counts"]["split"] == {"train": 200}


def test_labels_may_be_parquet_or_clusters_and_miss_cells(run):
    write_table(run.folder / "truth.parquet", run.cells.assign(type="T", lineage="L", other=1.5)[:150])
    states, _ = read_states(run.states("s1", labels=run.folder / "truth.parquet"))
    assert states["cell_type"].tolist() == ["T"] * 150 + [""] * 50
    clusters = pd.DataFrame({"Barcode": run.cells["cell_id"], "Cluster": run.cells["state"].map({"A": 1, "B": 2})})
    clusters.to_csv(run.folder / "clusters.csv", index=False)
    names = write_yaml(run.folder / "names.yaml", {1: {"state": "A"}, 2: {"state": "B"}})
    states, _ = read_states(run.states("s1", labels=run.folder / "clusters.csv", names=names))
    assert states["state"].tolist() == run.cells["state"].tolist()
    shipped, _ = read_states(
        run.states("s1", labels=run.folder / "clusters.csv", params={"names": {"1": {"state": "A"}}})
    )
    assert set(shipped["state"]) == {"A", ""}


def test_names_of_whole_number_labels_are_those_of_a_file_or_the_parameters(run):
    clusters = pd.DataFrame({"Barcode": run.cells["cell_id"], "Cluster": run.cells["state"].map({"A": 1, "B": 2})})
    clusters.to_csv(run.folder / "clusters.csv", index=False)
    names = {1: {"state": "A", "cell_type": None}, 2: {"state": "B"}}
    file = write_yaml(run.folder / "names.yaml", names)
    for options in ({"names": file}, {"params": {"names": names}}):
        states, _ = read_states(run.states("s1", labels=run.folder / "clusters.csv", **options))
        assert states["state"].tolist() == run.cells["state"].tolist()
        assert set(states["cell_type"]) == {""}


def test_without_labels_marker_genes_name_the_cells(run):
    rows = [
        (gene, state, "L", 1)
        for number, state in enumerate("AB")
        for gene in [f"G{3 * number + k:02d}" for k in range(3)]
    ]
    table = pd.DataFrame(rows, columns=["gene", "cell_type", "lineage", "weight"])
    table.to_csv(run.folder / "markers.tsv", sep="\t", index=False)
    states, record = read_states(run.states("s1", markers=run.folder / "markers.tsv"))
    is_named = states["cell_type"] != ""
    assert is_named.mean() > 0.8
    assert (states["cell_type"] == run.cells["state"])[is_named].mean() > 0.97
    assert set(states["state"]) == {""}
    assert record["source"].startswith("markers of")
    alone, stricter, surer = (
        read_states(run.states("s1", markers=run.folder / "markers.tsv", params=params))[0]["cell_type"] != ""
        for params in (
            {"min_probability": None},
            {"min_probability": None, "marker_margin": 1.5},
            {"min_probability": 1},
        )
    )
    assert stricter.sum() < alone.sum() < is_named.sum()
    assert surer.sum() < is_named.sum()


@pytest.mark.parametrize(
    ("edge", "column", "low"), [("left", "x_um", True), ("right", "x_um", False), ("top", "y_um", True)]
)
def test_cells_near_a_shared_edge_are_on_no_side(run, edge, column, low):
    states, record = read_states(run.states("s1", labels=run.labels, edge=edge, params={"buffer_px": 1024}))
    size = {"x_um": 8000, "y_um": 6000}[column]
    place = run.cells[column] / 0.2125
    distance = place if low else size - place
    assert ((states["split"] == "") == (distance < 1024)).all()
    assert record["edge"] == edge
    all_in, _ = read_states(run.states("s1", labels=run.labels, edge=edge, params={"buffer_px": 0}))
    assert set(all_in["split"]) == {"train"}


def test_a_test_block_is_cut_from_training_slides_only(run):
    share = {"test_share": 0.2, "buffer_px": 500}
    states, _ = read_states(run.states("s1", labels=run.labels, params=share))
    assert set(states["split"]) == {"train", "test", ""}
    other, _ = read_states(run.states("s1", labels=run.labels, params={**share, "seed": 5}))
    assert (states["split"] != other["split"]).any()
    test, _ = read_states(run.states("s1", split="test", labels=run.labels, params=share))
    assert set(test["split"]) == {"test"}


def test_types_of_training_cells_do_not_depend_on_test_cells(run):
    rows = [("G00", "A", "L", 1), ("G01", "A", "L", 1), ("G03", "B", "L", 1), ("G04", "B", "L", 1)]
    path = run.folder / "markers.tsv"
    pd.DataFrame(rows, columns=["gene", "cell_type", "lineage", "weight"]).to_csv(path, sep="\t", index=False)
    share = {"test_share": 0.2, "buffer_px": 0}
    before, _ = read_states(run.states("s1", markers=path, params=share))
    tiles = run.path("tile", "s1", "tiles")
    counts = read_counts(tiles)
    is_test = (before["split"] == "test").to_numpy()
    counts[is_test] = np.random.default_rng(0).poisson(9, (is_test.sum(), counts.shape[1]))
    write_tiles(tiles, run.cells, sparse.csr_matrix(counts))
    after, _ = read_states(run.states("s1", markers=path, params=share))
    pd.testing.assert_frame_equal(before[~is_test], after[~is_test])


@pytest.mark.parametrize("split", ["test", "val", "apply"])
def test_slides_that_train_nothing_learn_their_types_from_all_of_their_cells(run, split):
    rows = [("G00", "A", "L", 1), ("G01", "A", "L", 1), ("G03", "B", "L", 1), ("G04", "B", "L", 1)]
    path = run.folder / "markers.tsv"
    pd.DataFrame(rows, columns=["gene", "cell_type", "lineage", "weight"]).to_csv(path, sep="\t", index=False)
    expected, _ = read_states(run.states("s1", markers=path))
    for options in ({}, {"edge": "left"}):
        found, _ = read_states(run.states("s1", split=split, markers=path, params={"test_share": 0.2}, **options))
        assert found["cell_type"].tolist() == expected["cell_type"].tolist()


def read_counts(tiles):
    from spatia.io import read_sparse

    return read_sparse(tiles / "cell_counts.npz").toarray()


def test_mistakes_are_one_line(run, capsys):
    run.states("s1", status=1)
    assert "expected --labels or --markers" in capsys.readouterr().err
    run.states("s1", status=1, labels=run.folder / "none.csv")
    assert "expected a csv of labels, found none" in capsys.readouterr().err
    pd.DataFrame({"cell_id": run.cells["cell_id"], "x": "y"}).to_csv(run.folder / "x.csv", index=False)
    run.states("s1", status=1, labels=run.folder / "x.csv")
    assert "add names to config/stages/states.yaml" in capsys.readouterr().err
    run.states("s1", status=1, labels=run.labels, names=run.folder / "none.yaml")
    assert "expected a YAML mapping of labels to names" in capsys.readouterr().err
    run.states("s1", status=1, labels=run.labels, params={"niche": {}})
    assert "unknown key 'niche'" in capsys.readouterr().err
    run.states("s1", status=1, labels=run.labels, params={"test_share": 0.99})
    assert "test_share 0.99: split: expected cells on both sides" in capsys.readouterr().err
