"""What an image embedding has to beat: hand-made features, and a small network trained with the answers.

The features are those of any image analysis; an encoder whose embeddings say less has learned nothing. The network
sees the labels of the train cells; it says what pixels of this size hold for a model that knows what to look for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

Frames = NDArray[np.uint8]  # (n, stains, side, side)
Predictor = Callable[[Frames], NDArray[Any]]

WIDTHS = (32, 64, 96, 128)
QUANTILE = 0.9


# --- hand-made features ------------------------------------------------------------------------------------------


def mask_features(pixels: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return mean, sd and 90th percentile of every stain inside the mask, and the log area, (n, 3 stains + 1).

    Parameters
    ----------
    pixels
        The values of each cell's own pixels, (stains, pixels), as :meth:`spatia.cells.crops.Crops.pixels` gives them.

    Raises
    ------
    ValueError
        If a cell has no pixel.
    """
    return np.stack([_features_of(values) for values in pixels])


def mask_feature_names(stains: Sequence[str]) -> list[str]:
    """Return the names of the columns of :func:`mask_features`."""
    return [f"{stain} {what}" for stain in stains for what in ("mean", "sd", "p90")] + ["log area"]


def _features_of(values: NDArray[np.uint8]) -> NDArray[np.float64]:
    n_pixels = values.shape[1]
    if not n_pixels:
        raise ValueError("mask features: expected cells with pixels, found one without; take cells that QC kept")
    place = min(int(QUANTILE * n_pixels), n_pixels - 1)
    p90 = np.partition(values, place, axis=1)[:, place]
    per_stain = np.stack([values.mean(axis=1), values.std(axis=1), p90], axis=1)
    return np.append(per_stain.ravel(), np.log(n_pixels))


# --- frames of the size the network takes ------------------------------------------------------------------------


def cut_frames(frames: Frames, side: int = 64) -> Frames:
    """Return the middle (n, stains, side, side) of larger frames."""
    start = _check_side(frames, side) // 2 - side // 2
    return np.ascontiguousarray(frames[..., start : start + side, start : start + side])


def shrink_frames(frames: Frames, side: int = 64) -> Frames:
    """Return larger frames as (n, stains, side, side), each pixel the rounded mean of those it replaces.

    Raises
    ------
    ValueError
        If the old side is not a multiple of the new one.
    """
    factor, rest = divmod(_check_side(frames, side), side)
    if rest:
        raise ValueError(f"side: expected a divisor of {frames.shape[-1]}, found {side}")
    squares = frames.reshape(*frames.shape[:2], side, factor, side, factor)
    return np.rint(squares.mean(axis=(3, 5), dtype=np.float32)).astype(np.uint8)


def _check_side(frames: Frames, side: int) -> int:
    height, width = frames.shape[2:]
    if height != width or not 1 <= side <= height:
        raise ValueError(f"side: expected 1 to the side of square frames, found {side} for {height} x {width}")
    return int(height)


# --- the network -------------------------------------------------------------------------------------------------


class SmallCnn(nn.Module):
    """Four convolutions of stride 2 with batch norm and GELU, mean over the image, one linear layer.

    Parameters
    ----------
    mean, spread
        (stains,) of the train pixels, on the scale where white is 1.
    n_outputs
        Classes or values.
    widths
        Channels of the convolutions.
    """

    def __init__(self, mean: Tensor, spread: Tensor, n_outputs: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.mean = nn.Buffer(mean[:, None, None])
        self.spread = nn.Buffer(spread[:, None, None])
        layers: list[nn.Module] = []
        for before, after in zip([len(mean), *widths[:-1]], widths, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.GELU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], n_outputs)

    def forward(self, frames: Tensor) -> Tensor:
        """Return (n, n_outputs) for uint8 frames (n, stains, side, side)."""
        x = (frames.float() / 255 - self.mean) / self.spread
        return self.head(self.body(x).mean(dim=(2, 3)))


