"""The section on transitions, once for all slides: the generator, how its training went, how its cells score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from spatia.errors import SpatiaError
from spatia.io import read_json, read_table
from spatia.report.generation_table import make_legend, make_tables, read_scores
from spatia.report.generator_facts import describe_applied, describe_generator, describe_transitions
from spatia.report.loss_figures import FLOW_CURVES, draw_losses
from spatia.report.plots import Picture
from spatia.report.slide_files import SlideFiles
from spatia.report.tables import Table

GENERATOR = "results/flow/checkpoint/generator.json"
HISTORY = "results/flow/history.tsv"
SCORES = "results/tables/generation.csv"
T = TypeVar("T")
_UNREADABLE = (SpatiaError, OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class TransitionSection:
    """What the page says about transitions as a whole.

    Attributes
    ----------
    is_own : the generator was trained in this run; otherwise one from elsewhere was applied
    facts : (name, value) pairs of the generator
    transitions : those it knows
    legend : (term, explanation) of the scores
    scores : a table per scored slide
    problems : what could not be read, and why
    """

    is_own: bool
    facts: Sequence[tuple[str, str]] = ()
    transitions: Table | None = None
    pictures: Sequence[Picture] = ()
    legend: Sequence[tuple[str, str]] = ()
    scores: Sequence[Table] = ()
    problems: Sequence[str] = ()


def make_transition_section(run: Path, slides: Sequence[str]) -> TransitionSection | None:
    """Return the section, or None for a run that has neither a generator nor scores.

    Parameters
    ----------
    slides : names; where the generator is from elsewhere, what ``generate.json`` of the first says about it is shown
    """
    generator, history, scores = (run / path for path in (GENERATOR, HISTORY, SCORES))
    records = [SlideFiles(run, slide).generated / "generate.json" for slide in slides]
    applied = next((path for path in records if path.exists()), None)
    if not any(path.exists() for path in (generator, history, scores)) and applied is None:
        return None
    problems: list[str] = []
    no_facts: tuple[list[tuple[str, str]], Table | None] = ([], None)
    no_scores: tuple[list[tuple[str, str]], list[Table]] = ([], [])
    facts, transitions = _attempt(problems, "The generator could not be described", generator, _read_facts, no_facts)
    no_pictures: list[Picture] = []
    pictures = _attempt(problems, "The generator's losses could not be drawn", history, _draw_history, no_pictures)
    legend, tables = _attempt(problems, "The scores could not be shown", scores, _read_tables, no_scores)
    is_own = generator.exists() or history.exists() or applied is None
    if not is_own and applied is not None:
        facts = _attempt(problems, "The generator could not be described", applied, _read_applied, [])
    return TransitionSection(is_own, facts, transitions, pictures, legend, tables, problems)


def _attempt(problems: list[str], what: str, path: Path, make: Callable[[Path], T], otherwise: T) -> T:
    """Return what ``make`` gives, or ``otherwise`` without the file; a damaged one leaves a line in ``problems``."""
    if not path.exists():
        return otherwise
    try:
        return make(path)
    except _UNREADABLE as problem:
        problems.append(f"{what}: {' '.join(str(problem).split()) or type(problem).__name__}")
        return otherwise


def _read_facts(path: Path) -> tuple[list[tuple[str, str]], Table | None]:
    record = read_json(path)
    return describe_generator(record), describe_transitions(record)


def _read_applied(path: Path) -> list[tuple[str, str]]:
    return describe_applied(read_json(path))


def _draw_history(path: Path) -> list[Picture]:
    return [draw_losses(read_table(path), FLOW_CURVES)]


def _read_tables(path: Path) -> tuple[list[tuple[str, str]], list[Table]]:
    scores = read_scores(path)
    return make_legend(scores), make_tables(scores)
