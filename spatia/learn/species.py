"""The species of the slides that train one model."""

from __future__ import annotations

from collections.abc import Sequence

from spatia.errors import SpatiaError
from spatia.learn.slides import SlideFiles
from spatia.xenium.store import open_slide


def species_of(slides: Sequence[SlideFiles], verb: str) -> str:
    """Return the species of all slides; a model is of one (A34).

    Raises
    ------
    SpatiaError
        If there are several.
    """
    found = {files.name: open_slide(files.image).species for files in slides if files.image is not None}
    if len(set(found.values())) > 1:
        text = ", ".join(f"{name}: {species}" for name, species in found.items())
        raise SpatiaError(f"{verb}: expected slides of one species, found {text}; train one model per species")
    return next(iter(found.values()))
