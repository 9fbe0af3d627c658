"""A bundle repeated rows x columns times: every copy is the source, moved, with ids of its own."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import tifffile
import toy

from spatia import keys
from spatia.xenium.simulate.bundle import write_bundle
from spatia.xenium.simulate.tiling import tile_bundle

ROWS, COLUMNS = 2, 3


def _read(folder):
    from spatialdata_io import xenium

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="The default of .dataframe.convert-string")
        return xenium(folder)


def _full(element) -> np.ndarray:
    return element["scale0"].image.to_numpy()


@pytest.fixture(scope="module", params=["1.0", "1.4", "3.0"])
def pair(request, tmp_path_factory):
    """The source and its 2 x 3 copies, as spatialdata-io reads them."""
    folder = tmp_path_factory.mktemp("tiling")
    source = toy.toy_bundle(folder / "source", request.param, with_he=False)
    tile_bundle(source, folder / "big", ROWS, COLUMNS)
    return _read(source), _read(folder / "big")


def test_images_are_repeated(pair):
    source, big = pair
    expected = np.tile(_full(source["morphology_focus"]), (1, ROWS, COLUMNS))
    np.testing.assert_array_equal(_full(big["morphology_focus"]), expected)
    names = [list(sdata["morphology_focus"]["scale0"].image.c.values) for sdata in pair]
    assert names[0] == names[1]


@pytest.mark.parametrize("name", ["cell_labels", "nucleus_labels"])
def test_masks_are_repeated_with_new_numbers(pair, name):
    source, big = (_full(sdata[name]) for sdata in pair)
    np.testing.assert_array_equal(big > 0, np.tile(source > 0, (ROWS, COLUMNS)))
    assert len(np.unique(big)) - 1 == ROWS * COLUMNS * (len(np.unique(source)) - 1)


def test_every_cell_is_repeated_with_its_counts_and_place(pair):
    source, big = (sdata["table"] for sdata in pair)
    assert big.obs["cell_id"].is_unique
    n = len(source)
    assert len(big) == ROWS * COLUMNS * n
    height, width = (size * keys.PIXEL_SIZE_UM for size in toy.SHAPE)
    for tile in range(ROWS * COLUMNS):
        part = big[tile * n : (tile + 1) * n]
        np.testing.assert_array_equal(part.X.toarray(), source.X.toarray())
        shift = (tile % COLUMNS * width, tile // COLUMNS * height)
        np.testing.assert_allclose(part.obsm["spatial"], source.obsm["spatial"] + shift)


def test_outlines_and_masks_of_the_copies_agree(pair):
    _, big = pair
    mask = _full(big["cell_labels"])
    outlines = big["cell_boundaries"]
    outlines.index = outlines.index.astype(str)
    ids = big["table"].obs["cell_id"].astype(str).to_numpy()
    for row in range(0, len(ids), 7):
        x, y = np.array(outlines.loc[ids[row]].geometry.centroid.coords[0]) / keys.PIXEL_SIZE_UM
        assert mask[int(y), int(x)] == row + 1


def test_transcripts_follow_their_cells(pair):
    source, big = (sdata["transcripts"].compute() for sdata in pair)
    assert len(big) == ROWS * COLUMNS * len(source)
    assert big["transcript_id"].is_unique
    outside = [table["cell_id"].isin(["UNASSIGNED", b"UNASSIGNED", -1]).sum() for table in (source, big)]
    assert outside == [60, ROWS * COLUMNS * 60]
    assert big["cell_id"].nunique() == ROWS * COLUMNS * (source["cell_id"].nunique() - 1) + 1


@pytest.mark.parametrize("tile_px", [32, 128])
def test_planes_and_levels_are_repeated(tmp_path, tile_px):
    # with 32 px the first level is made of whole tiles, which are copied compressed; with 128 px none is
    write_bundle(toy.toy_slide("3.0", with_he=False), tmp_path / "source", "3.0", tile_px=tile_px)
    tile_bundle(tmp_path / "source", tmp_path / "big", 2, 2)
    for name in ("morphology.ome.tif", "morphology_focus/morphology_focus_0002.ome.tif"):
        with tifffile.TiffFile(tmp_path / "source" / name) as source, tifffile.TiffFile(tmp_path / "big" / name) as big:
            assert len(source.pages) == len(big.pages)
            for page, copy in zip(source.pages, big.pages, strict=True):
                for level, repeated in zip([page, *page.pages], [copy, *copy.pages], strict=True):
                    np.testing.assert_array_equal(repeated.asarray(), np.tile(level.asarray(), (2, 2)))


def test_clusters_follow_their_cells(tmp_path):
    source = toy.toy_bundle(tmp_path / "source", "2.0")
    tile_bundle(source, tmp_path / "big", 1, 2)
    path = "analysis/clustering/gene_expression_graphclust/clusters.csv"
    clusters = pd.read_csv(tmp_path / "big" / path).set_index("Barcode")["Cluster"]
    for barcode, cluster in pd.read_csv(source / path).itertuples(index=False):
        letters = barcode.removesuffix("-1")
        assert [clusters[f"{letters}-{copy}"] for copy in (1, 2)] == [cluster, cluster]
    assert set(clusters.index) == set(pd.read_parquet(tmp_path / "big" / "cells.parquet")["cell_id"])
