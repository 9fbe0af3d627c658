"""The generator's training loop: parts of steps, resumable at any step, the same with one seed.

A batch comes from (seed, part, step, process) alone, so a training that goes on from its last stored state ends with
the same weights as one that was never interrupted. The average of the weights (A5) is part of the state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spatia.errors import SpatiaError
from spatia.learn.devices import Machine
from spatia.learn.generator_objective import TOTAL
from spatia.learn.generator_pairs import PairBatch
from spatia.learn.parallel import Group, average_gradients, sum_over
from spatia.learn.steps import StateFile, make_adamw, schedule
from spatia.learn.views import seed_of
from spatia.progress import progress
from spatia.transitions.averaging import decay_at, update_average

log = logging.getLogger("spatia.flow")

BETAS = (0.9, 0.99)
SHOWN_IDS = 5

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """One part of the training.

    Attributes
    ----------
    name, steps, learning_rate
        Of the part.
    losses
        Batch and generator -> losses, ``total`` among them.
    draw
        Seed -> batch.
    module
        What learns.
    val
        Batches whose loss is watched; may be empty.
    finish
        Called once when the part is done, before the next begins; it may set buffers.
    """

    name: str
    steps: int
    learning_rate: float
    losses: Callable[[PairBatch, torch.Generator], Losses]
    draw: Callable[[int], PairBatch]
    module: nn.Module
    val: Sequence[PairBatch] = ()
    finish: Callable[[], None] = lambda: None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Parameters that learn, in a fixed order."""
        return [p for p in self.module.parameters() if p.requires_grad]


@dataclass(frozen=True)
class FlowRecipe:
    """How steps are taken; see :class:`spatia.transition_params.FlowParams`."""

    warmup_steps: int
    weight_decay: float
    clip_norm: float
    ema_decay: float
    log_every: int
    seed: int
    save_every_s: float = 60.0


@dataclass
class Progress:
    """How far a training is: the next step of a part, sums since the last row, past rows."""

    part: int = 0
    step: int = 0
    total_steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


