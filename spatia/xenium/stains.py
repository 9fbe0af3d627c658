"""Stain names: one place that maps how bundles spell them to the names of :mod:`spatia.keys`."""

from __future__ import annotations

import re

from spatia import keys

_SPELLINGS = {
    keys.DAPI: ("dapi", "nuclear", "nuclei", "morphology", "morphology_focus", "channel_0"),
    keys.BOUNDARY_STAIN: ("atp1a1/cd45/e-cadherin", "boundary", "cell boundary"),
    keys.INTERIOR_RNA_STAIN: ("18s", "18s rrna", "interior rna", "rna"),
    keys.INTERIOR_PROTEIN_STAIN: ("alphasma/vimentin", "interior protein", "alpha-sma/vimentin", "asma/vimentin"),
}

# the order in which XOA 2.x and 3.x number the files of its segmentation kit, for images without channel names
KIT_ORDER = (keys.DAPI, keys.BOUNDARY_STAIN, keys.INTERIOR_RNA_STAIN, keys.INTERIOR_PROTEIN_STAIN)


def canonical_stain(name: str) -> str:
    """Return the project's name of a stain; a name it does not know comes back as it is.

    Case, spaces and punctuation do not matter: ``atp1a1_cd45_e-cadherin`` is ``ATP1A1/CD45/E-Cadherin``.
    """
    return _CANONICAL.get(_letters(name), name.strip())


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.replace("α", "alpha").lower())


_CANONICAL = {_letters(spelling): name for name, spellings in _SPELLINGS.items() for spelling in spellings}
