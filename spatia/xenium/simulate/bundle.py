"""A simulated slide -> a Xenium bundle, in the byte formats of any layout from 1.0 to 4.0.

The same slide gives the same bytes, whenever and wherever it is written.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from spatia import io, keys
from spatia.xenium.simulate import documents, tables
from spatia.xenium.simulate.bundle_rows import BundleRows, order_rows
from spatia.xenium.simulate.cells_zarr import write_cells_zarr
from spatia.xenium.simulate.layout_facts import FACTS, LayoutFacts
from spatia.xenium.simulate.matrix import write_matrix
from spatia.xenium.simulate.ome_tiff import ImageSet, ome_xml, write_pyramid
from spatia.xenium.simulate.outlines import Outlines, outline_labels
from spatia.xenium.simulate.slide import SimulatedSlide

SHUFFLABLE = ("cells", "boundaries", "matrix")
_TILE_PX = 1024
_BY_BOUNDARY_STAIN, _BY_EXPANSION = 0, 2  # rows of cells_zarr.METHODS


def write_bundle(
    slide: SimulatedSlide, folder: Path, layout: str, *, tile_px: int = _TILE_PX, shuffled: Collection[str] = ()
) -> None:
    """Write ``slide`` as the Xenium bundle ``folder``, which appears whole or not at all.

    Parameters
    ----------
    layout : one of ``slide.LAYOUTS``
    tile_px : edge of the TIFF tiles, a multiple of 16
    shuffled : files whose rows are put out of order, of ``SHUFFLABLE``: instruments sort every file by cell id, but
        who joins by row order instead of by id has a bug that sorted files hide

    Raises
    ------
    ValueError
        If the layout cannot hold the slide's stains or features.
    """
    facts = FACTS.get(layout)
    if facts is None:
        raise ValueError(f"layout should be one of {', '.join(FACTS)}, found {layout!r}")
    _check_fits(slide, layout, facts)
    if unknown := set(shuffled) - set(SHUFFLABLE):
        raise ValueError(f"shuffled should name {', '.join(SHUFFLABLE)}, found {', '.join(sorted(unknown))}")
    with io.whole_dir(folder) as partial:
        rows = order_rows(slide, layout, facts)
        images = _write_images(partial, slide, facts, tile_px)
        cells = _write_cells(partial, slide, rows, facts, shuffled)
        if slide.transcripts is not None:
            _write_transcripts(partial, slide, rows, facts)
        _write_documents(partial, slide, cells, images, facts)


def image_name(slide_name: str) -> str:
    """Return a slide's name as part of a file name."""
    return "".join("_" if letter in "/\\\0" else letter for letter in slide_name)


def focus_files(stains: tuple[str, ...], facts: LayoutFacts) -> tuple[str, ...]:
    """Return the focus images' paths inside the bundle, in the order of the stains."""
    if facts.focus == "single":
        return ("morphology_focus.ome.tif",)
    if facts.focus == "numbered":
        return tuple(f"morphology_focus/morphology_focus_{index:04d}.ome.tif" for index in range(len(stains)))
    names = (stain.lower().replace("/", "_").replace(" ", "_") for stain in stains)
    return tuple(f"morphology_focus/ch{index:04d}_{name}.ome.tif" for index, name in enumerate(names))


def _check_fits(slide: SimulatedSlide, layout: str, facts: LayoutFacts) -> None:
    if slide.stains[0] != keys.DAPI:
        raise ValueError(f"the first stain should be {keys.DAPI}, found {slide.stains[0]}")
    if facts.has_one_stain and len(slide.stains) > 1:
        raise ValueError(f"layout {layout} holds {keys.DAPI} alone, found {len(slide.stains)} stains")
    unknown = sorted(set(slide.features["type"]) - set(facts.feature_types))
    if unknown:
        raise ValueError(f"layout {layout} has no features of type {unknown[0]}, only {', '.join(facts.feature_types)}")


def _write_images(folder: Path, slide: SimulatedSlide, facts: LayoutFacts, tile_px: int) -> dict[str, str]:
    """Write all images; return what ``experiment.xenium`` says of them."""
    paths: dict[str, str] = {}
    if slide.stack is not None:
        _write_stack(folder / "morphology.ome.tif", slide, tile_px)
        paths["morphology_filepath"] = "morphology.ome.tif"
    if facts.has_one_stain:
        mip = slide.focus[0] if slide.stack is None else slide.stack.max(axis=0)
        _write_channels(folder, slide, mip[None], ("morphology_mip.ome.tif",), tile_px)
        paths["morphology_mip_filepath"] = "morphology_mip.ome.tif"
    files = focus_files(slide.stains, facts)
    _write_channels(folder, slide, slide.focus, files, tile_px)
    paths["morphology_focus_filepath"] = files[0]
    if slide.he is not None:
        _write_he(folder, slide, tile_px)
    return paths


def _write_channels(
    folder: Path, slide: SimulatedSlide, planes: np.ndarray, files: tuple[str, ...], tile_px: int
) -> None:
    names = tuple(Path(file).name for file in files)
    height, width = planes.shape[-2:]
    image = ImageSet(
        f"{slide.name}/{slide.seed}/{files[0]}", slide.stains[: len(files)], names, (height, width), slide.pixel_size_um
    )
    for file, name, plane in zip(files, names, planes, strict=True):
        (folder / file).parent.mkdir(exist_ok=True)
        write_pyramid(folder / file, plane, ome_xml(image, name), tile_px)


