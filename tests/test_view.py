"""What a model sees of a batch: masks, thinning, dropped modalities, turned cells."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from toy_model import make_model, make_view, open_toys, tiny_shape, toy_slides

from spatia.config import params_from_dict
from spatia.errors import SpatiaError
from spatia.learn.gene_view import choose_genes
from spatia.learn.losses import pixel_loss, zinb_loss
from spatia.learn.masking import choose_dropped, choose_tokens, round_down, thin_counts
from spatia.learn.settings import NOTHING_HIDDEN, MaskParams
from spatia.learn.view import turn, view_cells
from spatia.model.genes import CountModel


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return toy_slides(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def dataset(slides):
    return open_toys(slides)


@pytest.fixture(scope="module")
def model(dataset):
    return make_model(dataset)


def test_tokens_are_chosen_inside_each_sequence():
    lengths = torch.tensor([4, 1, 6])
    visible, hidden = choose_tokens(lengths, torch.tensor([1, 1, 2]), torch.tensor([2, 0, 4]), rng())
    counts = [[int(part.sum()) for part in chosen.split([4, 1, 6])] for chosen in (visible, hidden)]
    assert counts == [[1, 1, 2], [2, 0, 4]]
    assert not (visible & hidden).any()
    again, _ = choose_tokens(lengths, torch.tensor([1, 1, 2]), torch.tensor([2, 0, 4]), rng(1))
    assert not torch.equal(again, visible)


def test_numbers_below_a_step_stay():
    assert round_down(torch.tensor([0, 3, 4, 7, 9]), 4).tolist() == [0, 3, 4, 4, 8]


def test_thinning_keeps_each_transcript_with_its_chance():
    counts = torch.full((20_000,), 5.0)
    thinned = thin_counts(counts, 0.6, rng())
    assert float(thinned.mean()) == pytest.approx(3.0, abs=0.03)
    assert (thinned <= counts).all()
    assert torch.equal(thin_counts(counts, 1.0, rng()), counts)


def test_modalities_are_dropped_alone_and_by_tissue_and_never_both():
    tissue = torch.arange(4000) // 4
    params = MaskParams(drop_image=0.2, drop_genes=0.3, drop_together=0.5)
    dropped = choose_dropped(tissue, params, rng())
    assert not (dropped.image & dropped.genes).any()
    assert float(dropped.image.float().mean()) == pytest.approx(0.1765, abs=0.02)
    assert float(dropped.genes.float().mean()) == pytest.approx(0.2625, abs=0.02)
    assert dropped.image[dropped.tissue_image[tissue]].all()
    alone = choose_dropped(tissue, dataclasses.replace(params, drop_together=0.0), rng())
    assert not alone.tissue_image.any()


def test_genes_that_are_not_zero_come_first_and_the_panel_limits():
    counts = torch.tensor([[0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 3.0]])
    on_panel = torch.tensor([[True, True, True, True], [False, True, False, True]])
    gene, value, n = choose_genes(counts, on_panel, most=3, n_zeros=1)
    assert n.tolist() == [3, 2]
    assert (gene[0].tolist(), value[0].tolist()) == ([1, 3, 0], [2, 1, 0])
    assert (gene[1, :2].tolist(), value[1, :2].tolist()) == ([3, 1], [3, 0])
    assert choose_genes(counts, on_panel, most=2, n_zeros=1)[2].tolist() == [2, 2]


def test_nothing_hidden_shows_every_patch_and_every_count(dataset, model):
    batch, view = dataset[0, 0], make_view(dataset, model)
    order = view.cells.order
    assert view.cells.hidden.n == 0
    assert torch.equal(view.cells.patches.runs.lengths_of(), batch.cu_seqlens.diff()[order].long())
    assert torch.equal(view.cells.counts, batch.counts.dense()[order])
    assert view.cell_id == tuple(batch.cell_id[k] for k in order)
    assert torch.equal(view.niche, batch.niche[order])
    assert torch.equal(view.cell_row, batch.cell_row[order])
    start = view.cells.patches.runs.lengths_of()[0]
    first = batch.cu_seqlens[order[0]]
    expected = model.normaliser()(
        batch.tokens[first : first + start],
        batch.token_inside[first : first + start, None] & batch.has_stain[batch.slide[order[0]]][:, None, None],
    )
    torch.testing.assert_close(view.cells.patches.values[:start], expected)


def test_masked_cells_come_first_and_ask_for_what_is_not_seen(dataset, model):
    mask = MaskParams(mask_ratio=0.75, full_share=0.4, drop_image=0, drop_genes=0, pack=1)
    view = make_view(dataset, model, mask)
    lengths = dataset[0, 0].cu_seqlens.diff()[view.cells.order]
    seen, asked = view.cells.patches.runs.lengths_of(), view.cells.hidden.runs.lengths_of()
    n = view.cells.hidden.n
    assert 0 < n < len(seen)
    assert torch.equal(seen[:n] + asked, lengths[:n])
    assert torch.equal(seen[n:], lengths[n:])
    assert float(asked.sum() / lengths[:n].sum()) == pytest.approx(0.75, abs=0.02)


def test_a_target_is_the_pixels_inside_the_cell_of_stains_the_slide_has(dataset, model):
    view = make_view(dataset, model, MaskParams(full_share=0, drop_image=0, drop_genes=0, turn=False))
    hidden = view.cells.hidden
    assert set(hidden.weight.unique().tolist()) == {0.0, 1.0}
    assert (hidden.target[hidden.weight == 0] == 0).all()
    stains = view.cells.patches.has_stain[: hidden.n].repeat_interleave(hidden.runs.lengths_of(), dim=0)
    assert (hidden.weight.sum((2, 3)) > 0).sum() == stains[hidden.weight.sum((1, 2, 3)) > 0].sum()


def test_a_cell_without_its_image_is_asked_for_all_of_it(dataset, model):
    view = make_view(dataset, model, dataclasses.replace(NOTHING_HIDDEN, drop_image=1.0, drop_together=0.0))
    assert view.cells.patches.is_missing.all()
    assert view.cells.patches.runs.n_tokens == 0
    assert view.cells.hidden.runs.n_tokens == int(dataset[0, 0].cu_seqlens[-1])
    assert not view.niches.patches.is_missing.any()
    together = make_view(dataset, model, dataclasses.replace(NOTHING_HIDDEN, drop_image=1.0, drop_together=1.0))
    assert together.niches.patches.is_missing.all()
    assert together.tissues.patches.is_missing.all()


def test_cells_without_genes_have_no_gene_tokens(dataset, model):
    view = make_view(dataset, model, dataclasses.replace(NOTHING_HIDDEN, drop_genes=1.0, drop_together=0.0))
    assert view.cells.genes.is_missing.all()
    assert view.cells.genes.runs.n_tokens == 0


def test_gene_tokens_find_their_cell(dataset, model):
    view = make_view(dataset, model)
    genes = view.cells.genes
    parts = list(zip(genes.gene.split(genes.runs.lengths_of().tolist()),
                     genes.value.split(genes.runs.lengths_of().tolist()), strict=True))  # fmt: skip
    for cell, place in enumerate(genes.place.tolist()):
        gene, value = parts[place]
        assert torch.equal(view.cells.counts[cell, gene], value)
        assert view.cells.on_panel[cell, gene].all()


def test_turning_moves_pixels_and_places_together():
    window = torch.arange(16 * 16).view(16, 16)
    patches = window.view(4, 4, 4, 4).transpose(1, 2).reshape(16, 1, 4, 4)
    place = torch.arange(16)
    position = torch.stack([place // 4, place % 4], 1)
    for flags in ([True, False, False], [False, True, True], [True, True, True]):
        pixels, inside, where = turn(patches, patches[:, 0] > 100, position, torch.tensor(flags).expand(16, 3), last=3)
        found = torch.zeros(16, 16, dtype=torch.long)
        for patch, (row, column) in zip(pixels[:, 0], where.tolist(), strict=True):
            found[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4] = patch
        expected = window.flip(0) if flags[0] else window
        expected = expected.flip(1) if flags[1] else expected
        expected = expected.T if flags[2] else expected
        assert torch.equal(found, expected)
        assert torch.equal(inside, pixels[:, 0] > 100)


@pytest.fixture(scope="module")
def everything(slides):
    """All cells of both slides in one batch."""
    return open_toys(slides, cells_per_batch=1000, tiles=False)[0, 0]


CHANGES = {
    "mask_ratio": 0.5,
    "full_share": 0.0,
    "thin": 0.3,
    "hide_genes": 0.6,
    "drop_genes": 0.6,
    "drop_image": 0.6,
    "drop_together": 0.0,
    "turn": False,
    "pack": 1,
}


def test_every_mask_parameter_is_tested():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(MaskParams)}


@pytest.mark.parametrize(("name", "value"), CHANGES.items())
def test_every_mask_parameter_changes_the_view(everything, model, name, value):
    start = MaskParams(drop_genes=0.4, drop_image=0.4)
    before, after = (
        view_cells(everything, model.normaliser(), tiny_shape(), mask, rng())
        for mask in (start, dataclasses.replace(start, **{name: value}))
    )
    same = [
        a.shape == b.shape and torch.equal(a, b)
        for a, b in (
            (before.patches.values, after.patches.values),
            (before.hidden.position, after.hidden.position),
            (before.genes.value, after.genes.value),
            (before.genes.is_hidden, after.genes.is_hidden),
            (before.genes.is_missing, after.genes.is_missing),
        )
    ]
    assert not all(same)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"thin": 1.5}, "thin should lie in 0 to 1"),
        ({"mask_ratio": 1.0}, "something must be seen"),
        ({"pack": 0}, "pack"),
    ],
)
def test_wrong_masks_are_refused(change, match):
    with pytest.raises(SpatiaError, match=match):
        params_from_dict(change, MaskParams, "here")


# --- losses -----------------------------------------------------------------------------------------------------


def test_pixel_loss_counts_weighted_pixels_only():
    found, target = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([0.0, 0.0, 0.0])
    assert pixel_loss(found, target, torch.tensor([1.0, 0.0, 1.0])) == 2.5
    assert pixel_loss(found, target, torch.zeros(3)) == 0


@pytest.mark.parametrize(("mean", "theta", "zero"), [(0.2, 0.5, -3.0), (4.0, 2.0, 0.5), (30.0, 10.0, -8.0)])
def test_zinb_equals_scipys_distribution(mean, theta, zero):
    counts = torch.tensor([[0.0, 1.0, 2.0, 7.0, 40.0]])
    model = CountModel(*(torch.full((1, 1), v) for v in (np.log(mean), zero, np.log(theta))))
    share = 1 / (1 + np.exp(-zero))
    likelihood = (1 - share) * stats.nbinom.pmf(counts.numpy(), theta, theta / (theta + mean))
    likelihood[counts.numpy() == 0] += share
    for k in range(5):
        only = torch.arange(5) == k
        assert float(zinb_loss(model, counts, only[None])) == pytest.approx(-np.log(likelihood[0, k]), rel=2e-4)


def test_zinb_leaves_out_what_is_off_the_panel():
    model = CountModel(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(2))
    on = torch.tensor([[True, False]])
    assert zinb_loss(model, torch.tensor([[1.0, 3.0]]), on) == zinb_loss(model, torch.tensor([[1.0, 99.0]]), on)
    assert zinb_loss(model, torch.ones(1, 2), torch.zeros(1, 2, dtype=torch.bool)) == 0


def test_zinb_stays_finite_at_the_extremes():
    log_mean = torch.tensor([[-50.0, 50.0, 0.0]], requires_grad=True)
    model = CountModel(log_mean, torch.tensor([[40.0, -40.0, 0.0]]), torch.tensor([-20.0, 20.0, 0.0]))
    loss = zinb_loss(model, torch.tensor([[500.0, 0.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(log_mean.grad).all()


def test_a_masked_cell_shows_the_profile_of_its_visible_part_only(dataset):
    model = make_model(dataset)
    masked = dataclasses.replace(NOTHING_HIDDEN, mask_ratio=0.75, full_share=0.0)
    whole, part = make_view(dataset, model), make_view(dataset, model, masked)
    back = [torch.argsort(view.cells.order) for view in (whole, part)]
    target, again = (view.cells.profile[rows] for view, rows in zip((whole, part), back, strict=True))
    assert torch.equal(target.nan_to_num(-1), again.nan_to_num(-1))
    seen, hidden = (view.cells.patches.profile[rows] for view, rows in zip((whole, part), back, strict=True))
    assert torch.equal(seen.nan_to_num(-1), target.nan_to_num(-1))
    assert (hidden[:, 0] < target[:, 0]).float().mean() > 0.9  # log area


def test_profiles_of_stains_the_slide_lacks_do_not_count(dataset):
    view = make_view(dataset, make_model(dataset))
    n_missing = (~view.cells.patches.has_stain).sum(1)
    assert n_missing.max() > 0
    assert torch.equal(view.cells.profile.isnan().sum(1), n_missing * 8)


def test_the_counts_around_cells_stay_with_their_cells(dataset):
    batch, view = dataset[0, 0], make_view(dataset, make_model(dataset))
    assert not torch.equal(view.cells.order, torch.arange(len(batch)))
    assert torch.equal(view.around, batch.around[view.cells.order])


def test_niches_lie_on_the_grid_of_the_tissue_tokens(dataset):
    batch = dataset[0, 0]
    n_tokens = dataset.slides[0].niche_px // 2 // 64  # of the toy's tiles: level 1, patches of 64 px
    assert n_tokens == 2
    expected = batch.niche_place * 2 + 0.5
    assert torch.equal(make_view(dataset, make_model(dataset)).niche_place, expected)
    coarse = make_model(dataset, tiny_shape(tile_patch_px=128))
    assert torch.equal(make_view(dataset, coarse).niche_place, batch.niche_place.float())
