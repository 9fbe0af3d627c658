"""Parameters of the stages about transitions, from ``states`` to ``score``: one frozen dataclass each."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from spatia.cells.naming import parse_names
from spatia.cells.niche_classes import NicheAxis, parse_axis

NICHES: dict[str, Any] = {
    "immune": {"of": {"lineage": ["T cell", "B cell"]}, "radius_um": 40, "hot": ">= 0.1", "cold": "< 0.08"},
    "t_cell": {"of": {"cell_type": "T cell"}, "radius_um": 40, "rich": ">= 0.08", "poor": "< 0.05"},
    "tumour": {"of": {"cell_type": "tumour-like epithelial"}, "radius_um": 50, "near": ">= 0.1", "far": "< 0.01"},
}


@dataclass(frozen=True)
class StatesParams:
    """How cells get a type, a lineage, a state and classes of their surroundings.

    Attributes
    ----------
    names
        Label of the labels file -> ``cell_type``, ``lineage``, ``state``. A run may give a file of its own instead.
    niches
        Axis -> ``{of: .., radius_um: .., <class>: '>= share', <class>: '< share'}``.
    min_neighbours
        Cells with fewer have no class.
    min_marker_genes
        A cell type of which the panel has fewer markers is left out.
    marker_background
        Genes of like expression that each marker is compared with.
    min_marker_score, marker_margin
        Markers name a cell whose best score is at least this, and this much above the second.
    min_probability
        Those cells tell the profile of their type, and all genes then name every cell whose likeliest type has this
        probability; null = markers alone.
    buffer_px
        Cells this close to the edge that a slide shares with one of another split are left out (A26).
    test_share
        Of a training slide's cells that become its test block, with a buffer around; 0 = none.
    seed
        Chooses the block.
    """

    names: dict[str, Any] = dataclasses.field(default_factory=dict)
    niches: dict[str, Any] = dataclasses.field(default_factory=lambda: copy.deepcopy(NICHES))
    min_neighbours: int = 5
    min_marker_genes: int = 2
    marker_background: int = 25
    min_marker_score: float = 0.5
    marker_margin: float = 0.5
    min_probability: float | None = 0.7
    buffer_px: float = 1024.0
    test_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("min_neighbours", "min_marker_genes", "marker_background"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 1, found {getattr(self, name)}")
        if self.min_probability is not None and not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability should lie in 0 to 1, found {self.min_probability}")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share should lie in 0 to 1, found {self.test_share}")
        if self.buffer_px < 0:
            raise ValueError(f"buffer_px should not be negative, found {self.buffer_px}")
        parse_names(self.names)
        self.axes()

    def axes(self) -> dict[str, NicheAxis]:
        """Return the axes of ``niches``, checked."""
        return {name: parse_axis(name, entry) for name, entry in self.niches.items()}


@dataclass(frozen=True)
class PairParams:
    """How control cells find targets.

    Attributes
    ----------
    n_components
        Of the joint PCA (A13).
    target_sum
        Counts of every cell are scaled to this sum before log1p; null = median of the training cells.
    min_shared_genes
        A slide that has a smaller share of the basis' genes is refused.
    distance
        Between cells in PCA space: ``euclidean`` as in eq. 8, or ``squared``.
    spatial_weight, spatial_scale_um
        ``lambda`` and ``d0`` of ``lambda * min(d / d0, 1)`` (A15); a weight of 0 is the authors' code.
    epsilon, tolerance, max_iterations
        Of the entropic transport (A14): regularisation, L1 error of the marginals, limit.
    assignment
        ``argmax`` of each row, targets may serve twice; or ``lsa``, one to one (A16).
    min_cells
        Transitions with fewer on a side are skipped, with the reason in the table.
    max_dense_cells, kernel_bytes
        Where the longer side has more cells, costs are computed in blocks and the kernel is float32; where that would
        be larger than ``kernel_bytes``, it is computed anew in every iteration.
    noise
        Share of the pairs that get another, random target (T5).
    seed
        Of the noise.
    """

    n_components: int = 50
    target_sum: float | None = None
    min_shared_genes: float = 0.5
    distance: Literal["euclidean", "squared"] = "euclidean"
    spatial_weight: float = 0.2
    spatial_scale_um: float = 217.6
    epsilon: float = 0.05
    tolerance: float = 1e-4
    max_iterations: int = 2000
    assignment: Literal["argmax", "lsa"] = "argmax"
    min_cells: int = 50
    max_dense_cells: int = 8000
    kernel_bytes: int = 2_000_000_000
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_components", "max_iterations", "min_cells", "max_dense_cells", "kernel_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 1, found {getattr(self, name)}")
        for name in ("epsilon", "tolerance", "spatial_scale_um"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} should be above 0, found {getattr(self, name)}")
        for name in ("noise", "min_shared_genes"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} should lie in 0 to 1, found {getattr(self, name)}")
        if self.spatial_weight < 0:
            raise ValueError(f"spatial_weight should not be negative, found {self.spatial_weight}")
        if self.target_sum is not None and not self.target_sum > 0:
            raise ValueError(f"target_sum should be above 0 or null, found {self.target_sum}")


@dataclass(frozen=True)
class FeaturesParams:
    """How images are segmented and measured.

    Attributes
    ----------
    threshold
        Of the mean over stains, 0 to 1: what is brighter is the cell.
    rim_share
        Pixels of the rim belong to the cell from this share of the level just inside.
    min_cell_um2
        Smaller cells are failed segmentations.
    max_cells
        Real cells measured per slide beside the generated ones' controls, chosen by ``seed``; null = all.
    seed
        Chooses them.
    """

    threshold: float = 0.02
    rim_share: float = 0.4
    min_cell_um2: float = 4.0
    max_cells: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("threshold", "rim_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} should lie in 0 to 1, found {getattr(self, name)}")
        if self.min_cell_um2 < 0:
            raise ValueError(f"min_cell_um2 should not be negative, found {self.min_cell_um2}")
        if self.max_cells is not None and self.max_cells < 1:
            raise ValueError(f"max_cells should be at least 1 or null, found {self.max_cells}")


@dataclass(frozen=True)
class ScoreParams:
    """How generated cells are compared with real ones.

    Attributes
    ----------
    n_resamples, level
        Of the bootstrap; the share of resamples inside an interval.
    subset_size, n_subsets
        Of KID (A10); the subset is never larger than N.
    max_cells
        N is at most this, per transition.
    min_cells
        A transition with fewer cells on a side is not scored; half of the targets is a side.
    most_spreads
        Features further than so many of the controls' spreads from their mean count as this far.
    inception_weights
        File with the state of torchvision's ``inception_v3``; empty: the random encoder.
    seed
        Of halves, draws and resamples.
    """

    n_resamples: int = 200
    level: float = 0.95
    subset_size: int = 100
    n_subsets: int = 100
    max_cells: int = 500
    min_cells: int = 10
    most_spreads: float = 10.0
    inception_weights: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_resamples", "subset_size", "n_subsets", "max_cells", "min_cells"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} should be at least 2, found {getattr(self, name)}")
        if not self.most_spreads > 0:
            raise ValueError(f"most_spreads should be above 0, found {self.most_spreads}")
        if not 0 < self.level < 1:
            raise ValueError(f"level should lie in 0 to 1, found {self.level}")


@dataclass(frozen=True)
class CellprofilerParams:
    """What CellProfiler itself is given to measure.

    Attributes
    ----------
    max_images
        Chosen by ``seed`` among the segmented ones; null = all. One takes 2 to 5 s.
    only_real
        Real cells only.
    shards
        CellProfiler processes.
    seed
        Chooses the images.
    """

    max_images: int | None = 50
    only_real: bool = False
    shards: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise ValueError(f"shards should be at least 1, found {self.shards}")
        if self.max_images is not None and self.max_images < 1:
            raise ValueError(f"max_images should be at least 1 or null, found {self.max_images}")
