"""How cells look: a structural model from state, niche and the cell's own residuals to rendering parameters.

Every parameter is ``base(state) + strength * change(state) + niche effect + image class + sd * residual`` on a
logarithmic (or logit) scale. The residual belongs to the cell: replacing the state and keeping the residual gives
the counterfactual cell.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from spatia.xenium.simulate.states import STATES, TRANSITIONS

# name: (sd of the residual, unit)
PARAMETERS = {
    "log_area": (0.57, "log of um2 of the undisturbed outline"),
    "log_stretch": (0.25, "log of long axis / short axis"),
    "wobble": (0.03, "amplitude of the outline's harmonics"),
    "logit_nucleus": (0.55, "logit of nucleus area / cell area"),
    "log_dapi": (0.41, "log of DAPI, photons per pixel of the nucleus"),
    "log_grain": (0.35, "log of the chromatin's contrast"),
    "log_membrane": (0.85, "log of the boundary stain at the membrane"),
    "log_boundary": (0.85, "log of the boundary stain in the cytoplasm"),
    "log_rna": (0.63, "log of the interior RNA stain in the cytoplasm"),
    "log_protein": (0.90, "log of the interior protein stain in the cytoplasm"),
    "log_streak": (0.35, "log of the contrast of fibres in the interior protein stain"),
}
PARAMETER_NAMES = tuple(PARAMETERS)
_SD = np.array([sd for sd, _ in PARAMETERS.values()])

# part of the residual's variance that neighbours have in common
_REGIONAL_PART = {
    "log_dapi": 0.25,
    "log_grain": 0.25,
    "log_membrane": 0.60,
    "log_boundary": 0.60,
    "log_rna": 0.55,
    "log_protein": 0.35,
}

# lineage -> the look of its first state, in the order of PARAMETERS
_LINEAGE_LOOK = {
    "epithelial": (4.72, 0.20, 0.050, -0.70, 2.45, -1.9, 2.75, 2.25, 2.35, -1.2, -0.6),
    "T cell": (3.46, 0.12, 0.045, 0.62, 2.34, -1.6, 1.80, 1.75, 1.65, 0.8, -0.4),
    "endothelial": (3.66, 0.95, 0.065, 0.20, 2.20, -1.8, 1.20, 1.65, 1.85, 2.2, 0.0),
    "fibroblast": (3.63, 0.95, 0.080, 0.35, 2.15, -1.8, 0.85, 1.60, 1.70, 2.2, 0.3),
    "macrophage": (3.93, 0.25, 0.085, -0.20, 2.20, -1.8, 1.45, 1.85, 2.00, 1.6, 0.0),
}

# state -> change against its lineage's look, at program strength 1
STATE_CHANGE: dict[str, dict[str, float]] = {
    "Epi_FOXA1+": {},
    "EMT-Epi1_CEACAM6+": {
        "log_area": 0.18,
        "log_stretch": 0.42,
        "wobble": 0.03,
        "log_membrane": -0.55,
        "log_boundary": -0.20,
        "log_protein": 1.10,
        "log_streak": 0.5,
    },
    "Epi_CENPF+": {"log_area": 0.24, "logit_nucleus": 0.32, "log_dapi": 0.24, "log_grain": 0.55, "log_rna": 0.22},
    "mgEpi_KRT14+": {
        "log_area": -0.40,
        "log_stretch": 0.60,
        "logit_nucleus": 0.35,
        "log_membrane": -0.55,
        "log_boundary": -0.45,
        "log_rna": -0.35,
        "log_protein": 1.50,
        "log_streak": 0.4,
    },
    "Epi_normal": {
        "log_area": -0.15,
        "log_dapi": -0.05,
        "log_membrane": 0.18,
        "log_rna": -0.10,
        "logit_nucleus": -0.15,
    },
    "tcm_CD4+T": {},
    "eff_CD8+T1": {"log_area": 0.30, "logit_nucleus": -0.35, "log_dapi": -0.18, "log_membrane": 0.20, "log_rna": 0.35},
    "EC_CAVIN2+": {},
    "EC_CLEC14A+": {
        "log_area": 0.20,
        "log_stretch": -0.30,
        "logit_nucleus": -0.25,
        "log_rna": 0.35,
        "log_protein": -0.5,
    },
    "Fibroblast": {},
    "Macrophage": {},
}

# (state, niche) -> further change; a transition whose target stands here carries a niche effect. About one residual sd
# each: with half of that, a regression of looks that was told the planted niche gained 4 % of its squared error there
NICHE_EFFECT: dict[tuple[str, str], dict[str, float]] = {
    ("EMT-Epi1_CEACAM6+", "front"): {"log_area": 0.25, "log_stretch": 0.60, "log_protein": 1.00},
    ("Epi_CENPF+", "front"): {"log_dapi": 0.40, "logit_nucleus": 0.60, "log_grain": 0.40},
    ("mgEpi_KRT14+", "front"): {"log_area": 0.35, "log_stretch": -0.35, "log_protein": -1.00},
    ("eff_CD8+T1", "stroma_hot"): {"log_area": 0.50, "log_rna": 0.65},
}

# the two classes that no gene and no surrounding shows
IMAGE_CLASSES = ("smooth", "grainy")
IMAGE_EFFECT = {"log_grain": 0.9, "log_dapi": 0.25}

N_OUTLINE_HARMONICS = 4


def look_of(states: np.ndarray, niches: np.ndarray, strength: np.ndarray, image_class: np.ndarray) -> np.ndarray:
    """Return the expected parameters (n, parameter) of cells in these states and niches."""
    look = np.array([_LINEAGE_LOOK[STATES[state][1]] for state in states]).reshape(len(states), -1)
    change = np.array([_row(STATE_CHANGE[state]) for state in states]).reshape(look.shape)
    niche = np.array([_row(NICHE_EFFECT.get(pair, {})) for pair in zip(states, niches, strict=True)])
    grainy = np.outer(image_class == IMAGE_CLASSES[1], _row(IMAGE_EFFECT))
    return look + strength[:, None] * change + niche.reshape(look.shape) + grainy


def draw_residuals(regional: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the cells' residuals (n, parameter), standard normal, cut at 2.5.

    Part of what makes a stain bright or dim is common to neighbours: fixation, depth of cut, penetration of the
    antibody. ``regional`` (n, parameter), smooth over the slide and of sd 1, is that part.
    """
    shared = np.array([_REGIONAL_PART.get(name, 0.0) for name in PARAMETER_NAMES])
    own = rng.standard_normal(regional.shape)
    return np.clip(np.sqrt(shared) * regional + np.sqrt(1 - shared) * own, -2.5, 2.5)


