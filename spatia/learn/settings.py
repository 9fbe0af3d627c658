"""Settings of pretraining that are no sizes of the model; loads no torch, so that configuration stays light."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskParams:
    """What is hidden in training; nothing is at inference (A18).

    Attributes
    ----------
    mask_ratio
        Share of a cell's or tile's patches that the encoder does not see.
    full_share
        Share of cells (and of batches, for tiles) that are seen whole all the same, as they will be at inference.
    thin
        Counts are down-sampled to this share before the encoder sees them (A20).
    hide_genes
        Share of gene tokens whose value is hidden.
    drop_genes, drop_image
        Share of cells that lose a whole modality (A35).
    drop_together
        Share of those losses that strike all cells of a tissue window at once: a slide may have no genes at all.
    turn
        Mirror and turn cells at random.
    pack
        Seen and asked patches of a cell are rounded down to a multiple of this, so that many cells have equally many
        (:mod:`spatia.model.packed`); a patch may so be neither.
    """

    mask_ratio: float = 0.75
    full_share: float = 0.5
    thin: float = 0.6
    hide_genes: float = 0.15
    drop_genes: float = 0.35
    drop_image: float = 0.15
    drop_together: float = 0.5
    turn: bool = True
    pack: int = 4

    def __post_init__(self) -> None:
        if self.pack < 1:
            raise ValueError(f"pack should be at least 1, found {self.pack}")
        for name, value in vars(self).items():
            if name != "pack" and not 0 <= value <= 1:
                raise ValueError(f"{name} should lie in 0 to 1, found {value}")
        if self.mask_ratio == 1 or self.thin == 0:
            raise ValueError("mask_ratio should be below 1 and thin above 0: something must be seen")


NOTHING_HIDDEN = MaskParams(0, 1, 1, 0, 0, 0, 0, False, 1)


@dataclass(frozen=True)
class LossWeights:
    """``L = image * L_img + gene * L_gene`` at every level (App. B).

    Attributes
    ----------
    image, gene
        Weights of the two reconstructions: what pixels show and expression does not takes the embedding's room.
    niche, tissue
        Weights of the losses of these levels beside the cell's.
    around
        Weight of what z is asked about the cells around.
    profile
        Weight of morphology profiles beside pixels, times ``image``.

    The paper's objective: ``image`` 1, ``around`` and ``profile`` 0.
    """

    image: float = 0.2
    gene: float = 1.0
    niche: float = 0.25
    tissue: float = 0.25
    profile: float = 0.25
    around: float = 0.25