def _write_stack(path: Path, slide: SimulatedSlide, tile_px: int) -> None:
    assert slide.stack is not None
    depth, height, width = slide.stack.shape
    image = ImageSet(
        f"{slide.name}/{slide.seed}/{path.name}",
        (keys.DAPI,),
        (path.name,),
        (height, width),
        slide.pixel_size_um,
        n_planes=depth,
    )
    write_pyramid(path, slide.stack, ome_xml(image, path.name), tile_px)


def _write_he(folder: Path, slide: SimulatedSlide, tile_px: int) -> None:
    """Write the H&E image, as it comes from the slide scanner, and the matrix that aligns it to the morphology."""
    assert slide.he is not None
    assert slide.he_to_morphology is not None
    path = folder / f"{image_name(slide.name)}_he_image.ome.tif"
    scale = float(np.sqrt(abs(np.linalg.det(slide.he_to_morphology[:2, :2]))))
    image = ImageSet(
        f"{slide.name}/{slide.seed}/he",
        ("H&E",),
        (path.name,),
        (slide.he.shape[0], slide.he.shape[1]),
        slide.pixel_size_um * scale,
        samples=3,
        type="uint8",
    )
    write_pyramid(path, slide.he, ome_xml(image, path.name), tile_px)
    lines = [",".join(repr(float(value)) for value in row) for row in slide.he_to_morphology]
    alignment = folder / f"{image_name(slide.name)}_he_imagealignment.csv"
    alignment.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_cells(
    folder: Path, slide: SimulatedSlide, rows: BundleRows, facts: LayoutFacts, shuffled: Collection[str]
) -> pd.DataFrame:
    """Write everything about cells; return ``cells.parquet``."""
    method = _BY_EXPANSION if len(slide.stains) == 1 else _BY_BOUNDARY_STAIN
    owners, outlines = _outline(rows, facts)
    summary = tables.summarise_cells(slide, rows)
    counts = slide.counts.tocsr()[rows.label - 1]
    zarr_summary = summary if facts.has_nucleus_numbers else summary.drop(columns="nucleus_count")
    write_cells_zarr(folder / "cells.zarr.zip", rows, zarr_summary, outlines, method, slide.pixel_size_um, facts)

    cells = tables.cell_table(summary, counts, slide.features, rows, method, facts)
    rng = np.random.default_rng([slide.seed, 2000])
    _write_twice(folder, "cells", cells.iloc[_order(len(cells), "cells" in shuffled, rng)])
    for name, owner, outline in zip(("nucleus", "cell"), owners, outlines, strict=True):
        table = tables.boundary_table(outline, owner, rows, slide.pixel_size_um, facts)
        if "boundaries" in shuffled:
            table = _shuffle_outlines(table, outline, rng)
        _write_twice(folder, f"{name}_boundaries", table)
    order = _order(len(cells), "matrix" in shuffled, rng)
    ids = rows.ids[order]
    write_matrix(folder / "cell_feature_matrix.h5", counts[order], slide.features, ids, slide.species, facts)
    _write_clusters(folder, tables.cluster_table(counts, rows.ids))
    return cells


def _outline(rows: BundleRows, facts: LayoutFacts) -> tuple[tuple[np.ndarray, np.ndarray], tuple[Outlines, Outlines]]:
    """Return the owners (rows of cells) and outlines of nuclei and cells."""
    every = np.arange(len(rows.ids))
    nuclei = rows.nucleus_row if facts.has_nucleus_numbers else every
    return (nuclei, every), (
        outline_labels(rows.nucleus_mask, len(nuclei), facts.max_vertices),
        outline_labels(rows.cell_mask, len(every), facts.max_vertices),
    )


def _order(n: int, is_shuffled: bool, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(n) if is_shuffled else np.arange(n)


def _shuffle_outlines(table: pd.DataFrame, outlines: Outlines, rng: np.random.Generator) -> pd.DataFrame:
    """Put whole outlines out of order; the vertices of one stay together, as every reader needs."""
    place = rng.permutation(len(outlines.counts))
    return table.iloc[np.argsort(outlines.repeated(place), kind="stable")].reset_index(drop=True)


def _write_twice(folder: Path, name: str, table: pd.DataFrame) -> None:
    for ending in ("parquet", "csv.gz"):
        tables.save_table(folder / f"{name}.{ending}", table)


def _write_clusters(folder: Path, clusters: pd.DataFrame) -> None:
    path = folder / "analysis" / "clustering" / "gene_expression_graphclust" / "clusters.csv"
    path.parent.mkdir(parents=True)
    clusters.to_csv(path, index=False, lineterminator="\n")


def _write_transcripts(folder: Path, slide: SimulatedSlide, rows: BundleRows, facts: LayoutFacts) -> None:
    table = tables.transcript_table(slide, rows, facts)
    tables.save_table(folder / "transcripts.parquet", table)
    if facts.has_transcripts_csv:
        tables.save_table(folder / "transcripts.csv.gz", table)


def _write_documents(
    folder: Path, slide: SimulatedSlide, cells: pd.DataFrame, images: dict[str, str], facts: LayoutFacts
) -> None:
    io.write_json(folder / "experiment.xenium", documents.experiment(slide, cells, images, facts))
    io.write_json(folder / "gene_panel.json", documents.gene_panel(slide.features, slide.species, slide.tissue))
    documents.write_metrics(folder / "metrics_summary.csv", documents.measure(slide, cells))
