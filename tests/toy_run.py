"""A run's folder with toy slides that went through the real stages, for the tests of report, exports and provenance."""

from __future__ import annotations

from pathlib import Path

from toy import toy_bundle

from spatia.cli import main

COLUMNS = ("slide", "bundle", "donor", "tissue", "disease", "species", "split")
FAILED = 'bad <i>"one"'  # as nasty as a folder's name can be
REASON = 'spatia ingest: error: <script>alert("x")</script> & more'


def write_sheet(run: Path, rows: list[dict[str, str]]) -> Path:
    """Write the sheet of slides of a run and return it."""
    sheet = run / "config" / "slides.tsv"
    sheet.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(COLUMNS), *("\t".join(row.get(column, "") for column in COLUMNS) for row in rows)]
    sheet.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sheet


def run_stages(run: Path, slide: str, layout: str = "3.0", roi_um: str = "", **options: object) -> None:
    """Take a toy bundle through ingest, qc, crop and tile."""
    bundle = toy_bundle(run / "bundles" / slide, layout, name=slide, **options)  # type: ignore[arg-type]
    params = run / "config" / "stages"
    params.mkdir(parents=True, exist_ok=True)
    for stage in ("ingest", "qc", "crop", "tile"):
        (params / f"{stage}.yaml").touch()
    ingest, qc = run / "results/ingest" / slide, run / "results/qc" / slide
    zarr, cells, histograms = ingest / "slide.zarr", qc / "cells.parquet", qc / "histograms.npz"
    _spatia("ingest", bundle, slide=slide, species="human", roi_um=roi_um, params=params / "ingest.yaml",
            zarr=zarr, record=ingest / "ingest.json")  # fmt: skip
    _spatia("qc", slide=slide, zarr=zarr, params=params / "qc.yaml", cells=cells, summary=qc / "qc.json",
            histograms=histograms)  # fmt: skip
    _spatia("crop", slide=slide, zarr=zarr, cells=cells, histograms=histograms, params=params / "crop.yaml",
            out=run / "results/crop" / slide / "crops")  # fmt: skip
    _spatia("tile", slide=slide, zarr=zarr, cells=cells, params=params / "tile.yaml",
            out=run / "results/tile" / slide / "tiles")  # fmt: skip


def fail(run: Path, slide: str, stage: str, text: str) -> None:
    """Leave the log of a stage that failed."""
    log = run / "logs" / stage / f"{slide}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text, encoding="utf-8")


def _spatia(verb: str, *positional: object, **options: object) -> None:
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value != ""]
    assert main([verb, *map(str, positional), *named]) == 0
