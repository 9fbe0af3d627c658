"""Which images a generator is about: crops of cells, or the niche tiles around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spatia.errors import SpatiaError
from spatia.learn.generator_cells import CellReader, ContextReader, Reader
from spatia.learn.generator_tiles import TileReader

Target = Literal["cell", "niche"]


@dataclass(frozen=True)
class ReaderFiles:
    """Where the files of one slide are; ``embeddings`` and ``tiles`` may be None where nothing is read from them."""

    name: str
    crops: Path
    zarr: Path
    embeddings: Path | None = None
    tiles: Path | None = None

    @classmethod
    def of_run(cls, run: Path | str, name: str) -> ReaderFiles:
        """Return the files of slide ``name`` in the folder of a run (docs/outputs.md)."""
        results = Path(run) / "results"
        return cls(
            name,
            results / "crop" / name / "crops",
            results / "ingest" / name / "slide.zarr",
            results / "embed" / name / "embeddings",
            results / "tile" / name / "tiles",
        )


def open_reader(
    target: Target, files: ReaderFiles, stains: Sequence[str], image_px: int, arrays: Sequence[str],
    nucleus_outline: bool = False,
) -> Reader:  # fmt: skip
    """Return what reads a slide's images and contexts by cell id.

    Raises
    ------
    SpatiaError
        If the slide lacks a stain, an embedding or its tiles.
    """
    context = ContextReader(files.name, files.embeddings, arrays)
    if target == "cell":
        return CellReader(files.name, files.crops, context, stains, image_px, nucleus_outline)
    if files.tiles is None:
        raise SpatiaError(
            f"slide {files.name}: a generator of niche tiles needs --tiles, found none; give what tile wrote"
        )
    return TileReader(files.name, files.crops, files.tiles, files.zarr, context, stains, image_px)
