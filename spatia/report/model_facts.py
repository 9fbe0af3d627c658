"""The model in words: what ``model.json`` and ``embed.json`` say, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PARTS = {"image": "image encoder", "genes": "gene encoder"}
FROM_SCRATCH = "trained from scratch"
TOTAL = "total"


def describe_model(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) pairs of a checkpoint's ``model.json``."""
    shape, genes = record.get("shape") or {}, record.get("genes") or []
    pairs = [
        ("Preset", record.get("preset")),
        ("Levels", _levels_text(record.get("levels"))),
        ("Embedding", f"{shape['embedding']} numbers per cell" if "embedding" in shape else ""),
        ("Starting weights", describe_origin(record.get("starting_weights") or {})),
        ("Trained on", _join(record.get("slides"))),
        ("Training cells", f"{record['n_cells']:,}" if "n_cells" in record else ""),
        ("Stains", _join(record.get("stains"))),
        ("Genes", f"{len(genes):,}" if genes else ""),
        ("Species", record.get("species")),
        ("Seed", record.get("seed")),
        ("Trained with spatia", record.get("spatia_version")),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "")]


def describe_parameters(n_parameters: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Return (module, parameters, share) per module, their sum last."""
    modules = {name: count for name, count in n_parameters.items() if name != TOTAL}
    total = n_parameters.get(TOTAL, sum(modules.values()))
    return [(name, count, count / max(total, 1)) for name, count in [*modules.items(), (TOTAL, total)]]


def describe_checkpoint(checkpoint: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) pairs of a checkpoint that was trained elsewhere, as ``embed.json`` remembers it."""
    pairs = [
        ("Checkpoint", checkpoint.get("path")),
        ("Trained on", _join(checkpoint.get("slides"))),
        ("Starting weights", describe_origin(checkpoint.get("starting_weights") or {})),
    ]
    return [(name, str(value)) for name, value in pairs if value]


def describe_embedding(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) pairs of a slide's ``embed.json``; none of a slide that has none."""
    if not record:
        return []
    pairs = [
        ("Embedded", _sizes_text(record)),
        ("By the model", _model_text(record)),
        ("Genes the model used", _genes_text(record)),
        ("Stains the model used", _join(record.get("shared_stains")) or "none"),
        ("Stains the slide lacks", _stains_text(record.get("missing_stains"), "known to the model, taken as absent")),
        ("Stains not used", _stains_text(record.get("ignored_stains"), "not known to the model")),
    ]
    return [(name, value) for name, value in pairs if value]


def describe_origin(starting_weights: Mapping[str, str]) -> str:
    """Return where a model's encoders come from; text that is "" means from scratch."""
    if not any(starting_weights.values()):
        return FROM_SCRATCH
    parts = [f"{PARTS.get(part, part)}: {origin or 'from scratch'}" for part, origin in starting_weights.items()]
    return "; ".join(parts)


def _model_text(record: Mapping[str, Any]) -> str:
    checkpoint = record.get("checkpoint") or {}
    seen = "applied: this slide is not among its training slides" if record.get("applied") else "trained on this slide"
    slides = _join(checkpoint.get("slides"))
    parts = [checkpoint.get("path"), seen, f"training slides: {slides}" if slides else ""]
    return "; ".join(str(part) for part in [*parts, describe_origin(checkpoint.get("starting_weights") or {})] if part)


def _sizes_text(record: Mapping[str, Any]) -> str:
    counted = (("n_cells", "cells"), ("n_niches", "niches"), ("n_tissues", "tissue windows"))
    sizes = ", ".join(f"{record[key]:,} {name}" for key, name in counted if record.get(key))
    return f"{sizes}; {record['width']} numbers each" if record.get("width") else sizes


def _genes_text(record: Mapping[str, Any]) -> str:
    shared, panel, model = (record.get(key) for key in ("shared_genes", "panel_genes", "model_genes"))
    if shared is None or panel is None or model is None:
        return ""
    return f"{shared:,} of the {panel:,} on the slide's panel; the model knows {model:,}"


def _stains_text(stains: Sequence[str] | None, meaning: str) -> str:
    return f"{_join(stains)} ({meaning})" if stains else ""


def _levels_text(levels: Any) -> str:
    known = {"cell": "cell", "niche": "cell, niche", "tissue": "cell, niche, tissue"}
    return known.get(levels, "") if isinstance(levels, str) else _join(levels)


def _join(names: Sequence[str] | None) -> str:
    return ", ".join(map(str, names or []))
