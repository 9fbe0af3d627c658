"""Starting weights of the gene encoder: a public scPRINT checkpoint -> gene embedding, value encoder, blocks.

Kalfon et al., "scPRINT: pre-training on 50 million cells allows robust gene network predictions" (Nature
Communications 2025). Checkpoints are lightning files (``jkobject/scPRINT:medium.ckpt``) whose ``hyper_parameters``
hold the gene list (``genes``, Ensembl ids of human and mouse) and the number of heads (``nhead``).
Facts are from scprint 1.0 - 2.3.8 and simpler_flash 1.3.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spatia.errors import SpatiaError
from spatia.learn.block_weights import blocks_of, check_heads, check_width, unknown_layout
from spatia.learn.weights import StoredWeights

EMBEDDING_KEYS = ("gene_encoder.embedding.weight", "gene_encoder.embeddings.weight")  # to 1.x, from 2.x
VALUES = "expr_encoder.encoder."
BLOCKS = "transformer.blocks."
POSITIONS = "pos_encoder.pe"
LAYER_NORM_EPS = 1e-6  # of all norms in the transformer; the value encoder's is torch's 1e-5
KNOWN = f"scPRINT ({' or '.join(EMBEDDING_KEYS)}, {VALUES}0..., {BLOCKS}0...)"
BLOCK_NAMES = {
    "norm1": ("norm1",),
    "attn.qkv": ("mixer.Wqkv",),
    "attn.proj": ("mixer.out_proj",),
    "norm2": ("norm2",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}


@dataclass(frozen=True)
class ScprintWeights:
    """A scPRINT for our gene encoder, rows in the order of the genes asked for: d = ``width``, all float32.

    ``gene_embedding`` (gene, d) has zeros where ``is_known`` is False. ``gene_position`` (gene, d) is what scPRINT
    adds to it: sines and cosines of the gene's place in the genome; None where the checkpoint has none.

    ``value_encoder`` is the state dict of ``Sequential(Linear(1, d), LayerNorm(d), ReLU(), Dropout(), Linear(d, d))``
    (each further layer of ``expr_encoder_layers`` repeats the last four), applied to one number per gene: its share of
    the cell's counts where ``normalization`` is ``sum``, log2(1 + count) where it is ``log``.

    ``blocks`` are state dicts of timm's Block. scPRINT writes its blocks differently (the sum of the residual path is
    carried to the next block's first norm), but computes the same: pre-norm, query, key and value in one projection in
    timm's order, biases everywhere, exact GELU, softmax scale 1 / sqrt(d / heads). Two things differ from timm's
    defaults: a last ``norm`` follows the last block (in timm it belongs to the network, not to the block), and dropout
    follows both branches in training. scPRINT's class tokens and its token of sequencing depth, which come first in
    its sequence, are not taken.
    """

    gene_embedding: Tensor
    is_known: Tensor
    n_known: int
    gene_position: Tensor | None
    value_encoder: dict[str, Tensor]
    normalization: str
    blocks: list[dict[str, Tensor]]
    norm: dict[str, Tensor]
    width: int
    n_heads: int
    layer_norm_eps: float = LAYER_NORM_EPS


def scprint_weights(
    stored: StoredWeights,
    gene_names: Sequence[str],
    gene_ids: Sequence[str],
    depth: int | None = None,
    *,
    width: int | None = None,
) -> ScprintWeights:
    """Return a scPRINT's weights with one row per gene of ours.

    Parameters
    ----------
    stored
        The checkpoint.
    gene_names, gene_ids
        Our genes. A gene is looked up by its Ensembl id (a version such as ``.12`` is ignored), then by its name.
    depth
        How many blocks to take, from the input on; None takes all.
    width
        What the network expects (256 for the medium checkpoint); None takes what the checkpoint has.

    Raises
    ------
    SpatiaError
        The layout is another, the checkpoint has fewer blocks or another width, or knows fewer than half of the genes.
    """
    key = next((key for key in EMBEDDING_KEYS if key in stored.tensors), None)
    if key is None:
        raise unknown_layout(stored, KNOWN)
    _check_blocks(stored)
    embedding = stored.take(key)
    found = embedding.shape[1]
    check_width(stored, found, width, "a gene encoder")
    rows = _rows_of_genes(stored, len(embedding), gene_names, gene_ids)
    positions = stored.take(POSITIONS).reshape(len(embedding), found) if POSITIONS in stored.tensors else None
    return ScprintWeights(
        gene_embedding=_take_rows(embedding, rows),
        is_known=rows >= 0,
        n_known=int((rows >= 0).sum()),
        gene_position=None if positions is None else _take_rows(positions, rows),
        value_encoder=_value_encoder(stored),
        normalization=str(stored.settings.get("normalization", "sum")),
        blocks=blocks_of(stored, BLOCKS, BLOCK_NAMES, depth),
        norm=stored.take_module("transformer.norm"),
        width=found,
        n_heads=check_heads(stored, int(stored.setting("nhead")), found),
    )


def _check_blocks(stored: StoredWeights) -> None:
    """Refuse blocks that timm's cannot stand for: cross-attention, sketched attention, norms after the sum."""
    modules = [name for (name,) in BLOCK_NAMES.values()]
    inside = [name.removeprefix(BLOCKS).partition(".")[2] for name in stored.tensors if name.startswith(BLOCKS)]
    others = sorted({name for name in inside if name.rpartition(".")[0] not in modules})
    if others:
        raise SpatiaError(
            f"{stored.origin}: expected blocks of {', '.join(modules)}, found {', '.join(others[:5])} in them too; "
            "take a checkpoint without cross-attention, such as jkobject/scPRINT:medium.ckpt"
        )
    if stored.settings.get("prenorm", True) is False:
        raise SpatiaError(f"{stored.origin}: expected norms before attention (prenorm), found prenorm false")


