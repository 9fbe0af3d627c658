"""The velocity that a straight line through the training pairs gives, which a network only has to correct.

For ends that are jointly Gaussian, with mean images mu_0, mu_1, variances s_0, s_1 and covariance c, the expected
velocity at x_t = (1 - t) x_0 + t x_1 is

    mu_1 - mu_0 + b(t) (x_t - (1 - t) mu_0 - t mu_1),  b(t) = Cov(x_1 - x_0, x_t) / Var(x_t)

with Cov(x_1 - x_0, x_t) = t s_1 - (1 - t) s_0 + (1 - 2 t) c and Var(x_t) = (1 - t)^2 s_0 + t^2 s_1 + 2 t (1 - t) c.
In every channel, three parts have moments of their own: the level (mean over the pixels: how bright, how large), what
is left of the rest after blurring, and the fine texture. Controls and targets agree in the first far more than in the
last; with one covariance for all, texture would fade on the way and not come back. Followed from t = 0 to 1 the line
carries mean and variance of the controls to those of the targets. Asked for the whole velocity, a network spends its
training on finding these.

Where the looks l of both ends are known (:mod:`spatia.model.looks`), mean images are those of cells that look so,
mu_0 + D (l_0 - E l_0) and likewise for targets, and moments are those of what is left. One D serves all transitions and
both ends: what a cell looks like that is larger, longer or brighter does not depend on what becomes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from spatia.transitions.canvas import turn, turn_by

LEAST_VARIANCE = 1e-6
N_PARTS = 3
RIDGE = 0.05  # on standardised looks: several of them go together
BLUR_PX = 5  # side of the square over which the coarse part is a mean
LYING = (0, 2, 4, 6)  # positions of a square in which what lay along x does so again


@dataclass(frozen=True)
class Moments:
    """Moments of pairs of fields.

    Attributes
    ----------
    start, end
        Mean images (c, side, side).
    spread
        (3, c, 3): of level, coarse and fine part, the variances of start and end and their covariance.
    """

    start: Tensor
    end: Tensor
    spread: Tensor


def moments_of(start: Tensor, end: Tensor, axis: Tensor | None = None) -> Moments:
    """Return the moments of (n, c, side, side) pairs; means are those over all eight positions of a square.

    With the long axes (n,) of the controls, means are those of fields turned so that the axis lies along x, over the
    four positions in which it does.
    """
    if axis is None:
        return _around(start, end, *(symmetric(fields.mean(0)) for fields in (start, end)))
    means = [symmetric(turn_by(fields, -axis).mean(0), LYING) for fields in (start, end)]
    found = _around(start, end, *(turn_by(mean.expand(len(axis), -1, -1, -1), axis) for mean in means))
    return Moments(means[0], means[1], found.spread)


def pooled(parts: list[Moments]) -> Moments:
    """Return the moments of several sets of pairs together, each with equal weight."""
    start, end = (torch.stack([getattr(part, name) for part in parts]).mean(0) for name in ("start", "end"))
    between = _around(torch.stack([p.start for p in parts]), torch.stack([p.end for p in parts]), start, end)
    return Moments(start, end, torch.stack([part.spread for part in parts]).mean(0) + between.spread)


def symmetric(image: Tensor, positions: Sequence[int] = range(8)) -> Tensor:
    """Return the mean of an image (c, side, side) over some of its eight positions."""
    return torch.stack([turn(image, number % 4, number >= 4) for number in positions]).mean(0)


def _around(start: Tensor, end: Tensor, start_mean: Tensor, end_mean: Tensor) -> Moments:
    spread = [
        torch.stack([(one * two).mean((0, 2, 3)) for one, two in ((x, x), (y, y), (x, y))], dim=1)
        for x, y in zip(parts_of(start - start_mean), parts_of(end - end_mean), strict=True)
    ]
    return Moments(start_mean, end_mean, torch.stack(spread))


def parts_of(fields: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return level (n, c, 1, 1), coarse and fine part (n, c, side, side), which sum up to the fields."""
    level = fields.mean((2, 3), keepdim=True)
    coarse = functional.avg_pool2d(fields - level, BLUR_PX, 1, BLUR_PX // 2, count_include_pad=False)
    return level, coarse, fields - level - coarse


class LinearGuess(nn.Module):
    """One straight line per transition, and a last one for all of them, where none is said.

    Parameters
    ----------
    n_transitions, n_channels, side_px
        Of the fields. Before :meth:`set_moments`, ends have mean 0, variance 1 and nothing in common.
    n_looks
        Numbers in a look; 0 = mean images are the same for all cells.
    """

    start: Tensor
    end: Tensor
    spread: Tensor
    by_look: Tensor  # (looks, c, side, side)
    mean_look: Tensor  # (transitions + 1, 2, looks) of start and end

    def __init__(self, n_transitions: int, n_channels: int, side_px: int, n_looks: int = 0) -> None:
        super().__init__()
        self.register_buffer("by_look", torch.zeros(n_looks, n_channels, side_px, side_px))
        self.register_buffer("mean_look", torch.zeros(n_transitions + 1, 2, n_looks))
        self.register_buffer("start", torch.zeros(n_transitions + 1, n_channels, side_px, side_px))
        self.register_buffer("end", torch.zeros(n_transitions + 1, n_channels, side_px, side_px))
        self.register_buffer("spread", torch.tensor([1.0, 1.0, 0.0]).repeat(n_transitions + 1, N_PARTS, n_channels, 1))

    def set_moments(self, moments: Sequence[Moments | None], whole: Moments | None = None) -> None:
        """Take the moments of each transition's training pairs; where it has none, and where none is said, ``whole``.

        By default that is all transitions pooled.
        """
        whole = whole or pooled([own for own in moments if own is not None])
        for number, own in enumerate(own or whole for own in [*moments, whole]):
            self.start[number], self.end[number] = own.start, own.end
            variances = own.spread[..., :2].clamp(min=LEAST_VARIANCE)
            self.spread[number] = torch.cat([variances, own.spread[..., 2:]], dim=-1)

    def of_look(self, look: Tensor) -> Tensor:
        """Return (b, c, side, side) what looks (b, looks), standardised and less their mean, change a mean image by."""
        return torch.einsum("bl,lcyx->bcyx", look, self.by_look)

    def forward(
        self, field: Tensor, time: Tensor, transition: Tensor, is_untold: Tensor, axis: Tensor | None = None,
        look: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the guess for (b, c, side, side) fields at (b,) times of (b,) transitions, some of them untold.

        Parameters
        ----------
        axis
            (b,) long axes of the controls, where moments were taken along them.
        look
            (b, 2, looks) standardised, of control and target, where moments are those beside looks.
        """
        number = torch.where(is_untold, len(self.start) - 1, transition)
        t = time[:, None, None, None]
        start, end = self.start[number], self.end[number]
        if look is not None:
            away = torch.where(is_untold[:, None, None], 0.0, look - self.mean_look[number])
            start, end = start + self.of_look(away[:, 0]), end + self.of_look(away[:, 1])
        if axis is not None:
            start, end = turn_by(start, axis), turn_by(end, axis)
        first, second, shared = self.spread[number].unbind(3)  # (b, parts, c)
        s = time[:, None, None]
        along = s * second - (1 - s) * first + (1 - 2 * s) * shared
        spread = (1 - s).square() * first + s.square() * second + 2 * s * (1 - s) * shared
        slope = (along / spread.clamp(min=LEAST_VARIANCE))[..., None, None]
        parts = parts_of(field - (1 - t) * start - t * end)
        return end - start + sum(slope[:, number] * part for number, part in enumerate(parts))
