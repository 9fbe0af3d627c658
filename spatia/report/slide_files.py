"""Where a slide's files lie in a run (docs/outputs.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SlideFiles:
    """The files of one slide; ``labels`` is the csv that the sheet names, None where it names none."""

    run: Path
    slide: str
    labels: Path | None = None

    @property
    def record(self) -> Path:
        """``ingest.json``."""
        return self.run / "results/ingest" / self.slide / "ingest.json"

    @property
    def zarr(self) -> Path:
        """``slide.zarr``."""
        return self.run / "results/ingest" / self.slide / "slide.zarr"

    @property
    def qc_summary(self) -> Path:
        """``qc.json``."""
        return self.run / "results/qc" / self.slide / "qc.json"

    @property
    def qc_cells(self) -> Path:
        """The QC table of cells."""
        return self.run / "results/qc" / self.slide / "cells.parquet"

    @property
    def histograms(self) -> Path:
        """Grey values per stain."""
        return self.run / "results/qc" / self.slide / "histograms.npz"

    @property
    def crops(self) -> Path:
        """The crops' folder."""
        return self.run / "results/crop" / self.slide / "crops"

    @property
    def tiles(self) -> Path:
        """The tiles' folder."""
        return self.run / "results/tile" / self.slide / "tiles"

    @property
    def embeddings(self) -> Path:
        """The embeddings' folder."""
        return self.run / "results/embed" / self.slide / "embeddings"

    @property
    def embed_record(self) -> Path:
        """``embed.json``, without which the embeddings are not whole."""
        return self.embeddings / "embed.json"

    @property
    def states(self) -> Path:
        """The states' folder."""
        return self.run / "results/states" / self.slide / "states"

    @property
    def pairs(self) -> Path:
        """The pairs' folder."""
        return self.run / "results/pair" / self.slide / "pairs"

    @property
    def generated(self) -> Path:
        """The folder of generated images."""
        return self.run / "results/generate" / self.slide / "generated"

    @property
    def features(self) -> Path:
        """The folder of real and generated cells' features."""
        return self.run / "results/features" / self.slide / "features"

    @property
    def scores(self) -> Path:
        """The slide's scores."""
        return self.run / "results/score" / self.slide / "scores.tsv"
