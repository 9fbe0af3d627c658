"""A slide's facts in words: what ``ingest.json`` and ``qc.json`` say, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spatia.cells.filters import REASONS


def describe_record(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) pairs of what is known about the bundle."""
    pairs = [
        ("Instrument software", record.get("xoa_version")),
        ("Bundle layout", record.get("layout")),
        ("Stains", _stain_text(record)),
        ("H&E", _he_text(record.get("he"))),
        ("Panel", _panel_text(record)),
        ("Size", _size_text(record)),
        ("Part of the bundle", _part_text(record)),
        ("Masks", _mask_text(record)),
    ]
    return [(name, str(value)) for name, value in pairs if value]


def notes_of(record: Mapping[str, Any]) -> list[str]:
    """Return what was missing in the bundle and what was done about it, one line each."""
    missing = [f"{gap['part']}: {gap['consequence']}" for gap in record.get("missing") or []]
    return [*missing, *(str(note) for note in record.get("notes") or [])]


def describe_removed(qc: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return (reason, meaning, cells) for every filter."""
    return [(reason, REASONS.get(reason, ""), count) for reason, count in (qc.get("removed") or {}).items()]


def _stain_text(record: Mapping[str, Any]) -> str:
    made = record.get("projection") or {}
    return ", ".join(f"{stain} ({made[stain]})" if stain in made else stain for stain in record.get("stains") or [])


def _he_text(he: Mapping[str, Any] | None) -> str:
    if not he:
        return ""
    coverage = he.get("coverage")
    return str(he.get("file", "")) + ("" if coverage is None else f", covers {100 * coverage:.3g} % of the slide")


def _panel_text(record: Mapping[str, Any]) -> str:
    name, genes = record.get("panel"), record.get("n_genes")
    return ", ".join([*([str(name)] if name else []), *([f"{genes:,} genes"] if genes is not None else [])])


def _mask_text(record: Mapping[str, Any]) -> str:
    if not record.get("labels"):
        return ""
    nuclei = record.get("nucleus_labels")
    agreement = record.get("mask_outline_agreement")
    parts = [f"cells from {record['labels']}", f"nuclei from {nuclei}" if nuclei else "no nuclei"]
    if agreement is not None:
        parts.append(f"{100 * agreement:.4g} % of the checked masks lie on their outlines")
    return ", ".join(parts)


def _size_text(record: Mapping[str, Any]) -> str:
    shape, step = record.get("shape_px"), record.get("pixel_size_um")
    if not shape or not step:
        return ""
    height, width = shape
    return (
        f"{width:,} × {height:,} px = {width * step / 1000:.2f} × {height * step / 1000:.2f} mm, {step:g} µm per pixel"
    )


def _part_text(record: Mapping[str, Any]) -> str:
    if not record.get("roi_um"):
        return ""
    x0, y0, x1, y1 = record["roi_um"]
    return f"x {x0:g} to {x1:g} µm, y {y0:g} to {y1:g} µm; all pictures count from that corner"
