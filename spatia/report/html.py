"""The page: what is known about a run, and pictures, into one self-contained HTML file."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from spatia.report.cohort import SHEET_COLUMNS, SlideFacts, first_focus, worst_saturation
from spatia.report.model_section import ModelSection
from spatia.report.numbers import format_number, format_percent
from spatia.report.plots import Picture
from spatia.report.slide_transitions import SlideTransitions
from spatia.report.status import FAILED, OK
from spatia.report.transition_section import TransitionSection

_TEMPLATES = Path(__file__).parent / "templates"
# slides in the run -> widest picture in pixels, JPEG quality: a page of 100 slides must still open
_SIZES = ((4, 1320, 85), (12, 1000, 80), (40, 720, 74))
_SMALLEST = (500, 66)
_QC_NUMBERS = ("n_cells_in", "n_cells_out", "median_counts", "median_genes", "control_rate", "n_clipped")
N_OPEN = 3  # so many slides are unfolded when the page opens


@dataclass(frozen=True)
class SlidePage:
    """One slide's section.

    Attributes
    ----------
    facts : (name, value) pairs from ``ingest.json``
    notes : what was missing in the bundle and what was done about it
    removed : (reason, meaning, cells)
    transitions : tables and figures of states, pairs and generated cells
    problems : figures that could not be drawn, and why
    """

    slide: SlideFacts
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    removed: Sequence[tuple[str, str, int]] = ()
    pictures: Sequence[Picture] = ()
    transitions: SlideTransitions = field(default_factory=SlideTransitions)
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class RunPage:
    """What the page says about the run as a whole."""

    title: str
    written: str
    versions: Sequence[tuple[str, str]]
    provenance: dict[str, Any] | None
    rules: pd.DataFrame
    runtime: Picture | None = None
    slides: Sequence[SlidePage] = field(default_factory=tuple)
    model: ModelSection | None = None
    transitions: TransitionSection | None = None


def render_page(run: RunPage) -> str:
    """Return the report as HTML; it refers to nothing outside itself."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["percent"] = format_percent
    environment.globals["inline"] = lambda picture: inline_image(picture, len(run.slides))
    rank = {FAILED: 0, OK: 2}
    ordered = sorted(run.slides, key=lambda page: rank.get(page.slide.status.state, 1))
    unfinished = [page for page in ordered if page.slide.status.state != OK]
    reasons = _reasons(run.slides)
    return environment.get_template("report.html.j2").render(
        run=run,
        slides=ordered,
        anchors={page.slide.name: f"slide-{i}" for i, page in enumerate(run.slides)},
        unfinished=unfinished,
        n_failed=sum(page.slide.status.state == FAILED for page in run.slides),
        totals=_totals(run.slides),
        cohort=[_cohort_cells(page.slide, reasons) for page in run.slides],
        reasons=reasons,
        rules=run.rules.to_dict("records"),
        provenance=None if run.provenance is None else json.dumps(run.provenance, indent=2, ensure_ascii=False),
        n_open=N_OPEN,
    )


@dataclass(frozen=True)
class InlineImage:
    """An image inside the page: its ``data:`` address and its size in pixels."""

    source: str
    width: int
    height: int


def inline_image(picture: Picture, n_slides: int) -> InlineImage:
    """Return a picture for the page, smaller the more slides share it."""
    width, quality = next(((w, q) for limit, w, q in _SIZES if n_slides <= limit), _SMALLEST)
    image = Image.open(io.BytesIO(picture.png)).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if picture.is_photo:
        # no `optimize`: pillow then needs the whole file in one buffer, and fails where its guess is too small
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        # plots have few colours; a palette makes them a third of the size. The octree keeps colours that are rare but
        # mean something (a small cluster's), which median cut merges
        image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            buffer, "PNG", optimize=True
        )
    kind = "jpeg" if picture.is_photo else "png"
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return InlineImage(source, image.width, image.height)


def _totals(slides: Sequence[SlidePage]) -> dict[str, int]:
    measured = [page.slide.qc for page in slides if page.slide.qc]
    return {
        "slides": len(slides),
        "ok": sum(page.slide.status.state == OK for page in slides),
        "cells_in": sum(qc["n_cells_in"] for qc in measured),
        "cells_out": sum(qc["n_cells_out"] for qc in measured),
    }


def _reasons(slides: Sequence[SlidePage]) -> list[str]:
    """Return the reasons that removed a cell anywhere, in the filters' order."""
    counts: dict[str, int] = {}
    for page in slides:
        for reason, count in ((page.slide.qc or {}).get("removed") or {}).items():
            counts[reason] = counts.get(reason, 0) + count
    return [reason for reason, count in counts.items() if count]


def _cohort_cells(slide: SlideFacts, reasons: Sequence[str]) -> dict[str, Any]:
    qc, record = slide.qc or {}, slide.record or {}
    removed = qc.get("removed") or {}
    return {
        "slide": slide,
        "sheet": {name: slide.row.get(name, "") for name in SHEET_COLUMNS},
        "xoa": record.get("xoa_version") or "—",
        "stains": record.get("stains") or [],
        "qc": {name: qc.get(name) for name in _QC_NUMBERS},
        "removed": {reason: removed.get(reason) for reason in reasons},
        "area": (qc.get("cell_area_um2") or {}).get("p50"),
        "fraction": (qc.get("nuclear_fraction") or {}).get("p50"),
        "niche": (qc.get("cells_per_niche") or {}).get("p50"),
        "saturated": worst_saturation(qc),
        "focus": first_focus(qc),
    }