def parameters_of(look: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return the rendering parameters (n, parameter) from expected look and residuals."""
    return look + residuals * _SD


def geometry_of(parameters: np.ndarray, pixel_size_um: float) -> pd.DataFrame:
    """Return what the painter needs, in pixels: ``long``, ``short``, ``waves``, ``taper`` and ``nucleus``.

    The last is the nucleus' size as a part of the cell's.
    """
    values = dict(zip(PARAMETER_NAMES, parameters.T, strict=True))
    radius = np.sqrt(np.exp(values["log_area"]) / np.pi) / pixel_size_um
    stretch = np.exp(np.clip(values["log_stretch"], 0, 1.6) / 2)
    fraction = 1 / (1 + np.exp(-values["logit_nucleus"]))
    return pd.DataFrame(
        {
            "long": radius * stretch,
            "short": radius / stretch,
            "waves": np.clip(values["wobble"], 0, 0.15),
            "taper": np.clip(values["log_stretch"] - 0.3, 0, 0.9),
            "nucleus": np.sqrt(np.clip(fraction, 0.08, 0.92)),
        }
    )


def effect_table() -> pd.DataFrame:
    """Return the planted change of each parameter along each transition, with and without its niche effect."""
    rows = []
    for transition in TRANSITIONS:
        change = _row(STATE_CHANGE[transition.target]) - _row(STATE_CHANGE[transition.control])
        niche = sum((_row(NICHE_EFFECT.get((transition.target, n), {})) for n in transition.niches), np.zeros_like(_SD))
        for k, parameter in enumerate(PARAMETER_NAMES):
            rows.append(
                {
                    "transition": transition.name,
                    "parameter": parameter,
                    "change": float(change[k]),
                    "niche_effect": float(niche[k]),
                    "niches": ",".join(transition.niches),
                    "residual_sd": float(_SD[k]),
                }
            )
    return pd.DataFrame(rows)


def _row(change: dict[str, float]) -> np.ndarray:
    return np.array([change.get(name, 0.0) for name in PARAMETER_NAMES])
