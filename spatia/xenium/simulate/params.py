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
    n_stains: int = 4
    stack: bool = True  # morphology.ome.tif, the DAPI z-stack
    stack_planes: int = 5
    he: bool = False
    transcripts: bool = True
    median_counts: float = 25.0  # transcripts of a median cell
    donor_effect: float = 1.0  # 0: all donors alike
    n_counterfactuals: int = 24  # per transition, as many as there are control cells at most
    n_flawed_cells: int = 12  # empty, tiny, huge, full of control probes: for QC to catch
    tile_repeat: int = 1  # repeats the finished slide n x n times, for benchmarks
    species: str = "Human"
    tissue: str = "Breast"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout should be one of {', '.join(LAYOUTS)}, found {self.layout!r}")
        if self.n_stains not in (1, 4):
            raise ValueError(f"n_stains should be 1 or 4, found {self.n_stains}")
        if min(self.width_px, self.height_px) < SMALLEST_PX:
            raise ValueError(
                f"width_px and height_px should be at least {SMALLEST_PX}, found {self.width_px} x {self.height_px}"
            )
        for key in ("stack_planes", "tile_repeat"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} should be at least 1, found {getattr(self, key)}")
        for key in ("seed", "n_counterfactuals", "n_flawed_cells"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} should not be negative, found {getattr(self, key)}")
        if self.median_counts <= 0 or self.donor_effect < 0:
            raise ValueError("median_counts should be positive and donor_effect not negative")
