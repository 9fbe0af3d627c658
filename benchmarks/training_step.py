"""One training step of the cell image encoder: only the patches that touch a cell, beside all patches of its window.

    python benchmarks/training_step.py runs/real --slide pancreas_a

Three ways to take the same step (75 % of the patches hidden, pixels reconstructed, AdamW), in turns, in one process, on
the same cells of a finished run, with the same widths and depths:

* tokens: what spatia does, sequences as long as the cell;
* dense: the same network over all 256 patches of the 128 px window;
* ViTMAE: ``transformers.ViTMAEForPreTraining`` of the same size on the same frames.

Pixels are all that these three read and are asked for: morphology profiles, which spatia's encoder starts from, cost
the same whatever the number of patches, and are left out. A step starts from the uint8 batch that the loader gives.
What is said is the ratio; cells per second only show the scale. ``--whole-step`` also times the step of the whole model
(genes, niches, tissue) and embedding, for the preset given.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from spatia.learn.batches import CellBatch
from spatia.learn.compiling import compile_parts
from spatia.learn.dataset import CellDataset, LoadParams
from spatia.learn.devices import Machine, choose_machine, move
from spatia.learn.losses import pixel_loss
from spatia.learn.masking import choose_tokens
from spatia.learn.objective import joint_losses, reconstruct, total_loss
from spatia.learn.settings import NOTHING_HIDDEN, LossWeights, MaskParams
from spatia.learn.slides import SlideFiles
from spatia.learn.statistics import fit_statistics
from spatia.learn.view import HiddenPatches, view_batch, view_cells
from spatia.model.hierarchy import Spatia
from spatia.model.image import Normaliser, Patches
from spatia.model.packed import Runs
from spatia.model.shape import ModelShape, shape_of

MASK_RATIO = 0.75
BARS = {"dense": 4.0, "ViTMAE": 3.0}
Step = Callable[[CellBatch], None]


def token_step(model: Spatia, machine: Machine) -> Step:
    """Return the step of spatia: image encoder and decoder, nothing else."""
    mask = MaskParams(mask_ratio=MASK_RATIO, full_share=0, drop_genes=0, drop_image=0)
    optimizer = torch.optim.AdamW(image_parameters(model), lr=1e-4)

    def step(batch: CellBatch) -> None:
        generator = torch.Generator().manual_seed(0)
        view = view_cells(batch, model.normaliser(), model.shape, mask, generator, with_targets=False)
        view = move(view, machine.device)
        with machine.autocast():
            tokens, runs = model.cell.image(view.patches)
            found = reconstruct(model.cell.image_decoder, tokens, runs, view.patches, view.hidden)
            loss = pixel_loss(found, view.hidden.target, view.hidden.weight)
        descend(loss, optimizer)

    return step


def dense_step(model: Spatia, machine: Machine) -> Step:
    """Return the same step over every patch of every window."""
    optimizer = torch.optim.AdamW(image_parameters(model), lr=1e-4)

    def step(batch: CellBatch) -> None:
        patches, hidden = dense_view(batch, model.normaliser(), model.shape.patch_px)
        patches, hidden = move(patches, machine.device), move(hidden, machine.device)
        with machine.autocast():
            tokens, runs = model.cell.image(patches)
            found = reconstruct(model.cell.image_decoder, tokens, runs, patches, hidden)
            loss = pixel_loss(found, hidden.target, hidden.weight)
        descend(loss, optimizer)

    return step


def dense_view(batch: CellBatch, normalise: Normaliser, side: int) -> tuple[Patches, HiddenPatches]:
    """Return all patches of all windows, a random quarter of each seen and the rest asked for."""
    frames, inside = batch.frames()
    pixels, inside_patches = cut(frames, side), cut(inside[:, None], side)[:, 0]
    n, per_cell = len(batch), pixels.shape[0] // len(batch)
    place = torch.arange(per_cell)
    grid = batch.window_px // side
    position = torch.stack([place // grid, place % grid], 1).repeat(n, 1)
    stains = batch.has_stain[batch.slide]
    measured = inside_patches[:, None] & stains.repeat_interleave(per_cell, 0)[:, :, None, None]
    values = normalise(pixels, measured)
    lengths = torch.full((n,), per_cell)
    n_visible = torch.full((n,), round(per_cell * (1 - MASK_RATIO)))
    patches = Patches(
        values, inside_patches.float(), position, stains, Runs.of(lengths), torch.zeros(n, dtype=torch.bool)
    )
    seen, asked = choose_tokens(lengths, n_visible, lengths - n_visible, torch.Generator().manual_seed(0))
    hidden = HiddenPatches(n, position[asked], Runs.of(lengths - n_visible), values[asked], measured[asked].float())
    return patches.take(seen, Runs.of(n_visible)), hidden


def cut(frames: Tensor, side: int) -> Tensor:
    """Return (n, c, y, x) as patches (n * grid * grid, c, side, side)."""
    n, c, height, width = frames.shape
    cells = frames.view(n, c, height // side, side, width // side, side).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(-1, c, side, side)


def library_step(shape: ModelShape, n_stains: int, window_px: int, model: Spatia, machine: Machine) -> Step:
    """Return the step of the transformers library's ViT-MAE of the same size."""
    config = ViTMAEConfig(
        hidden_size=shape.image_width, num_hidden_layers=shape.image_depth, num_attention_heads=shape.image_heads,
        intermediate_size=int(shape.image_width * shape.mlp_ratio), image_size=window_px, patch_size=shape.patch_px,
        num_channels=n_stains, decoder_hidden_size=shape.decoder_width, decoder_num_hidden_layers=shape.decoder_depth,
        decoder_num_attention_heads=shape.decoder_heads,
        decoder_intermediate_size=int(shape.decoder_width * shape.mlp_ratio), mask_ratio=MASK_RATIO,
    )  # fmt: skip
    network = ViTMAEForPreTraining(config).to(machine.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    mean, sd = model.stain_mean.cpu().tolist(), model.stain_sd.cpu().tolist()

    def step(batch: CellBatch) -> None:
        frames = batch.floats(mean, sd).to(machine.device)
        with machine.autocast():
            loss = network(pixel_values=frames).loss
        descend(loss, optimizer)

    return step


def whole_step(model: Spatia, machine: Machine) -> Step:
    """Return the joint step of the whole model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(batch: CellBatch) -> None:
        generator = torch.Generator().manual_seed(0)
        view = move(view_batch(batch, model.normaliser(), model.shape, MaskParams(), generator), machine.device)
        with machine.autocast():
            loss = total_loss(joint_losses(model, view, generator), LossWeights())
        descend(loss, optimizer)

    return step


def embed_step(model: Spatia, machine: Machine) -> Step:
    """Return what embedding does with a batch."""

    def step(batch: CellBatch) -> None:
        generator = torch.Generator().manual_seed(0)
        view = view_batch(batch, model.normaliser(), model.shape, NOTHING_HIDDEN, generator, with_targets=False)
        with torch.no_grad(), machine.autocast():
            model(move(view, machine.device)).fused.float().cpu()

    return step


def image_parameters(model: Spatia) -> list[nn.Parameter]:
    return [*model.cell.image.parameters(), *model.cell.image_decoder.parameters()]


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def time_in_turns(steps: dict[str, Step], batches: list[CellBatch], repeats: int) -> dict[str, float]:
    """Return the median seconds per cell of each way; they take turns, so that a busy machine is busy for all."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for batch in batches:
            for name, step in steps.items():
                start = time.perf_counter()
                step(batch)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if repeat:  # the first turn warms up
                    seconds[name].append((time.perf_counter() - start) / len(batch))
    return {name: statistics.median(values) for name, values in seconds.items()}


def make_model(shape: ModelShape, dataset: CellDataset, machine: Machine) -> Spatia:
    torch.manual_seed(0)
    model = Spatia(shape, len(dataset.stains), len(dataset.genes))
    fit_statistics(model, dataset)
    return model.to(machine.device).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--slide", default="pancreas_a")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--cells", type=int, default=128, help="per batch")
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--whole-step", action="store_true", help="also the whole model's joint step and embedding")
    parser.add_argument("--compile", action="store_true", help="the whole model's beside itself with torch.compile")
    args = parser.parse_args()
    machine = choose_machine("auto", "auto", allow_cpu=True, threads=args.threads)
    files, shape = SlideFiles.of_run(args.run, args.slide), shape_of(args.preset)
    is_whole = args.whole_step or args.compile
    load = LoadParams(args.cells, whole="tissue", tiles=is_whole, tissue_level=shape.tissue_level, around=is_whole)
    dataset = CellDataset([files], load)
    model = make_model(dataclasses.replace(shape, profile=False), dataset, machine)
    batches = [dataset[0, number] for number in range(min(args.batches, len(dataset.plan(0))))]
    steps = {
        "tokens": token_step(model, machine),
        "dense": dense_step(model, machine),
        "ViTMAE": library_step(shape, len(dataset.stains), dataset.window_px, model, machine),
    }
    n_tokens = sum(len(batch.tokens) for batch in batches) / sum(len(batch) for batch in batches)
    print(f"{machine.device}, {args.threads} threads, preset {args.preset}, {n_tokens:.1f} of 256 patches touch a cell")
    seconds = time_in_turns(steps, batches, args.repeats)
    for name, each in seconds.items():
        ratio = each / seconds["tokens"]
        verdict = f" (bar {BARS[name]:g}x: {'met' if ratio >= BARS[name] else 'MISSED'})" if name in BARS else ""
        print(f"{name:8s} {1 / each:9.0f} cells/s   {ratio:5.2f}x the time of tokens{verdict}")
    if is_whole:
        model = make_model(shape, dataset, machine)
        more = {"joint step": whole_step(model, machine), "embedding": embed_step(model, machine)}
        if args.compile:
            twin = copy.deepcopy(model)
            compile_parts(twin)
            more |= {
                "joint step, compiled": whole_step(twin, machine),
                "embedding, compiled": embed_step(twin, machine),
            }
        for name, each in time_in_turns(more, batches, args.repeats).items():
            print(f"{name:20s} {1 / each:9.0f} cells/s")


if __name__ == "__main__":
    main()
