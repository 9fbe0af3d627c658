"""What a run was made from: complete, free of machine paths, the same bytes every time."""

from __future__ import annotations

import json
import subprocess

import pytest
from toy_run import write_sheet

import spatia
from spatia.cli import main
from spatia.config import QcParams
from spatia.stages.provenance import find_commit, read_stage_params

RECORD = {"format": 1, "xoa_version": "xenium-3.0.0.15", "checksums": {"cells.parquet": "blake2b:00ff"}}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "somewhere"
    write_sheet(folder, [{"slide": "a", "bundle": "bundles/a", "donor": "D1"}, {"slide": "b", "bundle": "bundles/b"}])
    (folder / "config/config.yaml").write_text("slides: config/slides.tsv\n", encoding="utf-8")
    (folder / "config/stages").mkdir()
    (folder / "config/stages/qc.yaml").write_text("min_counts: 3\n", encoding="utf-8")
    record = folder / "results/ingest/a/ingest.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(RECORD), encoding="utf-8")
    return folder


def provenance(run, *more):
    out = run / "results" / "provenance.json"
    status = main(["provenance", f"--run={run}", f"--slides={run}/config/slides.tsv", f"--out={out}", *more])
    return status, out


def test_record_says_what_was_run(run):
    status, out = provenance(run)
    assert status == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["spatia"] == spatia.__version__
    assert content["packages"]["numpy"][0].isdigit()
    assert content["config"] == {"slides": "config/slides.tsv"}
    assert content["stages"]["qc"]["min_counts"] == 3
    assert content["stages"]["qc"]["window_um"] == QcParams().window_um  # the default, filled in
    first, second = content["slides"]
    assert first["record"] == RECORD
    assert first["bundle"] == "bundles/a"
    assert second["record"] is None


def test_rerun_gives_the_same_bytes_and_no_machine_path(run):
    _, out = provenance(run)
    first = out.read_bytes()
    provenance(run)
    assert out.read_bytes() == first
    assert str(run) not in first.decode()
    assert str(run.parent) not in first.decode()


def test_merged_config_wins_over_the_file(run):
    _, out = provenance(run, '--config-json={"slides": "other.tsv", "bundles": "data"}')
    assert json.loads(out.read_text())["config"] == {"slides": "other.tsv", "bundles": "data"}


def test_named_config_is_read(run):
    (run / "mine.yaml").write_text("slides: mine.tsv\n", encoding="utf-8")
    _, out = provenance(run, f"--config={run}/mine.yaml")
    assert json.loads(out.read_text())["config"] == {"slides": "mine.tsv"}


@pytest.mark.parametrize("text", ["[1, 2]", "just words"])
def test_config_that_is_no_mapping_is_refused(run, text, capsys):
    status, out = provenance(run, f"--config-json={text}")
    assert status == 1
    assert "key: value" in capsys.readouterr().err
    assert not out.exists()


def test_unknown_parameter_is_refused(run, capsys):
    (run / "config/stages/qc.yaml").write_text("min_count: 3\n", encoding="utf-8")
    assert provenance(run)[0] == 1
    assert "min_count" in capsys.readouterr().err


def test_first_folder_wins_and_stages_without_parameters_class_are_kept(tmp_path):
    for folder, value in (("mine", 1), ("shipped", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "unheard.yaml").write_text(f"value: {value}\n", encoding="utf-8")
    (tmp_path / "shipped" / "tile.yaml").write_text("niche_px: 128\n", encoding="utf-8")
    found = read_stage_params([tmp_path / "mine", tmp_path / "shipped"])
    assert found == {"tile": {"niche_px": 128, "niches_per_tissue": 4}, "unheard": {"value": 1}}


def git(folder, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_commit_is_found_only_where_the_files_are_tracked(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n", encoding="utf-8")
    assert find_commit(package) is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "empty")
    assert find_commit(package) is None  # below a checkout, not part of it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "package")
    found = find_commit(package)
    assert found is not None
    assert found.commit == git(tmp_path, "rev-parse", "HEAD").strip()
    assert not found.is_modified
    (package / "__init__.py").write_text("a = 2\n", encoding="utf-8")
    modified = find_commit(package)
    assert modified is not None
    assert modified.is_modified
