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
    "log_area": (0.30, "log of um2 of the undisturbed outline"),
    "log_stretch": (0.16, "log of long axis / short axis"),
    "wobble": (0.025, "amplitude of the outline's harmonics"),
    "logit_nucleus": (0.38, "logit of nucleus area / cell area"),
    "log_dapi": (0.30, "log of DAPI, photons per pixel of the nucleus"),
    "log_grain": (0.30, "log of the chromatin's contrast"),
    "log_membrane": (0.42, "log of the boundary stain at the membrane"),
    "log_boundary": (0.40, "log of the boundary stain in the cytoplasm"),
    "log_rna": (0.36, "log of the interior RNA stain in the cytoplasm"),
    "log_protein": (0.60, "log of the interior protein stain in the cytoplasm"),
    "log_streak": (0.25, "log of the contrast of fibres in the interior protein stain"),
}
PARAMETER_NAMES = tuple(PARAMETERS)
_SD = np.array([sd for sd, _ in PARAMETERS.values()])

# lineage -> the look of its first state, in the order of PARAMETERS
_LINEAGE_LOOK = {
    "epithelial": (4.35, 0.20, 0.035, -0.55, 2.60, -1.6, 2.75, 2.25, 2.35, 0.2, -1.6),
    "T cell": (3.55, 0.12, 0.030, 0.75, 2.70, -1.3, 1.70, 1.25, 1.40, 0.6, -1.6),
    "endothelial": (3.75, 0.95, 0.045, 0.20, 2.45, -1.5, 1.40, 1.10, 1.75, 2.6, -0.9),
    "fibroblast": (3.75, 0.95, 0.060, 0.35, 2.40, -1.5, 0.90, 0.90, 1.45, 2.3, -0.5),
    "macrophage": (4.05, 0.25, 0.070, -0.20, 2.40, -1.5, 1.60, 1.45, 2.00, 1.9, -1.0),
}

# state -> change against its lineage's look, at program strength 1
STATE_CHANGE: dict[str, dict[str, float]] = {
    "Epi_FOXA1+": {},
    "EMT-Epi1_CEACAM6+": {
        "log_area": 0.18,
        "log_stretch": 0.42,
        "wobble": 0.03,
        "log_membrane": -0.75,
        "log_boundary": -0.20,
        "log_protein": 1.25,
        "log_streak": 0.5,
    },
    "Epi_CENPF+": {"log_area": 0.30, "logit_nucleus": 0.55, "log_dapi": 0.50, "log_grain": 0.55, "log_rna": 0.35},
    "mgEpi_KRT14+": {
        "log_area": -0.40,
        "log_stretch": 0.60,
        "logit_nucleus": 0.35,
        "log_membrane": -0.55,
        "log_boundary": -0.45,
        "log_rna": -0.45,
        "log_protein": 1.90,
        "log_streak": 0.4,
    },
    "Epi_normal": {"log_area": -0.15, "log_dapi": -0.15, "log_membrane": 0.40, "log_rna": -0.20, "logit_nucleus": -0.15},
    "tcm_CD4+T": {},
    "eff_CD8+T1": {"log_area": 0.38, "logit_nucleus": -0.45, "log_dapi": -0.25, "log_membrane": 0.30, "log_rna": 0.50},
    "EC_CAVIN2+": {},
    "EC_CLEC14A+": {"log_area": 0.25, "log_stretch": -0.35, "logit_nucleus": -0.30, "log_rna": 0.45, "log_protein": -0.7},
    "Fibroblast": {},
    "Macrophage": {},
}

# (state, niche) -> further change; a transition whose target stands here carries a niche effect
NICHE_EFFECT: dict[tuple[str, str], dict[str, float]] = {
    ("EMT-Epi1_CEACAM6+", "front"): {"log_area": 0.15, "log_stretch": 0.40, "log_protein": 0.60},
    ("Epi_CENPF+", "front"): {"log_dapi": 0.30, "logit_nucleus": 0.30},
    ("mgEpi_KRT14+", "front"): {"log_protein": -0.50, "log_stretch": -0.15},
    ("eff_CD8+T1", "stroma_hot"): {"log_area": 0.25, "log_rna": 0.35},
}

# the two classes that no gene and no surrounding shows
IMAGE_CLASSES = ("smooth", "grainy")
IMAGE_EFFECT = {"log_grain": 1.0, "log_dapi": 0.25}

N_OUTLINE_HARMONICS = 3


def look_of(states: np.ndarray, niches: np.ndarray, strength: np.ndarray, image_class: np.ndarray) -> np.ndarray:
    """Return the expected parameters (n, parameter) of cells in these states and niches."""
    look = np.array([_LINEAGE_LOOK[STATES[state][1]] for state in states]).reshape(len(states), -1)
    change = np.array([_row(STATE_CHANGE[state]) for state in states]).reshape(look.shape)
    niche = np.array([_row(NICHE_EFFECT.get(pair, {})) for pair in zip(states, niches, strict=True)])
    grainy = np.outer(image_class == IMAGE_CLASSES[1], _row(IMAGE_EFFECT))
    return look + strength[:, None] * change + niche.reshape(look.shape) + grainy


def draw_residuals(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the cells' own residuals (n, parameter), standard normal, cut at 2.5."""
    return np.clip(rng.standard_normal((n, len(PARAMETERS))), -2.5, 2.5)


def parameters_of(look: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return the rendering parameters (n, parameter) from expected look and residuals."""
    return look + residuals * _SD


def geometry_of(parameters: np.ndarray, pixel_size_um: float) -> pd.DataFrame:
    """Return what the painter needs in pixels: ``long``, ``short``, ``waves``, ``nucleus`` (its size in cell sizes)."""
    values = dict(zip(PARAMETER_NAMES, parameters.T, strict=True))
    radius = np.sqrt(np.exp(values["log_area"]) / np.pi) / pixel_size_um
    stretch = np.exp(np.clip(values["log_stretch"], 0, 1.6) / 2)
    fraction = 1 / (1 + np.exp(-values["logit_nucleus"]))
    return pd.DataFrame(
        {
            "long": radius * stretch,
            "short": radius / stretch,
            "waves": np.clip(values["wobble"], 0, 0.15),
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
