"""Niches, tissues and their counts, against slow references; windows read from the slide."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from toy_store import N_GENES, NAMES, SHAPE, toy_counts, toy_image, write_toy_store

from spatia import keys
from spatia.cells.grids import inside_slide, place_cells, read_tile, storage_order
from spatia.cells.neighbourhoods import find_neighbourhoods, sum_counts, tidy_counts
from spatia.cells.scaling import lookup_table
from spatia.cli import main
from spatia.io import read_sparse
from spatia.xenium.store import open_slide


def run(verb, folder, params, *options):
    (folder / f"{verb}.yaml").write_text(params)
    words = (verb, "--slide", "toy", "--zarr", folder / "slide.zarr", "--params", folder / f"{verb}.yaml", *options)
    return main([str(word) for word in words])


def tile(folder, out, params="{}"):
    return run("tile", folder, params, "--cells", folder / "cells.parquet", "--out", out)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_toy_store(folder / "slide.zarr")
    outputs = ("--cells", folder / "cells.parquet", "--summary", folder / "qc.json")
    assert run("qc", folder, "{}", *outputs, "--histograms", folder / "histograms.npz") == 0
    cells = ("--cells", folder / "cells.parquet", "--histograms", folder / "histograms.npz")
    assert run("crop", folder, "{}", *cells, "--out", folder / "crops") == 0
    assert tile(folder, folder / "tiles") == 0
    return folder


@pytest.fixture(scope="module")
def tables(slide):
    return {name: pd.read_parquet(slide / "tiles" / f"{name}.parquet") for name in ("cells", "niches", "tissues")}


# --- the stage ---


def test_order_is_that_of_the_crops(slide, tables):
    index = pd.read_parquet(slide / "crops" / "index.parquet")
    assert tables["cells"][keys.CELL_ID].tolist() == index[keys.CELL_ID].tolist()
    assert tables["cells"][keys.TISSUE].is_monotonic_increasing
    assert tables["cells"][keys.NICHE].is_monotonic_increasing


def test_every_cell_lies_in_its_niche_and_tissue(tables):
    cells = tables["cells"]
    for _, cell in cells.iterrows():
        niche, tissue = tables["niches"].loc[cell[keys.NICHE]], tables["tissues"].loc[cell[keys.TISSUE]]
        x, y = cell[keys.X_UM] / 0.2125, cell[keys.Y_UM] / 0.2125
        assert niche["y0"] <= y < niche["y0"] + 256
        assert niche["x0"] <= x < niche["x0"] + 256
        assert tissue["y0"] <= y < tissue["y0"] + 1024
        assert tissue["x0"] <= x < tissue["x0"] + 1024
        assert niche[keys.TISSUE] == tissue[keys.TISSUE] == cell[keys.TISSUE]
        assert (niche["row"] // 4, niche["col"] // 4) == (tissue["row"], tissue["col"])
    assert tables["niches"][keys.NICHE].tolist() == list(range(len(tables["niches"])))
    assert tables["niches"]["n_cells"].tolist() == cells[keys.NICHE].value_counts().sort_index().tolist()
    assert tables["tissues"]["n_cells"].tolist() == cells[keys.TISSUE].value_counts().sort_index().tolist()
    per_tissue = tables["niches"][keys.TISSUE].value_counts().sort_index()
    assert tables["tissues"]["n_niches"].tolist() == per_tissue.tolist()


def test_counts_are_those_of_the_cells(slide, tables):
    of_cells = read_sparse(slide / "tiles" / "cell_counts.npz").toarray()
    expected = toy_counts()[[NAMES.index(name) for name in tables["cells"][keys.CELL_ID]]]
    assert np.array_equal(of_cells, expected)
    for level in (keys.NICHE, keys.TISSUE):
        found = read_sparse(slide / "tiles" / f"{level}_counts.npz")
        assert found.dtype == np.int32
        for row in range(found.shape[0]):
            members = (tables["cells"][level] == row).to_numpy()
            assert np.array_equal(found[row].toarray()[0], expected[members].sum(axis=0))
            assert tables[f"{level}s"]["n_counts"][row] == expected[members].sum()


def test_files_of_the_contract(slide, tables):
    names = {"cells.parquet", "niches.parquet", "tissues.parquet", "genes.parquet", "tiles.json"}
    names |= {"cell_counts.npz", "niche_counts.npz", "tissue_counts.npz"}
    assert {file.name for file in (slide / "tiles").iterdir()} == names
    header = json.loads((slide / "tiles" / "tiles.json").read_text())
    assert (header["format"], header["n_cells"], header["n_genes"]) == (1, len(tables["cells"]), N_GENES)
    assert (header["height_px"], header["width_px"]) == SHAPE
    genes = pd.read_parquet(slide / "tiles" / "genes.parquet")
    assert genes["gene"].tolist() == [f"G{index}" for index in range(N_GENES)]
    assert genes["gene_id"][3] == "ENSGG3"


def test_two_runs_write_the_same_bytes(slide, tmp_path):
    assert tile(slide, tmp_path / "again") == 0
    for file in (slide / "tiles").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_another_grid_changes_the_niches_but_not_the_order(slide, tables, tmp_path):
    assert tile(slide, tmp_path / "tiles", "niche_px: 100\nniches_per_tissue: 3\n") == 0
    cells = pd.read_parquet(tmp_path / "tiles" / "cells.parquet")
    assert cells[keys.CELL_ID].tolist() == tables["cells"][keys.CELL_ID].tolist()
    niches = pd.read_parquet(tmp_path / "tiles" / "niches.parquet").loc[cells[keys.NICHE]]
    assert np.array_equal(niches["row"], cells[keys.Y_UM] // (100 * 0.2125))
    assert np.array_equal(niches["x0"], cells[keys.X_UM] // (100 * 0.2125) * 100)


def test_a_table_of_another_slide_is_refused(slide, tmp_path, capsys, caplog):
    cells = pd.read_parquet(slide / "cells.parquet")
    cells.index = "other-" + cells.index
    cells.to_parquet(tmp_path / "cells.parquet")
    options = ("--cells", tmp_path / "cells.parquet", "--out", tmp_path / "tiles")
    assert run("tile", slide, "{}", *options) == 1
    assert "is missing; run 'spatia qc'" in caplog.text + capsys.readouterr().err
    assert not (tmp_path / "tiles").exists()


# --- grids on their own ---


def test_places_by_hand():
    x = np.array([0.0, 255.99, 256.0, 1299.9, 1300.0])  # the last lies on the far edge: the last pixel
    y = np.array([0.0, 256.0, 1023.99, 1024.0, 1100.0])
    places = place_cells(x, y, SHAPE, 256, 4)
    assert places.niche_col.tolist() == [0, 0, 1, 5, 5]
    assert places.niche_row.tolist() == [0, 1, 3, 4, 4]
    assert places.tissue_col.tolist() == [0, 0, 0, 1, 1]
    assert places.tissue_row.tolist() == [0, 0, 0, 1, 1]


def test_a_slide_smaller_than_a_niche_is_one_niche_and_one_tissue():
    places = place_cells(np.array([3.0, 99.0]), np.array([5.0, 60.0]), (61, 100), 256, 4)
    found = find_neighbourhoods(places, 256, 4)
    assert found.niche_of_cell.tolist() == found.tissue_of_cell.tolist() == [0, 0]
    assert found.tissues.iloc[0].to_dict() == {
        "tissue": 0,
        "row": 0,
        "col": 0,
        "y0": 0,
        "x0": 0,
        "n_cells": 2,
        "n_niches": 1,
    }


def test_storage_order_by_hand():
    # in pixels: tissue (0, 1), niche (0, 0) twice, niche (1, 0), tissue (1, 0)
    cells = {"x_um": [1030, 10, 20, 10, 5], "y_um": [5, 20, 10, 300, 1030], "cell_label": [1, 9, 8, 2, 3]}
    assert storage_order(cells, 1.0, (2000, 3000)).tolist() == [2, 1, 3, 0, 4]


def test_niches_are_numbered_tissue_by_tissue():
    x, y = np.array([1030.0, 10.0, 300.0, 10.0]), np.array([10.0, 10.0, 10.0, 300.0])
    found = find_neighbourhoods(place_cells(x, y, (2000, 3000), 256, 4), 256, 4)
    assert found.niche_of_cell.tolist() == [3, 0, 1, 2]  # the three of tissue 0 first
    assert found.niches[["tissue", "row", "col", "y0", "x0"]].to_numpy().tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 256],
        [0, 1, 0, 256, 0],
        [1, 0, 4, 0, 1024],
    ]


def test_sums_by_hand():
    counts = sparse.csr_matrix(np.array([[1, 0, 2], [0, 0, 3], [5, 0, 0]], np.int32))
    assert sum_counts(counts, np.array([1, 0, 1]), 3).toarray().tolist() == [[0, 0, 3], [6, 0, 2], [0, 0, 0]]


def test_sums_that_do_not_fit_are_refused():
    counts = sparse.csr_matrix(np.array([[2_000_000_000], [2_000_000_000]], np.int32))
    with pytest.raises(OverflowError, match="4000000000 does not fit"):
        sum_counts(counts, np.array([0, 0]), 1)


def test_tidy_counts_have_one_form():
    messy = sparse.csr_matrix((np.array([3, 0, 4, 1]), np.array([2, 1, 0, 0]), np.array([0, 3, 4])), shape=(2, 3))
    tidy = tidy_counts(messy)
    assert tidy.indices.tolist() == [0, 2, 0]
    assert tidy.data.tolist() == [4, 3, 1]


# --- windows ---


@pytest.mark.parametrize(
    ("y0", "x0", "size"),
    [(0, 0, 256), (-40, -7, 100), (1050, 1250, 128), (900, 1000, 256), (2000, 0, 64), (0, -64, 64)],
)
def test_tiles_equal_the_padded_image(slide, y0, x0, size):
    store, image = open_slide(slide / "slide.zarr"), toy_image()
    luts = [lookup_table(low, 9000, np.dtype(np.uint16)) for low in (100, 2000, 3000)]
    whole = np.stack([lut[stain] for lut, stain in zip(luts, image, strict=True)])
    margin = 2200
    padded = np.pad(whole, ((0, 0), (100, margin), (100, margin)))
    expected = padded[:, y0 + 100 : y0 + 100 + size, x0 + 100 : x0 + 100 + size]
    assert np.array_equal(read_tile(store, luts, y0, x0, size), expected)
    on_slide = np.pad(np.ones(SHAPE, bool), (100, margin))[y0 + 100 : y0 + 100 + size, x0 + 100 : x0 + 100 + size]
    assert np.array_equal(inside_slide(y0, x0, size, SHAPE), on_slide)
