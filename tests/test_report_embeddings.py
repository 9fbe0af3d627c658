"""The report's figures and words about the model and the embeddings, from a small folder written by hand."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toy_run import fail, run_stages, write_sheet

from spatia import keys
from spatia.cells.crops import open_crops
from spatia.cli import main
from spatia.errors import SpatiaError
from spatia.report import embedding_figures, embedding_layout, slide_embeddings, status
from spatia.report.embedding_figures import CellMap, draw_cluster_map, draw_clusters_apart, draw_label_maps, draw_umap
from spatia.report.embedding_layout import lay_out, nearest_cells, sample_rows
from spatia.report.embeddings import Reconstructions, open_embeddings
from spatia.report.group_colours import (
    GROUP_COLOURS,
    OTHER,
    UNLABELLED,
    cluster_colours,
    cluster_legend,
    group_rare_labels,
    label_colours,
)
from spatia.report.html import inline_image
from spatia.report.loss_figures import draw_losses
from spatia.report.model_facts import FROM_SCRATCH, describe_embedding, describe_model, describe_origin
from spatia.report.model_section import CHECKPOINT, HISTORY, make_model_section
from spatia.report.neighbour_gallery import choose_queries, distance_text
from spatia.report.plots import GREY, Picture
from spatia.report.reconstructions import common_window, draw_reconstructions, hidden_pixels
from spatia.report.slide_figures import draw_slide
from spatia.report.slide_files import SlideFiles
from spatia.report.status import Status

WIDTH = 8
CLUSTERS = np.repeat([0, 1, 2], [18, 9, 3])  # of 30 cells
LOSSES = ("image_cell", "gene_tokens", "gene_cell", "image_niche", "gene_niche", "image_tissue", "gene_tissue",
          "gene_fused")  # fmt: skip
PUBLIC = "ViT-MAE base, facebook/vit-mae-base"


def embed_record(n_cells, **changes):
    record = {
        "format": 1, "slide": "toy", "width": WIDTH, "n_cells": n_cells, "n_niches": 2, "n_tissues": 1,
        "variants": ["fused", "image", "genes"], "shared_genes": 4, "panel_genes": 5, "model_genes": 1300,
        "shared_stains": ["DAPI", "18S"], "missing_stains": ["CD3"], "ignored_stains": ["Ki67"], "applied": True,
        "checkpoint": {"path": "models/one", "slides": ["s1", "s2"], "starting_weights": {"image": "", "genes": ""}},
    }  # fmt: skip
    return record | changes


def write_embeddings(folder, cells, vectors, **changes):
    """Write an embed folder: ``vectors`` per file name, reconstructions of two of the cells."""
    folder.mkdir(parents=True)
    (folder / "embed.json").write_text(json.dumps(embed_record(len(cells), **changes)), encoding="utf-8")
    cells.to_parquet(folder / "cells.parquet")
    for name, values in vectors.items():
        np.save(folder / f"{name}.npy", values.astype(np.float32))
    original = np.full((2, 2, 128, 128), 0, np.uint8)
    original[:, :, 48:80, 56:72] = 200
    masked = original.copy()
    masked[:, :, 48:56] = 0
    np.savez(folder / "reconstructions.npz", cell_id=cells["cell_id"].to_numpy(str)[:2], original=original,
             masked=masked, reconstructed=original, stains=np.array(["DAPI", "18S"]))  # fmt: skip


def history(phases):
    """Return a history in which every loss falls with the steps and is higher in validation."""
    rows, step = [], 0
    for phase, losses in phases.items():
        for epoch in range(2):
            step += 10
            for split, more in (("train", 0.0), ("val", 0.5)):
                row = {"phase": phase, "epoch": epoch, "step": step, "learning_rate": 1e-3, "split": split}
                row |= {name: 10 / step + more for name in losses}
                rows.append(row | {"total": len(losses) * (10 / step + more)})
    return pd.DataFrame(rows).reindex(columns=["phase", "epoch", "step", "learning_rate", "split", *LOSSES, "total"])


PHASES = {"cell": LOSSES[:3], "tile": LOSSES[3:7], "joint": LOSSES}


def write_model(run, **changes):
    record = {
        "format": 1, "preset": "tiny", "shape": {"embedding": WIDTH}, "levels": "tissue", "stains": ["DAPI", "CD3"],
        "genes": ["A", "B"], "species": "human", "slides": ["toy"], "n_cells": 1234,
        "n_parameters": {"gene encoder": 1500, "fusion": 500, "total": 2000},
        "starting_weights": {"image": PUBLIC, "genes": ""}, "seed": 7, "spatia_version": "0.1.0",
    }  # fmt: skip
    (run / CHECKPOINT).parent.mkdir(parents=True)
    (run / CHECKPOINT).write_text(json.dumps(record | changes), encoding="utf-8")
    history(PHASES).to_csv(run / HISTORY, sep="\t", index=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with one embedded slide in which rows 0 and 1, 2 and 3, ... of z are nearest neighbours."""
    folder = tmp_path_factory.mktemp("embedded")
    run_stages(folder, "toy")
    index = open_crops(folder / "results/crop/toy/crops").index
    qc = pd.read_parquet(folder / "results/qc/toy/cells.parquet")
    generator = np.random.default_rng(0)
    cells = pd.DataFrame({"cell_id": index["cell_id"], "niche": 0, "tissue": 0})
    for column in (keys.X_UM, keys.Y_UM):
        cells[column] = qc[column].reindex(cells["cell_id"]).to_numpy()
    cells["cluster"] = np.arange(len(cells)) % 3
    pairs = generator.normal(size=(len(cells), WIDTH))
    pairs[1::2] = 3 * pairs[0::2][: len(pairs[1::2])]
    vectors = {"z": pairs, "z_image": generator.normal(size=pairs.shape), "z_genes": pairs[:, ::-1]}
    write_embeddings(folder / "results/embed/toy/embeddings", cells, vectors)
    write_model(folder)
    labels = pd.DataFrame({"cell_id": cells["cell_id"], "type": np.where(cells["cluster"] == 0, "T cell", "other")})
    labels.to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def written(run):
    """The report of that run; drawing its maps is the only time that umap runs, apart from one test."""
    sheet = write_sheet(run, [{"slide": "toy", "bundle": "b", "donor": "D1", "species": "human", "split": "apply"}])
    lines = sheet.read_text(encoding="utf-8").splitlines()
    sheet.write_text(f"{lines[0]}\tlabels\n{lines[1]}\tlabels.csv\n", encoding="utf-8")
    out = run / "out"
    arguments = [f"--run={run}", f"--slides={sheet}", f"--bundles={run}", f"--out={out}/report.html",
                 f"--cohort={out}/cohort.tsv", f"--figures={out}/figures"]  # fmt: skip
    assert main(["report", *arguments]) == 0
    return out


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB")).astype(int)


