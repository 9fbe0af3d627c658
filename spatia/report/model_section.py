"""The model's section of the report, once for all slides: what it is, where it comes from, how training went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatia.errors import SpatiaError
from spatia.io import read_json, read_table
from spatia.report.loss_figures import draw_losses
from spatia.report.model_facts import describe_checkpoint, describe_model, describe_parameters
from spatia.report.plots import Picture

CHECKPOINT = "results/pretrain/checkpoint/model.json"
HISTORY = "results/pretrain/history.tsv"


@dataclass(frozen=True)
class ModelSection:
    """What the page says about the model.

    Attributes
    ----------
    is_own : trained in this run; otherwise a checkpoint from elsewhere was applied
    facts : (name, value) pairs
    parameters : (module, number, share), the sum last
    problems : what could not be read, and why
    """

    is_own: bool
    facts: Sequence[tuple[str, str]]
    parameters: Sequence[tuple[str, int, float]] = ()
    pictures: Sequence[Picture] = ()
    problems: Sequence[str] = ()


def make_model_section(run: Path, embed_records: Iterable[Mapping[str, Any]]) -> ModelSection | None:
    """Return the section, or None for a run without a model.

    Parameters
    ----------
    run : the run's folder
    embed_records : contents of ``embed.json`` of the slides that have one
    """
    if (run / CHECKPOINT).exists() or (run / HISTORY).exists():
        return _own_model(run)
    checkpoint = next((record["checkpoint"] for record in embed_records if record.get("checkpoint")), None)
    return None if checkpoint is None else ModelSection(False, describe_checkpoint(checkpoint))


def _own_model(run: Path) -> ModelSection:
    record: dict[str, Any] = {}
    pictures: list[Picture] = []
    problems: list[str] = []
    try:
        record = read_json(run / CHECKPOINT)
    except (SpatiaError, OSError) as problem:
        problems.append(f"The model could not be described: {problem}")
    try:
        pictures = [draw_losses(read_table(run / HISTORY))]
    except (SpatiaError, OSError, ValueError, KeyError) as problem:
        problems.append(f"The losses could not be drawn: {problem}")
    parameters = describe_parameters(record["n_parameters"]) if record.get("n_parameters") else []
    return ModelSection(True, describe_model(record) if record else [], parameters, pictures, problems)
