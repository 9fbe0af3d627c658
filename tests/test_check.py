"""``spatia check``: says what a bundle is and comes to the verdict that ingest would come to."""

from __future__ import annotations

import json

import breaking as b
import numpy as np
import pytest
import toy

from spatia.cli import main
from spatia.xenium.sources import Agreement


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return toy.toy_bundle(tmp_path_factory.mktemp("check") / "bundle")


def test_says_what_the_bundle_is(bundle, tmp_path, capsys):
    assert main(["check", str(bundle), "--json", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    for text in ("XOA 3.x", "256 x 352 px", "DAPI (focus)", "14, 24 genes", "cells from masks", "covers 100%"):
        assert text in said
    assert said.endswith("can be ingested\n")
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["layout"], found["n_cells"], found["mask_outline_agreement"]) == ("3.x", toy.N_CELLS, 1.0)
    assert "checksums" not in found


def test_says_what_is_missing_and_what_is_done(bundle, tmp_path, capsys):
    less = toy.toy_bundle(tmp_path / "less", with_he=False)
    b.remove("cells.zarr.zip", "morphology_focus")(less)
    assert main(["check", str(less)]) == 0
    said = capsys.readouterr().out
    assert "missing  cells.zarr.zip: labels are the filled outlines" in said
    assert "missing  focus images: the maximum of morphology.ome.tif over z is used instead" in said
    assert "DAPI (max)" in said
    assert "tables   read by spatia, because spatialdata-io cannot: it needs cells.zarr.zip" in said


def test_one_line_and_status_1_when_it_cannot_be_ingested(bundle, tmp_path, capsys):
    broken = toy.toy_bundle(tmp_path / "broken")
    b.truncate("cells.parquet")(broken)
    assert main(["check", str(broken), "--json", str(tmp_path / "found.json")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "cells.parquet: expected a parquet table" in said.err
    assert not (tmp_path / "found.json").exists()


def test_options_of_ingest_change_the_verdict(bundle, capsys):
    assert main(["check", str(bundle), "--projection", "max"]) == 0
    assert "DAPI (max), ATP1A1/CD45/E-Cadherin (focus)" in capsys.readouterr().out
    assert main(["check", str(bundle), "--roi-um", "0,0,30,20"]) == 0
    assert "of 14, 24 genes" in capsys.readouterr().out
    assert main(["check", str(bundle), "--he", str(bundle / "toy_he_image.ome.tif")]) == 1
    assert "expected both or none" in capsys.readouterr().err


def test_all_decodes_every_tile(tmp_path, capsys):
    bundle = toy.toy_bundle(tmp_path / "bundle")
    b.corrupt_middle("morphology_focus/morphology_focus_0001.ome.tif", 0.2)(bundle)
    assert main(["check", str(bundle), "--all"]) == 1
    assert "morphology_focus_0001.ome.tif: expected an image" in capsys.readouterr().err


def test_swapped_masks_show_among_many_cells():
    """Two swapped cells of a thousand are far too few for any share."""
    labels = np.arange(1, 1001, dtype=np.uint32)
    found = labels.copy()
    found[[10, 11]] = found[[11, 10]]
    swapped = Agreement(np.zeros((1000, 2), int), labels, found)
    assert (swapped.n_swapped, swapped.share) == (2, 0.998)
    beside = Agreement(np.zeros((1000, 2), int), labels, np.where(labels == 10, 11, labels))
    assert beside.n_swapped == 0
