"""From generated images to the table of an experiment: features, score, generation on invented cells."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torchvision.models import inception_v3
from toy_generated import STAINS, TAG, write_generated, write_run

from spatia.cells.crops import open_crops
from spatia.cli import main
from spatia.errors import SpatiaError
from spatia.generated import judged_pairs, judged_plans, open_generated, real_frames
from spatia.measure.generation import CONTROL_ROWS
from spatia.stages import features as features_stage
from spatia.stages.generation import render
from spatia.stages.score import COLUMNS, make_encoder, read_inputs

N = 30
FAST = {"n_resamples": 20, "n_subsets": 5, "subset_size": 12}


def write_params(folder, name, **values):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_features(folder, out="features", pairs="pairs", known=None, **params):
    options = {"slide": "toy", "generated": folder / "generated", "crops": folder / "crops", "out": folder / out,
               "params": write_params(folder, f"{out}_params", **params), "processes": 1}  # fmt: skip
    options |= {"pairs": folder / pairs} if pairs else {}
    options |= {"known": folder / known} if known else {}
    assert main(["features", *(f"--{key}={value}" for key, value in options.items())]) == 0
    return folder / out


def run_score(folder, out="scores.tsv", **params):
    options = {"slide": "toy", "features": folder / "features", "generated": folder / "generated",
               "crops": folder / "crops", "pairs": folder / "pairs", "out": folder / out,
               "params": write_params(folder, "score_params", **FAST | params)}  # fmt: skip
    status = main(["score", *(f"--{key}={value}" for key, value in options.items())])
    return pd.read_csv(folder / out, sep="\t") if status == 0 else status


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"), N)
    run_features(folder)
    return folder


@pytest.fixture(scope="module")
def scores(run):
    return run_score(run)


def value(scores, method, metric, transition=TAG):
    own = scores[(scores["method"] == method) & (scores["metric"] == metric) & (scores["transition"] == transition)]
    assert len(own) == 1
    return own["value"].iloc[0]


# --- features ----------------------------------------------------------------------------------------------------


def test_every_image_is_a_row(run):
    table = pd.read_parquet(run / "features/features.parquet")
    assert table["kind"].value_counts().to_dict() == {"real": 2 * N, "spatia": N, "blank": N}
    assert list(table.columns[:5]) == ["kind", "cell_id", "transition_tag", "is_segmented", "reason"]
    assert set(table.loc[table["kind"] == "real", "transition_tag"]) == {""}
    assert table.loc[table["kind"] != "blank", "is_segmented"].all()
    assert set(table.loc[table["kind"] == "blank", "reason"]) == {"empty"}


def test_real_and_generated_images_of_one_cell_have_the_same_features(run):
    table = pd.read_parquet(run / "features/features.parquet").set_index(["kind", "cell_id"])
    crops = open_crops(run / "crops")
    frames = real_frames(crops, [f"bright-{N}"], STAINS, 32, "toy")
    assert np.array_equal(frames[0], open_generated(run / "generated").images[0])
    assert table.loc[("spatia", "dim-0"), "Cells_AreaShape_Area"] > 100


def test_the_dictionary_and_the_record(run):
    columns = pd.read_csv(run / "features/columns.tsv", sep="\t")
    table = pd.read_parquet(run / "features/features.parquet")
    assert columns["name"].tolist() == table.columns[5:].tolist()
    record = json.loads((run / "features/features.json").read_text())
    assert record["format"] == 1
    assert record["n_columns"] == len(columns)
    assert record["n_not_segmented"] == {"blank: empty": N}


def test_a_slide_without_pairs_has_features_of_controls_and_images(run):
    table = pd.read_parquet(run_features(run, out="applied", pairs=None) / "features.parquet")
    assert (table["kind"] == "real").sum() == N
    assert table.loc[table["kind"] == "real", "cell_id"].str.startswith("dim").all()


def test_real_cells_that_are_known_are_not_measured_again(run, tmp_path, monkeypatch, capsys):
    for name in ("generated", "crops", "pairs", "features"):
        (tmp_path / name).symlink_to(run / name)
    known = shutil.copytree(run / "features", tmp_path / "some")
    table = pd.read_parquet(known / "features.parquet")
    cut = (table["kind"] != "real") | (np.arange(len(table)) % 3 > 0)
    table[cut].iloc[::-1].to_parquet(known / "features.parquet")
    sizes = []
    inner = features_stage.measure
    monkeypatch.setattr(features_stage, "measure", lambda *args: (sizes.append(len(args[1])), inner(*args))[1])
    again = pd.read_parquet(run_features(tmp_path, "again", known="some") / "features.parquet")
    pd.testing.assert_frame_equal(again, pd.read_parquet(run / "features" / "features.parquet"))
    assert sizes == [(~cut).sum(), (table["kind"] != "real").sum()]
    with pytest.raises(AssertionError):
        run_features(tmp_path, "other", known="some", rim_share=0.5)
    assert "expected cells measured with rim_share 0.5, found 0.4; leave --known out" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_options_of_features(run):
    one, other = (run_features(run, out=f"some{seed}", max_cells=5, seed=seed) for seed in (0, 1))
    first, second = (pd.read_parquet(folder / "features.parquet") for folder in (one, other))
    assert (first["kind"] == "real").sum() == N + 5
    assert set(first["cell_id"]) != set(second["cell_id"])
    strict = pd.read_parquet(run_features(run, out="strict", max_cells=1, min_cell_um2=500.0) / "features.parquet")
    assert set(strict["reason"]) == {"small", "empty"}


def test_stains_go_by_name_and_absent_ones_are_dark(run):
    crops = open_crops(run / "crops")
    plain = real_frames(crops, ["dim-1"], STAINS, 32, "toy")
    other = real_frames(crops, ["dim-1"], ("a/b", "new", "DAPI"), 32, "toy")
    assert np.array_equal(plain[0, [1, 0]], other[0, [0, 2]])
    assert not other[0, 1].any()
    with pytest.raises(SpatiaError, match="expected a stain of slide toy"):
        real_frames(crops, ["dim-1"], ("new",), 32, "toy")
    with pytest.raises(SpatiaError, match="cell 'gone' has no crop"):
        real_frames(crops, ["dim-1", "gone"], STAINS, 32, "toy")


def test_broken_generated_folders_are_refused(run, tmp_path):
    write_generated(tmp_path / "g", {"m": np.zeros((2, 2, 8, 8), np.uint8)}, ["dim-0", "dim-1"], STAINS)
    np.save(tmp_path / "g/images.npy", np.zeros((1, 2, 8, 8), np.uint8))
    with pytest.raises(SpatiaError, match=r"images of shape \(2, 2, 8, 8\)"):
        open_generated(tmp_path / "g")
    header = json.loads((tmp_path / "g/generate.json").read_text())
    (tmp_path / "g/generate.json").write_text(json.dumps(header | {"format": 9}))
    with pytest.raises(SpatiaError, match="expected format 1, found 9"):
        open_generated(tmp_path / "g")


def test_unknown_parameters_are_refused(run, capsys):
    params = write_params(run, "wrong", treshold=1)
    arguments = ["--slide=toy", f"--generated={run / 'generated'}", f"--crops={run / 'crops'}", f"--out={run / 'x'}"]
    assert main(["features", *arguments, f"--params={params}"]) == 1
    assert "unknown key 'treshold'" in capsys.readouterr().err
    assert features_stage.REAL == "real"


# --- scores ------------------------------------------------------------------------------------------------------


def test_rows_are_tidy_and_control_rows_always_there(scores):
    assert list(scores.columns) == list(COLUMNS)
    assert set(scores["method"]) == {"spatia", "blank", *CONTROL_ROWS}
    assert set(scores["transition"]) == {TAG, "rare->rarer", "macro"}
    assert set(scores.loc[scores["transition"] == TAG, "n"]) == {N // 2}
    assert len(scores) == 3 * 5 * scores["metric"].nunique()


def test_a_good_generator_beats_the_control_and_a_blank_one_is_last(scores):
    for metric in ("kid_random_encoder", "ks_d", "w1_target"):
        good, control, blank = (value(scores, m, metric) for m in ("spatia", "control_as_output", "blank"))
        assert good < control < blank
    assert value(scores, "blank", "failed_share") == 1
    assert value(scores, "spatia", "shift_pearson") > 0.9
    assert value(scores, "spatia", "shift_slope") == pytest.approx(1, abs=0.2)


def test_a_skipped_transition_stands_there_with_its_reason(scores):
    own = scores[scores["transition"] == "rare->rarer"]
    assert own["value"].isna().all()
    assert set(own["note"]) == {"49 control cells, fewer than 50"}
    assert set(own["n"]) == {0}


def test_the_mean_is_over_scored_transitions(scores):
    assert value(scores, "spatia", "ks_d", "macro") == pytest.approx(value(scores, "spatia", "ks_d"))


def test_angles_do_not_count(run, scores):
    columns = pd.read_csv(run / "features/columns.tsv", sep="\t")
    kept, dropped = (int(word) for word in scores["note"].iloc[0].replace(" features,", "").split()[:2])
    assert kept + dropped == (~columns["is_angle"]).sum()


def test_the_seed_and_the_least_number_of_cells(run, scores):
    again, other = run_score(run, "again.tsv"), run_score(run, "other.tsv", seed=1)
    pd.testing.assert_frame_equal(scores, again)
    assert value(scores, "spatia", "ks_d") != value(other, "spatia", "ks_d")
    few = run_score(run, "few.tsv", min_cells=16)
    assert few.loc[few["transition"] == TAG, "value"].isna().all()
    assert "30 real targets: expected at least 16 and 32" in few.loc[few["transition"] == TAG, "note"].iloc[0]
    assert "macro" not in set(few["transition"])


def test_level_of_intervals(run, scores):
    narrow = run_score(run, "narrow.tsv", level=0.5)
    own, other = (table[table["metric"] == "w1_target"] for table in (scores, narrow))
    assert ((own["high"] - own["low"]).sum()) > ((other["high"] - other["low"]).sum())


def test_features_of_other_images_are_refused(run, tmp_path, capsys):
    write_generated(tmp_path / "generated", {"m": np.zeros((1, 2, 8, 8), np.uint8)}, ["dim-0"], STAINS)
    arguments = [f"--features={run / 'features'}", f"--crops={run / 'crops'}", f"--pairs={run / 'pairs'}"]
    arguments += [f"--generated={tmp_path / 'generated'}", f"--params={write_params(tmp_path, 's')}", "--slide=toy"]
    assert main(["score", *arguments, f"--out={tmp_path / 's.tsv'}"]) == 1
    assert "expected features of the 1 images" in capsys.readouterr().err


def test_the_encoder_is_in_the_columns_name(tmp_path):
    assert make_encoder("")[1] == "random_encoder"
    weights = tmp_path / "inception.pt"
    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), weights)
    assert make_encoder(str(weights))[1] == "inception"
    (tmp_path / "text.pt").write_text("no weights")
    for path in (tmp_path / "text.pt", tmp_path / "absent.pt"):
        with pytest.raises(SpatiaError, match="expected a file with the state of torchvision's inception_v3"):
            make_encoder(str(path))


# --- the table ---------------------------------------------------------------------------------------------------


def test_the_table_of_an_experiment(run, scores, tmp_path):
    arguments = [f"--rows={tmp_path / 'g.csv'}", f"--table={tmp_path / 'g.md'}"]
    assert main(["generation", "--scores", str(run / "scores.tsv"), *arguments]) == 0
    rows = pd.read_csv(tmp_path / "g.csv")
    assert len(rows) == len(scores)
    assert "version" in rows
    text = (tmp_path / "g.md").read_text()
    assert text.index("mean over transitions") < text.index(TAG) < text.index("rare->rarer")
    assert "Not scored: 49 control cells, fewer than 50." in text
    assert "| spatia | 15 |" in text
    assert "`kid_random_encoder`: KID x 100 of a fixed random encoder" in text


def test_a_missing_value_is_a_dash(scores):
    rows = scores[scores["transition"] == TAG].copy()
    rows.loc[rows.index[0], "value"] = np.nan
    assert "| — |" in render(rows)


def test_score_files_without_a_column_are_refused(tmp_path, capsys):
    pd.DataFrame({"task": ["x"]}).to_csv(tmp_path / "s.tsv", sep="\t")
    assert (
        main(["generation", f"--scores={tmp_path / 's.tsv'}", f"--rows={tmp_path / 'r'}", f"--table={tmp_path / 't'}"])
        == 1
    )
    assert "dataset is missing; score again" in capsys.readouterr().err


def test_targets_of_the_training_side_of_a_slide_are_neither_measured_nor_scored(run, tmp_path):
    folder = tmp_path / "pairs"
    shutil.copytree(run / "pairs", folder)
    whole = pd.read_parquet(folder / "pairs.parquet")
    is_test = np.arange(len(whole)) % 3 > 0
    whole.assign(split=np.where(is_test, "test", "train")).to_parquet(folder / "pairs.parquet")
    plans_of_two_sides(folder)
    assert judged_pairs(folder)["x_tgt_id"].tolist() == whole.loc[is_test, "x_tgt_id"].tolist()
    options = {"slide": "toy", "generated": run / "generated", "crops": run / "crops", "pairs": folder,
               "out": tmp_path / "features", "params": write_params(tmp_path, "features"), "processes": 1}  # fmt: skip
    assert main(["features", *(f"--{key}={value}" for key, value in options.items())]) == 0
    table = pd.read_parquet(tmp_path / "features/features.parquet")
    real = set(table.loc[table["kind"] == "real", "cell_id"])
    assert set(whole.loc[is_test, "x_tgt_id"]) <= real
    assert not real & (set(whole.loc[~is_test, "x_tgt_id"]) - set(whole.loc[is_test, "x_tgt_id"]))
    inputs = read_inputs(tmp_path / "features", run / "generated", run / "crops", folder)
    assert set(inputs.pairs["split"]) == {"test"}
    assert [plan["transition_tag"] for plan in inputs.plans] == [TAG, "rare->rarer"]


def plans_of_two_sides(folder):
    """Give a folder of pairs plans of a training side too; return the plans as they were."""
    plans = pd.read_csv(folder / "plans.tsv", sep="\t", keep_default_na=False)
    pd.concat([plans.assign(split="train"), plans]).to_csv(folder / "plans.tsv", sep="\t", index=False)
    return plans


def test_a_test_block_without_pairs_is_not_judged_by_the_training_side(run, tmp_path):
    folder = tmp_path / "pairs"
    shutil.copytree(run / "pairs", folder)
    assert judged_plans(folder)["split"].tolist() == ["test", "test"]
    plans = plans_of_two_sides(folder)
    assert judged_plans(folder)["transition_tag"].tolist() == plans["transition_tag"].tolist()
    pairs = pd.read_parquet(folder / "pairs.parquet")
    pairs.assign(split="train").to_parquet(folder / "pairs.parquet")
    assert len(judged_pairs(folder)) == 0
    plans.assign(split="train").to_csv(folder / "plans.tsv", sep="\t", index=False)
    assert len(judged_pairs(folder)) == len(pairs)


def test_niche_tiles_have_no_features_of_cells(run, tmp_path, capsys):
    shutil.copytree(run / "generated", tmp_path / "generated")
    header = json.loads((tmp_path / "generated/generate.json").read_text())
    (tmp_path / "generated/generate.json").write_text(json.dumps({**header, "target": "niche"}))
    options = {"slide": "toy", "generated": tmp_path / "generated", "crops": run / "crops", "pairs": run / "pairs",
               "out": tmp_path / "features", "params": write_params(tmp_path, "features"), "processes": 1}  # fmt: skip
    assert main(["features", *(f"--{key}={value}" for key, value in options.items())]) == 1
    assert "expected images of cells, found niche tiles" in capsys.readouterr().err
