"""The dataset on a real slide: bundle -> ingest -> qc -> crop -> tile -> batches, against the slide itself."""

import subprocess
import sys

import numpy as np
import pytest

from spatia.learn.dataset import CellDataset, LoadParams
from spatia.learn.order import BatchOrder
from spatia.learn.slides import SlideFiles
from spatia.xenium.store import open_slide

pytestmark = [pytest.mark.real, pytest.mark.slow]


def spatia(*arguments):
    subprocess.run([sys.executable, "-m", "spatia.cli", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def files(real_data, root, tmp_path_factory):
    """One quarter of a pancreas region, prepared by the stages."""
    run = tmp_path_factory.mktemp("run")
    files = SlideFiles.of_run(run, "a")
    params, qc, store = root / "config" / "stages", run / "results" / "qc" / "a", files.image
    cells, histograms = qc / "cells.parquet", qc / "histograms.npz"
    roi = "435,435,870,870"  # 1,300 cells
    spatia("ingest", real_data / "xenium_pancreas_a", "--slide", "a", "--species", "human", "--roi-um", roi,
           "--params", params / "ingest.yaml", "--zarr", store, "--record", store.with_name("ingest.json"))  # fmt: skip
    spatia("qc", "--slide", "a", "--zarr", store, "--params", params / "qc.yaml",
           "--cells", cells, "--summary", qc / "qc.json", "--histograms", histograms)  # fmt: skip
    spatia("crop", "--slide", "a", "--zarr", store, "--params", params / "crop.yaml",
           "--cells", cells, "--histograms", histograms, "--out", files.crops)  # fmt: skip
    spatia("tile", "--slide", "a", "--zarr", store, "--params", params / "tile.yaml",
           "--cells", cells, "--out", files.tiles)  # fmt: skip
    return files


@pytest.fixture(scope="module")
def dataset(files):
    return CellDataset([files], LoadParams(cells_per_batch=128, tiles=True, context=True))


def test_every_kept_cell_comes_once(dataset):
    found = [cell_id for key in BatchOrder(dataset) for cell_id in dataset[key].cell_id]
    assert sorted(found) == sorted(dataset.slides[0].crops.index["cell_id"])


def test_frames_are_the_pixels_of_the_cell_on_the_slide(files, dataset):
    store, crops = open_slide(files.image), dataset.slides[0].crops
    image, labels = np.asarray(store.image[:]), np.asarray(store.cell_labels[:])
    luts = crops.scaling.luts(image.dtype)
    batch = dataset[0, 0]
    frames, masks = batch.frames()
    for k, row in enumerate(batch.cell_row.tolist()):
        y0, x0, label = (int(crops.index[name].iloc[row]) for name in ("y0", "x0", "cell_label"))
        expected = np.zeros(frames.shape[1:], np.uint8)
        ys, xs = np.nonzero(labels[max(y0, 0) : y0 + 128, max(x0, 0) : x0 + 128] == label)
        ys, xs = ys + max(y0, 0), xs + max(x0, 0)
        for stain, lut in enumerate(luts):
            expected[stain, ys - y0, xs - x0] = lut[image[stain, ys, xs]]
        np.testing.assert_array_equal(frames[k], expected)
        assert masks[k].sum() == len(ys)
    np.testing.assert_array_equal(batch.context * masks[:, None], frames)


def test_counts_are_those_of_the_table(files, dataset):
    store = open_slide(files.image)
    table, counts, genes = store.read_cells(), store.read_counts(), store.genes["gene"].tolist()
    batch = dataset[0, 1]
    rows = table.index.get_indexer(list(batch.cell_id))
    columns = [genes.index(gene) for gene in dataset.genes]
    np.testing.assert_array_equal(batch.counts.dense(), counts[rows][:, columns].toarray())
    assert batch.on_panel.all()


def test_cells_lie_in_their_niche_tile(dataset):
    batch = dataset[0, 0]
    slide = dataset.slides[0]
    corner = slide.niches[["x0", "y0"]].to_numpy()[batch.niche_row[batch.niche]]
    inside = batch.position_um.numpy() / 0.2125 - corner
    assert (inside >= 0).all()
    assert (inside <= 256).all()
    frames, masks = batch.frames()
    x, y = np.floor(inside[0]).astype(int)
    dapi = batch.niche_tiles[batch.niche[0], 0, y, x]
    window = slide.crops.index[["x0", "y0"]].to_numpy()[batch.cell_row[0]]
    x, y = np.floor(batch.position_um[0].numpy() / 0.2125 - window).astype(int)
    assert frames[0, 0, y, x] == dapi * masks[0, y, x]
