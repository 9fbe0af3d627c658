"""Cell states, their lineages, the transitions between them, and where each lives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatia.xenium.simulate.tissue import DOMAINS, Compartment, Tissue

# state -> cell type, lineage
STATES = {
    "Epi_FOXA1+": ("tumour epithelial", "epithelial"),
    "EMT-Epi1_CEACAM6+": ("tumour epithelial", "epithelial"),
    "Epi_CENPF+": ("tumour epithelial", "epithelial"),
    "mgEpi_KRT14+": ("myoepithelial", "epithelial"),
    "Epi_normal": ("normal epithelial", "epithelial"),
    "tcm_CD4+T": ("T cell", "T cell"),
    "eff_CD8+T1": ("T cell", "T cell"),
    "EC_CAVIN2+": ("endothelial", "endothelial"),
    "EC_CLEC14A+": ("endothelial", "endothelial"),
    "Fibroblast": ("fibroblast", "fibroblast"),
    "Macrophage": ("macrophage", "macrophage"),
}
STATE_NAMES = tuple(STATES)


@dataclass(frozen=True)
class Transition:
    """A change of state within one lineage, and where its target state looks different."""

    control: str
    target: str
    niches: tuple[str, ...]  # the target's morphology is shifted in these niches; none: no niche effect

    @property
    def name(self) -> str:
        """Name of the transition in every table."""
        return f"{self.control}->{self.target}"


TRANSITIONS = (
    Transition("Epi_FOXA1+", "EMT-Epi1_CEACAM6+", ("front",)),
    Transition("Epi_FOXA1+", "Epi_CENPF+", ("front",)),
    Transition("Epi_FOXA1+", "mgEpi_KRT14+", ("front",)),
    Transition("tcm_CD4+T", "eff_CD8+T1", ("stroma_hot",)),
    Transition("EC_CAVIN2+", "EC_CLEC14A+", ()),
)

NICHES = ("gland", "duct", "front", "stroma_cold", "stroma_hot", "vessel_cold", "vessel_hot")

# place -> chances of states; what is missing to 1 goes to the first
_MIX = {
    "gland": {"Epi_normal": 0.93, "tcm_CD4+T": 0.02, "eff_CD8+T1": 0.02, "mgEpi_KRT14+": 0.03},
    "duct": {
        "Epi_FOXA1+": 0.66,
        "Epi_CENPF+": 0.16,
        "EMT-Epi1_CEACAM6+": 0.09,
        "mgEpi_KRT14+": 0.05,
        "eff_CD8+T1": 0.02,
        "Macrophage": 0.02,
    },
    "basal": {"mgEpi_KRT14+": 0.80, "Epi_FOXA1+": 0.14, "EMT-Epi1_CEACAM6+": 0.06},
    "front": {
        "Epi_FOXA1+": 0.43,
        "EMT-Epi1_CEACAM6+": 0.31,
        "Epi_CENPF+": 0.14,
        "mgEpi_KRT14+": 0.06,
        "Macrophage": 0.03,
        "eff_CD8+T1": 0.03,
    },
    "stroma_cold": {
        "Fibroblast": 0.63,
        "Macrophage": 0.13,
        "tcm_CD4+T": 0.07,
        "eff_CD8+T1": 0.03,
        "EC_CAVIN2+": 0.08,
        "EC_CLEC14A+": 0.06,
    },
    "stroma_hot": {
        "Fibroblast": 0.26,
        "Macrophage": 0.14,
        "tcm_CD4+T": 0.28,
        "eff_CD8+T1": 0.23,
        "EC_CAVIN2+": 0.05,
        "EC_CLEC14A+": 0.04,
    },
    "front_stroma": {
        "Fibroblast": 0.84,
        "EMT-Epi1_CEACAM6+": 0.10,
        "Epi_FOXA1+": 0.06,
    },  # left a nest
    "lumen": {"Macrophage": 1.0},
}
_VESSEL_PURITY = 0.85
_LEAVING = 0.12  # part of the invasive stroma's cells drawn from "front_stroma"


def place_of(tissue: Tissue, points: np.ndarray) -> np.ndarray:
    """Return the place (a key of the chances, or ``vessel``) of every point, (n,) of str."""
    compartment = tissue.at(tissue.compartment, points)
    hot = tissue.at(tissue.hot, points)
    places = np.where(hot, "stroma_hot", "stroma_cold").astype("<U12")
    for value, name in (
        (Compartment.GLAND, "gland"),
        (Compartment.DUCT, "duct"),
        (Compartment.BASAL, "basal"),
        (Compartment.NEST, "front"),
        (Compartment.VESSEL_WALL, "vessel"),
        (Compartment.LUMEN, "lumen"),
    ):
        places[compartment == value] = name
    return places


def draw_states(tissue: Tissue, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a state for every point, (n,) of str."""
    places = place_of(tissue, points)
    invasive = tissue.at(tissue.domain, points) == DOMAINS.index("invasive")
    leaving = invasive & np.char.startswith(places, "stroma") & (rng.random(len(points)) < _LEAVING)
    states = np.full(len(points), "", dtype="<U20")
    for place, mix in _MIX.items():
        here = np.flatnonzero(leaving if place == "front_stroma" else (places == place) & ~leaving)
        chances = np.array(list(mix.values()))
        chances[0] += 1 - chances.sum()
        states[here] = rng.choice(list(mix), size=len(here), p=chances)
    in_vessel = np.flatnonzero(places == "vessel")
    states[in_vessel] = _vessel_states(tissue, points[in_vessel], rng)
    return states


def _vessel_states(tissue: Tissue, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vessels are mostly of one state; those of the tumour more often ``EC_CLEC14A+``."""
    number = tissue.at(tissue.structure, points)
    is_tumour = tissue.at(tissue.domain, points) > 0
    coin = rng.random(len(tissue.structures) + 1)[number]
    main_is_clec = coin < np.where(is_tumour, 0.6, 0.3)
    is_clec = main_is_clec == (rng.random(len(points)) < _VESSEL_PURITY)
    return np.where(is_clec, "EC_CLEC14A+", "EC_CAVIN2+")


def niche_of(tissue: Tissue, points: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return the planted niche of every cell, (n,) of str, one of ``NICHES``."""
    niches = place_of(tissue, points)
    hot = tissue.at(tissue.hot, points)
    niches[niches == "basal"] = "duct"
    invasive = tissue.at(tissue.domain, points) == DOMAINS.index("invasive")
    lineage = np.array([STATES[state][1] for state in states])
    niches[(lineage == "epithelial") & invasive & np.char.startswith(niches, "stroma")] = "front"
    niches[niches == "lumen"] = "duct"
    is_vessel = niches == "vessel"
    niches[is_vessel] = np.where(hot[is_vessel], "vessel_hot", "vessel_cold")
    return niches
