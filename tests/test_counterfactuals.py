"""Generated cells against their true images."""

import json

import numpy as np
import pandas as pd
import pytest
from toy_generated import STAINS, WINDOW, disc, write_cells

from spatia.bench.counterfactuals import (
    Trial,
    average_trials,
    centred_interval,
    join_generated,
    read_counterfactuals,
    score_trial,
)
from spatia.cells.crops import open_crops
from spatia.errors import SpatiaError
from spatia.generated import open_generated
from spatia.measure.cell_sets import CellSet

N, N_FEATURES = 30, 8


def a_set(features):
    return CellSet(features, features[:, :4] / 3, np.ones(len(features), bool))


def trial(**outputs):
    rng = np.random.default_rng(0)
    controls = rng.normal(size=(N, N_FEATURES))
    moves = np.linspace(0.5, 2, N_FEATURES) * (-1) ** np.arange(N_FEATURES)
    targets = controls + moves + rng.normal(0, 0.3, (N, N_FEATURES))
    made = {name: a_set(make(controls, targets)) for name, make in outputs.items()}
    return Trial(a_set(controls), a_set(targets), made, targets.mean(axis=0))


def score(some, n_resamples=40, seed=0):
    return score_trial(some, 10.0, n_resamples, np.random.default_rng(seed))


def test_the_truth_itself_scores_the_maximum():
    found = score(trial(truth=lambda c, t: t))["truth"]
    assert found["cosine"] == pytest.approx(np.ones(41))
    assert found["shift_pearson"] == pytest.approx(np.ones(41))
    assert found["shift_slope"] == pytest.approx(np.ones(41))
    assert found["w1"] == pytest.approx(found["w1_halves"])


def test_wrong_ways_and_half_ways():
    found = score(trial(wrong=lambda c, t: 2 * c - t, half=lambda c, t: (c + t) / 2))
    assert found["wrong"]["cosine"][0] == pytest.approx(-1)
    assert found["wrong"]["shift_slope"][0] == pytest.approx(-1)
    assert found["half"]["cosine"][0] == pytest.approx(1)
    assert found["half"]["shift_slope"][0] == pytest.approx(0.5)
    assert found["wrong"]["w1"][0] > found["half"]["w1"][0] > found["half"]["w1_halves"][0]
    assert found["wrong"]["kid"][0] > found["half"]["kid"][0]


def test_controls_score_0_and_the_mean_target_less_than_the_truth():
    found = score(trial())
    assert not found["control_as_output"]["cosine"].any()
    assert not found["control_as_output"]["shift_slope"].any()
    assert 0.3 < found["mean_target"]["cosine"][0] < 1
    assert found["mean_target"]["shift_slope"][0] == pytest.approx(1)


def test_cells_without_a_real_segmentation_are_left_out():
    some = trial(truth=lambda c, t: t)
    is_found = np.arange(N) % 3 > 0
    some = Trial(CellSet(some.controls.features, some.controls.embedding, is_found), some.targets, some.outputs,
                 some.mean_target)  # fmt: skip
    assert len(some.usable().controls) == 20
    assert score(some)["truth"]["cosine"][0] == pytest.approx(1)


def test_seeds_resamples_and_means():
    some = trial(half=lambda c, t: (c + t) / 2)
    one, two, other = score(some), score(some), score(some, seed=1)
    assert np.array_equal(one["half"]["w1"], two["half"]["w1"])
    assert not np.array_equal(one["half"]["w1"], other["half"]["w1"])
    mean = average_trials([one, other])["half"]["w1"]
    assert mean == pytest.approx((one["half"]["w1"] + other["half"]["w1"]) / 2)
    value, low, high = centred_interval(one["half"]["w1"])
    assert low < value < high
    assert np.subtract(*centred_interval(one["half"]["w1"], 0.5)[:0:-1]) < high - low


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.fixture
def truth_folder(tmp_path):
    write_cells(tmp_path / "crops", 4)
    crops = open_crops(tmp_path / "crops")
    truth = tmp_path / "truth"
    truth.mkdir()
    names = ["dim-0", "dim-2", "dim-3"]
    cells = {"cell_id": names, "transition": ["a->b", "a->b", "a->c"], "target_state": ["b", "b", "c"]}
    pd.DataFrame(cells).to_parquet(truth / "counterfactuals.parquet")
    rows = [0, 2, 3]
    factual = np.stack([crops.frame(row) for row in rows]).astype(np.uint16)
    masks = np.stack([crops.mask(row) for row in rows])
    around = np.where(masks[:, None], factual, 99)  # what surrounds a cell must not be seen
    other = np.broadcast_to(np.uint16(200), factual.shape)
    np.savez(truth / "counterfactuals.npz", factual=around, factual_mask=masks, counterfactual=other,
             counterfactual_mask=np.broadcast_to(disc(10), masks.shape))  # fmt: skip
    return truth


def write_images(folder, cells):
    folder.mkdir()
    table = pd.DataFrame(cells, columns=["cell_id", "transition_tag", "method"])
    table.insert(0, "row", range(len(table)))
    table.to_parquet(folder / "cells.parquet")
    np.save(folder / "images.npy", np.zeros((len(table), 2, 32, 32), np.uint8))
    header = {"format": 1, "stains": list(STAINS), "image_px": 32, "pixel_size_um": 0.4}
    (folder / "generate.json").write_text(json.dumps(header))
    return open_generated(folder)


def test_factual_images_are_the_crops(truth_folder):
    crops = open_crops(truth_folder.parent / "crops")
    found = read_counterfactuals(truth_folder, crops, STAINS, WINDOW)
    assert np.array_equal(found.factual[1], crops.frame(2))
    assert set(np.unique(found.counterfactual)) == {0, 200}
    swapped = read_counterfactuals(truth_folder, crops, STAINS[::-1], 32)
    assert swapped.factual.shape == (3, 2, 32, 32)
    assert swapped.factual[1, 1].astype(int).sum() == pytest.approx(crops.frame(2)[0].sum() / 4, rel=0.01)


def test_cells_are_joined_by_id_and_transition(truth_folder, tmp_path):
    crops = open_crops(tmp_path / "crops")
    truth = read_counterfactuals(truth_folder, crops, STAINS, 32)
    cells = [("dim-2", "a->b", "m"), ("dim-0", "a->b", "m"), ("dim-3", "a->b", "m"), ("dim-2", "a->b", "n")]
    found = join_generated(truth, write_images(tmp_path / "g", cells))
    assert list(found) == ["a->b"]
    assert found["a->b"].to_dict("records") == [{"m": 0, "n": 3, "truth_row": 1}]
    with pytest.raises(SpatiaError, match="max_cells: null"):
        join_generated(truth, write_images(tmp_path / "h", [("dim-1", "a->b", "m")]))


def test_missing_truth_is_refused(truth_folder):
    crops = open_crops(truth_folder.parent / "crops")
    with pytest.raises(SpatiaError, match="the stains new"):
        read_counterfactuals(truth_folder, crops, ("new",), 32)
    pd.read_parquet(truth_folder / "counterfactuals.parquet").iloc[:0].to_parquet(
        truth_folder / "counterfactuals.parquet"
    )
    with pytest.raises(SpatiaError, match="n_counterfactuals above 0"):
        read_counterfactuals(truth_folder, crops, STAINS, 32)