def train_cnn(
    frames: Frames,
    targets: ArrayLike,
    kind: Literal["classes", "values"],
    epochs: int,
    generator: torch.Generator,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
) -> Predictor:
    """Return what predicts targets from frames, after training a :class:`SmallCnn` on the CPU.

    AdamW, one cycle of the learning rate, frames turned by right angles and mirrored at random. Classes are weighted
    alike; values are standardised and weighted alike.

    Parameters
    ----------
    frames
        (n, stains, side, side) uint8.
    targets
        (n,) classes, numbers or names; or (n, targets) values.
    kind
        Which of them: cross-entropy, or squared error.
    epochs
        How often each frame is seen.
    generator
        Draws initial weights, order and turns. The global generator of torch is left as it was.
    batch_size, learning_rate
        The latter at its peak.

    Raises
    ------
    ValueError
        If lengths differ or ``kind`` is unknown.
    FloatingPointError
        If the loss is not finite.
    """
    answers = np.asarray(targets)
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != len(answers) or len(frames) < 2:
        raise ValueError(
            f"frames: expected uint8 (n, stains, side, side) for {len(answers)} targets, at least 2; "
            f"found {frames.dtype} {frames.shape}"
        )
    if kind == "classes":
        encoded, loss_of, decode = _classes_as_targets(answers)
        n_outputs = int(encoded.max()) + 1
    elif kind == "values":
        encoded, loss_of, decode = _values_as_targets(answers)
        n_outputs = encoded.shape[1]
    else:
        raise ValueError(f"kind: expected classes or values, found {kind!r}")
    model = _new_model(frames, n_outputs, generator)
    _fit(model, _as_tensor(frames), encoded, loss_of, epochs, generator, batch_size, learning_rate)

    def predict(frames: Frames) -> NDArray[Any]:
        return decode(_outputs(model, frames))

    return predict


Loss = Callable[[Tensor, Tensor], Tensor]
Decoder = Callable[[Tensor], NDArray[Any]]


def _classes_as_targets(labels: NDArray[Any]) -> tuple[Tensor, Loss, Decoder]:
    classes, codes = np.unique(labels, return_inverse=True)
    weight = torch.from_numpy(len(codes) / len(classes) / np.bincount(codes)).float()
    return (
        torch.from_numpy(codes),
        lambda output, target: nn.functional.cross_entropy(output, target, weight),
        lambda output: classes[output.argmax(dim=1).numpy()],
    )


def _values_as_targets(values: NDArray[Any]) -> tuple[Tensor, Loss, Decoder]:
    mean, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread > 0, spread, 1)
    return (
        torch.from_numpy((values - mean) / spread).float(),
        nn.functional.mse_loss,
        lambda output: output.numpy().astype(np.float64) * spread + mean,
    )


def _new_model(frames: Frames, n_outputs: int, generator: torch.Generator) -> SmallCnn:
    per_stain = np.moveaxis(frames, 1, 0).reshape(frames.shape[1], -1)
    mean = torch.from_numpy(per_stain.mean(axis=1, dtype=np.float64) / 255).float()
    spread = torch.from_numpy(per_stain.std(axis=1, dtype=np.float64) / 255).float()
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # layers take their initial weights from the global generator
        torch.manual_seed(seed)
        return SmallCnn(mean, torch.where(spread > 0, spread, 1), n_outputs)


def _fit(
    model: SmallCnn,
    frames: Tensor,
    targets: Tensor,
    loss_of: Loss,
    epochs: int,
    generator: torch.Generator,
    batch_size: int,
    learning_rate: float,
) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    n_batches = max(1, len(frames) // batch_size)  # the last, smaller batch joins the others: norms need company
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * n_batches)
    model.train()
    for epoch in range(epochs):
        for rows in torch.randperm(len(frames), generator=generator).tensor_split(n_batches):
            loss = loss_of(model(turn_at_random(frames[rows], generator)), targets[rows])
            if not torch.isfinite(loss):
                raise FloatingPointError(f"small network: expected a finite loss, found {loss} in epoch {epoch}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()


def turn_at_random(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Return square frames (n, stains, side, side), each turned and mirrored in one of the eight ways."""
    way = torch.randint(8, (len(frames),), generator=generator)
    turned = torch.empty_like(frames)
    for one in range(8):
        chosen = torch.rot90(frames[way == one], one % 4, (2, 3))
        turned[way == one] = chosen.flip(3) if one >= 4 else chosen
    return turned


@torch.inference_mode()
def _outputs(model: SmallCnn, frames: Frames, batch_size: int = 512) -> Tensor:
    return torch.cat([model(batch) for batch in _as_tensor(frames).split(batch_size)])


def _as_tensor(frames: Frames) -> Tensor:
    return torch.from_numpy(np.require(frames, requirements=["C", "W"]))  # torch shares no read-only memory
