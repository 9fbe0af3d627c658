"""Provenance: config, parameters, versions, commit, checksums of a run -> ``results/provenance.json``.

No time of day and no host name stand in it: the same run gives the same bytes.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import spatia
from spatia import config
from spatia.errors import SpatiaError
from spatia.io import read_json, write_json
from spatia.report.sheet import read_sheet

FORMAT = 1
PACKAGES = (
    "anndata", "dask", "geopandas", "igraph", "leidenalg", "numba", "numpy", "pandas", "pyarrow", "safetensors",
    "scikit-image", "scikit-learn", "scipy", "shapely", "snakemake", "snakemake-executor-plugin-slurm", "spatialdata",
    "spatialdata-io", "tifffile", "timm", "torch", "umap-learn", "zarr",
)  # fmt: skip


@dataclass(frozen=True)
class Commit:
    """The state of the checkout that the code runs from."""

    commit: str
    is_modified: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia provenance``."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--config", type=Path, metavar="FILE", help="what was run (default: config/config.yaml)")
    parser.add_argument(
        "--config-json", metavar="TEXT", help="the same as JSON text, with what the command line changed"
    )
    parser.add_argument("--slides", type=Path, required=True, metavar="FILE", help="the sheet of slides")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="provenance.json to write")


def run(args: argparse.Namespace) -> int:
    """Read what a run was made from and write it down."""
    content = _read_config(args.config_json, args.config or _find(args.run, "config/config.yaml"))
    sheet = read_sheet(args.slides)
    record = {
        "format": FORMAT,
        "spatia": spatia.__version__,
        "python": platform.python_version(),
        "packages": package_versions(),
        "workflow": describe_commit(find_commit(Path(spatia.__file__).parent)),
        "config": content,
        "stages": read_stage_params([folder / "config/stages" for folder in _folders(args.run)]),
        "slides": [{**row, "record": read_record(args.run, row["slide"])} for row in sheet],
    }
    write_json(args.out, record)
    return 0


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that shape results, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def find_commit(folder: Path) -> Commit | None:
    """Return the git commit that holds ``folder``, or None outside a checkout.

    A package installed below somebody else's checkout (a virtual environment in a project) is not part of it:
    the folder's own files must be tracked.
    """
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(folder, "rev-parse", "HEAD")
    if tracked is None or commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Commit(commit.strip(), bool(changes and changes.strip()))


def describe_commit(commit: Commit | None) -> dict[str, Any] | None:
    """Return a commit as it stands in the file."""
    return None if commit is None else {"commit": commit.commit, "modified": commit.is_modified}


def read_stage_params(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the parameters of every stage, defaults filled in, from the first folder that has its ``<stage>.yaml``."""
    files: dict[str, Path] = {}
    for folder in folders:
        for file in sorted(folder.glob("*.yaml")):
            files.setdefault(file.stem, file)
    return {stage: _filled_params(stage, files[stage]) for stage in sorted(files)}


def _filled_params(stage: str, file: Path) -> dict[str, Any]:
    kind = getattr(config, f"{stage.capitalize()}Params", None)
    return _read_yaml(file) or {} if kind is None else config.params_to_dict(config.load_params(file, kind))


def read_record(run: Path, slide: str) -> dict[str, Any] | None:
    """Return what ``ingest`` wrote about a slide, or None where it did not get so far."""
    file = run / "results/ingest" / slide / "ingest.json"
    return read_json(file) if file.exists() else None


def _folders(run: Path) -> tuple[Path, Path]:
    """Return where the workflow looks for its files: the run's folder, then the checkout."""
    return run, Path(spatia.__file__).parents[1]


def _find(run: Path, inside: str) -> Path | None:
    places = (folder / inside for folder in _folders(run))
    return next((place for place in places if place.exists()), None)


def _read_config(text: str | None, file: Path | None) -> dict[str, Any]:
    if text is not None:
        content, where = yaml.safe_load(text), "--config-json"
    elif file is not None:
        content, where = _read_yaml(file), str(file)
    else:
        raise SpatiaError("expected the configuration of the run, found none; pass --config FILE")
    if not isinstance(content, dict):
        raise SpatiaError(f"{where}: expected 'key: value' pairs, found {type(content).__name__}")
    return content


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as problem:
        raise SpatiaError(f"{file}: expected a YAML file, found something else ({problem})") from None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout if done.returncode == 0 else None
