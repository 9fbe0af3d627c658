"""``spatia pair`` on made-up slides: tables, skipping, splits, noise, refusals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from toy_states import GENES, Run, make_cells, write_labels, write_tiles

from spatia.cli import main
from spatia.io import read_sparse, read_table

PAIR_COLUMNS = [
    "x_ctrl_id",
    "x_tgt_id",
    "state_A",
    "state_B",
    "cell_type",
    "niche_ctrl",
    "niche_tgt",
    "transition_tag",
    "task_name",
    "patient_id",
    "slide_id",
    "spatial_distance_um",
    "match_score",
    "confidence",
    "split",
]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.fixture
def paired(run):
    run.cells = run.add_slide("s1", {"A": 80, "B": 70, "C": 60})
    run.pair("basis", "s1")
    return run


def read_pairs(folder):
    return read_table(folder / "pairs.parquet"), pd.read_csv(folder / "plans.tsv", sep="\t", keep_default_na=False)


def test_every_control_has_one_target_of_the_other_state(paired):
    pairs, plans = read_pairs(paired.pair("pairs", "s1"))
    assert list(pairs.columns) == PAIR_COLUMNS
    state = paired.cells.set_index("cell_id")["state"]
    assert set(pairs["x_ctrl_id"]) == set(state.index[state == "A"])
    assert len(pairs) == 80
    assert (state[pairs["x_tgt_id"]] == "B").all()
    place = paired.cells.set_index("cell_id")[["x_um", "y_um"]]
    away = place.loc[pairs["x_ctrl_id"]].to_numpy() - place.loc[pairs["x_tgt_id"]].to_numpy()
    np.testing.assert_allclose(pairs["spatial_distance_um"], np.hypot(*away.T))
    assert pairs["match_score"].between(0, 1).all()
    assert pairs["confidence"].between(0, 1).all()
    (plan,) = plans.to_dict("records")
    assert plan["n_ctrl"] == 80
    assert plan["n_tgt"] == 70
    assert plan["skipped"] == ""
    assert float(plan["marginal_error"]) <= 1e-4
    assert float(plan["target_reuse"]) == pytest.approx(80 / pairs["x_tgt_id"].nunique())
    assert pairs[["patient_id", "slide_id", "split"]].drop_duplicates().to_numpy().tolist() == [["d1", "s1", "train"]]


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"A": 50, "B": 50}, ""),
        ({"A": 49, "B": 50}, "49 control cells, fewer than 50"),
        ({"A": 50, "B": 49}, "49 target cells, fewer than 50"),
        ({"A": 49, "B": 0}, "49 control cells and 0 target cells, fewer than 50"),
    ],
)
def test_a_transition_with_49_cells_is_skipped_with_its_reason(run, sizes, reason):
    run.add_slide("s1", {**sizes, "C": 60})
    run.pair("basis", "s1")
    pairs, plans = read_pairs(run.pair("pairs", "s1"))
    assert plans["skipped"].tolist() == [reason]
    assert len(pairs) == (50 if reason == "" else 0)
    assert list(pairs.columns) == PAIR_COLUMNS
    signatures = read_table(run.pair("signatures", "s1") / "signatures.parquet")
    assert list(signatures.columns) == ["transition_tag", "gene", "dg"]
    assert len(signatures) == (len(GENES) if reason == "" else 0)


def test_cells_of_another_lineage_are_not_paired(run):
    cells = make_cells({"A": 60, "B": 60})
    write_tiles(run.path("tile", "s1", "tiles"), cells)
    run.states("s1", labels=write_labels(run.folder / "labels.csv", cells, lineage="other"))
    run.pair("basis", "s1")
    _, plans = read_pairs(run.pair("pairs", "s1"))
    assert plans["skipped"].tolist() == ["0 control cells and 0 target cells, fewer than 50"]


def test_signature_is_the_mean_difference_over_training_pairs_of_all_slides(paired):
    paired.add_slide("s2", {"A": 60, "B": 90, "C": 50}, seed=1)
    paired.add_slide("s3", {"A": 55, "B": 55}, seed=2, split="test")
    paired.pair("basis", "s1", "s2")
    for slide in ("s1", "s2", "s3"):
        paired.pair("pairs", slide)
    folder = paired.pair("signatures", "s1", "s2")
    found = read_table(folder / "signatures.parquet").set_index("gene")["dg"]
    target_sum = json.loads((folder / "signatures.json").read_text())["target_sum"]
    differences = []
    for slide in ("s1", "s2"):
        tiles = paired.path("tile", slide, "tiles")
        counts = read_sparse(tiles / "cell_counts.npz").toarray()
        expression = np.log1p(counts / counts.sum(axis=1, keepdims=True) * target_sum)
        row = {name: number for number, name in enumerate(read_table(tiles / "cells.parquet")["cell_id"])}
        pairs = read_table(paired.path("pair", slide, "pairs") / "pairs.parquet")
        differences += [expression[row[b]] - expression[row[a]] for a, b in pairs[["x_ctrl_id", "x_tgt_id"]].to_numpy()]
    np.testing.assert_allclose(found.loc[list(GENES)], np.mean(differences, axis=0), atol=1e-12)
    record = json.loads((folder / "signatures.json").read_text())["transitions"]
    assert record == {"A->B": {"n_pairs": 140, "slides": ["s1", "s2"]}}
    assert found[["G00", "G01", "G02"]].max() < -0.3  # genes of A go down, those of B up
    assert found[["G03", "G04", "G05"]].min() > 0.3


def test_pairs_of_test_slides_are_in_no_signature(paired):
    paired.add_slide("s3", {"A": 55, "B": 55}, seed=2, split="test")
    for slide in ("s1", "s3"):
        paired.pair("pairs", slide)
    one = read_table(paired.pair("signatures", "s1") / "signatures.parquet")
    both = read_table(paired.pair("signatures", "s1", "s3") / "signatures.parquet")
    pd.testing.assert_frame_equal(one, both)


def test_basis_is_that_of_training_cells_only(paired):
    with np.load(paired.path("pair", "basis") / "pca.npz") as stored:
        before = dict(stored)
    paired.add_slide("s3", {"A": 55, "D": 200}, seed=2, split="test")
    paired.pair("basis", "s1", "s3")
    with np.load(paired.path("pair", "basis") / "pca.npz") as stored:
        for name, value in before.items():
            np.testing.assert_array_equal(stored[name], value)


def test_a_name_that_stands_twice_on_the_panel_is_one_gene(paired):
    tiles = paired.path("tile", "s1", "tiles")
    write_tiles(tiles, paired.cells, read_sparse(tiles / "cell_counts.npz"), ("G01", *GENES[1:]))
    with np.load(paired.pair("basis", "s1") / "pca.npz") as stored:
        assert stored["genes"].tolist() == list(GENES[1:])


def test_with_a_test_block_no_cell_crosses(run):
    cells = run.add_slide("s1", {"A": 600, "B": 600}, params={"test_share": 0.3, "buffer_px": 1024, "seed": 3})
    states = read_table(run.path("states", "s1", "states") / "states.parquet")
    split = states.set_index("cell_id")["split"]
    assert set(split) == {"train", "test", ""}
    run.pair("basis", "s1")
    pairs, plans = read_pairs(run.pair("pairs", "s1"))
    assert plans["split"].tolist() == ["train", "test"]
    for side in ("x_ctrl_id", "x_tgt_id"):
        np.testing.assert_array_equal(split[pairs[side]].to_numpy(), pairs["split"].to_numpy())
    place = cells.set_index("cell_id")[["x_um", "y_um"]].to_numpy() / 0.2125
    train, test = (place[(split == part).to_numpy()] for part in ("train", "test"))
    nearest = np.abs(train[:, None] - test[None]).max(axis=2).min()
    assert nearest >= 1024 * 0.999
    record = json.loads((run.pair("signatures", "s1") / "signatures.json").read_text())["transitions"]["A->B"]
    assert record["n_pairs"] == (pairs["split"] == "train").sum()


def test_noise_changes_its_share_of_the_targets_and_nothing_else(paired):
    clean, _ = read_pairs(paired.pair("pairs", "s1"))
    noisy, _ = read_pairs(paired.pair("pairs", "s1", noise=0.2))
    again, _ = read_pairs(paired.pair("pairs", "s1", noise=0.2))
    other, _ = read_pairs(paired.pair("pairs", "s1", noise=0.2, seed=1))
    differs = clean["x_tgt_id"] != noisy["x_tgt_id"]
    assert differs.sum() == 16
    pd.testing.assert_frame_equal(clean[~differs], noisy[~differs])
    assert (noisy["match_score"] <= clean["match_score"] + 1e-12).all()
    pd.testing.assert_frame_equal(noisy, again)
    assert (noisy["x_tgt_id"] != other["x_tgt_id"]).any()


def test_options_of_the_cost_and_the_plan_change_the_pairs(paired):
    shipped, _ = read_pairs(paired.pair("pairs", "s1"))
    for change in ({"spatial_weight": 3.0}, {"distance": "squared"}, {"epsilon": 0.5}, {"spatial_scale_um": 5.0}):
        other, _ = read_pairs(paired.pair("pairs", "s1", **change))
        assert not np.allclose(shipped["match_score"], other["match_score"]), change
    near, _ = read_pairs(paired.pair("pairs", "s1", spatial_weight=5.0, spatial_scale_um=2000.0))
    assert near["spatial_distance_um"].median() < shipped["spatial_distance_um"].median()


def test_blocks_and_streaming_give_the_pairs_of_the_whole_matrix(paired):
    shipped, _ = read_pairs(paired.pair("pairs", "s1"))
    for change in ({"max_dense_cells": 10}, {"max_dense_cells": 10, "kernel_bytes": 1}):
        other, _ = read_pairs(paired.pair("pairs", "s1", **change))
        assert other["x_tgt_id"].tolist() == shipped["x_tgt_id"].tolist()
        np.testing.assert_allclose(other["confidence"], shipped["confidence"], atol=1e-3)


def test_one_to_one_uses_no_target_twice(run):
    run.add_slide("s1", {"A": 60, "B": 75})
    run.pair("basis", "s1")
    pairs, plans = read_pairs(run.pair("pairs", "s1", assignment="lsa"))
    assert pairs["x_tgt_id"].is_unique
    assert plans["max_reuse"].tolist() == [1]


def test_a_slide_without_some_genes_is_paired_and_one_without_most_is_refused(paired, capsys):
    cells = make_cells({"A": 60, "B": 60}, seed=5)
    write_tiles(paired.path("tile", "s4", "tiles"), cells, genes=GENES[:20])
    paired.states("s4", split="test", labels=write_labels(paired.folder / "s4.csv", cells))
    folder = paired.pair("pairs", "s4")
    assert json.loads((folder / "pair.json").read_text())["shared_genes"] == 20
    paired.pair("pairs", "s4", status=1, min_shared_genes=0.9)
    assert "has 20 of the 30 genes of the joint PCA" in capsys.readouterr().err


def test_not_converged_names_slide_and_transition(paired, capsys):
    paired.pair("pairs", "s1", status=1, max_iterations=1)
    message = capsys.readouterr().err
    assert "slide s1, transition A->B: transport: expected an L1 error" in message
    assert "after 1 iterations" in message


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        ("signatures", {"--pairs": []}, "--pairs: expected one folder per slide, 1, found 0"),
        ("signatures", {"--pairs": ["a", "b"]}, "--pairs: expected one folder per slide, 1, found 2"),
        ("pairs", {"--transitions": []}, "pairs: expected --transitions, found none"),
        ("pairs", {"--slides": ["s1", "s2"]}, "--slides: expected one slide for pairs, found s1 s2"),
        ("basis", {"--tiles": ["a", "b"]}, "--tiles: expected one folder per slide, 1, found 2"),
        ("basis", {"--tiles": ["nowhere"]}, "nowhere/cells.parquet: expected a table, found no such file"),
        ("pairs", {"--states": ["nowhere"]}, "nowhere/states.parquet: expected a table, found no such file"),
    ],
)
def test_misuse_of_the_command_line_is_one_line(paired, capsys, what, change, message):
    options = {"--slides": ["s1"], **{f"--{name}": [str(folder)] for name, folder in paired.inputs("s1").items()}}
    options |= {"--pairs": ["p"]} if what == "signatures" else {}
    options |= {"--transitions": ["t"]} if what == "pairs" else {}
    options |= {"--params": [str(paired.folder / "pair.yaml")], "--out": [str(paired.folder / "out")], **change}
    argv = [word for option, values in options.items() if values for word in (option, *values)]
    assert main(["pair", what, *argv]) == 1
    found = capsys.readouterr().err
    assert message in found
    assert len(found.splitlines()) == 1


def test_other_mistakes_are_one_line(paired, capsys):
    paired.pair("pairs", "s1", status=1, noise=2)
    assert "noise should lie in 0 to 1, found 2" in capsys.readouterr().err
    paired.path("pair", "basis", "pca.npz").unlink()
    paired.pair("pairs", "s1", status=1)
    assert "run spatia pair basis" in capsys.readouterr().err
