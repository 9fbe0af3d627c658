"""Tidy score files of a study -> one file of all rows, and a table: models x tasks, mean and spread over seeds."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from spatia.errors import SpatiaError
from spatia.io import read_table, whole_file, write_table

COLUMNS = ("task", "dataset", "model", "method", "metric", "value", "low", "high", "n", "seed", "note", "version")
MISSING = "—"

log = logging.getLogger("spatia.table")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia table``."""
    parser.add_argument("--scores", type=Path, nargs="+", required=True, metavar="TSV", help="what probe wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="TSV", help="all rows in one file, to write")
    parser.add_argument("--table", type=Path, required=True, metavar="MD", help="markdown table to write")


def run(args: argparse.Namespace) -> None:
    """Join, summarise, write."""
    scores = pd.concat([read_scores(path) for path in args.scores], ignore_index=True)
    write_table(args.out, scores)
    text = render(scores)
    with whole_file(args.table) as partial:
        partial.write_text(text, encoding="utf-8")
    log.info("%s: %d rows of %d models", args.table, len(scores), scores["model"].nunique())


def read_scores(path: Path, columns: Sequence[str] = COLUMNS, made_by: str = "probe") -> pd.DataFrame:
    """Return one file of scores, written by the stage ``made_by``.

    Raises
    ------
    SpatiaError
        If a column is missing.
    """
    table = read_table(path)
    missing = [name for name in columns if name not in table]
    if missing:
        raise SpatiaError(
            f"{path}: expected the columns {', '.join(columns)}, {missing[0]} is missing; {made_by} again"
        )
    return table[list(columns)].astype({"note": str})


def render(scores: pd.DataFrame) -> str:
    """Return a markdown table per task: a row per model, a column per method."""
    parts = []
    for (task, dataset, metric), rows in scores.groupby(["task", "dataset", "metric"], sort=False):
        methods, models = rows["method"].unique(), rows["model"].unique()
        n, seeds = sorted(rows["n"].unique()), sorted(rows["seed"].unique())
        lines = [
            f"## {task}, {dataset}",
            f"{metric}; N = {', '.join(map(str, n))} test cells; mean ± sd over seeds {', '.join(map(str, seeds))}",
            "",
            "| model | " + " | ".join(methods) + " |",
            "|" + "---|" * (len(methods) + 1),
        ]
        for model in models:
            own = rows[rows["model"] == model]
            cells = [show_spread(own.loc[own["method"] == method, "value"], len(seeds)) for method in methods]
            lines.append(f"| {model} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    versions = ", ".join(sorted(scores["version"].astype(str).unique()))
    return "\n\n".join(parts) + f"\n\nspatia {versions}; {', '.join(sorted(scores['note'].unique()))}\n"


def show_spread(values: pd.Series, n_expected: int) -> str:
    """Return mean and sd as text; of how many, if they are fewer than expected."""
    values = values.dropna()
    if values.empty:
        return MISSING
    spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
    few = f" ({len(values)} of {n_expected})" if len(values) < n_expected else ""
    return f"{values.mean():.3f}{spread}{few}"
