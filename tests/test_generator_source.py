"""What a generator is trained on: pairs of which slides, how many, and what they count."""

import shutil

import numpy as np
import pandas as pd
import pytest
from toy_generator import run_flow, write_run

from spatia.generator_params import FlowParams
from spatia.learn.generator_checkpoint import read_generator
from spatia.learn.generator_source import FlowSlide, read_pair_data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


def pairs_of(run, **changes):
    """Return the training pairs of slide one."""
    params = FlowParams(preset="tiny", **changes)
    files = (run / "transitions.yaml", run / "results/pair/signatures")
    return read_pair_data([FlowSlide.of_run(run, "one")], [], *files, params).train


@pytest.mark.parametrize("target", ["cell", "niche"])
def test_slides_without_pairs_are_left_out_beside_others(run, tmp_path, target):
    changes = {"target": target, "confidence_weights": True}
    assert run_flow(run, tmp_path / "alone", **changes) == 0
    assert run_flow(run, tmp_path / "both", train=("one", "two"), val=("two",), **changes) == 0
    records = [read_generator(tmp_path / name / "checkpoint").record["n_pairs"] for name in ("alone", "both")]
    assert records[0] == records[1]


def test_pairs_count_by_confidence_over_all_slides(run):
    weight = pairs_of(run, confidence_weights=True).weight
    confidence = pd.read_parquet(run / "results/pair/one/pairs/pairs.parquet")["confidence"].to_numpy()
    np.testing.assert_allclose(weight, confidence / confidence.mean(), rtol=1e-5)


def test_at_most_max_pairs_of_every_transition_chosen_by_seed(run):
    sets = [pairs_of(run, max_pairs=7, seed=seed) for seed in (0, 0, 1)]
    assert [np.bincount(pairs.transition).tolist() for pairs in sets] == [[7, 5]] * 3
    assert sets[0].cell_id.tolist() == sets[1].cell_id.tolist() != sets[2].cell_id.tolist()


def test_tiles_without_two_niches_in_a_pair_teach_nothing(run, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run, other, symlinks=True)
    path = other / "results/pair/one/pairs/pairs.parquet"
    pairs = pd.read_parquet(path)
    pairs.assign(x_tgt_id=pairs["x_ctrl_id"]).to_parquet(path)
    assert run_flow(other, tmp_path, target="niche") == 0
    assert read_generator(tmp_path / "checkpoint").scope.tags == ()


def test_a_stain_that_only_a_validation_slide_lacks_is_kept(tmp_path):
    write_run(tmp_path, ("one",))
    write_run(tmp_path / "other", ("one", "two"), stains=("DAPI",))
    for stage in ("crop", "tile", "ingest", "embed", "states", "pair"):
        shutil.copytree(tmp_path / "other/results" / stage / "two", tmp_path / "results" / stage / "two", symlinks=True)
    (tmp_path / "out").mkdir()
    assert run_flow(tmp_path, tmp_path / "out", val=("two",)) == 1  # rather than a generator without it
