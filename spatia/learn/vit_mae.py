"""Starting weights of the image encoder: a public ViT-MAE -> blocks in timm's naming, one stain's patch projection.

He et al., "Masked autoencoders are scalable vision learners" (CVPR 2022). Two layouts are read: that of transformers
(``facebook/vit-mae-base``) and that of the authors' repository (``mae_pretrain_vit_base.pth``; timm's ViTs share it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor

from spatia.learn.block_weights import blocks_of, check_heads, check_width, count_blocks, unknown_layout
from spatia.learn.weights import StoredWeights

KNOWN = (
    "ViT-MAE (embeddings.cls_token and encoder.layer.0... of transformers, "
    "or cls_token and blocks.0... of the MAE repository)"
)
ENCODER_HEADS = {768: 12, 1024: 16, 1280: 16}  # base, large, huge: for files that come without settings
DECODER_HEADS = {512: 16}


@dataclass(frozen=True)
class VitMaeWeights:
    """A ViT-MAE for our networks: d = ``width``, d' = ``decoder_width``, all float32.

    ``encoder_blocks`` and ``decoder_blocks`` are state dicts of timm's Block (pre-norm, exact GELU, biases); the
    norms and ``decoder_embed`` those of LayerNorm and Linear. ``layer_norm_eps`` is that of training: 1e-12 in
    transformers, 1e-6 in the MAE repository. ``patch_weight`` is (patch_px * patch_px, d), rows in (y, x) order: a
    token is ``patch.flatten() @ patch_weight + patch_bias``. The published networks saw pixels of mean 0 and
    deviation 1 per channel. Position tables are not taken: MAE's are fixed sines and cosines.

    An encoder alone has no ``decoder_blocks``, and None for the rest of the decoder.
    """

    patch_weight: Tensor
    patch_bias: Tensor
    cls: Tensor
    encoder_blocks: list[dict[str, Tensor]]
    encoder_norm: dict[str, Tensor]
    width: int
    n_heads: int
    layer_norm_eps: float
    decoder_embed: dict[str, Tensor] | None = None
    mask_token: Tensor | None = None
    decoder_blocks: list[dict[str, Tensor]] = field(default_factory=list)
    decoder_norm: dict[str, Tensor] | None = None
    decoder_width: int | None = None
    decoder_n_heads: int | None = None


@dataclass(frozen=True)
class _Layout:
    cls: str
    patch: str
    blocks: str
    norm: str
    decoder: str
    decoder_blocks: tuple[str, ...]
    block_names: Mapping[str, tuple[str, ...]]
    layer_norm_eps: float


_TRANSFORMERS = _Layout(
    cls="embeddings.cls_token",
    patch="embeddings.patch_embeddings.projection",
    blocks="encoder.layer.",
    norm="layernorm",
    decoder="decoder.",
    # transformers 5.24 saves its decoder under the second name, the hub's files and transformers 4 have the first
    decoder_blocks=("decoder.decoder_layers.", "decoder.decoder_encoder.layer."),
    block_names={
        "norm1": ("layernorm_before",),
        "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
        "attn.proj": ("attention.output.dense",),
        "norm2": ("layernorm_after",),
        "mlp.fc1": ("intermediate.dense",),
        "mlp.fc2": ("output.dense",),
    },
    layer_norm_eps=1e-12,
)
_ORIGINAL = _Layout(
    cls="cls_token",
    patch="patch_embed.proj",
    blocks="blocks.",
    norm="norm",
    decoder="",
    decoder_blocks=("decoder_blocks.",),
    block_names={name: (name,) for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")},
    layer_norm_eps=1e-6,
)


def vit_mae_weights(
    stored: StoredWeights,
    patch_px: int,
    depth: int | None = None,
    *,
    width: int | None = None,
    decoder_width: int | None = None,
) -> VitMaeWeights:
    """Return a ViT-MAE's weights for one-stain patches of ``patch_px`` pixels.

    Parameters
    ----------
    stored
        The checkpoint.
    patch_px
        Side of our patches. The projection is resized to it such that a constant patch keeps its token.
    depth
        How many encoder blocks to take, from the input on; None takes all. The decoder is taken whole.
    width, decoder_width
        What the network expects; None takes what the checkpoint has.

    Raises
    ------
    SpatiaError
        Neither layout fits, the checkpoint has fewer blocks or another width, or its heads are not known.
    """
    prefix, layout = _layout_of(stored)
    cls = stored.take(prefix + layout.cls).flatten()
    check_width(stored, len(cls), width, "an encoder")
    encoder = VitMaeWeights(
        patch_weight=one_stain(stored.take(f"{prefix}{layout.patch}.weight"), patch_px),
        patch_bias=stored.take(f"{prefix}{layout.patch}.bias"),
        cls=cls,
        encoder_blocks=blocks_of(stored, prefix + layout.blocks, layout.block_names, depth),
        encoder_norm=stored.take_module(prefix + layout.norm),
        width=len(cls),
        n_heads=_heads(stored, "num_attention_heads", len(cls), ENCODER_HEADS),
        layer_norm_eps=float(stored.settings.get("layer_norm_eps", layout.layer_norm_eps)),
    )
    blocks = next((name for name in layout.decoder_blocks if count_blocks(stored, name)), None)
    return encoder if blocks is None else _with_decoder(encoder, stored, layout, blocks, decoder_width)


def one_stain(weight: Tensor, patch_px: int) -> Tensor:
    """Return the projection of one stain: the channels' sum (a grey image), resized bicubically.

    Parameters
    ----------
    weight
        The projection of colour patches, (d, channel, y, x).
    patch_px
        Side of the new patches.

    Returns
    -------
    Tensor
        (patch_px * patch_px, d). Its columns have the sums of the old ones, so that a constant patch keeps its token.
    """
    grey = weight.sum(1, keepdim=True)
    pixels = patch_px**2
    resized = F.interpolate(grey, size=(patch_px, patch_px), mode="bicubic", antialias=True)
    resized = resized * (grey[0, 0].numel() / pixels)
    # Bicubic weights leave a rest at the border. It is added, not multiplied: some sums are close to zero.
    resized = resized + (grey.sum((2, 3), keepdim=True) - resized.sum((2, 3), keepdim=True)) / pixels
    return resized.reshape(len(weight), pixels).T.contiguous()


def _layout_of(stored: StoredWeights) -> tuple[str, _Layout]:
    """Return the encoder's prefix and the layout: transformers writes ``vit.`` where a decoder or head is along."""
    for prefix, layout in (("vit.", _TRANSFORMERS), ("", _TRANSFORMERS), ("", _ORIGINAL)):
        if prefix + layout.cls in stored.tensors and count_blocks(stored, prefix + layout.blocks):
            return prefix, layout
    raise unknown_layout(stored, KNOWN)


def _with_decoder(
    encoder: VitMaeWeights, stored: StoredWeights, layout: _Layout, blocks: str, wanted_width: int | None
) -> VitMaeWeights:
    embed = stored.take_module(f"{layout.decoder}decoder_embed")
    width = len(embed["bias"])
    check_width(stored, width, wanted_width, "a decoder")
    return replace(
        encoder,
        decoder_embed=embed,
        mask_token=stored.take(f"{layout.decoder}mask_token").flatten(),
        decoder_blocks=blocks_of(stored, blocks, layout.block_names),
        decoder_norm=stored.take_module(f"{layout.decoder}decoder_norm"),
        decoder_width=width,
        decoder_n_heads=_heads(stored, "decoder_num_attention_heads", width, DECODER_HEADS),
    )


def _heads(stored: StoredWeights, key: str, width: int, published: Mapping[int, int]) -> int:
    if key not in stored.settings and width in published:
        return published[width]
    return check_heads(stored, int(stored.setting(key)), width)
