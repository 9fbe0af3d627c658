"""The whole workflow on small simulated slides: what reruns, what a failure stops, what a kill leaves."""

import os
import random
import re
import shutil
import time

import pytest
import yaml
from workflow_run import data_files, killed, make_run, planned_jobs, snakemake, use_model, write_sheet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one slide, uninterrupted; also how long it took."""
    folder = make_run(tmp_path_factory.mktemp("workflow") / "finished", ["one"])
    start = time.monotonic()
    snakemake(folder)
    return folder, time.monotonic() - start


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder, symlinks=True)
    return folder


def test_it_ends_with_report_tables_and_exports(finished):
    results = finished[0] / "results"
    assert (results / "pretrain/history.tsv").exists()
    assert (results / "flow/checkpoint/generator.json").exists()
    for name in ("report.html", "cohort.tsv", "provenance.json", "export/one/one.h5ad", "export/one/one.zarr"):
        assert (results / name).exists(), name


def test_a_second_run_does_nothing(finished):
    assert planned_jobs(finished[0]) == {}


def test_touching_a_parameter_file_reruns_nothing(copy):
    for path in (copy / "config" / "stages").iterdir():
        os.utime(path)
    assert planned_jobs(copy) == {}


def test_a_changed_value_reruns_its_stage_and_what_follows(copy):
    path = copy / "config" / "stages" / "crop.yaml"
    path.write_text(path.read_text().replace("scaling: percentile", "scaling: minmax"))
    assert planned_jobs(copy) == {
        **dict.fromkeys(["crop", "pretrain", "embed", "export", "flow"], 1),
        "report": 1,
        "provenance": 1,
    }


def test_one_more_slide_runs_only_that_slide_and_the_cohort(copy):
    path = copy / "config" / "stages" / "simulate.yaml"
    before = data_files(copy)
    shutil.copytree(copy / "results" / "simulate" / "one" / "bundle", copy / "bundles" / "new slide's; bundle")
    write_sheet(copy, [{"slide": "one"}, {"slide": "two", "bundle": "bundles/new slide's; bundle", "split": "apply"}])
    steps = ["ingest", "qc", "crop", "tile", "embed", "states", "generate", "features", "export"]
    slide_steps = dict.fromkeys(steps, 1)
    assert planned_jobs(copy) == {**slide_steps, "report": 1, "provenance": 1}
    snakemake(copy)
    after = data_files(copy)
    old_slide = [name for name in before if "/one/" in name or "/pretrain/" in name or "/flow/" in name]
    assert {name: after[name] for name in old_slide} == {name: before[name] for name in old_slide}
    assert "results/export/two/two.h5ad" in after
    assert "results/features/two/features/features.parquet" in after
    assert path.exists()


def test_a_broken_slide_does_not_stop_the_others_and_the_report_says_why(copy):
    (copy / "results" / "pretrain").rename(copy / "model")
    use_model(copy, "model/checkpoint")
    broken = copy / "bundles" / "broken"
    shutil.copytree(copy / "results" / "simulate" / "one" / "bundle", broken)
    (broken / "cells.parquet").write_bytes(b"garbage")
    shutil.copytree(copy / "results" / "simulate" / "one" / "bundle", copy / "bundles" / "sound")
    write_sheet(
        copy,
        [
            {"slide": "bad", "bundle": "bundles/broken", "split": "apply"},
            {"slide": "good", "bundle": "bundles/sound", "split": "apply"},
        ],
    )
    done = snakemake(copy, check=False)
    assert done.returncode != 0
    page = (copy / "results" / "report.html").read_text(encoding="utf-8")
    assert "cells.parquet" in page
    assert "bad" in page
    assert (copy / "results" / "export" / "good" / "good.h5ad").exists()
    assert not (copy / "results" / "ingest" / "bad" / "slide.zarr").exists()
    (broken / "cells.parquet").write_bytes((copy / "bundles" / "sound" / "cells.parquet").read_bytes())
    plan = planned_jobs(copy)
    assert plan["ingest"] == 1
    assert plan["report"] == 1


def test_killed_at_random_moments_the_rerun_ends_with_the_same_data(finished, tmp_path):
    reference = data_files(finished[0])
    assert len(reference) > 20
    seed = int(os.environ.get("SPATIA_KILL_SEED", random.SystemRandom().randrange(10**6)))
    moments = random.Random(seed)
    kills, rounds = int(os.environ.get("SPATIA_KILLS", "3")), 0
    while kills:
        rounds += 1
        folder = make_run(tmp_path / f"round_{rounds}", ["one"])
        interrupted = True
        while interrupted and kills:
            interrupted = killed(folder, moments.uniform(2, finished[1]))
            kills -= interrupted
            snakemake(folder, "--unlock")
        snakemake(folder)
        assert data_files(folder) == reference, f"seed {seed}"
        assert planned_jobs(folder) == {}
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"slide": "a b"}, "slide"),
        ({"slide": "a", "split": "trian"}, "trian"),
        ({"slide": "a", "species": "yeti"}, "yeti"),
        ({"slide": "a", "roi_um": "1,2,3"}, "roi_um"),
    ],
)
def test_a_wrong_sheet_is_refused(tmp_path, row, match):
    folder = make_run(tmp_path / "run", ["one"])
    write_sheet(folder, [row])
    done = snakemake(folder, "--dry-run", check=False)
    assert done.returncode != 0
    assert match in done.stdout + done.stderr


def test_unknown_config_keys_and_doubled_slides_are_refused(tmp_path):
    folder = make_run(tmp_path / "run", ["one"])
    done = snakemake(folder, "--dry-run", "--config", "slide_table=x", check=False)
    assert done.returncode != 0
    assert "slide_table" in done.stdout + done.stderr
    write_sheet(folder, [{"slide": "one"}, {"slide": "one"}])
    done = snakemake(folder, "--dry-run", check=False)
    assert "stands in two rows" in done.stdout + done.stderr


def test_slides_without_a_model_are_refused_before_anything_runs(tmp_path):
    folder = make_run(tmp_path / "run", ["one"])
    write_sheet(folder, [{"slide": "one", "split": "apply"}])
    done = snakemake(folder, "--dry-run", check=False)
    assert done.returncode != 0
    assert "no slide has split train" in done.stdout + done.stderr
    use_model(folder, "no/such/model")
    done = snakemake(folder, "--dry-run", check=False)
    assert done.returncode != 0
    assert "no/such/model: expected the folder of a trained model" in done.stdout + done.stderr


def test_slides_that_need_no_model_train_none(tmp_path):
    folder = make_run(tmp_path / "run", ["one"])
    write_sheet(folder, [{"slide": "one", "split": "qc"}])
    plan = planned_jobs(folder)
    assert not {"pretrain", "embed", "tile"} & set(plan)
    assert plan["crop"] == 1


def change_params(folder, stage, **values):
    path = folder / "config" / "stages" / f"{stage}.yaml"
    path.write_text(yaml.safe_dump((yaml.safe_load(path.read_text()) or {}) | values))


def test_the_test_block_of_a_single_slide_is_generated_and_scored(tmp_path):
    folder = make_run(tmp_path / "run", ["one"])
    assert not {"generate", "features", "score"} & set(planned_jobs(folder))
    change_params(folder, "states", test_share=0.3)
    plan = planned_jobs(folder)
    assert (plan["generate"], plan["features"], plan["score"], plan["generation"]) == (1, 1, 1, 1)


def test_niche_tiles_are_generated_and_not_measured(tmp_path):
    folder = make_run(tmp_path / "run", ["one", "two"])
    write_sheet(folder, [{"slide": "one"}, {"slide": "two", "split": "test"}])
    assert planned_jobs(folder)["features"] == 1
    change_params(folder, "flow", target="niche")
    plan = planned_jobs(folder)
    assert plan["generate"] == plan["report"] == 1
    assert not {"features", "score", "generation"} & set(plan)


def test_the_model_is_trained_anew_when_its_parameters_change_and_not_when_those_of_embed_do(copy):
    path = copy / "config" / "stages" / "embed.yaml"
    path.write_text(path.read_text().replace("min_shared_genes: 0.5", "min_shared_genes: 0.4"))
    assert planned_jobs(copy) == {"embed": 1, "flow": 1, "export": 1, "report": 1, "provenance": 1}
    path = copy / "config" / "stages" / "pretrain.yaml"
    path.write_text(path.read_text() + "seed: 5\n")
    assert planned_jobs(copy)["pretrain"] == 1


def test_jobs_go_where_site_says_in_the_words_of_the_slurm_plugin(tmp_path):
    folder = make_run(tmp_path / "run", ["one"])
    (folder / "config" / "stages" / "flow.yaml").write_text("device: cuda\n", encoding="utf-8")
    site = {"slurm_account": "lab", "slurm_partition": "cpu", "slurm_qos": "long"}
    site["gpu"] = {"slurm_partition": "gpu", "slurm_qos": "gpu_long"}
    (folder / "config" / "site.yaml").write_text(yaml.safe_dump({"site": site}), encoding="utf-8")
    text = snakemake(folder, "--dry-run").stdout
    resources = dict(re.findall(r"^rule (\w+):.*?^    resources: ([^\n]*)", text, re.MULTILINE | re.DOTALL))
    assert "slurm_account=lab, slurm_partition=cpu, qos=long" in resources["qc"]
    assert "slurm_partition=gpu" in resources["flow"]
    assert "qos=gpu_long" in resources["flow"]
    assert "slurm_qos" not in text


def test_weights_that_scores_are_made_with_are_an_input(tmp_path):
    folder = make_run(tmp_path / "run", ["one", "two"])
    write_sheet(folder, [{"slide": "one"}, {"slide": "two", "split": "test"}])
    assert planned_jobs(folder)["score"] == 1
    (folder / "config" / "stages" / "score.yaml").write_text("inception_weights: weights.pth\n", encoding="utf-8")
    done = snakemake(folder, "--dry-run", check=False)
    assert done.returncode != 0
    assert "weights.pth" in done.stdout + done.stderr
    (folder / "weights.pth").touch()
    assert planned_jobs(folder)["score"] == 1


def test_a_dry_run_over_a_thousand_slides_plans_them_all(tmp_path):
    folder = make_run(tmp_path / "run", ["one"])
    write_sheet(folder, [{"slide": f"s{number}", "split": "apply"} for number in range(1000)])
    (folder / "model").mkdir()
    (folder / "model" / "model.json").write_text("{}", encoding="utf-8")
    use_model(folder, "model")
    plan = planned_jobs(folder)
    assert plan["ingest"] == plan["embed"] == plan["export"] == 1000
    assert "pretrain" not in plan
    assert plan["report"] == 1
