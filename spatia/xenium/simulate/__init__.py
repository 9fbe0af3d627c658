"""Simulated Xenium slides with planted truth: tissue, cells, counts, pixels, and the bundles that hold them."""

from spatia.xenium.simulate.generate import simulate_slide
from spatia.xenium.simulate.params import SimulationParams
from spatia.xenium.simulate.slide import LAYOUTS, SimulatedSlide, cell_ids

__all__ = ["LAYOUTS", "SimulatedSlide", "SimulationParams", "cell_ids", "simulate_slide"]
