"""CellProfiler's example of 289 nuclei (cytomining/CytoTable, BSD-3): those whose mask can be rebuilt exactly.

Gaussian smoothing, CellProfiler's own threshold and filled holes give 189 of its nuclei to the pixel; it has split or
merged the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from scipy import ndimage

from spatia.measure.agreement import compare_columns
from spatia.measure.feature_columns import NUCLEI, SHAPE_MODULES, Column, describe_column
from spatia.measure.features import _source_names, measure_shape, measure_stain

THRESHOLD, SIGMA_PX = 0.09860165, 1
STAINS = {"DNA": "d0", "PH3": "d1"}


@dataclass(frozen=True)
class Example:
    """Nuclei measured by CellProfiler and by us, row by row; columns without the object's name."""

    theirs: pd.DataFrame
    ours: pd.DataFrame


def read_example(folder: Path) -> Example:
    """Return the nuclei whose bounding box and area are CellProfiler's."""
    planes = {stain: read_plane(folder, name) for stain, name in STAINS.items()}
    labels = segment_nuclei(planes["DNA"])
    theirs = pd.read_csv(folder / "Nuclei.csv")
    key = ["BoundingBoxMinimum_Y", "BoundingBoxMinimum_X", "BoundingBoxMaximum_Y", "BoundingBoxMaximum_X", "Area"]
    boxes = ndimage.find_objects(labels)
    known = {
        (y.start, x.start, y.stop, x.stop, int((labels[y, x] == k + 1).sum())): k for k, (y, x) in enumerate(boxes)
    }
    wanted = theirs[[f"AreaShape_{name}" for name in key]].astype(int).itertuples(index=False, name=None)
    found = [known.get(place) for place in wanted]
    rows = [measure_nucleus(planes, labels == k + 1) for k in found if k is not None]
    is_found = [k is not None for k in found]
    return Example(theirs[is_found].reset_index(drop=True), pd.DataFrame(rows))


def read_plane(folder: Path, name: str) -> np.ndarray:
    """Return one stain in [0, 1]."""
    image = tifffile.imread(folder / f"AS_09125_050116030001_D03f00{name}.tif")
    return image.astype(np.float32) / np.float32(255)


def segment_nuclei(dna: np.ndarray) -> np.ndarray:
    """Return labels of everything above the threshold, 8 neighbours connected."""
    mask = ndimage.binary_fill_holes(ndimage.gaussian_filter(dna, SIGMA_PX) > THRESHOLD)
    return ndimage.label(mask, np.ones((3, 3)))[0]


def measure_nucleus(planes: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, float]:
    """Return our columns of one nucleus in the whole image: Zernike moments depend on where in the frame it lies."""
    values = [measure_shape(mask)] + [measure_stain(mask, plane, ("intensity",)) for plane in planes.values()]
    return dict(zip((column.name[len(NUCLEI) + 1 :] for column in columns()), np.concatenate(values), strict=True))


def columns() -> list[Column]:
    """Return what is measured."""
    names = _source_names()
    shape = [describe_column(NUCLEI, module, source, "") for module in SHAPE_MODULES for source in names[module]]
    stains = [describe_column(NUCLEI, "intensity", source, stain) for stain in STAINS for source in names["intensity"]]
    return shape + stains


def compare(example: Example) -> pd.DataFrame:
    """Return how far each column that both have differs; CellProfiler 4.0 wrote orientations in radians."""
    dictionary = pd.DataFrame([asdict(column) for column in columns()])
    dictionary["name"] = dictionary["name"].str.removeprefix(f"{NUCLEI}_")
    degrees = np.rad2deg(example.theirs["AreaShape_Orientation"])
    return compare_columns(example.ours, example.theirs.assign(AreaShape_Orientation=degrees), dictionary)
