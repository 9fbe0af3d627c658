"""``spatia ingest``: a Xenium bundle -> ``slide.zarr`` + ``ingest.json``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from spatia import io
from spatia.config import IngestParams, load_params
from spatia.errors import SpatiaError
from spatia.xenium.ingesting import Plan, Request, checksums, describe_result, make_plan, open_content
from spatia.xenium.layouts import AlignedImage, describe_bundle
from spatia.xenium.memory import return_large_blocks
from spatia.xenium.window import parse_roi
from spatia.xenium.writing import write_slide

log = logging.getLogger("spatia.ingest")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``spatia ingest``; an empty text counts as not given, as the sheet of slides has it."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a Xenium bundle")
    parser.add_argument("--slide", required=True, metavar="NAME", help="the slide's name")
    parser.add_argument("--species", required=True, metavar="NAME", help="human, mouse, ...")
    parser.add_argument("--params", type=Path, required=True, metavar="YAML", help="as config/stages/ingest.yaml")
    parser.add_argument("--roi-um", default="", metavar="X0,Y0,X1,Y1", help="only this part, micrometres of the bundle")
    parser.add_argument("--he", default="", metavar="FILE", help="H&E image that is not in the bundle")
    parser.add_argument("--he-alignment", default="", metavar="CSV", help="its 3 x 3 matrix from Xenium Explorer")
    parser.add_argument("--zarr", type=Path, required=True, metavar="SLIDE.ZARR", help="output: SpatialData")
    parser.add_argument("--record", type=Path, required=True, metavar="JSON", help="output: what was done")


def run(args: argparse.Namespace) -> None:
    """Check, read, write."""
    return_large_blocks()
    params = load_params(args.params, IngestParams)
    request = Request(
        slide=args.slide,
        species=args.species,
        projection=params.projection,
        transcripts=params.transcripts,
        roi_um=parse_roi(args.roi_um),
        he=parse_he(args.he, args.he_alignment),
    )
    plan = make_plan(describe_bundle(args.bundle), request)
    for note in plan.notes:
        log.info("%s: %s", args.slide, note)
    try:
        record = write(plan, args.zarr)
        io.write_json(args.record, record)
    except OSError as problem:
        raise SpatiaError(
            f"{args.zarr}: expected to write the slide there, found {problem}; make room, or choose another place"
        ) from None
    size, stains = record["shape_px"], ", ".join(record["stains"])
    log.info("%s: %d cells, %d x %d px, %s", args.slide, record["n_cells"], *size, stains)


def write(plan: Plan, zarr: Path) -> dict[str, Any]:
    """Write ``slide.zarr``, whole or not at all; return what ``ingest.json`` says of it."""
    with open_content(plan) as (content, sources), io.whole_dir(zarr) as partial:
        write_slide(partial, content)
        sources.check(plan.bundle)
        return {**describe_result(plan, sources), "checksums": checksums(plan)}


def parse_he(image: str, alignment: str) -> AlignedImage | None:
    """Return the H&E image of the command line, None for empty texts."""
    if not image and not alignment:
        return None
    if not image or not alignment:
        raise SpatiaError("--he and --he-alignment: expected both or none, found one; give the other")
    for file in (Path(image), Path(alignment)):
        if not file.is_file():
            raise SpatiaError(f"{file}: expected an H&E image and its alignment, found none; correct the path")
    return AlignedImage(Path(image), Path(alignment))