def colour_of(hexadecimal):
    return np.array([int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5)])


def places_of(image, hexadecimal):
    """Return the rows and columns of an image's pixels of exactly one colour."""
    return np.nonzero((image == colour_of(hexadecimal)).all(axis=2))


# --- the page ---


def test_every_figure_of_the_embeddings_is_there(written):
    names = {path.stem for path in (written / "figures/toy").iterdir()}
    assert {"umap", "umap_labels", "cluster_map", "clusters_apart", "neighbours", "reconstructions"} <= names
    assert (written / "figures/all slides/losses.png").exists()


def test_page_says_where_the_model_comes_from(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    assert '<section id="model">' in text
    assert f"image encoder: {PUBLIC}; gene encoder: from scratch" in text
    assert "trained from scratch" in text  # what the slide's embed.json says
    assert "applied: this slide is not among its training slides" in text
    assert "CD3 (known to the model, taken as absent)" in text
    assert re.search(r"<td>gene encoder</td><td class=\"n\">1,500</td><td class=\"n\">75 %</td>", text)


def test_every_figure_has_a_caption_for_snakemake(root, written):
    captions = (root / "workflow/report/figure.rst").read_text(encoding="utf-8")
    for path in written.glob("figures/*/*.png"):
        assert f'"{path.stem}":' in captions


def test_run_without_embeddings_draws_none_of_it(run, tmp_path):
    shutil.copytree(run / "results/tile", tmp_path / "results/tile")
    assert [p.name for p in draw_slide(SlideFiles(tmp_path, "toy"), None, 0)[0]] == ["cells_per_niche"]
    assert make_model_section(tmp_path, []) is None


def test_files_that_disagree_are_named(tmp_path):
    cells = pd.DataFrame({"cell_id": list("abc"), "x_um": 0.0, "y_um": 0.0, "cluster": 0})
    write_embeddings(tmp_path / "results/embed/s/embeddings", cells, {"z": np.zeros((2, WIDTH))}, variants=["fused"])
    pictures, problems = draw_slide(SlideFiles(tmp_path, "s"), None, 0)
    assert pictures == []
    assert re.search(
        r"The map of cells could not be drawn: .*z\.npy: expected shape \(3, 8\), found \(2, 8\)", *problems
    )


def test_labels_that_are_not_there_are_a_problem_of_their_own(tmp_path):
    cells = pd.DataFrame({"cell_id": list("abc"), "x_um": 0.0, "y_um": 0.0, "cluster": 0})
    write_embeddings(tmp_path / "results/embed/s/embeddings", cells, {"z": np.ones((3, WIDTH))}, variants=["fused"])
    files = SlideFiles(tmp_path, "s", tmp_path / "none.csv")
    shown = CellMap(np.arange(3), {"fused": np.zeros((3, 2))})
    with pytest.raises(SpatiaError, match="expected a csv of labels, found none"):
        slide_embeddings.draw_label_maps_of(files, shown)


# --- likeness ---


def test_nearest_cells_are_those_of_the_smallest_angle():
    degrees = np.array([0, 10, 25, 100, 180.0])
    lengths = np.array([1, 50, 0.1, 2, 3])
    vectors = lengths[:, None] * np.column_stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    rows, cosine = nearest_cells(vectors, np.array([0, 3]), 3)
    assert rows.tolist() == [[1, 2, 3], [2, 4, 1]]
    np.testing.assert_allclose(cosine[0], np.cos(np.radians([10, 25, 100])), atol=1e-6)
    assert nearest_cells(vectors, np.array([4]), 99)[0].tolist() == [[3, 2, 1, 0]]


def test_nearest_cells_do_not_depend_on_the_blocks(monkeypatch):
    vectors = np.random.default_rng(1).normal(size=(30, WIDTH))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    slow = [[j for j in np.argsort(-unit @ unit[i], kind="stable") if j != i][:5] for i in (3, 29, 0)]
    assert nearest_cells(vectors, np.array([3, 29, 0]), 5)[0].tolist() == slow
    monkeypatch.setattr(embedding_layout, "BLOCK_ROWS", 7)
    assert nearest_cells(vectors, np.array([3, 29, 0]), 5)[0].tolist() == slow


def test_like_cells_lie_together_on_the_map():
    generator = np.random.default_rng(0)
    vectors = np.eye(3, WIDTH)[CLUSTERS] + 0.05 * generator.normal(size=(30, WIDTH))
    points = lay_out(vectors, seed=1)
    assert points.shape == (30, 2)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(30, np.inf))
    assert (CLUSTERS[apart.argmin(axis=1)] == CLUSTERS).all()
    np.testing.assert_array_equal(points, lay_out(vectors, seed=1))
    assert not np.array_equal(points, lay_out(vectors, seed=2))


