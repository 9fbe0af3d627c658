"""Exports are read back with the libraries that users have, and compared by cell id."""

from __future__ import annotations

import hashlib
import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
from toy_run import run_stages

from spatia import keys
from spatia.cli import main
from spatia.errors import SpatiaError
from spatia.report.explorer import cell_groups, groups_csv
from spatia.report.labels import label_column, read_labels, storable_name
from spatia.xenium.store import open_slide

ROI_UM = "5,3,70,50"  # cuts cells away and moves the origin
SAMPLE = {"donor": "D1", "tissue": "breast", "disease": "DCIS", "species": "human", "split": "train"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    run_stages(folder, "toy", roi_um=ROI_UM)
    ids = open_slide(folder / "results/ingest/toy/slide.zarr").read_cells().index
    labels = pd.DataFrame({"Barcode": ids, "my type": [f"type {i % 3}" for i in range(len(ids))]}).iloc[1:]
    pd.concat([labels, pd.DataFrame({"Barcode": ["elsewhere-1"], "my type": ["x"]})]).sample(
        frac=1, random_state=np.random.RandomState(1)
    ).to_csv(folder / "labels.csv", index=False)
    write_embeddings(folder)
    return folder


def write_embeddings(run):
    """Write by hand what embed would: numbers that say which cell, niche and array they belong to."""
    tiles, folder = run / "results/tile/toy/tiles", run / "results/embed/toy/embeddings"
    folder.mkdir(parents=True)
    cells = pd.read_parquet(tiles / "cells.parquet")
    cells.assign(cluster=np.arange(len(cells)) % 2).to_parquet(folder / "cells.parquet")
    for number, name in enumerate(("z", "z_cell", "z_image", "z_genes")):
        np.save(folder / f"{name}.npy", np.arange(len(cells) * 4, dtype=np.float32).reshape(-1, 4) + 1000 * number)
    for number, name in enumerate(("z_niche", "z_tissue")):
        n = len(pd.read_parquet(tiles / "niches.parquet"))
        np.save(folder / f"{name}.npy", np.arange(n * 4, dtype=np.float32).reshape(-1, 4) - 1000 * (number + 1))
    (folder / "embed.json").write_text(json.dumps({"slide": "toy", "width": 4}), encoding="utf-8")


def export(run, out, **other):
    files = {
        "zarr": run / "results/ingest/toy/slide.zarr",
        "record": run / "results/ingest/toy/ingest.json",
        "qc-cells": run / "results/qc/toy/cells.parquet",
        "crops": run / "results/crop/toy/crops",
        "tiles": run / "results/tile/toy/tiles",
        "embeddings": run / "results/embed/toy/embeddings",
        "labels": run / "labels.csv",
        "sample": json.dumps(SAMPLE),
        "h5ad": out / "toy.h5ad",
        "store": out / "toy.zarr",
        "explorer": out / "explorer",
    } | other
    return main(["export", "--slide=toy", *(f"--{name}={value}" for name, value in files.items())])


@pytest.fixture(scope="module")
def exported(run):
    assert export(run, run / "out") == 0
    return run / "out"


@pytest.fixture(scope="module")
def measured(run):
    return pd.read_parquet(run / "results/qc/toy/cells.parquet")


def full_resolution(element):
    """Return the pixels of an image or labels element, with or without a pyramid."""
    is_pyramid = "scale0" in getattr(element, "children", {})
    return np.asarray(spatialdata.get_pyramid_levels(element, n=0) if is_pyramid else element)


def checksums(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_toy_has_what_the_tests_need(measured, run):
    assert measured[keys.KEEP].any()
    assert not measured[keys.KEEP].all()
    assert open_slide(run / "results/ingest/toy/slide.zarr").origin_um != (0, 0)


def test_h5ad_holds_the_kept_cells_with_everything_about_them(exported, run, measured):
    table = anndata.read_h5ad(exported / "toy.h5ad")
    kept = measured.index[measured[keys.KEEP]]
    assert set(table.obs_names) == set(kept)
    slide = open_slide(run / "results/ingest/toy/slide.zarr")
    counts = pd.DataFrame(slide.read_counts().toarray(), slide.read_cells().index, slide.genes["gene"])
    np.testing.assert_array_equal(table.X.toarray(), counts.loc[table.obs_names, table.var_names])
    assert dict(zip(table.var_names, table.var["gene_id"], strict=True)) == dict(slide.genes.to_numpy().tolist())
    expected = measured.loc[table.obs_names]
    for column in ("n_counts", "cell_area_um2", "control_rate", "mean_DAPI"):
        np.testing.assert_array_equal(table.obs[column], expected[column])
    tiles = pd.read_parquet(run / "results/tile/toy/tiles/cells.parquet").set_index("cell_id")
    np.testing.assert_array_equal(table.obs["niche"], tiles.loc[table.obs_names, "niche"])
    np.testing.assert_array_equal(table.obs["tissue"], tiles.loc[table.obs_names, "tissue"])
    assert set(table.obs["organ"]) == {"breast"}
    assert set(table.obs["donor"]) == {"D1"}
    assert json.loads(table.uns["spatia"]["ingest"])["checksums"]


def test_every_embedding_is_joined_by_cell_and_niche(exported, run):
    table = anndata.read_h5ad(exported / "toy.h5ad")
    folder = run / "results/embed/toy/embeddings"
    cells = pd.read_parquet(folder / "cells.parquet").set_index("cell_id")
    names = {"z": "", "z_cell": "_cell", "z_image": "_image", "z_genes": "_genes"}
    for place, cell_id in enumerate(cells.index):
        row = table.obs_names.get_loc(cell_id)
        for name, ending in names.items():
            np.testing.assert_array_equal(table.obsm[f"X_spatia{ending}"][row], np.load(folder / f"{name}.npy")[place])
        for name in ("niche", "tissue"):
            expected = np.load(folder / f"z_{name}.npy")[cells.loc[cell_id, "niche"]]
            np.testing.assert_array_equal(table.obsm[f"X_spatia_{name}"][row], expected)
    np.testing.assert_array_equal(table.obs["cluster"], cells.loc[table.obs_names, "cluster"])
    assert json.loads(table.uns["spatia"]["embed"])["width"] == 4


def test_positions_are_the_bundles_own(exported, run):
    table = anndata.read_h5ad(exported / "toy.h5ad")
    bundle = pd.read_parquet(run / "bundles/toy/cells.parquet").set_index("cell_id")
    expected = bundle.loc[table.obs_names, ["x_centroid", "y_centroid"]].to_numpy()
    inside = ~table.obs["touches_edge"].to_numpy(bool)
    np.testing.assert_allclose(table.obsm["spatial"][inside], expected[inside], atol=1e-6)


def test_store_is_annotated_and_its_labels_join_by_instance(exported, run, measured):
    store = spatialdata.read_zarr(exported / "toy.zarr")
    table = store["table"]
    assert set(table.obs_names) == set(measured.index)
    assert table.uns["spatialdata_attrs"] == {
        "region": keys.CELL_LABELS,
        "region_key": "region",
        "instance_key": keys.CELL_LABEL,
    }
    assert table.obs.loc[~table.obs["keep"], ["niche", "tissue", "cluster"]].eq(-1).all(axis=None)
    assert np.isnan(table.obsm["X_spatia"][~table.obs["keep"].to_numpy(bool)]).all()
    assert np.isfinite(table.obsm["X_spatia"][table.obs["keep"].to_numpy(bool)]).all()
    np.testing.assert_array_equal(table.obs["reason"], measured.loc[table.obs_names, "reason"])
    pixels = full_resolution(store[keys.CELL_LABELS])
    source = open_slide(run / "results/ingest/toy/slide.zarr")
    for cell in table.obs.loc[table.obs["keep"]].itertuples():
        ys, xs = np.nonzero(pixels == cell.cell_label)
        assert abs(xs.mean() + 0.5 - cell.x_um / source.pixel_size_um) < 1.5 or cell.touches_edge
        assert abs(ys.mean() + 0.5 - cell.y_um / source.pixel_size_um) < 1.5 or cell.touches_edge
    image = full_resolution(store[keys.MORPHOLOGY])
    np.testing.assert_array_equal(image, np.asarray(source.image))
    assert {keys.HE, keys.CELL_BOUNDARIES, keys.NUCLEUS_BOUNDARIES} <= {name for _, name, _ in store.gen_elements()}


def test_store_does_not_need_its_source(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run / "results", copy / "results")
    assert export(run, tmp_path, zarr=copy / "results/ingest/toy/slide.zarr") == 0
    shutil.rmtree(copy)
    store = spatialdata.read_zarr(tmp_path / "toy.zarr")
    assert full_resolution(store[keys.MORPHOLOGY]).max() > 0


def test_shuffled_inputs_give_the_same_bytes(exported, run, tmp_path):
    generator = np.random.RandomState(3)
    measured = pd.read_parquet(run / "results/qc/toy/cells.parquet").sample(frac=1, random_state=generator)
    measured.to_parquet(tmp_path / "cells.parquet")
    shutil.copytree(run / "results/tile/toy/tiles", tmp_path / "tiles")
    members = pd.read_parquet(tmp_path / "tiles/cells.parquet").sample(frac=1, random_state=generator)
    members.to_parquet(tmp_path / "tiles/cells.parquet")
    inputs = {"qc-cells": tmp_path / "cells.parquet", "tiles": tmp_path / "tiles"}
    assert export(run, tmp_path / "out", **inputs) == 0
    assert checksums(tmp_path / "out") == checksums(exported)


def test_explorer_files_name_every_cell_once(exported, measured):
    files = {path.name: pd.read_csv(path, dtype=str) for path in (exported / "explorer").iterdir()}
    assert set(files) == {"qc.csv", "niche.csv", "tissue.csv", "cluster.csv", "label_my_type.csv"}
    for table in files.values():
        assert list(table.columns) == ["cell_id", "group"]
        assert sorted(table["cell_id"]) == sorted(measured.index)
        assert table["group"].notna().all()
    groups = files["qc.csv"].set_index("cell_id")["group"]
    removed = measured.loc[~measured[keys.KEEP], "reason"]
    assert groups.loc[removed.index].to_dict() == removed.to_dict()
    assert set(groups.drop(removed.index)) == {"kept"}
    assert set(files["niche.csv"].set_index("cell_id").loc[removed.index, "group"]) == {"removed"}
    labels = files["label_my_type.csv"].set_index("cell_id")["group"]
    assert (labels == "unlabelled").sum() == 1
    assert (exported / "explorer/qc.csv").read_bytes().startswith(b"cell_id,group\n")


def test_members_made_with_other_filters_are_refused(run, tmp_path, capsys):
    shutil.copytree(run / "results/tile/toy/tiles", tmp_path / "tiles")
    pd.read_parquet(tmp_path / "tiles/cells.parquet").iloc[1:].to_parquet(tmp_path / "tiles/cells.parquet")
    assert export(run, tmp_path / "out", tiles=tmp_path / "tiles") == 1
    assert "kept cells" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_embeddings_of_other_cells_are_refused(run, tmp_path, capsys):
    shutil.copytree(run / "results/embed/toy/embeddings", tmp_path / "embeddings")
    cells = pd.read_parquet(tmp_path / "embeddings/cells.parquet")
    cells.assign(cell_id=[f"x{row}" for row in range(len(cells))]).to_parquet(tmp_path / "embeddings/cells.parquet")
    assert export(run, tmp_path / "out", embeddings=tmp_path / "embeddings") == 1
    assert "kept cells" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cell,type\na,x\n", "a column cell_id"),
        ("cell_id\na\n", "at least one of labels"),
        ("cell_id,type\na,x\na,y\n", "twice"),
        ("cell_id,type\nzz,x\n", "this slide's cells"),
        ("cell_id,type\n", "this slide's cells"),
    ],
)
def test_labels_that_fit_nothing_are_refused(tmp_path, content, message):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(SpatiaError, match=message):
        read_labels(tmp_path / "labels.csv", pd.Index(["a", "b"]))


def test_missing_labels_file_is_named(tmp_path):
    with pytest.raises(SpatiaError, match="found none"):
        read_labels(tmp_path / "none.csv", pd.Index(["a"]))


def test_groups_are_joined_by_id():
    cells = pd.DataFrame({"keep": [True, False, True], "reason": ["", "few_counts", ""]}, index=["a", "b", "c"])
    tiles = pd.DataFrame({"niche": [7, 2], "tissue": [1, 0]}, index=["c", "a"])
    groups = cell_groups(cells, tiles, None, pd.Series({"c": 0, "a": 3}))
    assert groups["cluster"].to_dict() == {"a": "cluster 3", "b": "removed", "c": "cluster 0"}
    assert groups["niche"].to_dict() == {"a": "niche 2", "b": "removed", "c": "niche 7"}
    assert groups_csv(groups["qc"]) == "cell_id,group\na,kept\nb,few_counts\nc,kept\n"


def test_names_that_formats_cannot_hold_are_changed():
    assert storable_name("mean_ATP1A1/CD45/E-Cadherin") == "mean_ATP1A1_CD45_E-Cadherin"
    assert label_column("my type; 1") == "label_my_type__1"
