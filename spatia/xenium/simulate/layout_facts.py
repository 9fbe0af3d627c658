"""What differs between the layouts of a Xenium bundle, one record each.

Sources: the genuine bundles of XOA 2.0 and 3.0, 10x's "Understanding Xenium Outputs" and "Xenium Zarr Output Files",
and what spatialdata-io 0.7.1 expects of each version. See ``docs/bundle_formats.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spatia.xenium.simulate.slide import (
    CONTROL_CODEWORD,
    CONTROL_PROBE,
    GENE,
    GENOMIC_CONTROL,
    PROTEIN,
    UNASSIGNED_CODEWORD,
)

_COUNTS_1_0 = ("transcript_counts", "control_probe_counts", "control_codeword_counts")
_COUNTS_1_4 = (*_COUNTS_1_0, "unassigned_codeword_counts")
_COUNTS_2 = (*_COUNTS_1_4, "deprecated_codeword_counts")
_COUNTS_3 = (*_COUNTS_2[:2], "genomic_control_counts", *_COUNTS_2[2:])
_AREAS = ("total_counts", "cell_area", "nucleus_area")
_HOW = ("nucleus_count", "segmentation_method")

_TRANSCRIPTS_1_0 = (
    "transcript_id",
    "cell_id",
    "overlaps_nucleus",
    "feature_name",
    "x_location",
    "y_location",
    "z_location",
    "qv",
)
_TRANSCRIPTS_1_4 = (*_TRANSCRIPTS_1_0, "fov_name", "nucleus_distance")
_TRANSCRIPTS_2 = (*_TRANSCRIPTS_1_4, "codeword_index")
_TRANSCRIPTS_3 = (*_TRANSCRIPTS_2, "codeword_category", "is_gene")

_TYPES = (GENE, CONTROL_PROBE, CONTROL_CODEWORD, UNASSIGNED_CODEWORD)


@dataclass(frozen=True)
class LayoutFacts:
    """How the bundles of one layout are written.

    Attributes
    ----------
    version : what ``analysis_sw_version`` says
    zarr_version : ``major_version``, ``minor_version`` of ``cells.zarr.zip``
    experiment_version : ``major_version`` of ``experiment.xenium``
    has_number_ids : cell ids are integers instead of ``aaaaficg-1``
    text_is_bytes : text columns of parquet files lack the UTF-8 mark
    has_nucleus_numbers : nuclei have numbers and ``label_id`` of their own; before, a nucleus had its cell's number
    max_vertices : of an outline, the closing one included
    focus : one file at the top, ``morphology_focus_000N``, or ``chNNNN_<stain>``
    has_transcripts_csv : a csv twin of ``transcripts.parquet`` exists
    count_columns, cell_columns, transcript_columns : in file order
    feature_types : what the panel may hold
    """

    version: str
    zarr_version: tuple[int, int]
    experiment_version: int
    has_number_ids: bool
    text_is_bytes: bool
    has_nucleus_numbers: bool
    max_vertices: int
    focus: Literal["single", "numbered", "named"]
    has_transcripts_csv: bool
    count_columns: tuple[str, ...]
    cell_columns: tuple[str, ...]
    transcript_columns: tuple[str, ...]
    feature_types: tuple[str, ...]

    @property
    def has_one_stain(self) -> bool:
        """Whether only DAPI fits: the segmentation stains came with XOA 2.0."""
        return self.focus == "single"


FACTS = {
    "1.0": LayoutFacts(
        version="Xenium-1.0.2",
        zarr_version=(2, 0),
        experiment_version=1,
        has_number_ids=True,
        text_is_bytes=True,
        has_nucleus_numbers=False,
        max_vertices=13,
        focus="single",
        has_transcripts_csv=True,
        count_columns=_COUNTS_1_0,
        cell_columns=(*_COUNTS_1_0, *_AREAS),
        transcript_columns=_TRANSCRIPTS_1_0,
        feature_types=_TYPES,
    ),
    "1.4": LayoutFacts(
        version="xenium-1.4.0.6",
        zarr_version=(4, 0),
        experiment_version=2,
        has_number_ids=False,
        text_is_bytes=True,
        has_nucleus_numbers=False,
        max_vertices=13,
        focus="single",
        has_transcripts_csv=True,
        count_columns=_COUNTS_1_4,
        cell_columns=(*_COUNTS_1_4, *_AREAS),
        transcript_columns=_TRANSCRIPTS_1_4,
        feature_types=_TYPES,
    ),
    "2.0": LayoutFacts(
        version="xenium-2.0.0.10",
        zarr_version=(5, 0),
        experiment_version=5,
        has_number_ids=False,
        text_is_bytes=False,
        has_nucleus_numbers=True,
        max_vertices=25,
        focus="numbered",
        has_transcripts_csv=True,
        count_columns=_COUNTS_2,
        cell_columns=(*_COUNTS_2, *_AREAS, *_HOW),
        transcript_columns=_TRANSCRIPTS_2,
        feature_types=_TYPES,
    ),
    "3.0": LayoutFacts(
        version="xenium-3.0.0.15",
        zarr_version=(6, 2),
        experiment_version=5,
        has_number_ids=False,
        text_is_bytes=False,
        has_nucleus_numbers=True,
        max_vertices=25,
        focus="numbered",
        has_transcripts_csv=False,
        count_columns=_COUNTS_3,
        cell_columns=(*_COUNTS_3, *_AREAS, *_HOW),
        transcript_columns=_TRANSCRIPTS_3,
        feature_types=(*_TYPES, GENOMIC_CONTROL),
    ),
    "4.0": LayoutFacts(
        version="xenium-4.0.1.0",
        zarr_version=(6, 2),
        experiment_version=6,
        has_number_ids=False,
        text_is_bytes=False,
        has_nucleus_numbers=True,
        max_vertices=25,
        focus="named",
        has_transcripts_csv=False,
        count_columns=_COUNTS_3,
        cell_columns=(*_COUNTS_3, *_AREAS, *_HOW),
        transcript_columns=_TRANSCRIPTS_3,
        feature_types=(*_TYPES, GENOMIC_CONTROL, PROTEIN),
    ),
}

# which feature types each count column of the cell table sums
COUNTED_TYPES = {
    "transcript_counts": GENE,
    "control_probe_counts": CONTROL_PROBE,
    "genomic_control_counts": GENOMIC_CONTROL,
    "control_codeword_counts": CONTROL_CODEWORD,
    "unassigned_codeword_counts": UNASSIGNED_CODEWORD,
    "deprecated_codeword_counts": "Deprecated Codeword",
}
