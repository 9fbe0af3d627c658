"""``spatia simulate``: parameters from YAML and command line, bundle and truth on disk, joined by cell id."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from spatia.cli import main
from spatia.io import read_json
from spatia.stages.simulate import read_params
from spatia.xenium.simulate.states import TRANSITIONS

SMALL = {"width_px": 640, "height_px": 768, "stack": False, "transcripts": False, "n_counterfactuals": 2}


def _write_yaml(path: Path, slides: dict[str, object], **defaults: object) -> Path:
    path.write_text(yaml.safe_dump({"defaults": {**SMALL, **defaults}, "slides": slides}), encoding="utf-8")
    return path


def _simulate(folder: Path, *options: str) -> int:
    return main(["simulate", "--bundle", str(folder / "bundle"), "--truth", str(folder / "truth"), *options])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    params = _write_yaml(folder / "simulate.yaml", {"one": {"seed": 4, "donor": "d4"}})
    assert _simulate(folder, "--slide", "one", "--params", str(params)) == 0
    return folder


def test_truth_and_bundle_join_by_cell_id(written: Path) -> None:
    truth = pd.read_parquet(written / "truth" / "cells.parquet").set_index("cell_id")
    bundle = pd.read_parquet(written / "bundle" / "cells.parquet")
    bundle["cell_id"] = [c.decode() if isinstance(c, bytes) else c for c in bundle["cell_id"]]
    assert len(truth) == len(bundle) > 50
    assert list(truth.index) != list(bundle["cell_id"])
    both = truth.join(bundle.set_index("cell_id"), how="inner")
    assert len(both) == len(truth)
    assert np.allclose(both["x_um"], both["x_centroid"], atol=1e-3)
    assert np.allclose(both["cell_area_um2"], both["cell_area"], atol=1e-3)


def test_counterfactual_rows_and_arrays_agree(written: Path) -> None:
    table = pd.read_parquet(written / "truth" / "counterfactuals.parquet")
    cells = pd.read_parquet(written / "truth" / "cells.parquet").set_index("cell_id")
    arrays = np.load(written / "truth" / "counterfactuals.npz")
    assert len(table) == len(arrays["factual"]) == len(arrays["counterfactual_mask"]) > 0
    assert (cells.loc[table["cell_id"], "state"].to_numpy() == table["control_state"]).all()
    area = arrays["factual_mask"].sum(axis=(1, 2)) * 0.2125**2
    assert np.allclose(area, cells.loc[table["cell_id"], "cell_area_um2"])


def test_summary_says_what_was_planted(written: Path) -> None:
    summary = read_json(written / "truth" / "truth.json")
    assert summary["seed"] == 4
    assert summary["params"]["donor"] == "d4"
    assert set(summary["expected_log_fold"]) == {transition.name for transition in TRANSITIONS}
    assert summary["expected_log_fold"]["Epi_FOXA1+->mgEpi_KRT14+"]["KRT14"] > 1
    assert abs(summary["expected_log_fold"]["Epi_FOXA1+->mgEpi_KRT14+"]["GATA3"]) > 0.5
    assert {row["niche_effect"] for row in summary["effects"] if row["transition"].startswith("EC_")} == {0.0}


def test_same_seed_writes_the_same_bytes(written: Path, tmp_path: Path) -> None:
    assert _simulate(tmp_path, "--slide", "one", "--params", str(written / "simulate.yaml")) == 0
    first, second = (_checksums(folder) for folder in (written, tmp_path))
    assert first == second
    assert len(first) > 8


def _checksums(folder: Path) -> dict[str, str]:
    files = [path for part in ("bundle", "truth") for path in sorted((folder / part).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_command_line_alone_is_enough(tmp_path: Path) -> None:
    options = ["--layout", "2.0", "--width", "512", "--height", "512", "--seed", "3"]
    assert main(["simulate", "--bundle", str(tmp_path / "bundle"), *options]) == 0
    assert (tmp_path / "bundle" / "experiment.xenium").exists()


def test_command_line_beats_slide_beats_defaults(tmp_path: Path) -> None:
    path = _write_yaml(tmp_path / "p.yaml", {"s": {"seed": 2, "donor": "own"}}, seed=1, donor="all", layout="2.0")
    params = read_params(_arguments("--slide", "s", "--params", str(path), "--seed", "9"))
    assert (params.seed, params.donor, params.layout, params.name) == (9, "own", "2.0", "s")


def _arguments(*options: str):  # type: ignore[no-untyped-def]
    import argparse

    from spatia.stages.simulate import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--bundle", "b", *options])


@pytest.mark.parametrize(
    ("content", "slide", "message"),
    [
        ({"slides": {"s": {"colour": "red"}}}, "s", "unknown key 'colour'"),
        ({"slides": {"s": {}}}, "t", "no slide 't'"),
        ({"slide": {"s": {}}}, "s", "expected the keys defaults and slides"),
        ({"slides": {"s": {"layout": "9"}}}, "s", "layout should be one of"),
        ({"slides": {"s": {"width_px": "wide"}}}, "s", "width_px should be int"),
        ({"slides": {"s": {"width_px": 64}}}, "s", "at least 512"),
        ({"slides": ["s"]}, "s", "expected `slides` to be a mapping"),
        ({"slides": {"s": 3}}, "s", "expected slide 's' to be a mapping"),
    ],
)
def test_bad_parameter_files_are_one_line(
    content: dict[str, object],
    slide: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert _simulate(tmp_path, "--slide", slide, "--params", str(path)) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "bundle").exists()


def test_shipped_parameters_are_valid() -> None:
    path = Path(__file__).resolve().parents[1] / "config" / "stages" / "simulate.yaml"
    slides = yaml.safe_load(path.read_text(encoding="utf-8"))["slides"]
    params = [read_params(_arguments("--slide", slide, "--params", str(path))) for slide in slides]
    assert {"sim_a", "sim_b"} <= set(slides)
    assert len({p.donor for p in params}) == len({p.layout for p in params}) == 2
