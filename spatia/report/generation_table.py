"""The scores of a generation experiment as the page shows them: methods x metrics, and what the metrics mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from spatia.errors import SpatiaError
from spatia.measure.generation import CONTROL, CONTROL_ROWS, MEAN_TARGET, REAL_HALVES
from spatia.report.tables import Cell, Row, Table, number_cell

MACRO = "macro"  # the `transition` of means over transitions
COLUMNS = ("dataset", "method", "transition", "metric", "value", "low", "high", "seed", "n", "note")
UP, DOWN, ONE, NONE = "higher is better", "lower is better", "1 is best", "blind to direction"
MARKS = {UP: "↑", DOWN: "↓", ONE: "→ 1", NONE: ""}


@dataclass(frozen=True)
class Metric:
    """What a metric is called on the page, which way is better, and what it is."""

    title: str
    better: str
    meaning: str


METRICS = {
    "ks_complement": Metric("1 − KS", UP, "how far the distributions of generated and target cells overlap, mean over "
                            "features of 1 minus the Kolmogorov-Smirnov distance; 1 = the same distribution"),
    "ks_d": Metric("KS", DOWN, "that distance itself"),
    "w1_target": Metric("W1 to targets", DOWN, "Wasserstein distance of features between generated and target cells, "
                        "mean, in standard deviations of the real controls"),
    "wass_corr": Metric("shift size r", NONE, "correlation over features of how far real and generated cells move from "
                        "the controls (our definition of the paper's Wass. Corr.); a generator that moves all features "
                        "the wrong way scores as high"),
    "shift_pearson": Metric("signed shift r", UP, "correlation over features of the signed mean shifts from the "
                            "controls, real against generated"),
    "shift_slope": Metric("signed shift slope", ONE, "how far generated cells move where real ones move 1; below 1 too "
                          "little, above 1 too much"),
    "failed_share": Metric("failed", DOWN, "share of images in which no cell was found; each counts as the worst value "
                           "of every feature"),
}  # fmt: skip
IMAGE_METRICS = {
    "kid": Metric("KID × 100", DOWN, "squared distance of the images' distribution from the real targets'; 0 or "
                  "below = no difference found"),
    "fid": Metric("FID", DOWN, "Fréchet distance of the images' distribution from the real targets'; biased upwards "
                  "where N is small, so compare rows of one table only"),
}  # fmt: skip
ENCODERS = {
    "random_encoder": "a fixed network with random weights that no method has seen: values compare within this run, "
    "not with published ones",
    "inception": "Inception v3 (ImageNet)",
}
METHODS = {
    "spatia": "the generator, told transition and context",
    "unconditional": "the same generator, told neither",
    REAL_HALVES: "real target cells against other real target cells: the best that can be expected",
    CONTROL: "the control cell given back unchanged: nothing was generated",
    MEAN_TARGET: "the mean of real targets, the same for every cell: the right average, no variety",
}


def read_scores(path: Path) -> pd.DataFrame:
    """Return the scores of a run.

    Raises
    ------
    SpatiaError
        If a column is missing.
    """
    scores = pd.read_csv(path, dtype={name: str for name in ("dataset", "method", "transition", "metric", "note")})
    missing = [name for name in COLUMNS if name not in scores]
    if missing:
        raise SpatiaError(f"{path}: expected the column {missing[0]!r}, found none; run 'spatia generation' again")
    return scores.astype({"note": str})


def describe_metric(name: str) -> tuple[Metric, str]:
    """Return what a metric of the scores means, and the encoder's name for those of images; "" for the others."""
    kind, _, encoder = name.partition("_")
    if kind in IMAGE_METRICS:
        return IMAGE_METRICS[kind], encoder
    return METRICS.get(name, Metric(name, NONE, "")), ""


def make_legend(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (term, explanation) of the metrics, the encoder and the methods that occur."""
    lines = []
    encoders: list[str] = []
    for name in scores["metric"].unique():
        metric, encoder = describe_metric(str(name))
        encoders += [encoder] if encoder and encoder not in encoders else []
        lines.append((metric.title, f"{metric.better}: {metric.meaning}" if metric.meaning else metric.better))
    lines += [("Encoder of KID and FID", ENCODERS.get(name, name)) for name in encoders]
    known = [str(name) for name in scores["method"].unique() if name in METHODS]
    return lines + [(name, METHODS[name]) for name in known]


def make_tables(scores: pd.DataFrame) -> list[Table]:
    """Return a table per slide: the mean over transitions, then each transition, skipped ones with their reason."""
    return [_make_table(str(dataset), own) for dataset, own in scores.groupby("dataset", sort=False)]


def _make_table(dataset: str, scores: pd.DataFrame) -> Table:
    metrics = [str(name) for name in scores["metric"].unique()]
    is_macro = scores["transition"] == MACRO
    rows: list[Row] = []
    for transition, own in pd.concat([scores[is_macro], scores[~is_macro]]).groupby("transition", sort=False):
        rows += _transition_rows(str(transition), own, metrics)
    seeds = ", ".join(str(seed) for seed in scores["seed"].unique())
    caption = (
        "Value, and below it the 95 % interval of resampled cells; N cells on either side. Grey: control rows, what a "
        f"number is to be compared with. Seed {seeds}."
    )
    header = [("method", False), ("N", True), *((_title(name), True) for name in metrics)]
    return Table(f"Generated cells of {dataset} against real ones", caption, header, rows)


def _title(metric: str) -> str:
    found = describe_metric(metric)[0]
    return f"{found.title} {MARKS[found.better]}".strip()


def _transition_rows(transition: str, scores: pd.DataFrame, metrics: Sequence[str]) -> list[Row]:
    name = "Mean over transitions" if transition == MACRO else transition
    note = str(scores["note"].iloc[0])
    if scores["value"].isna().all():
        return [Row([Cell(f"{name}: not scored, {note}")], is_heading=True)]
    rows = [Row([Cell(name, note)], is_heading=True)]
    for method, own in scores.groupby("method", sort=False):
        found = own.set_index("metric").reindex(list(metrics))[["value", "low", "high"]]
        values = [format_score(*entry) for entry in found.itertuples(index=False, name=None)]
        cells = [Cell(str(method)), number_cell(f"{int(own['n'].iloc[0]):,}"), *values]
        rows.append(Row(cells, is_quiet=str(method) in CONTROL_ROWS))
    return rows


def format_score(value: float, low: float, high: float) -> Cell:
    """Return a score with its interval below, with three digits behind the point as in generation.md."""
    if pd.isna(value):
        return number_cell("—")
    return number_cell(f"{value:.3f}", "" if pd.isna(low) else f"{low:.3f} to {high:.3f}")
