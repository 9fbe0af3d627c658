"""Promises about the repository itself."""

import re
import subprocess

import pytest
import yaml


def tracked_files(root):
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [root / name for name in done.stdout.split("\0") if name]


def test_no_machine_paths_and_no_index_addresses(root):
    wrong = re.compile(r"(?<![\w.~}$/])/(hom[e]|roo[t]|wor[k]|User[s])/|index-ur[l]|--find-link[s]")
    for path in tracked_files(root):
        if (
            path.suffix in {".png", ".npz", ".parquet"}
            or path.is_symlink()
            or path == root / "tests" / "test_repository.py"
        ):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not wrong.search(line), f"{path.relative_to(root)}:{number}: {line}"


def test_tracked_files_are_small_and_no_pictures(root):
    for path in tracked_files(root):
        if not path.is_symlink():
            assert path.stat().st_size < 1_000_000, path
            assert path.suffix not in {".tif", ".tiff", ".jpg", ".h5", ".h5ad", ".parquet", ".zip"}, path


def test_every_stage_has_its_five_places(root):
    from spatia.cli import VERBS

    includes = re.findall(r'include: "rules/(\w+)\.smk"', (root / "workflow" / "Snakefile").read_text())
    stages = [name for name in includes if name != "common"]
    for stage in stages:
        assert stage in VERBS
        assert (root / "spatia" / "stages" / f"{stage}.py").exists()
        rule = (root / "workflow" / "rules" / f"{stage}.smk").read_text()
        assert f'"spatia {stage} ' in rule or f"launch}} {stage} " in rule  # pretrain may be started by torchrun
        for word in ("log:", "benchmark:", "conda:", "mem_mb=", "runtime=", '"""'):
            assert word in rule, f"{stage}: {word}"


def test_readme_links_lead_somewhere(root):
    for page in [
        root / "README.md",
        root / "CONTRIBUTING.md",
        *(root / "docs").glob("*.md"),
        root / "config" / "README.md",
    ]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_sheet_columns_are_documented(root):
    schema = yaml.safe_load((root / "workflow" / "schemas" / "slides.schema.yaml").read_text())
    text = (root / "config" / "README.md").read_text(encoding="utf-8")
    for column in schema["properties"]:
        assert f"`{column}`" in text
