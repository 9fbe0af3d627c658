"""The generator in words: what ``generator.json`` says, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spatia.report.tables import Row, Table, number_cell, text_cells
from spatia.transition_plan import transition_from_dict

NETWORKS = {"unet": "U-Net", "dit": "diffusion transformer"}
CONTEXTS = {
    "full": "frozen embeddings of the control: cell, niche and tissue",
    "cell": "frozen embedding of the control cell alone",
    "none": "none",
}
TARGETS = {"cell": "cells", "niche": "niche tiles around cells"}


def describe_generator(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) pairs of a generator's ``generator.json``."""
    params = record.get("params") or {}
    context = str(record.get("context", ""))
    pairs = [
        ("Preset", record.get("preset")),
        ("Generates", TARGETS.get(str(record.get("target", "")), record.get("target"))),
        ("Network", _network_text(record.get("shape") or {})),
        ("Image", _image_text(record)),
        ("Stains", _join(record.get("stains"))),
        ("Context", CONTEXTS.get(context, context)),
        ("Embeddings by", _embedding_text(record.get("embedded_by") or {}) if record.get("context_arrays") else ""),
        ("Contrast", _contrast_text(params)),
        ("Trained on", _join(record.get("slides"))),
        ("Training cells", f"{record['n_cells']:,}" if "n_cells" in record else ""),
        ("Steps", _steps_text(params)),
        ("Error of the VAE alone", _vae_text(record.get("vae_distance"))),
        ("Species", record.get("species")),
        ("Seed", record.get("seed")),
        ("Trained with spatia", record.get("spatia_version")),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "")]


def describe_applied(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) pairs of a generator that was trained elsewhere, as a slide's ``generate.json`` has them."""
    checkpoint = record.get("checkpoint") or {}
    context = str(checkpoint.get("context", ""))
    pairs = [
        ("Generator", checkpoint.get("path")),
        ("Preset", checkpoint.get("preset")),
        ("Trained on", _join(checkpoint.get("slides"))),
        ("Context", CONTEXTS.get(context, context)),
        ("Stains", _join(record.get("stains"))),
        ("Seed", checkpoint.get("seed")),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "")]


def describe_transitions(record: Mapping[str, Any]) -> Table | None:
    """Return the transitions that a generator knows; None where the record names none."""
    counts = record.get("n_pairs") or {}
    rows = []
    for tag, entry in (record.get("transitions") or {}).items():
        known = transition_from_dict(tag, entry, "generator.json")
        n_pairs = number_cell(f"{counts[tag]:,}" if tag in counts else "—")
        rows.append(Row([*text_cells(tag, known.start.name, known.end.name, known.lineage, known.task), n_pairs]))
    header = [*((name, False) for name in ("transition", "control cells", "target cells", "lineage", "task")),
              ("training pairs", True)]  # fmt: skip
    caption = "Control cells are what images are made from, target cells what they should become."
    return Table("Transitions the generator knows", caption, header, rows) if rows else None


def _network_text(shape: Mapping[str, Any]) -> str:
    network = NETWORKS.get(str(shape.get("network", "")), shape.get("network", ""))
    place = {"pixel": "on pixels", "vae": "on latents of its own VAE"}.get(str(shape.get("latent", "")), "")
    return ", ".join(part for part in (str(network), place) if part)


def _image_text(record: Mapping[str, Any]) -> str:
    side, window_um = record.get("image_px"), record.get("window_um")
    if not side or not window_um:
        return ""
    return f"{side} × {side} px = {window_um:.1f} × {window_um:.1f} µm, {window_um / side:.2f} µm per pixel"


def _embedding_text(model: Mapping[str, Any]) -> str:
    slides = _join(model.get("slides"))
    parts = [f"preset {model['preset']}" if model.get("preset") else "", f"trained on {slides}" if slides else ""]
    return ", ".join(part for part in parts if part)


def _contrast_text(params: Mapping[str, Any]) -> str:
    form = params.get("contrast")
    if form in (None, "none"):
        return "" if form is None else "none"
    return f"{form}, weight {params.get('rho')}" + (f", margin {params.get('margin')}" if form == "hinge" else "")


def _steps_text(params: Mapping[str, Any]) -> str:
    return f"{params['steps']:,} of {params['batch']} pairs" if "steps" in params and "batch" in params else ""


def _vae_text(distance: Any) -> str:
    if not isinstance(distance, Mapping):
        return ""
    return ", ".join(f"{name} {value:.3g}" for name, value in distance.items() if value is not None)


def _join(names: Sequence[str] | None) -> str:
    return ", ".join(map(str, names or []))
