"""The text files of a bundle: ``experiment.xenium``, ``gene_panel.json``, ``metrics_summary.csv``."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spatia.xenium.simulate.layout_facts import LayoutFacts
from spatia.xenium.simulate.ome_tiff import Z_STEP_UM
from spatia.xenium.simulate.slide import GENE, SimulatedSlide

_NAMESPACE = uuid.UUID("0e0a8a2b-77f6-5c0e-8d5c-6a4f2d8a9b10")  # any fixed one
_HIGH_QUALITY = 20
_PANEL = "spatia simulated panel"
_DESIGN = "spatia_sim_v1"


def experiment(
    slide: SimulatedSlide, cells: pd.DataFrame, images: dict[str, str], facts: LayoutFacts
) -> dict[str, Any]:
    """Return ``experiment.xenium``; ``images`` maps its image keys to paths inside the bundle."""
    metrics = measure(slide, cells)
    is_gene = (slide.features["type"] == GENE).to_numpy()
    return {
        "major_version": facts.experiment_version,
        "minor_version": 0,
        "patch_version": 0,
        "run_name": slide.name,
        "run_start_time": "2024-01-01T00:00:00Z",
        "region_name": slide.name,
        "preservation_method": "ffpe",
        "num_cells": len(cells),
        "transcripts_per_cell": metrics["median_transcripts_per_cell"],
        "transcripts_per_100um": metrics["decoded_transcripts_per_100um2"],
        "region_area": metrics["region_area"],
        "total_cell_area": metrics["total_cell_area"],
        "cassette_name": "cassette",
        "slide_id": slide.donor,
        "panel_type": "predesigned",
        "panel_design_id": _DESIGN,
        "panel_name": _PANEL,
        "panel_organism": slide.species.capitalize(),
        "panel_tissue_type": slide.tissue,
        "panel_num_targets_predesigned": int(is_gene.sum()),
        "panel_num_targets_custom": 0,
        "pixel_size": slide.pixel_size_um,
        "instrument_sn": "simulated",
        "instrument_sw_version": facts.version.partition("-")[2],
        "analysis_sw_version": facts.version,
        "analysis_uuid": _uuid(slide, "analysis"),
        "experiment_uuid": _uuid(slide, "experiment"),
        "cassette_uuid": _uuid(slide, "cassette"),
        "roi_uuid": _uuid(slide, "roi"),
        "z_step_size": Z_STEP_UM,
        "well_uuid": _uuid(slide, "well"),
        "calibration_uuid": _uuid(slide, "calibration"),
        "images": images,
        "xenium_explorer_files": {"cells_zarr_filepath": "cells.zarr.zip"},
    }


def gene_panel(features: pd.DataFrame, species: str, tissue: str) -> dict[str, Any]:
    """Return ``gene_panel.json``: every gene and control target with its codewords."""
    kinds = {"Gene Expression": "gene", "Negative Control Probe": "negative_control"}
    identity = {"design_id": _DESIGN, "name": _PANEL, "version": "1.0.0"}
    targets = [
        _target(index, feature, kinds[feature["type"]], identity)
        for index, feature in enumerate(features.to_dict("records"))
        if feature["type"] in kinds
    ]
    panel = {
        "description": _PANEL,
        "identity": identity,
        "num_gene_targets": int((features["type"] == GENE).sum()),
        "species": species.capitalize(),
        "tissue": tissue,
        "type": {"descriptor": "predesigned"},
    }
    payload = {
        "chemistry": {"decoder": "xenium_decoding_v1", "version": "v1"},
        "customer": {"email": None, "name": None},
        "designer": {"designed_by": {"email": None, "name": "spatia"}, "version": "1.0.0"},
        "panel": panel,
        "spec_version": "0.1.0",
        "targets": targets,
    }
    checksum = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
    return {"metadata": {"sha256_checksum": checksum, "ui_props": {"visible": True}}, "payload": payload}


def measure(slide: SimulatedSlide, cells: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of ``metrics_summary.csv`` that a simulated slide has."""
    height, width = slide.cell_labels.shape
    area = height * width * slide.pixel_size_um**2
    genes = slide.counts[:, np.flatnonzero(slide.features["type"] == GENE)]
    per_cell = cells["transcript_counts"].to_numpy()
    return {
        "run_name": slide.name,
        "cassette_name": "cassette",
        "region_name": slide.name,
        "panel_name": _PANEL,
        "panel_design_id": _DESIGN,
        "region_area": area,
        "total_cell_area": float(cells["cell_area"].sum()),
        "decoded_transcripts_per_100um2": 100 * float(per_cell.sum()) / area,
        "num_cells_detected": len(cells),
        "fraction_empty_cells": float((per_cell == 0).mean()) if len(cells) else 0.0,
        "cells_per_100um2": 100 * len(cells) / area,
        "fraction_transcripts_assigned": _assigned(slide),
        "median_genes_per_cell": float(np.median(np.diff(genes.tocsr().indptr))) if len(cells) else 0.0,
        "median_transcripts_per_cell": float(np.median(per_cell)) if len(cells) else 0.0,
    }


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write ``metrics_summary.csv``: one line of names, one of values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([metrics.keys(), metrics.values()])
    path.write_text(text.getvalue(), encoding="utf-8")


def _assigned(slide: SimulatedSlide) -> float | str:
    if slide.transcripts is None or len(slide.transcripts) == 0:
        return ""  # genuine files leave unknown metrics empty
    good = slide.transcripts["qv"] >= _HIGH_QUALITY
    return float((slide.transcripts.loc[good, "label"] > 0).mean())


def _target(index: int, feature: dict[Any, Any], descriptor: str, identity: dict[str, str]) -> dict[str, Any]:
    names = ("id", "name") if descriptor == "gene" else ("name",)
    data = {name: feature[name] for name in names}
    return {
        "codewords": [index],
        "info": {"gene_coverage": 1},
        "source": {"category": "current", "identity": identity},
        "type": {"data": data, "descriptor": descriptor},
    }


def _uuid(slide: SimulatedSlide, what: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{slide.name}/{slide.seed}/{what}"))
