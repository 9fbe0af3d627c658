"""``spatia check``: what a Xenium bundle is, what is missing, what will be done about it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from spatia import io
from spatia.stages.ingest import parse_he
from spatia.xenium.ingesting import Request, describe_result, make_plan, open_content
from spatia.xenium.layouts import describe_bundle
from spatia.xenium.memory import return_large_blocks
from spatia.xenium.rasters import read_raster
from spatia.xenium.window import parse_roi


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``spatia check``."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a Xenium bundle")
    parser.add_argument(
        "--projection", choices=("focus", "max"), default="focus", help="as in config/stages/ingest.yaml"
    )
    parser.add_argument("--roi-um", default="", metavar="X0,Y0,X1,Y1", help="as in the sheet of slides")
    parser.add_argument("--he", default="", metavar="FILE", help="H&E image that is not in the bundle")
    parser.add_argument("--he-alignment", default="", metavar="CSV", help="its 3 x 3 matrix from Xenium Explorer")
    parser.add_argument("--all", action="store_true", help="decode every image tile, not one of each plane")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the findings to FILE")


def run(args: argparse.Namespace) -> None:
    """Do all of ingest but the writing."""
    return_large_blocks()
    he = parse_he(args.he, args.he_alignment)
    request = Request(
        slide=args.bundle.resolve().name,
        species="unknown",
        projection=args.projection,
        roi_um=parse_roi(args.roi_um),
        he=he,
    )
    plan = make_plan(describe_bundle(args.bundle), request, decode_one=not args.all)
    with open_content(plan) as (content, sources):
        for raster in content.rasters:
            if raster.is_labels or args.all:
                read_raster(raster)
        sources.check(plan.bundle)
        record = describe_result(plan, sources)
    sys.stdout.write(format_findings(args.bundle, record))
    if args.json is not None:
        io.write_json(args.json, record)


def format_findings(path: Path, record: dict[str, Any]) -> str:
    """Return the findings as lines for a person."""
    height, width = record["shape_px"]
    size = record["pixel_size_um"]
    of_all = "" if record["n_cells"] == record["n_cells_in_bundle"] else f" of {record['n_cells_in_bundle']}"
    nuclei = record["nucleus_labels"] or "none"
    he = record["he"]
    facts = {
        "bundle": f"{path}",
        "layout": f"XOA {record['layout']}, by its files (it says {record['xoa_version']})",
        "image": f"{height} x {width} px of {size:g} um ({height * size / 1000:.2f} x {width * size / 1000:.2f} mm)",
        "stains": ", ".join(f"{stain} ({kind})" for stain, kind in record["projection"].items()),
        "cells": f"{record['n_cells']}{of_all}, {record['n_genes']} genes",
        "labels": f"cells from {record['labels']}, nuclei from {nuclei}",
        "tables": f"read by {record['reader']}",
        "H&E": "none" if he is None else f"{he['file']}, covers {he['coverage']:.0%} of the slide",
    }
    lines = [f"{name:<8} {value}" for name, value in facts.items()]
    lines += [f"missing  {part['part']}: {part['consequence']}" for part in record["missing"]]
    lines += [f"note     {note}" for note in record["notes"]]
    return "\n".join([*lines, "result   can be ingested", ""])
