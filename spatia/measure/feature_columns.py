"""Names of features as CellProfiler writes them, and what each means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

CELLS, NUCLEI = "Cells", "Nuclei"  # CellProfiler's objects
DAPI = "DAPI"

# module -> CellProfiler's prefix; the order in which cells are measured
SHAPE_MODULES = ("sizeshape", "zernike", "feret")
STAIN_MODULES = ("intensity", "texture", "granularity", "radial_distribution", "radial_zernikes")
MODULE_NAMES = {
    "sizeshape": "MeasureObjectSizeShape",
    "zernike": "MeasureObjectSizeShape",
    "feret": "MeasureObjectSizeShape",
    "intensity": "MeasureObjectIntensity",
    "texture": "MeasureTexture",
    "granularity": "MeasureGranularity",
    "radial_distribution": "MeasureObjectIntensityDistribution",
    "radial_zernikes": "MeasureObjectIntensityDistribution",
}
# where a cell lies in its frame says nothing about the cell; five moments are NaN, or 0 but for rounding
POSITION = re.compile(
    r"^(Center_[XYZ]|BoundingBoxM(in|ax)imum_[XYZ]|Location_.*|NormalizedMoment_(0_0|0_1|1_0)|CentralMoment_(0_1|1_0))$"
)

# first match wins: pattern of cp_measure's name, unit, meaning
MEANINGS = tuple(
    (re.compile(pattern), unit, meaning)
    for pattern, unit, meaning in (
        (r"Area$", "px2", "pixels of the object"),
        (r"BoundingBoxArea$", "px2", "area of its upright bounding box"),
        (r"ConvexArea$", "px2", "area of its convex hull"),
        (r"FilledArea$", "px2", "area with holes filled"),
        (r"EquivalentDiameter$", "px", "diameter of a circle of the same area"),
        (r"PerimeterCrofton$", "px", "perimeter, estimated in four directions (Crofton)"),
        (r"Perimeter$", "px", "length of the outline"),
        (r"MajorAxisLength$", "px", "long axis of the ellipse with the same second moments"),
        (r"MinorAxisLength$", "px", "short axis of that ellipse"),
        (r"Eccentricity$", "1", "of that ellipse: 0 a circle, 1 a line"),
        (r"Orientation$", "degree", "angle of its long axis"),
        (r"FormFactor$", "1", "4 pi area / perimeter^2: 1 for a disc"),
        (r"Extent$", "1", "area / area of the bounding box"),
        (r"Solidity$", "1", "area / area of the convex hull"),
        (r"Compactness$", "1", "mean squared distance from the centre / area"),
        (r"EulerNumber$", "1", "pieces minus holes"),
        (r"(Maximum|Mean|Median)Radius$", "px", "of the distances of its pixels from the outline"),
        (r"MinFeretDiameter$", "px", "smallest distance between two parallel tangents"),
        (r"MaxFeretDiameter$", "px", "largest distance between two parallel tangents"),
        (r"SpatialMoment_", "px^(order+2)", "moment of the mask about the corner of its bounding box"),
        (r"CentralMoment_", "px^(order+2)", "moment of the mask about its centre"),
        (r"NormalizedMoment_", "1", "central moment, free of size"),
        (r"HuMoment_", "1", "moment free of size, place and rotation"),
        (r"InertiaTensorEigenvalues_", "px2", "second moment along a main axis"),
        (r"InertiaTensor_", "px2", "second moments along y and x"),
        (r"Zernike_", "1", "magnitude of a Zernike polynomial of the mask (order, repetition)"),
        (r"RadialDistribution_ZernikeMagnitude", "1", "magnitude of a Zernike polynomial of the intensities"),
        (r"RadialDistribution_ZernikePhase", "radian", "phase of that polynomial"),
        (r"RadialDistribution_FracAtD", "1", "share of the intensity in a ring (1 = innermost)"),
        (r"RadialDistribution_MeanFrac", "1", "that share / the ring's share of the pixels"),
        (r"RadialDistribution_RadialCV", "1", "variation over eight sectors of a ring (sd / mean)"),
        (r"Granularity_", "%", "intensity lost by opening with an element of this radius (px)"),
        (r"Intensity_IntegratedIntensityEdge", "intensity", "sum over the outline's pixels"),
        (r"Intensity_.*Edge", "intensity", "of the outline's pixels"),
        (r"Intensity_IntegratedIntensity", "intensity", "sum over the object's pixels"),
        (r"Intensity_MassDisplacement", "px", "from the centre of the mask to that of the intensity"),
        (r"Intensity_MADIntensity", "intensity", "median absolute deviation"),
        (r"Intensity_", "intensity", "of the object's pixels, 0 to 1"),
        (
            r"(AngularSecondMoment|Contrast|Correlation|Variance|InverseDifferenceMoment|SumAverage|SumVariance|SumEntropy"
            r"|Entropy|DifferenceVariance|DifferenceEntropy|InfoMeas1|InfoMeas2)_",
            "1",
            "Haralick's feature of pairs of pixels (distance px, direction, grey levels)",
        ),
    )
)
# measured beside CellProfiler (docs/features.md): what differs by more than 1e-6, and why
UNEQUAL = (
    (
        re.compile(r"RadialDistribution_(FracAtD|MeanFrac|RadialCV)"),
        "for most cells: where several pixels lie deepest in it, CellProfiler takes another one as the centre",
    ),
    (re.compile(r"Intensity_MADIntensity"), "of CellProfiler 4; version 5 differs by up to two grey steps"),
    (re.compile(r"FilledArea|PerimeterCrofton"), "CellProfiler has no such column"),
)


@dataclass(frozen=True)
class Column:
    """One feature.

    Attributes
    ----------
    name
        ``{object}_{CellProfiler's column}``.
    source
        cp_measure's name.
    module, object, stain
        CellProfiler's module; Cells or Nuclei; the stain, "" for shapes.
    unit, meaning
        In words.
    is_angle
        Circular: its numbers have no order, so scores leave it out.
    equals_cellprofiler
        ``yes``, or why not.
    """

    name: str
    source: str
    module: str
    object: str
    stain: str
    unit: str
    meaning: str
    is_angle: bool
    equals_cellprofiler: str


def image_name(stain: str) -> str:
    """Return a stain's name as CellProfiler takes it: letters, digits and ``_``."""
    return re.sub(r"[^A-Za-z0-9]+", "_", stain).strip("_")


def is_kept(source: str) -> bool:
    """Whether a feature of cp_measure is kept: not a position, not constant by definition."""
    return not POSITION.match(source)


def column_name(object_name: str, module: str, source: str, stain: str) -> str:
    """Return CellProfiler's name of what cp_measure calls ``source``, with its object in front."""
    if module in SHAPE_MODULES:
        return f"{object_name}_AreaShape_{source}"
    image = image_name(stain)
    if module == "texture":
        feature, ending = source.split("_", 1)
        return f"{object_name}_Texture_{feature}_{image}_{ending}"
    if module == "granularity":
        return f"{object_name}_{source}_{image}"
    prefix, feature, *rest = source.split("_", 2)
    return "_".join([object_name, prefix, feature, image, *rest])


def describe_column(object_name: str, module: str, source: str, stain: str) -> Column:
    """Return one line of the dictionary.

    Raises
    ------
    KeyError
        If nobody has written down what the feature means.
    """
    found = [(unit, meaning) for pattern, unit, meaning in MEANINGS if pattern.match(source)]
    if not found:
        raise KeyError(f"feature {source!r} has no meaning in feature_columns.MEANINGS")
    unit, meaning = found[0]
    why = [reason for pattern, reason in UNEQUAL if pattern.match(source)]
    return Column(
        name=column_name(object_name, module, source, stain),
        source=source,
        module=MODULE_NAMES[module],
        object=object_name,
        stain=stain,
        unit=unit,
        meaning=meaning,
        is_angle=unit in ("degree", "radian"),
        equals_cellprofiler=why[0] if why else "yes",
    )


def check_stains(stains: Sequence[str]) -> None:
    """Refuse stains whose CellProfiler names are the same.

    Raises
    ------
    ValueError
        With the two names.
    """
    seen: dict[str, str] = {}
    for stain in stains:
        name = image_name(stain)
        if name in seen:
            raise ValueError(f"stains {seen[name]!r} and {stain!r} are both {name!r} in CellProfiler's column names")
        seen[name] = stain
