"""Encoders, decoders and levels: what they may and may not depend on, and that every switch matters."""

import dataclasses

import pytest
import torch
from timm.models.vision_transformer import Block
from toy_model import make_model, make_view, open_toys, tiny_shape, toy_slides

from spatia.learn.checkpoint import count_parameters
from spatia.learn.devices import Machine
from spatia.learn.embedding import reconstruct_cells
from spatia.learn.objective import joint_losses, reconstruct
from spatia.learn.settings import NOTHING_HIDDEN, MaskParams
from spatia.model.genes import GeneDecoder, GeneEncoder, GeneTokens
from spatia.model.hierarchy import Fusion, Spatia
from spatia.model.image import ImageEncoder, Normaliser, Patches, tile_patches
from spatia.model.packed import Runs
from spatia.model.shape import PRESETS, ModelShape, shape_of


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return toy_slides(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def dataset(slides):
    return open_toys(slides)


def patches_of(lengths, n_stains=2, patch_px=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = int(sum(lengths))
    return Patches(
        values=torch.randn(n, n_stains, patch_px, patch_px, generator=generator),
        inside=torch.ones(n, patch_px, patch_px),
        position=torch.randint(0, 8, (n, 2), generator=generator),
        has_stain=torch.ones(len(lengths), n_stains, dtype=torch.bool),
        runs=Runs.of(torch.tensor(lengths)),
        is_missing=torch.zeros(len(lengths), dtype=torch.bool),
    )


def encoder_of(depth=2):
    torch.manual_seed(0)
    return ImageEncoder(2, 4, 16, depth, 2, 2.0, 0.0).eval()


def test_tokens_inside_the_cell_equal_a_dense_pass_that_masks_all_others():
    """The dense pass gives every patch of the window to timm's own blocks, with attention to outside ones masked."""
    encoder, inside = encoder_of(), 5
    patches = patches_of([inside])
    found, _ = encoder(patches)
    outside = patches_of([11], seed=1)
    x = torch.cat([encoder.cls[None], encoder._embed(patches), encoder._embed(outside)])[None]
    is_seen = torch.arange(x.shape[1]) <= inside
    mask = torch.where(is_seen, 0.0, -torch.inf).expand(1, 1, x.shape[1], -1)
    for block in encoder.blocks:
        assert isinstance(block, Block)
        x = block(x, attn_mask=mask)
    torch.testing.assert_close(found, encoder.norm(x)[0, : inside + 1], atol=2e-5, rtol=1e-4)


def test_cells_of_a_batch_do_not_see_each_other():
    encoder = encoder_of()
    patches = patches_of([3, 4])
    found, runs = encoder(patches)
    changed, _ = encoder(
        dataclasses.replace(patches, values=patches.values * (torch.arange(7) < 3)[:, None, None, None])
    )
    assert runs.lengths_of().tolist() == [4, 5]
    assert torch.equal(found[:4], changed[:4])
    assert not torch.allclose(found[4:], changed[4:])


def test_an_absent_stain_adds_nothing_and_says_so():
    encoder = encoder_of()
    patches = patches_of([3])
    values = patches.values.clone()
    values[:, 1] = 0  # what a dataset gives where the slide has no such stain
    absent = dataclasses.replace(patches, values=values, has_stain=torch.tensor([[True, False]]))
    dark = dataclasses.replace(patches, values=values)
    assert not torch.allclose(encoder(absent)[0], encoder(dark)[0])
    with torch.no_grad():
        encoder.stain_weight[1] += 5
        encoder.stain_bias[1] += 5
    before = encoder(absent)[0]
    with torch.no_grad():
        encoder.stain_weight[1] -= 5
        encoder.stain_bias[1] -= 5
    torch.testing.assert_close(encoder(absent)[0], before)


def test_a_missing_image_is_one_learned_token():
    encoder = encoder_of()
    patches = dataclasses.replace(patches_of([0, 2]), is_missing=torch.tensor([True, False]))
    found, runs = encoder(patches)
    assert runs.lengths_of().tolist() == [1, 3]
    other, _ = encoder(dataclasses.replace(patches, is_missing=torch.tensor([False, False])))
    assert not torch.allclose(found[0], other[0])


def test_normalising_and_back():
    normalise = Normaliser(torch.tensor([0.3, 0.6]), torch.tensor([0.2, 0.1]))
    pixels = torch.randint(0, 256, (5, 2, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(normalise.invert(normalise(pixels, torch.ones(5, 1, 3, 3, dtype=torch.bool))), pixels)
    assert (normalise(pixels, torch.zeros(5, 1, 3, 3, dtype=torch.bool)) == 0).all()


def test_tile_patches_are_rows_of_the_tile_averaged():
    tile = torch.arange(4 * 8, dtype=torch.uint8).view(1, 1, 4, 8)
    found = tile_patches(tile, 2, 1)
    assert found.shape == (1, 8, 1, 2, 2)
    assert found[0, 1, 0].tolist() == [[2, 3], [10, 11]]
    assert tile_patches(tile, 2, 2)[0, 1, 0].tolist() == [[8.5, 10.5], [24.5, 26.5]]


def gene_tokens(lengths, n_genes=9, missing=None):
    n = sum(lengths)
    return GeneTokens(
        gene=torch.arange(n) % n_genes,
        value=torch.arange(n).float() % 4,
        is_hidden=torch.zeros(n, dtype=torch.bool),
        runs=Runs.of(torch.tensor(lengths)),
        is_missing=torch.tensor(missing or [False] * len(lengths)),
        place=torch.arange(len(lengths)),
    )


def test_a_hidden_value_is_not_seen_but_its_gene_is():
    torch.manual_seed(0)
    encoder = GeneEncoder(9, 16, 1, 2, 2.0, 0.0).eval()
    tokens = gene_tokens([4])
    hidden = dataclasses.replace(tokens, is_hidden=torch.tensor([False, True, False, False]))
    louder = dataclasses.replace(hidden, value=hidden.value + torch.tensor([0, 50, 0, 0]))
    assert torch.equal(encoder(hidden)[0], encoder(louder)[0])
    assert not torch.allclose(encoder(hidden)[0], encoder(tokens)[0])
    other = dataclasses.replace(hidden, gene=torch.tensor([0, 7, 2, 3]))
    assert not torch.allclose(encoder(hidden)[0], encoder(other)[0])


def test_genes_come_back_in_the_order_of_the_view():
    torch.manual_seed(0)
    encoder = GeneEncoder(9, 16, 1, 2, 2.0, 0.0).eval()
    tokens = gene_tokens([1, 3])
    swapped = dataclasses.replace(tokens, place=torch.tensor([1, 0]))
    found, runs = encoder(tokens)
    back, back_runs = encoder(swapped)
    assert (runs.lengths_of().tolist(), back_runs.lengths_of().tolist()) == ([2, 4], [4, 2])
    assert torch.equal(torch.cat([found[2:], found[:2]]), back)


def test_the_gene_decoder_answers_the_genes_it_is_asked_for():
    torch.manual_seed(0)
    decoder = GeneDecoder(9, 16, 2, 12, 8)
    tokens, runs = torch.randn(7, 12), Runs.of(torch.tensor([3, 4]))
    whole = decoder.read_tokens(tokens, runs, torch.arange(9))
    some = decoder.read_tokens(tokens, runs, torch.tensor([5, 2]))
    torch.testing.assert_close(some.log_mean, whole.log_mean[:, [5, 2]])
    assert decoder.read_embedding(torch.randn(2, 8)).log_mean.shape == (2, 9)


def test_the_gene_decoder_starts_at_the_level_it_is_told():
    decoder = GeneDecoder(3, 16, 2, 12, 8)
    decoder.set_level(torch.tensor([0.5, 2.0, 0.0]))
    torch.testing.assert_close(decoder.mean_bias.exp(), torch.tensor([0.501, 2.001, 0.001]))


def test_the_levels_nest(dataset):
    model = make_model(dataset)
    view = make_view(dataset, model)
    levels = model(view)
    assert levels.fused.shape == (len(view.cell_id), 32)
    assert levels.niche.shape == levels.tissue.shape == (len(view.niche_row), 32)
    moved = dataclasses.replace(view, niche=view.niche.flip(0))
    assert not torch.allclose(model(moved).niche, levels.niche)
    assert torch.equal(model(moved).cells.z, levels.cells.z)


def test_a_niche_is_the_mean_of_its_cells_looking_at_its_tile(dataset):
    model = make_model(dataset)
    view = make_view(dataset, model)
    levels = model(view)
    first = view.niche == 0
    mean = levels.cells.z[first].mean(0, keepdim=True)
    tokens, runs = levels.niche_tokens
    own = tokens[: runs.lengths[0]]
    expected = model.niche.look(mean, Runs((1,), (1,)), own, Runs((1,), (len(own),)))
    torch.testing.assert_close(levels.niche[:1], expected, atol=1e-5, rtol=1e-4)


def test_a_tissue_is_its_own_window_and_its_own_niches(slides):
    dataset = open_toys(slides, cells_per_batch=1000)
    model = make_model(dataset)
    view = make_view(dataset, model)
    levels = model(view)
    assert len(view.tissue_row) > 1
    far = view.niche_tissue == view.niche_tissue.max()
    louder = levels.niche + far[:, None] * 3
    found = model.tissue(louder, view.niche_tissue, view.niche_place, *levels.tissue_tokens)
    torch.testing.assert_close(found[~far], levels.tissue[~far])
    assert not torch.allclose(found[far], levels.tissue[far])


SWITCHES = {
    "image_width": 48,
    "image_depth": 2,
    "image_heads": 4,
    "decoder_width": 48,
    "decoder_depth": 2,
    "decoder_heads": 4,
    "gene_width": 48,
    "gene_depth": 2,
    "gene_heads": 4,
    "max_gene_tokens": 6,
    "zero_gene_tokens": 0,
    "embedding": 48,
    "mlp_ratio": 2.0,
    "dropout": 0.5,
    "patch_px": 16,
    "tile_patch_px": 32,
    "tile_depth": 2,
    "niche_shrink": 2,
    "tissue_level": 0,
    "profile": False,
    "levels": "niche",
    "cross_attention": False,
    "direct_width": 0,
}


def test_every_switch_of_the_model_is_tested():
    assert set(SWITCHES) == {field.name for field in dataclasses.fields(ModelShape)}


@pytest.fixture(scope="module")
def plain_losses(slides):
    return losses_of(slides, tiny_shape())


def losses_of(slides, shape):
    dataset = open_toys(slides, tissue_level=shape.tissue_level, patch_px=shape.patch_px)
    model = make_model(dataset, shape).train()
    torch.manual_seed(1)
    view = make_view(dataset, model, MaskParams(full_share=0.5))
    losses = joint_losses(model, view, torch.Generator().manual_seed(0))
    return {name: float(loss.detach()) for name, loss in losses.items()}


@pytest.mark.parametrize(("name", "value"), SWITCHES.items())
def test_every_switch_changes_the_result(slides, plain_losses, name, value):
    found = losses_of(slides, tiny_shape(**{name: value}))
    assert found != plain_losses
    assert all(torch.isfinite(torch.tensor(list(found.values()))))


@pytest.mark.parametrize(("mask_ratio", "n"), [(0.75, 4), (0.0, 0)])
def test_cells_are_filled_where_patches_were_hidden(slides, mask_ratio, n):
    dataset = open_toys(slides[:1])
    machine = Machine(torch.device("cpu"), torch.float32)
    found = reconstruct_cells(make_model(dataset, tiny_shape()), dataset, machine, 4, mask_ratio, 0)
    assert found.original.shape == found.reconstructed.shape == (n, 2, 128, 128)
    assert ((found.original != found.masked).flatten(1).any(1)).all()
    untouched = found.original == found.masked
    assert torch.equal(
        found.reconstructed[untouched & (found.masked > 0)], found.original[untouched & (found.masked > 0)]
    )


def test_the_end_of_each_half_of_z_is_of_niche_and_tissue_alone():
    torch.manual_seed(0)
    fusion = Fusion(tiny_shape(embedding=32, direct_width=4))
    cell, other, niche, tissue = torch.randn(4, 5, 32)
    z, same_place = fusion([cell, niche, tissue]), fusion([other, niche, tissue])
    of_place = torch.zeros(32, dtype=torch.bool)
    of_place[[14, 15, 30, 31]] = True
    assert torch.equal(z[:, of_place], fusion.direct(torch.cat([niche, tissue], 1)))
    assert torch.equal(z[:, of_place], same_place[:, of_place])
    assert (z != same_place)[:, ~of_place].all()
    attended, fusion.direct = z[:, ~of_place], None
    assert torch.equal(attended, fusion([cell, niche, tissue])[:, ~of_place])


def test_a_model_of_cells_alone_has_no_tiles_and_z_is_the_cells(slides):
    dataset = open_toys(slides, tiles=False)
    model = make_model(dataset, tiny_shape(levels="cell"))
    levels = model(make_view(dataset, model))
    assert (model.niche, model.tissue, levels.niche) == (None, None, None)
    assert torch.equal(levels.fused, levels.cells.z)


def test_the_image_decoder_is_asked_for_hidden_patches_only(dataset):
    model = make_model(dataset)
    view = make_view(dataset, model, dataclasses.replace(NOTHING_HIDDEN, mask_ratio=0.5, full_share=0))
    codes = model.cell(view.cells.patches, view.cells.genes)
    found = reconstruct(
        model.cell.image_decoder, codes.image_tokens, codes.image_runs, view.cells.patches, view.cells.hidden
    )
    assert found.shape == view.cells.hidden.target.shape
    assert view.cells.hidden.runs.n_tokens == len(found)


@pytest.mark.parametrize(
    ("preset", "changes", "match"),
    [
        ("huge", {}, "tiny, small, base"),
        ("tiny", {"image_width": 33}, "image_width should be a multiple of image_heads"),
        ("tiny", {"levels": "organ"}, "organ"),
        ("tiny", {"embedding": 34, "gene_heads": 1}, "multiples of 4"),
        ("tiny", {"image_heads": 0}, "image_heads should be at least 1, found 0"),
        ("tiny", {"niche_shrink": 0}, "niche_shrink should be at least 1, found 0"),
        ("tiny", {"direct_width": 3}, "direct_width should be even, .*, found 3"),
        ("tiny", {"direct_width": 32}, "less than embedding 32, found 32"),
    ],
)
def test_impossible_shapes_are_refused(preset, changes, match):
    with pytest.raises(ValueError, match=match):
        shape_of(preset, **changes)


def test_base_is_the_papers_model():
    base = PRESETS["base"]
    assert (base.image_width, base.image_depth, base.decoder_width, base.decoder_depth) == (768, 12, 512, 8)
    assert (base.gene_width, base.gene_depth, base.max_gene_tokens) == (256, 8, 1000)


def test_the_documented_parameter_counts_are_true(root):
    rows = [line.split("|") for line in (root / "docs/model.md").read_text().splitlines() if line.startswith("|")]
    documented = {cells[1].strip(): [cell.strip().replace(",", "") for cell in cells[2:5]] for cells in rows}
    for column, preset in enumerate(("tiny", "small", "base")):
        counts = count_parameters(Spatia(PRESETS[preset], 4, 377))
        named = {"eq. 4 fusion": "fusion of levels", "total": "all"}
        for part, number in counts.items():
            assert documented[named.get(part, part)][column] == str(number), f"{preset}, {part}"


def test_every_switch_is_documented(root):
    text = (root / "docs/model.md").read_text()
    for field in dataclasses.fields(ModelShape):
        assert f"`{field.name}`" in text, field.name
