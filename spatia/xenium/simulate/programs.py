"""Expression: what fraction of a cell's transcripts each gene makes, by state, program strength, class and donor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from spatia.xenium.simulate.panel import INTERFERON_GENES, LINEAGE_MARKERS, SHARED_MARKERS, STATE_MARKERS, gene_names
from spatia.xenium.simulate.states import STATE_NAMES, STATES, TRANSITIONS

GENE_CLASSES = ("baseline", "interferon")
INTERFERON_LOG_FOLD = 2.3
PANEL_SEED = 2507  # the biology is one and the same on every slide; donors and slides add to it
PROGRAMS = {
    "Epi_FOXA1+": "luminal",
    "EMT-Epi1_CEACAM6+": "EMT",
    "Epi_CENPF+": "proliferation",
    "mgEpi_KRT14+": "myoepithelial",
    "Epi_normal": "secretory",
    "tcm_CD4+T": "memory",
    "eff_CD8+T1": "cytotoxic",
    "EC_CAVIN2+": "capillary",
    "EC_CLEC14A+": "angiogenic",
    "Fibroblast": "matrix",
    "Macrophage": "phagocytic",
}
_LINEAGE_RISE = {"epithelial": 3.4, "T cell": 3.1, "endothelial": 2.6, "fibroblast": 3.4, "macrophage": 3.0}
_SHARED_RISE = 3.6
_STATE_RISE = 1.9
_AMBIENT = 0.03  # of every cell's transcripts come from the slide's average: diffusion and missegmentation


@dataclass(frozen=True)
class Expression:
    """Logarithmic expression levels, genes in the panel's order."""

    genes: tuple[str, ...]
    base: np.ndarray  # (gene,)
    lineage: dict[str, np.ndarray]  # rise of a lineage's markers
    state: dict[str, np.ndarray]  # rise of a state's program at strength 1
    interferon: np.ndarray  # (gene,)


def make_expression() -> Expression:
    """Return the panel's biology, the same for every slide."""
    rng = np.random.default_rng(PANEL_SEED)
    genes = tuple(gene_names())
    place = {gene: index for index, gene in enumerate(genes)}
    base = rng.normal(-2.6, 1.1, len(genes))
    texts = [*LINEAGE_MARKERS.values(), *SHARED_MARKERS.values(), *STATE_MARKERS.values(), INTERFERON_GENES]
    marked = [place[gene] for text in texts for gene in text.split()]
    base[marked] += 0.8

    def rise(text: str, mean: float) -> np.ndarray:
        change = np.zeros(len(genes))
        rows = [place[gene] for gene in text.split()]
        change[rows] = np.clip(rng.normal(mean, 0.4, len(rows)), 0.6, None)
        return change

    lineage = {name: rise(text, _LINEAGE_RISE[name]) for name, text in LINEAGE_MARKERS.items()}
    for names, text in SHARED_MARKERS.items():
        shared = rise(text, _SHARED_RISE)
        for name in names:
            lineage[name] = lineage[name] + shared
    return Expression(
        genes=genes,
        base=base,
        lineage=lineage,
        state={name: rise(STATE_MARKERS[name], _STATE_RISE) for name in STATE_NAMES},
        interferon=(rise(INTERFERON_GENES, 1.0) > 0) * INTERFERON_LOG_FOLD,
    )


def donor_shift(n_genes: int, donor_rng: np.random.Generator, donor_effect: float) -> np.ndarray:
    """Return a donor's change of every gene's log level, (gene,)."""
    return 0.25 * donor_effect * donor_rng.standard_normal(n_genes)


def fractions(
    expression: Expression, states: np.ndarray, strength: np.ndarray, gene_class: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Return each gene's expected part of each cell's transcripts, (n, gene), rows add up to 1."""
    log_level = expression.base + shift + np.zeros((len(states), 1))
    for state in np.unique(states):
        here = states == state
        log_level[here] += expression.lineage[STATES[state][1]] + np.outer(strength[here], expression.state[state])
    log_level[gene_class == GENE_CLASSES[1]] += expression.interferon
    level = np.exp(log_level)
    own = level / level.sum(axis=1, keepdims=True)
    return (1 - _AMBIENT) * own + _AMBIENT * own.mean(axis=0)


def expected_log_folds(expression: Expression, shift: np.ndarray) -> pd.DataFrame:
    """Return the log ratio of target to control fractions of every gene, (gene, transition), at strength 1."""
    n = len(STATE_NAMES)
    profile = fractions(expression, np.array(STATE_NAMES), np.ones(n), np.full(n, GENE_CLASSES[0]), shift)
    row = {state: np.log(profile[k]) for k, state in enumerate(STATE_NAMES)}
    columns = {t.name: row[t.target] - row[t.control] for t in TRANSITIONS}
    return pd.DataFrame(columns, index=pd.Index(expression.genes, name="gene"))
