"""The cohort table: one row a slide, from the sheet, ``ingest.json`` and ``qc.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spatia import keys
from spatia.report.status import Status

SHEET_COLUMNS = ("donor", "tissue", "disease", "species", "split")


@dataclass(frozen=True)
class SlideFacts:
    """What is known about one slide without opening its images.

    Attributes
    ----------
    row : its line in the sheet
    record, qc, embed : contents of ``ingest.json``, ``qc.json`` and ``embed.json``, None where the slide did not get so
        far
    """

    row: dict[str, str]
    status: Status
    record: dict[str, Any] | None
    qc: dict[str, Any] | None
    embed: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The slide's name."""
        return self.row[keys.SLIDE]

    @property
    def sheet_values(self) -> list[str]:
        """Donor, tissue, disease, species and split, as the sheet has them."""
        return [self.row.get(column, "") for column in SHEET_COLUMNS]

    @property
    def is_simulated(self) -> bool:
        """True for slides that the simulate stage made."""
        return self.row.get("bundle") == keys.SIMULATED


def cohort_table(slides: Sequence[SlideFacts]) -> pd.DataFrame:
    """Return one row per slide, in the sheet's order; what is not known is empty.

    Stains differ between slides, so every stain measured anywhere has its own columns.
    """
    # nullable types: a slide without a count must not turn everybody's 12 into 12.0
    return pd.DataFrame([_cohort_row(slide) for slide in slides]).convert_dtypes()


def _cohort_row(slide: SlideFacts) -> dict[str, Any]:
    qc = slide.qc or {}
    area, fraction = qc.get("cell_area_um2") or {}, qc.get("nuclear_fraction") or {}
    row: dict[str, Any] = {keys.SLIDE: slide.name, "state": slide.status.state, "stage": slide.status.stage}
    row["message"] = slide.status.reason
    row |= {column: slide.row.get(column, "") for column in SHEET_COLUMNS}
    row |= {"simulated": slide.is_simulated, **_ingest_columns(slide.record or {})}
    row |= {"cells_in": qc.get("n_cells_in"), "cells_out": qc.get("n_cells_out")}
    row |= {f"removed_{reason}": count for reason, count in (qc.get("removed") or {}).items()}
    row |= {name: qc.get(name) for name in ("n_empty", "median_counts", "median_genes", "control_rate")}
    row |= {"median_cell_area_um2": area.get("p50"), "median_nuclear_fraction": fraction.get("p50")}
    row |= {"cells_clipped": qc.get("n_clipped"), "niches": qc.get("n_niches"), "tissues": qc.get("n_tissues")}
    row["median_cells_per_niche"] = (qc.get("cells_per_niche") or {}).get("p50")
    for stain, measured in (qc.get("stains") or {}).items():
        row |= {f"{name}_{stain}": measured.get(name) for name in ("mean_in_cells", "focus", "saturated")}
    return row


def _ingest_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    stains = record.get("stains")
    return {
        "xoa_version": record.get("xoa_version", ""),
        "layout": record.get("layout", ""),
        "stains": "; ".join(stains) if stains else "",
    }


def worst_saturation(qc: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return the stain with the largest share of saturated pixels, and that share."""
    shares = {s: m["saturated"] for s, m in (qc.get("stains") or {}).items() if m.get("saturated") is not None}
    return max(shares.items(), key=lambda item: item[1]) if shares else None


def first_focus(qc: Mapping[str, Any]) -> float | None:
    """Return the focus of the first stain (DAPI), the one every slide has."""
    stains = qc.get("stains") or {}
    return next(iter(stains.values())).get("focus") if stains else None
