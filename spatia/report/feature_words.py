"""Names of features in words that a pathologist reads, from the dictionary that ``spatia features`` wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OBJECTS = {"Cells": "cell", "Nuclei": "nucleus"}
SHAPE, LEVEL, TEXTURE, GRAIN, PLACE = "size and shape", "intensity", "texture", "granularity", "place of the stain"
KINDS = {
    "MeasureObjectSizeShape": SHAPE,
    "MeasureObjectIntensity": LEVEL,
    "MeasureTexture": TEXTURE,
    "MeasureGranularity": GRAIN,
    "MeasureObjectIntensityDistribution": PLACE,
}
# polynomials, moments and measures of information are numbers for classifiers, nobody sees them in a cell; the average
# of pairs of pixels is the brightness again
ABSTRACT = re.compile(
    r"Zernike|(Spatial|Central|Normalized|Hu)Moment_|InertiaTensor|InfoMeas|^Sum(Average|Entropy|Variance)_"
)
# the dictionary has one meaning for all of Haralick's features
TEXTURE_WORDS = {
    "AngularSecondMoment": "uniform grey",
    "Contrast": "strength of the differences between pixels",
    "Correlation": "how alike neighbouring pixels are",
    "Variance": "how much grey values vary",
    "InverseDifferenceMoment": "smoothness",
    "Entropy": "disorder",
    "DifferenceVariance": "how uneven the differences between pixels are",
    "DifferenceEntropy": "disorder of the differences between pixels",
}
RING_WORDS = {"FracAtD": "share in ring", "MeanFrac": "density in ring", "RadialCV": "unevenness around ring"}
_PREFIX = re.compile(r"^(Intensity|RadialDistribution)_")
_TEXTURE = re.compile(r"^(?P<name>[A-Za-z0-9]+?)_(?P<apart>\d+)(_\d+)*$")
_RING = re.compile(r"^(?P<name>[A-Za-z]+)_(?P<ring>\d+of\d+)$")


def kind_of(column: Mapping[Any, Any]) -> str:
    """Return what kind of feature a line of the dictionary describes."""
    return KINDS.get(str(column["module"]), str(column["module"]))


def is_plain(column: Mapping[Any, Any]) -> bool:
    """Whether a feature means something that can be seen."""
    return not ABSTRACT.search(str(column["source"]))


def put_in_words(column: Mapping[Any, Any]) -> str:
    """Return a feature in words, such as ``DAPI in the nucleus, mean intensity: ...``.

    Parameters
    ----------
    column : a line of ``columns.tsv``: ``source``, ``module``, ``object``, ``stain``, ``meaning``
    """
    where = OBJECTS.get(str(column["object"]), str(column["object"]))
    stain = column["stain"]
    start = f"{stain} in the {where}" if isinstance(stain, str) and stain else where
    name, meaning = _name_and_meaning(str(column["source"]), str(column["meaning"]))
    return f"{start}, {name}: {meaning.removeprefix('of that ellipse: ')}"


def _name_and_meaning(source: str, meaning: str) -> tuple[str, str]:
    source = _PREFIX.sub("", source)
    texture, ring = _TEXTURE.match(source), _RING.match(source)
    if texture and texture["name"] in TEXTURE_WORDS:
        name = f"texture {_split_words(texture['name'])} {texture['apart']} px apart"
        return name, TEXTURE_WORDS[texture["name"]]
    if ring and ring["name"] in RING_WORDS:
        return f"{RING_WORDS[ring['name']]} {ring['ring'].replace('of', ' of ')}", meaning
    return _split_words(source), meaning


def _split_words(name: str) -> str:
    """Return ``MeanIntensityEdge`` as ``mean intensity edge``; single capitals such as CV stay together."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return " ".join(part if part.isupper() and len(part) > 1 else part.lower() for part in parts)
