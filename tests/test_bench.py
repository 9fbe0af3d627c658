"""Probing pairs of regions, and tables of scores."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from spatia.bench.probing import (
    ALL_GENES,
    COMPONENTS,
    FEATURES,
    NEIGHBOURS,
    VISIBLE,
    compare_clusters,
    impute,
    probe_genes,
    probe_image,
)
from spatia.bench.regions import Region, commonest_genes, commonest_labels, make_tasks, read_labels, split_regions
from spatia.cli import main
from spatia.stages.probe import make_pair

SHAPE = (900, 1200)  # y, x
GENES = np.array([f"G{number:02d}" for number in range(60)])


def region(name, n, seed):
    """Cells of two kinds: kind and a hidden strength make genes; position says nothing."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    strength = rng.normal(size=n)
    rate = np.exp(0.4 * rng.normal(size=(n, 1)) + np.outer(strength, np.linspace(-1, 1, len(GENES))))
    rate[:, :10] *= 1 + 6 * kind[:, None]
    position = np.column_stack([rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n)])
    niche = (position[:, 0] // 256 + 5 * (position[:, 1] // 256)).astype(np.int64)
    tissue = (position[:, 0] // 600 + 2 * (position[:, 1] // 450)).astype(np.int64)
    features = np.column_stack([kind + rng.normal(size=n), rng.normal(size=n)])
    counts = sparse.csr_matrix(rng.poisson(rate))
    labels = np.array(["one", "two"])[kind]
    labels[0] = ""
    return Region(name, np.array([f"{name}{k}" for k in range(n)]), labels, counts, GENES, position, niche, tissue,
                  SHAPE, features), kind, strength  # fmt: skip


@pytest.fixture(scope="module")
def regions():
    return region("a", 400, 1), region("b", 300, 2)


@pytest.fixture(scope="module")
def pair(regions):
    return make_pair(regions[0][0], regions[1][0], ("right", "left"), 200)


def scores(rows):
    return {(row["task"], row["method"]): row for row in rows}


def test_cells_near_the_shared_edge_are_left_out(regions):
    (one, *_), (two, *_) = regions
    split = split_regions(one, two, ("right", "left"), 200)
    assert np.array_equal(split.train[:400], one.position_px[:, 0] <= SHAPE[1] - 200)
    assert np.array_equal(split.test[400:], two.position_px[:, 0] >= 200)
    assert not split.train[400:].any()


def test_commonest_labels_leave_unknown_cells_out(regions):
    one = regions[0][0]
    assert set(commonest_labels(one)) == {"one", "two"}
    assert set(commonest_genes(one, 10)) == set(GENES[:10])


def test_labels_are_joined_by_id(tmp_path):
    (tmp_path / "labels.csv").write_text("Barcode,Cluster\nb,2\na,1\n")
    assert read_labels(tmp_path / "labels.csv", np.array(["a", "c", "b"])).tolist() == ["1", "", "2"]


def test_an_embedding_that_knows_the_answer_beats_the_features_and_noise_does_not(regions, pair):
    kind = np.concatenate([regions[0][1], regions[1][1]])
    noise = np.random.default_rng(0).normal(size=(700, 3))
    arrays = {"knows": np.column_stack([kind, noise]), "noise": noise}
    tasks = make_tasks(pair.train, pair.test, ("right", "left"), 200)[:1]
    found = scores(probe_image(pair, tasks, arrays))
    task = "image -> cluster"
    assert found[task, "knows"]["value"] == pytest.approx(1.0)
    assert found[task, f"knows minus {FEATURES}"]["low"] > 0
    assert found[task, f"noise minus {FEATURES}"]["high"] < 0
    assert found[task, "noise"]["low"] < 0.5 < found[task, "noise"]["high"] + 0.05
    assert found[task, "knows"]["n"] == int(tasks[0].test.sum())
    assert found[task, "knows, 15 nearest"]["value"] > 0.9 > found[task, "noise, 15 nearest"]["value"]


def test_genes_tell_the_image_they_determine_and_no_other(regions, pair):
    kind = np.concatenate([regions[0][1], regions[1][1]])[:, None]
    noise = np.random.default_rng(0).normal(size=(700, 2))
    values = make_tasks(pair.train, pair.test, ("right", "left"), 200)[1]
    found = scores(probe_genes(pair, values, {"kind": kind, "noise": noise}, {"knows": kind, "other": noise[:, :1]}))
    assert found["genes -> kind", "knows"]["value"] == pytest.approx(1)
    assert found["genes -> kind", ALL_GENES]["low"] > 0.8
    assert abs(found["genes -> kind", "other"]["value"]) < 0.2
    assert abs(found["genes -> noise", ALL_GENES]["value"]) < 0.2
    assert found["genes -> kind", "knows"]["n"] == int(values.test.sum())


def test_clusters_agree_with_labels_where_the_embedding_is_made_of_them(regions, pair):
    kind = np.concatenate([regions[0][1], regions[1][1]])[:, None]
    rng = np.random.default_rng(0)
    arrays = {"knows": kind * 50 + rng.normal(size=(700, 1)), "noise": rng.normal(size=(700, 3))}
    classes = make_tasks(pair.train, pair.test, ("right", "left"), 200)[0]
    found = {(row["method"], row["metric"]): row for row in compare_clusters(pair, classes, arrays)}
    assert found.keys() == {(name, metric) for name in (*arrays, COMPONENTS) for metric in ("ARI", "NMI")}
    assert found["noise", "ARI"]["value"] < 0.05
    assert found["knows", "NMI"]["low"] > found["noise", "NMI"]["high"]


def test_imputation_ranks_what_knows_more_higher(regions, pair):
    strength = np.concatenate([regions[0][2], regions[1][2]])[:, None]
    noise = np.random.default_rng(0).normal(size=(700, 1))
    hidden = [np.random.default_rng(draw).permutation(60) < 12 for draw in range(2)]
    arrays = [{"z": strength, "noise": noise}] * 2
    found = scores(impute(pair, hidden, arrays, ("z",)))
    assert found["imputation", "z minus noise"]["low"] > 0
    assert min(found["imputation", name]["value"] for name in ("z", NEIGHBOURS)) > 0.3
    assert found["imputation", VISIBLE]["value"] > found["imputation", "noise"]["value"]
    assert ("imputation", "z minus z") not in found


def score_file(path, model, seed, value, **changes):
    row = {"task": "t", "dataset": "a -> b", "model": model, "method": "z", "metric": "r", "value": value, "low": 0,
           "high": 1, "n": 5, "seed": seed, "note": "from scratch", "version": "0"}  # fmt: skip
    pd.DataFrame([{**row, **changes}]).to_csv(path, sep="\t", index=False)
    return str(path)


def test_a_table_has_a_row_per_model_with_mean_and_spread_and_names_what_is_missing(tmp_path):
    files = [
        score_file(tmp_path / "1.tsv", "ours", 0, 0.4),
        score_file(tmp_path / "2.tsv", "ours", 1, 0.6),
        score_file(tmp_path / "3.tsv", "theirs", 0, 0.3, method="other"),
    ]
    assert main(["table", "--scores", *files, f"--out={tmp_path}/all.tsv", f"--table={tmp_path}/table.md"]) == 0
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert "| model | z | other |" in lines
    assert "| ours | 0.500 ± 0.141 | — |" in lines
    assert "| theirs | — | 0.300 (1 of 2) |" in lines
    assert len(pd.read_csv(tmp_path / "all.tsv", sep="\t")) == 3


def test_a_file_without_a_column_is_refused(tmp_path, capsys):
    file = score_file(tmp_path / "1.tsv", "ours", 0, 0.4)
    pd.read_csv(file, sep="\t").drop(columns="seed").to_csv(file, sep="\t", index=False)
    assert main(["table", "--scores", file, f"--out={tmp_path}/all.tsv", f"--table={tmp_path}/table.md"]) == 1
    assert "seed is missing" in capsys.readouterr().err
    assert not (tmp_path / "table.md").exists()
