"""The training loop: phases of epochs of steps, resumable at any step (App. C).

Everything random in a batch comes from (seed, phase, epoch, number), the learning rate from the step, so a training
that goes on from its last stored state ends with the same weights as one that was never interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spatia.errors import SpatiaError
from spatia.learn.devices import Machine, move
from spatia.learn.objective import LOSS_NAMES, Losses, total_loss
from spatia.learn.order import BatchOrder
from spatia.learn.parallel import Group, average_gradients, sum_over, wait_for_all
from spatia.learn.phases import Phase, Recipe
from spatia.learn.steps import StateFile, make_adamw, schedule
from spatia.learn.view import BatchView
from spatia.learn.views import ViewDataset, load_views, seed_of
from spatia.machine import return_freed_memory
from spatia.model.hierarchy import Spatia
from spatia.progress import progress

log = logging.getLogger("spatia.pretrain")

BETAS = (0.9, 0.95)  # as ViT-MAE was trained
SHOWN_IDS = 5
TRIM_EVERY = 20  # steps; batches differ in size, and memory would grow by gigabytes
TOTAL = "total"
COUNTED = (*LOSS_NAMES, TOTAL)

Sums = dict[str, list[float]]  # name of a loss -> its sum, and over how many batches


@dataclass
class Progress:
    """How far a training is: the next step of an epoch of a phase, sums over the steps so far, and past epochs."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    sums: Sums = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains one model through its phases and keeps what is needed to go on.

    Parameters
    ----------
    model, phases, recipe, machine, group
        What, how and where.
    fingerprint
        Text that must not change between an interrupted training and its continuation.
    work
        Folder of the state of a running training; None stores none.
    on_row
        Called with every row of the history as it comes.
    """

    def __init__(
        self,
        model: Spatia,
        phases: Sequence[Phase],
        recipe: Recipe,
        machine: Machine,
        group: Group | None = None,
        fingerprint: str = "",
        work: Path | None = None,
        on_row: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.model, self.phases, self.recipe, self.machine = model, [p for p in phases if p.epochs], recipe, machine
        self.group = group or Group()
        self.on_row = on_row or (lambda row: None)
        self.progress = Progress()
        self.optimizer: torch.optim.Optimizer | None = None
        self._state = StateFile(work, fingerprint, recipe.save_every_s)
        self._n_steps: dict[str, int] = {}

    def run(self) -> list[dict[str, Any]]:
        """Train to the end, from the stored state if there is one; return the history.

        Raises
        ------
        SpatiaError
            If a loss is not finite, an epoch has no step, or the stored state belongs to another training.
        """
        self.resume()
        wait_for_all(self.group)  # the first process may end, and take the state away, before another has read it
        for row in self.progress.rows:
            self.on_row(row)
        while self.progress.phase < len(self.phases):
            phase = self.phases[self.progress.phase]
            if self.optimizer is None:
                self.optimizer = self._make_optimizer(phase)
            while self.progress.epoch < phase.epochs:
                self._epoch(phase)
                self.progress.epoch, self.progress.step, self.progress.sums = self.progress.epoch + 1, 0, {}
                self.save(force=True)
            self.progress.phase, self.progress.epoch, self.optimizer = self.progress.phase + 1, 0, None
        return self.progress.rows

    def _epoch(self, phase: Phase) -> None:
        self.model.train()
        n_steps = self.steps_per_epoch(phase)
        batches = self._batches(phase)
        bar = progress(range(self.progress.step, n_steps), f"{phase.name} {self.progress.epoch + 1}/{phase.epochs}")
        for step in bar:
            self.progress.sums = add_sums(self.progress.sums, self._step(phase, batches, step, n_steps))
            self.progress.step, self.progress.total_steps = step + 1, self.progress.total_steps + 1
            if self.progress.total_steps % TRIM_EVERY == 0:
                return_freed_memory()
            self.save()
        self._note(phase, "train", self.progress.sums, n_steps)
        if phase.val is not None:
            self._note(phase, "val", self._evaluate(phase, phase.val), n_steps)

    def _step(
        self, phase: Phase, batches: Iterator[tuple[tuple[int, int], BatchView]], step: int, n_steps: int
    ) -> Sums:
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        found = torch.zeros(2, len(COUNTED), device=self.machine.device)
        for _ in range(self.recipe.accumulate):
            key, view = next(batches)
            losses = self._losses(phase, key, view)
            loss = total_loss(losses, self.recipe.weights)
            (loss / self.recipe.accumulate).backward()
            for name, value in {**losses, TOTAL: loss}.items():
                column = COUNTED.index(name)
                found[0, column] += value.detach().float()
                found[1, column] += 1
        found = sum_over(self.group, found).cpu()
        average_gradients(phase.parameters, self.group)
        norm = nn.utils.clip_grad_norm_(phase.parameters, self.recipe.clip_norm)
        self._insist_on_finite(phase, step, found, norm, view)
        rate = learning_rate(self.progress.epoch * n_steps + step, phase.epochs * n_steps, self.recipe)
        for settings in self.optimizer.param_groups:
            settings["lr"] = rate
        self.optimizer.step()
        return {name: pair for name, pair in zip(COUNTED, found.T.tolist(), strict=True) if pair[1]}

    def _losses(self, phase: Phase, key: tuple[int, int], view: BatchView) -> Losses:
        seed = seed_of(self.recipe.seed, self.progress.phase, *key, 1)
        torch.manual_seed(seed)  # dropout
        generator = torch.Generator().manual_seed(seed)
        with self.machine.autocast():
            return phase.objective(self.model, move(view, self.machine.device), generator)

    @torch.no_grad()
    def _evaluate(self, phase: Phase, views: ViewDataset) -> Sums:
        self.model.eval()
        sums: Sums = {}
        for key, view in load_views(views, BatchOrder(views.batches), self.recipe.workers):
            losses = self._losses(phase, key, view)
            losses[TOTAL] = total_loss(losses, self.recipe.weights)
            sums = add_sums(sums, {name: [float(value), 1.0] for name, value in losses.items()})
        return sums

    def steps_per_epoch(self, phase: Phase) -> int:
        """Return how often an epoch of ``phase`` changes the weights; the same for every epoch."""
        if phase.name not in self._n_steps:
            n_batches = min(self._n_batches(phase, epoch) for epoch in range(phase.epochs))
            self._n_steps[phase.name] = n_batches // self.recipe.accumulate
        return self._n_steps[phase.name]

    def _n_batches(self, phase: Phase, epoch: int) -> int:
        order = self._order(phase)
        order.set_epoch(epoch)
        return len(order)

    def _order(self, phase: Phase) -> BatchOrder:
        is_cut = self.group.size * self.recipe.accumulate > 1
        return BatchOrder(phase.train.batches, self.group.rank, self.group.size, drop_last=is_cut)

    def _batches(self, phase: Phase) -> Iterator[tuple[tuple[int, int], BatchView]]:
        if not self.steps_per_epoch(phase):
            raise SpatiaError(
                f"pretrain, phase {phase.name}: {phase.train.batches.n_cells} cells make fewer batches than "
                f"{self.group.size} processes x {self.recipe.accumulate} accumulated ones need; make batches smaller"
            )
        order = self._order(phase)
        order.set_epoch(self.progress.epoch, self.progress.step * self.recipe.accumulate)
        return load_views(phase.train, order, self.recipe.workers)

    def _make_optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        recipe, device = self.recipe, self.machine.device
        return make_adamw(phase.parameters, recipe.learning_rate, recipe.weight_decay, BETAS, device)

    def _insist_on_finite(self, phase: Phase, step: int, found: Tensor, norm: Tensor, view: BatchView) -> None:
        if bool(found.isfinite().all()) and bool(norm.isfinite()):
            return
        ids = ", ".join(view.cell_id[:SHOWN_IDS])
        raise SpatiaError(
            f"pretrain, phase {phase.name}, epoch {self.progress.epoch + 1}, step {step + 1}: the loss is not finite "
            f"(total {float(found[0, -1])}, gradient {float(norm)}) in a batch of {len(view.cell_id)} cells: {ids}, "
            "...; lower learning_rate, or look at these cells"
        )

    def _note(self, phase: Phase, split: str, sums: Sums, n_steps: int) -> None:
        means = {name: total / count for name, (total, count) in sums.items()}
        done = (self.progress.epoch + 1) * n_steps
        row = {
            "phase": phase.name,
            "epoch": self.progress.epoch + 1,
            "step": self.progress.total_steps,
            "learning_rate": learning_rate(done - 1, phase.epochs * n_steps, self.recipe),
            "split": split,
            **means,
        }
        self.progress.rows.append(row)
        if self.group.is_first:
            text = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
            log.info("%s %d/%d %s: %s", phase.name, self.progress.epoch + 1, phase.epochs, split, text)
            self.on_row(row)

    def save(self, force: bool = False) -> None:
        """Store the state, at most every ``save_every_s`` unless forced."""
        if not self.group.is_first or not (force or self._state.is_due()):
            return
        assert self.optimizer is not None
        self._state.save(
            {
                "progress": vars(self.progress),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
        )

    def resume(self) -> None:
        """Go to the stored state, if there is one of this training; every process reads what the first one wrote."""
        state = self._state.load(log)
        if state is None:
            return
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        if self.progress.phase < len(self.phases):
            phase = self.phases[self.progress.phase]
            self.optimizer = self._make_optimizer(phase)
            self.optimizer.load_state_dict(state["optimizer"])
        log.info("going on at step %d", self.progress.total_steps + 1)


def add_sums(one: Sums, two: Sums) -> Sums:
    """Return the sum of two; a loss may be missing in either."""
    names = [name for name in COUNTED if name in one or name in two]
    nothing = [0.0, 0.0]
    return {
        name: [a + b for a, b in zip(one.get(name, nothing), two.get(name, nothing), strict=True)] for name in names
    }


def learning_rate(step: int, n_steps: int, recipe: Recipe) -> float:
    """Return the rate of step ``step`` of ``n_steps``."""
    return schedule(step, n_steps, recipe.learning_rate, recipe.warmup_steps)