class GeneratorTrainer:
    """Trains ``model`` part by part; afterwards :attr:`average` holds the averaged weights.

    Parameters
    ----------
    model, parts, recipe, machine, group
        What, how and where.
    fingerprint, work
        See :class:`spatia.learn.steps.StateFile`.
    on_row
        Called with every row of the history as it comes.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[Part],
        recipe: FlowRecipe,
        machine: Machine,
        group: Group | None = None,
        fingerprint: str = "",
        work: Path | None = None,
        on_row: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.model, self.parts, self.recipe, self.machine = model, parts, recipe, machine
        self.group, self.on_row = group or Group(), on_row or (lambda row: None)
        self.progress = Progress()
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.optimizer: torch.optim.Optimizer | None = None
        self._state = StateFile(work, fingerprint, recipe.save_every_s)

    def run(self) -> list[dict[str, Any]]:
        """Train to the end, from the stored state if there is one; return the history.

        Raises
        ------
        SpatiaError
            If a loss is not finite.
        """
        self.resume()
        while self.progress.part < len(self.parts):
            part = self.parts[self.progress.part]
            self.optimizer = self.optimizer or self._make_optimizer(part)
            bar = progress(range(self.progress.step, part.steps), part.name)
            for step in bar:
                self._take(part, step)
            part.finish()
            self.progress.part, self.progress.step, self.optimizer = self.progress.part + 1, 0, None
            self._restart_average()
            self.save(force=True)
        return self.progress.rows

    def _restart_average(self) -> None:
        """Before a further part the average is what the weights are: the next part must not lag behind this one."""
        if self.progress.part < len(self.parts):
            self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _take(self, part: Part, step: int) -> None:
        self._step(part, step)
        decay = decay_at(step, self.recipe.ema_decay)
        update_average(self.average, self.model.state_dict(), decay)
        self.progress.step, self.progress.total_steps = step + 1, self.progress.total_steps + 1
        if (step + 1) % self.recipe.log_every == 0 or step + 1 == part.steps:
            self._note(part, step)
        self.save()

    def _step(self, part: Part, step: int) -> None:
        assert self.optimizer is not None
        self.model.train()
        seed = seed_of(self.recipe.seed, self.progress.part, step, self.group.rank)
        batch = part.draw(seed)
        losses = self._losses(part, batch, seed)
        self.optimizer.zero_grad(set_to_none=True)
        losses[TOTAL].backward()
        found = sum_over(self.group, torch.stack([value.detach().float() for value in losses.values()])).cpu()
        average_gradients(part.parameters, self.group)
        norm = nn.utils.clip_grad_norm_(part.parameters, self.recipe.clip_norm)
        self._insist_on_finite(part, step, found, norm, batch)
        for settings in self.optimizer.param_groups:
            settings["lr"] = schedule(step, part.steps, part.learning_rate, self.recipe.warmup_steps)
        self.optimizer.step()
        for name, value in zip(losses, (found / self.group.size).tolist(), strict=True):
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value
        self.progress.sums["n"] = self.progress.sums.get("n", 0.0) + 1

    def _losses(self, part: Part, batch: PairBatch, seed: int) -> Losses:
        torch.manual_seed(seed)  # dropout
        with self.machine.autocast():
            return part.losses(batch, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _evaluate(self, part: Part) -> dict[str, float]:
        """Return mean losses on the watched batches, always with the same random numbers."""
        self.model.eval()
        sums: dict[str, float] = {}
        for number, batch in enumerate(part.val):
            for name, value in self._losses(part, batch, seed_of(self.recipe.seed, number)).items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(part.val)
        return sums

    def _make_optimizer(self, part: Part) -> torch.optim.Optimizer:
        return make_adamw(part.parameters, part.learning_rate, self.recipe.weight_decay, BETAS, self.machine.device)

    def _insist_on_finite(self, part: Part, step: int, found: Tensor, norm: Tensor, batch: PairBatch) -> None:
        if bool(found.isfinite().all()) and bool(norm.isfinite()):
            return
        ids = ", ".join(batch.cell_id[:SHOWN_IDS])
        raise SpatiaError(
            f"flow, part {part.name}, step {step + 1}: the loss is not finite (total {float(found[-1])}, gradient "
            f"{float(norm)}) in a batch of {len(batch)} pairs whose controls are {ids}, ...; lower learning_rate, or "
            "look at these cells"
        )

    def _note(self, part: Part, step: int) -> None:
        n = self.progress.sums.pop("n")
        found = {"train": {name: value / n for name, value in self.progress.sums.items()}}
        self.progress.sums = {}
        if part.val:
            found["val"] = self._evaluate(part)
        rate = schedule(step, part.steps, part.learning_rate, self.recipe.warmup_steps)
        for split, means in found.items():
            row = {"phase": part.name, "step": step + 1, "learning_rate": rate, "split": split, **means}
            self.progress.rows.append(row)
            if self.group.is_first:
                text = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
                log.info("%s %d/%d %s: %s", part.name, step + 1, part.steps, split, text)
                self.on_row(row)

    def save(self, force: bool = False) -> None:
        """Store the state, at most every ``save_every_s`` unless forced."""
        if not self.group.is_first or not (force or self._state.is_due()):
            return
        self._state.save(
            {
                "progress": vars(self.progress),
                "model": self.model.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict() if self.optimizer is not None else None,
            }
        )

    def resume(self) -> None:
        """Go to the stored state, if there is one of this training; every process reads what the first one wrote."""
        state = self._state.load(log)
        if state is None:
            return
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.average = {name: value.to(self.machine.device) for name, value in state["average"].items()}
        if state["optimizer"] is not None:
            self.optimizer = self._make_optimizer(self.parts[self.progress.part])
            self.optimizer.load_state_dict(state["optimizer"])
        log.info("going on at step %d", self.progress.total_steps + 1)
