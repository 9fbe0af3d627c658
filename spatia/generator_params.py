"""Parameters of the stages ``flow`` and ``generate``: one frozen dataclass each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from spatia.config import checked_changes
from spatia.model.velocity_shape import VelocityShape, velocity_shape_of


@dataclass(frozen=True)
class FlowParams:
    """How a generator is trained (SPATIA, section 4.3).

    Attributes
    ----------
    preset, model
        Sizes (:data:`spatia.model.velocity_shape.GENERATOR_PRESETS`), and changes of single values.
    target
        What is generated: crops of a ``cell``, or the ``niche`` tiles around control and target.
    stains
        ``microscope``: all stains but H&E that the training slides share; ``all``: H&E too; or a list of names.
    nucleus_outline
        Give the nucleus an outline of its own in the canvases of cells (:mod:`spatia.transitions.canvas`).
    context
        Embeddings of the control that are told: ``full`` (cell, niche and tissue), ``cell`` (its own), ``none``.
    contrast, rho, margin
        Form of eq. 7, weight of the negative, margin of ``hinge`` (A1).
    drop
        Share of rows without perturbation, and without context; half of those lack both.
    turn_targets
        Turn each target so that its long axis lies as its control's, and put it into that of its eight positions
        (quarter turns, mirror images) which is nearest to its control. Niche tiles: the eight positions only.
    rematch
        Hand the targets of a transition out anew, so that control and target look alike and lie near each other
        (:mod:`spatia.learn.generator_matching`); which cells belong to which transition stays as it is.
    local_targets
        With ``rematch``, draw targets near their control first, other than for transitions between niches and tiles.
    max_pairs
        Of a transition, over all training slides; a random part of them where there are more.
    gain_jitter
        Sd of the log gain by which the stains of control and target are made brighter or darker, both alike, in
        training: slides are stained more or less.
    start_noise, noise_probability
        Sd of the noise on the control, and the share of rows that have it (A6; CellFlux: 1 and 0.5).
    time_power
        Times are drawn as u ** power of uniform u: above 1, more of them lie near the control, where only the
        condition tells what is to come.
    confidence_weights
        Weigh pairs by the confidence of their plan.
    alignment
        Weight of the difference of intensity profiles between predicted and true target; 0 = off.
    steps, vae_steps, batch, learning_rate, vae_learning_rate, warmup_steps, weight_decay, clip_norm, ema_decay
        AdamW with linear warm-up and cosine; the VAE is trained before, where ``latent: vae``.
    kl_weight
        Of the VAE.
    log_every, save_every_s
        Steps per row of the history; how often a running training stores where it is.
    """

    preset: Literal["tiny", "cpu", "small", "base"] = "cpu"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    target: Literal["cell", "niche"] = "cell"
    stains: Literal["microscope", "all"] | list[str] = "microscope"
    nucleus_outline: bool = True
    context: Literal["full", "cell", "none"] = "full"
    contrast: Literal["minus", "hinge", "none", "plus"] = "minus"
    rho: float = 0.05
    margin: float = 0.1
    drop: float = 0.2
    turn_targets: bool = True
    rematch: bool = True
    local_targets: bool = True
    max_pairs: int = 4096
    gain_jitter: float = 0.2
    start_noise: float = 0.0
    noise_probability: float = 0.5
    time_power: float = 1.5
    confidence_weights: bool = False
    alignment: float = 0.0
    steps: int = 2000
    vae_steps: int = 1000
    batch: int = 32
    learning_rate: float = 2e-3
    vae_learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    kl_weight: float = 1e-6
    log_every: int = 50
    save_every_s: float = 60.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    allow_cpu: bool = False
    compile: bool = False
    processes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "vae_steps", "batch", "log_every", "processes", "max_pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 1, found {getattr(self, name)}")
        for name in ("drop", "noise_probability", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} should lie in 0 to 1, found {getattr(self, name)}")
        for name in ("rho", "margin", "gain_jitter", "start_noise", "alignment", "kl_weight", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} should not be negative, found {getattr(self, name)}")
        for name in ("learning_rate", "vae_learning_rate", "clip_norm", "time_power"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} should be above 0, found {getattr(self, name)}")
        if not isinstance(self.stains, str) and not 0 < len(set(self.stains)) == len(self.stains):
            raise ValueError(f"stains should be one or more names, each once, microscope or all; found {self.stains}")
        if 1.5 * self.drop > 1:
            raise ValueError(f"drop should be at most 2/3, so that some rows are told everything, found {self.drop}")
        self.shape()

    def shape(self) -> VelocityShape:
        """Return the preset with the changes of ``model``; a niche tile has neither a long axis nor a look."""
        changes = checked_changes(self.model, VelocityShape)
        of_cells = {"long_axis": False, "looks": False} if self.target == "niche" else {}
        return velocity_shape_of(self.preset, **{**of_cells, **changes})


@dataclass(frozen=True)
class GenerateParams:
    """How images are generated (A5).

    Attributes
    ----------
    max_cells
        Controls per transition, chosen by seed; null = all.
    unconditional
        Also generate with neither perturbation nor context said, as a control.
    n_trajectories
        Controls per transition of which images along the way are kept too, chosen by seed; 0 = none.
    solver, steps, guidance
        ``midpoint`` with 12 steps and guidance: 48 network calls. Guidance 0 halves them.
    batch
        Images at a time; without influence on the result.
    """

    max_cells: int | None = 500
    unconditional: bool = True
    n_trajectories: int = 3
    solver: Literal["euler", "midpoint", "heun"] = "midpoint"
    steps: int = 12
    guidance: float = 0.2
    batch: int = 64
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    allow_cpu: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 1, found {getattr(self, name)}")
        if self.max_cells is not None and self.max_cells < 1:
            raise ValueError(f"max_cells should be at least 1 or null, found {self.max_cells}")
        for name in ("guidance", "n_trajectories"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} should not be negative, found {getattr(self, name)}")
