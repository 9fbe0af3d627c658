"""What a training consists of: its phases, and how steps are taken (App. C)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from spatia.learn.objective import Objective
from spatia.learn.settings import LossWeights
from spatia.learn.views import ViewDataset


@dataclass(frozen=True)
class Phase:
    """One part of the training.

    Attributes
    ----------
    name, epochs
        Of the phase.
    objective
        Model, view and generator -> losses by name.
    train, val
        Batches; ``val`` None where no slide is set aside.
    parts
        The modules that learn.
    """

    name: str
    epochs: int
    objective: Objective
    train: ViewDataset
    val: ViewDataset | None
    parts: tuple[nn.Module, ...]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters that learn, in a fixed order."""
        return [p for part in self.parts for p in part.parameters() if p.requires_grad]


@dataclass(frozen=True)
class Recipe:
    """How steps are taken; see :class:`spatia.config.PretrainParams`."""

    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    accumulate: int
    weights: LossWeights
    seed: int
    workers: int = 0
    save_every_s: float = 60.0