def _value_encoder(stored: StoredWeights) -> dict[str, Tensor]:
    layers = {name.removeprefix(VALUES): stored.take(name) for name in stored.tensors if name.startswith(VALUES)}
    if not layers:
        raise unknown_layout(stored, KNOWN)
    return layers


def _gene_list(stored: StoredWeights, n_rows: int) -> list[str]:
    """Return the checkpoint's genes in the order of its embedding; 2.x may list them by organism."""
    genes = stored.setting("genes")
    if isinstance(genes, dict):
        genes = [gene for organism in stored.setting("organisms") for gene in genes[organism]]
    if len(genes) != n_rows:
        raise SpatiaError(
            f"{stored.origin}: expected one gene name per row of its embedding, {n_rows}, found {len(genes)}; "
            "take its hyper_parameters from the same file"
        )
    return [_without_version(gene) for gene in genes]


def _rows_of_genes(stored: StoredWeights, n_rows: int, names: Sequence[str], ids: Sequence[str]) -> Tensor:
    """Return the checkpoint's row of each gene, -1 = none; too few known are a :class:`SpatiaError`."""
    genes = _gene_list(stored, n_rows)
    row_of = {gene: row for row, gene in reversed(list(enumerate(genes)))}
    pairs = zip(ids, names, strict=True)
    rows = torch.tensor([row_of.get(_without_version(id_), row_of.get(name, -1)) for id_, name in pairs]).long()
    n_known = int((rows >= 0).sum())
    if 2 * n_known < len(rows):
        raise SpatiaError(
            f"{stored.origin}: expected at least half of {len(rows)} genes among the checkpoint's {len(genes)}, found "
            f"{n_known}; ours begin with {ids[0]} ({names[0]}), its with {genes[0]}: give Ensembl ids of a species it "
            "was trained on"
        )
    return rows


def _without_version(gene: str) -> str:
    """Return an Ensembl id without its version; names keep their dots (``AC010642.1``)."""
    return gene.partition(".")[0] if gene.startswith("ENS") else gene


def _take_rows(table: Tensor, rows: Tensor) -> Tensor:
    taken = table.new_zeros(len(rows), table.shape[1])
    taken[rows >= 0] = table[rows[rows >= 0]]
    return taken
