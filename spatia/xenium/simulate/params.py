"""Parameters of one simulated slide."""

from __future__ import annotations

from dataclasses import dataclass

from spatia.xenium.simulate.slide import LAYOUTS

SMALLEST_PX = 512  # below this no duct, vessel and stroma fit on the same slide


@dataclass(frozen=True)
class SimulationParams:
    """What to simulate; everything else about tissue, stains and genes is fixed in this package."""

    name: str = "sim"
    donor: str = "donor_1"  # slides of one donor share their batch effect
    seed: int = 1
    layout: str = "3.0"  # which XOA version's bundle is written
    width_px: int = 2048
    height_px: int = 3072
    n_stains: int | None = None  # 1 or 4; by default all that the layout has
    stack: bool = True  # morphology.ome.tif, the DAPI z-stack
    stack_planes: int = 3
    he: bool = False
    transcripts: bool = True
    median_counts: float = 24.0  # transcripts of a median cell
    donor_effect: float = 1.0  # 0: all donors alike
    n_counterfactuals: int = 16  # per transition, as many as there are control cells at most
    n_flawed_cells: int = 12  # empty, tiny, huge, full of control probes: for QC to catch
    species: str = "human"
    tissue: str = "breast"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout should be one of {', '.join(LAYOUTS)}, found {self.layout!r}")
        if self.n_stains not in (None, 1, 4):
            raise ValueError(f"n_stains should be 1 or 4, found {self.n_stains}")
        if self.n_stains == 4 and not self.layout_has_four_stains:
            raise ValueError(f"layout {self.layout} knows DAPI only: n_stains should be 1, found 4")
        if min(self.width_px, self.height_px) < SMALLEST_PX:
            raise ValueError(
                f"width_px and height_px should be at least {SMALLEST_PX}, found {self.width_px} x {self.height_px}"
            )
        if self.stack_planes < 1:
            raise ValueError(f"stack_planes should be at least 1, found {self.stack_planes}")
        for key in ("seed", "n_counterfactuals", "n_flawed_cells"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} should not be negative, found {getattr(self, key)}")
        if self.median_counts <= 0 or self.donor_effect < 0:
            raise ValueError("median_counts should be positive and donor_effect not negative")

    @property
    def layout_has_four_stains(self) -> bool:
        """Whether bundles of this layout can hold more than DAPI."""
        return not self.layout.startswith("1.")

    @property
    def stains_written(self) -> int:
        """How many stains the slide gets: what was asked for, else all that the layout has."""
        return self.n_stains or (4 if self.layout_has_four_stains else 1)
