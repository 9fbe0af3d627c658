"""Scores of the slides of one generation experiment -> all rows in one file, and a table to read."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import spatia
from spatia.io import whole_file
from spatia.stages.score import COLUMNS, MACRO
from spatia.stages.table import read_scores

MISSING = "—"
EXPLAINED = {
    "kid_random_encoder": "KID x 100 of a fixed random encoder, lower is better",
    "fid_random_encoder": "FID of the same encoder, lower is better",
    "kid_inception": "KID x 100 of Inception, lower is better",
    "fid_inception": "FID of Inception, lower is better",
    "ks_complement": "1 - KS distance of features, mean, higher is better",
    "ks_d": "KS distance of features, mean",
    "w1_target": "Wasserstein distance of features from the targets, in spreads of the controls, mean, lower is better",
    "wass_corr": "correlation of how far features move (our definition); blind to direction",
    "shift_pearson": "correlation of signed mean shifts of features",
    "shift_slope": "slope of generated on true mean shifts; 1 = as far as real cells",
    "failed_share": "images in which no cell was found; they count as the worst value in every feature",
}

log = logging.getLogger("spatia.generation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``spatia generation``."""
    parser.add_argument("--scores", type=Path, nargs="+", required=True, metavar="TSV", help="what score wrote")
    parser.add_argument("--rows", type=Path, required=True, metavar="CSV", help="all rows, to write")
    parser.add_argument("--table", type=Path, required=True, metavar="MD", help="markdown table to write")


def run(args: argparse.Namespace) -> None:
    """Join, summarise, write."""
    scores = pd.concat([read_generation_scores(path) for path in args.scores], ignore_index=True)
    with whole_file(args.rows) as partial:
        scores.assign(version=spatia.__version__).to_csv(partial, index=False)
    with whole_file(args.table) as partial:
        partial.write_text(render(scores), encoding="utf-8")
    log.info("%s: %d rows of %d slides", args.rows, len(scores), scores["dataset"].nunique())


def read_generation_scores(path: Path) -> pd.DataFrame:
    """Return the scores of one slide, as :func:`spatia.stages.table.read_scores`."""
    return read_scores(path, COLUMNS, "score")


def each_transition(scores: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield slide, transition and their rows, slide by slide, the mean over transitions first."""
    for dataset, own in scores.groupby("dataset", sort=False):
        is_macro = own["transition"] == MACRO
        for transition, rows in pd.concat([own[is_macro], own[~is_macro]]).groupby("transition", sort=False):
            yield str(dataset), str(transition), rows


def render(scores: pd.DataFrame) -> str:
    """Return a markdown table per slide and transition: a row per method, a column per metric."""
    parts = ["# Generation", explain(scores)]
    parts += [render_transition(*part) for part in each_transition(scores)]
    return "\n\n".join(parts) + f"\n\nspatia {spatia.__version__}\n"


def explain(scores: pd.DataFrame) -> str:
    """Return what the metrics mean, those that occur."""
    return "\n".join(f"* `{name}`: {EXPLAINED[name]}" for name in scores["metric"].unique())


def render_transition(dataset: str, transition: str, rows: pd.DataFrame) -> str:
    """Return one table, or the reason why there is none."""
    title = f"## {dataset}, {'mean over transitions' if transition == MACRO else transition}"
    if rows["value"].isna().all():
        return f"{title}\n\nNot scored: {rows['note'].iloc[0]}."
    metrics = list(rows["metric"].unique())
    lines = [title, "", f"| method | N | {' | '.join(metrics)} |", "|" + "---|" * (len(metrics) + 2)]
    for method, own in rows.groupby("method", sort=False):
        cells = own.set_index("metric").reindex(metrics)
        values = [_cell(*entry) for entry in cells[["value", "low", "high"]].itertuples(index=False, name=None)]
        lines.append(f"| {method} | {int(own['n'].iloc[0])} | {' | '.join(values)} |")
    return "\n".join(
        [*lines, "", f"{rows['note'].iloc[0]}; seed {rows['seed'].iloc[0]}; 95 % intervals of resampled cells."]
    )


def _cell(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return MISSING
    return f"{value:.3f}" if pd.isna(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