def test_sample_is_random_and_seeded():
    samples = [sample_rows(1000, 10, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert len(set(samples[0])) == 10
    assert samples[0] != sorted(samples[0])
    assert sorted(sample_rows(5, 10, np.random.default_rng(0))) == [0, 1, 2, 3, 4]


def test_queries_are_spread_over_the_clusters():
    for count, expected in ((3, [0, 1, 2]), (6, [0, 0, 1, 1, 2, 2]), (11, [0] * 4 + [1] * 4 + [2] * 3)):
        chosen = choose_queries(CLUSTERS, count, np.random.default_rng(0))
        assert CLUSTERS[chosen].tolist() == expected
        assert len(set(chosen.tolist())) == count
    assert len(choose_queries(CLUSTERS, 99, np.random.default_rng(0))) == 30
    seeds = [choose_queries(CLUSTERS, 3, np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_gallery_shows_the_nearest_cells_of_each_embedding(run, monkeypatch):
    shown = []
    monkeypatch.setattr(slide_embeddings, "draw_neighbours", lambda *given: shown.append(given))
    slide_embeddings.draw_neighbours_of(SlideFiles(run, "toy"), seed=0)
    hoods, row_names, stains, _ = shown[0]
    assert row_names == ["image and genes", "image alone"]
    crops = open_crops(run / "results/crop/toy/crops")
    place = {cell_id: row for row, cell_id in enumerate(crops.index["cell_id"])}
    queries = np.array([place[hood.query.cell_id] for hood in hoods])
    by_image = nearest_cells(open_embeddings(run / "results/embed/toy/embeddings").vectors["image"], queries, 5)[0]
    for hood, query, expected in zip(hoods, queries, by_image, strict=True):
        mate = query ^ 1 if query | 1 < len(place) else None
        assert mate in (None, place[hood.neighbours[0][0].cell_id])  # planted: 0-1, 2-3, ...
        assert [place[cell.cell_id] for cell in hood.neighbours[1]] == expected.tolist()
        mask = crops.mask(query)
        np.testing.assert_array_equal(hood.query.context[:, mask], crops.frame(query)[: len(stains), mask])


def test_distances_for_people():
    assert [distance_text(um) for um in (0, 34.4, 156, 995, 12_345)] == ["0 µm", "34 µm", "160 µm", "1.0 mm", "12.3 mm"]


# --- colours ---


def test_colours_of_clusters_are_different_until_they_run_out():
    assert len(set(cluster_colours(np.arange(24)))) == 24
    assert cluster_colours(np.array([3, 24, 99])).tolist() == [GROUP_COLOURS[3], GREY, GREY]
    entries = cluster_legend(np.array([0, 24, 30, 30, 1, 1]))
    assert entries == [(GROUP_COLOURS[0], "0", 1), (GROUP_COLOURS[1], "1", 2), (GREY, "24–30", 3)]
    assert cluster_legend(np.array([24]))[-1] == (GREY, "24", 1)


def test_page_keeps_the_colours_of_clusters_and_white():
    x = np.tile(np.arange(24) * 4.0, 20)
    y = np.repeat(np.arange(20) * 4.0, 24)
    clusters = np.tile(np.arange(24), 20)
    picture = draw_cluster_map(x, y, clusters, (96, 80))
    data = inline_image(picture, 1).source.partition("base64,")[2]
    stored = Picture("", "", "", base64.b64decode(data))
    for hexadecimal in (*GROUP_COLOURS, "#FFFFFF"):
        rows, columns = places_of(pixels(picture), hexadecimal)
        assert np.abs(pixels(stored)[rows, columns] - colour_of(hexadecimal)).max() <= 8


def test_rare_labels_share_a_name():
    labels = np.array(["b", "a", "a", "c", UNLABELLED, "d", "b", "a"])
    shown, names = group_rare_labels(labels, most=3)
    assert names == ["a", "b", OTHER, UNLABELLED]
    assert shown.tolist() == ["b", "a", "a", OTHER, UNLABELLED, OTHER, "b", "a"]
    assert group_rare_labels(labels, most=4)[1] == ["a", "b", "c", "d", UNLABELLED]
    colours = label_colours(names)
    assert colours["a"] != colours["b"]
    assert colours[OTHER] == colours[UNLABELLED]


# --- pictures, in pixels ---


def test_cluster_map_has_y_downwards_and_true_proportions():
    x, y = np.array([100.0, 300]), np.array([20.0, 180])
    image = pixels(draw_cluster_map(x, y, np.array([0, 1]), (400, 200)))
    axes_px = embedding_figures.WIDE_MAP_IN * embedding_figures.plots.DPI  # of 400 µm
    centre = []
    for cluster in (0, 1):
        rows, columns = places_of(image[:, : int(axes_px)], GROUP_COLOURS[cluster])
        centre.append((columns.mean(), rows.mean()))
    (x0, y0), (x1, y1) = centre
    assert x0 < x1
    assert y0 < y1  # small y above
    assert (x1 - x0) / axes_px == pytest.approx(200 / 400, abs=0.01)
    assert (y1 - y0) / axes_px == pytest.approx(160 / 400, abs=0.01)


def test_each_cluster_has_its_own_small_map():
    generator = np.random.default_rng(0)
    x, y = generator.uniform(0, 100, 30), np.where(CLUSTERS == 0, 10.0, 90.0)
    picture = draw_clusters_apart(x, y, CLUSTERS, (100, 100))
    image = pixels(picture)
    rows, columns = places_of(image, GROUP_COLOURS[0])
    assert columns.max() < image.shape[1] / 3  # the first of three
    assert rows.max() < image.shape[0] / 2
    assert places_of(image, GROUP_COLOURS[1])[0].min() > image.shape[0] / 2
    many = draw_clusters_apart(np.zeros(40), np.zeros(40), np.arange(40), (100, 100))
    assert "4 smallest clusters are left out" in many.caption


def test_umap_is_coloured_by_cluster_and_counts():
    points = np.array([[0.0, 0]] * 15 + [[9.0, 9]] * 15)
    clusters = np.repeat([0, 1], 15)
    shown = CellMap(np.arange(30), {"fused": points, "image": points[:10]})
    picture = draw_umap(shown, clusters, np.linspace(1, 500, 30), 500)
    assert "30 of 500 cells" in picture.caption
    image = pixels(picture)[: int(4.6 * 110)]  # above the legend
    assert places_of(image, GROUP_COLOURS[0])[0].mean() > places_of(image, GROUP_COLOURS[1])[0].mean()
    assert draw_umap(shown, clusters, None, 30).png != picture.png
    assert "All 30 cells" in draw_umap(shown, clusters, None, 30).caption


def test_labels_are_drawn_with_their_own_colours():
    points = np.random.default_rng(0).normal(size=(30, 2))
    values = np.where(CLUSTERS == 0, "T cell", UNLABELLED)
    one = draw_label_maps(points, {"type": (values, ["T cell", UNLABELLED])})
    two = draw_label_maps(points, {"type": (values, ["T cell", UNLABELLED]), "b": (values, ["T cell", UNLABELLED])})
    assert len(places_of(pixels(one), GROUP_COLOURS[0])[0]) > 100
    assert pixels(two).shape[1] == pytest.approx(2 * pixels(one).shape[1], abs=2)


def test_hidden_pixels_are_those_of_the_cell_without_any_stain():
    original = np.zeros((1, 2, 4, 6), np.uint8)
    original[0, :, 1:3, 1:5] = [[[9]], [[0]]]  # the second stain is empty
    masked = original.copy()
    masked[0, :, :, 3:] = 0
    expected = np.zeros((4, 6), bool)
    expected[1:3, 3:5] = True
    np.testing.assert_array_equal(hidden_pixels(original, masked)[0], expected)


def test_cells_are_cut_out_at_one_scale():
    original = np.zeros((2, 1, 128, 128), np.uint8)
    original[0, 0, 50:70, 60:66] = 1
    original[1, 0, 30:64, 60:66] = 1
    assert common_window(original) == slice(27, 101)  # 3 px around the cell that reaches farthest
    assert common_window(original * 0) == slice(0, 128)
    original[0, 0, 0, 0] = 1
    assert common_window(original) == slice(0, 128)


def test_reconstructions_show_the_hidden_part_in_grey_and_no_absent_stain():
    original = np.zeros((1, 2, 128, 128), np.uint8)
    original[0, 0, 32:96, 32:96] = 255
    masked = original.copy()
    masked[0, :, 32:64] = 0
    drawn = original.copy()
    drawn[0, 1] = 255  # a stain that the slide lacks, made up by the model
    picture = draw_reconstructions(Reconstructions(["a"], original, masked, drawn, ("DAPI", "CD3")), 0.2125)
    assert "(50 % of the cells' area)" in picture.caption
    image = pixels(picture)
    side = round(1.45 * 110)
    column = image[:, round(0.3 * 110) + side // 2]
    top = len(image) - 3 * side
    middles = [column[top + row * side + int(part * side)].tolist() for row in range(3) for part in (0.3, 0.7)]
    white, grey = [255] * 3, [74] * 3
    assert middles == [white, white, grey, white, white, white]


def test_losses_have_a_panel_each_where_there_are_any():
    everything, cells = (draw_losses(history(phases)) for phases in (PHASES, {"cell": LOSSES[:3]}))
    assert pixels(everything).shape[0] > pixels(cells).shape[0]
    assert len(places_of(pixels(everything), "#E69F00")[0]) > 50  # tiles alone
    assert len(places_of(pixels(cells), "#E69F00")[0]) == 0


def test_validation_is_dashed():
    table = history({"cell": ("image_cell",)})
    lines = {}
    for split in ("train", "val"):
        alone = table[table["split"] == split].assign(image_cell=[1.0, 2.0], total=[1.0, 2.0])
        lines[split] = len(places_of(pixels(draw_losses(alone)), "#0072B2")[0])
    assert lines["val"] < 0.9 * lines["train"]


# --- words ---


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"image": "", "genes": ""}, FROM_SCRATCH),
        ({}, FROM_SCRATCH),
        ({"image": PUBLIC, "genes": ""}, f"image encoder: {PUBLIC}; gene encoder: from scratch"),
    ],
)
def test_origin_of_the_weights(weights, text):
    assert describe_origin(weights) == text


def test_slide_facts_name_what_is_shared_and_what_is_missing():
    facts = dict(describe_embedding(embed_record(6830)))
    assert facts["Embedded"] == "6,830 cells, 2 niches, 1 tissue windows; 8 numbers each"
    assert facts["Genes the model used"] == "4 of the 5 on the slide's panel; the model knows 1,300"
    assert facts["Stains the model used"] == "DAPI, 18S"
    assert facts["Stains the slide lacks"].startswith("CD3 ")
    assert facts["Stains not used"].startswith("Ki67 ")
    assert "training slides: s1, s2" in facts["By the model"]
    own = dict(describe_embedding(embed_record(5, applied=False, missing_stains=[], ignored_stains=[])))
    assert "trained on this slide" in own["By the model"]
    assert not {"Stains the slide lacks", "Stains not used"} & set(own)
    assert describe_embedding({}) == []


def test_model_facts_leave_out_what_is_not_known():
    assert dict(describe_model({"seed": 0, "slides": ["a", "b"]})) == {
        "Starting weights": FROM_SCRATCH, "Trained on": "a, b", "Seed": "0",
    }  # fmt: skip


def test_section_of_a_model_from_elsewhere(tmp_path):
    section = make_model_section(tmp_path, [{}, embed_record(3)])
    assert not section.is_own
    assert dict(section.facts) == {
        "Checkpoint": "models/one", "Trained on": "s1, s2", "Starting weights": FROM_SCRATCH,
    }  # fmt: skip


def test_damaged_model_is_a_problem_not_a_crash(tmp_path):
    write_model(tmp_path)
    (tmp_path / CHECKPOINT).write_text("{", encoding="utf-8")
    section = make_model_section(tmp_path, [])
    assert "model.json" in section.problems[0]
    assert [picture.name for picture in section.pictures] == ["losses"]
    (tmp_path / HISTORY).unlink()
    assert "The losses could not be drawn" in make_model_section(tmp_path, []).problems[1]


# --- status ---


def test_training_that_failed_holds_up_every_slide(tmp_path):
    stages = ["pretrain", "embed"]
    assert status.find_status(tmp_path, "a", stages) == Status("not run", "embed", "embed did not start")
    (tmp_path / "logs/pretrain").mkdir(parents=True)
    (tmp_path / "logs/pretrain/run.log").write_text("spatia pretrain: error: no GPU\n", encoding="utf-8")
    assert status.find_status(tmp_path, "a", stages) == Status("failed", "pretrain", "spatia pretrain: error: no GPU")
    (tmp_path / "results/pretrain/checkpoint").mkdir(parents=True)
    fail(tmp_path, "a", "embed", "spatia embed: error: mouse\n")
    assert status.find_status(tmp_path, "a", stages) == Status("failed", "embed", "spatia embed: error: mouse")


def test_slide_embedded_with_a_model_from_elsewhere_is_complete(tmp_path):
    (tmp_path / "results/embed/a/embeddings").mkdir(parents=True)
    (tmp_path / "logs/pretrain").mkdir(parents=True)
    (tmp_path / "logs/pretrain/run.log").touch()  # of an earlier training
    assert status.find_status(tmp_path, "a", ["pretrain", "embed"]) == Status("ok")
