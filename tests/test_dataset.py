"""The dataset: what is in a batch, in which order batches come, and what every option changes."""

import dataclasses
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.utils.data import DataLoader
from toy_crops import HE, NICHE, TISSUE, WINDOW, cut, write_toy

from spatia.config import params_from_dict
from spatia.errors import SpatiaError
from spatia.io import write_sparse
from spatia.learn.dataset import CellDataset, LoadParams
from spatia.learn.order import BatchOrder
from spatia.learn.sampling import batches_of_rank, cut_batches, plan_epoch
from spatia.learn.slides import SlideFiles, map_counts

SMALL = LoadParams(cells_per_batch=25, window_tissues=4)
STAINS = ("DAPI", "18S", "CD45", *HE)
GENES = ("A", "B", "C", "D", "E")


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two slides: 3 and 4 genes, 2 of them in common; 2 stains, and 2 stains and H&E, one of them in common."""
    folder = tmp_path_factory.mktemp("toy")
    one = write_toy(folder, "one", seed=1)
    two = write_toy(folder, "two", ("18S", "CD45"), ("E", "B", "D", "C"), 70, (1100, 1400), has_he=True, seed=2)
    return one, two


@pytest.fixture(scope="module")
def dataset(slides):
    return CellDataset([slide.files for slide in slides], SMALL)


@pytest.fixture(scope="module")
def batch(dataset):
    return dataset[0, 1]


def batches_of(dataset, epoch=0, **options):
    return [dataset[key] for key in BatchOrder(dataset, epoch=epoch, **options)]


def ids_of(batches):
    return [batch.cell_id for batch in batches]


def owners(batch, slides):
    """Return slide and row of every cell of a batch, found by its id alone."""
    by_name = {slide.files.name: slide for slide in slides}
    return [(by_name[cell_id.split("-")[0]], int(cell_id.split("-")[1])) for cell_id in batch.cell_id]


def widen(array, names, union):
    """Return ``array`` with its rows (stains or genes) at their place in ``union``, 0 elsewhere."""
    out = np.zeros((len(union), *array.shape[1:]), array.dtype)
    out[[union.index(name) for name in names]] = array
    return out


# --- what is in a batch -----------------------------------------------------------------------------------------


def test_frames_equal_the_slow_reference_bit_for_bit(dataset, slides):
    for batch in batches_of(dataset):
        frames, masks = batch.frames()
        for k, (slide, row) in enumerate(owners(batch, slides)):
            np.testing.assert_array_equal(frames[k], widen(slide.frame(row), slide.stains, STAINS))
            np.testing.assert_array_equal(masks[k], slide.masks[row])


@pytest.mark.parametrize("patch_px", [4, 8, 14, 16, 128])
def test_tokens_are_exactly_the_patches_that_touch_the_cell(slides, patch_px):
    params = dataclasses.replace(SMALL, patch_px=patch_px)
    batch = CellDataset([slide.files for slide in slides], params)[0, 0]
    grid = -(-WINDOW // patch_px)
    beyond = grid * patch_px - WINDOW
    for k, (slide, row) in enumerate(owners(batch, slides)):
        mask = np.pad(slide.masks[row], ((0, beyond), (0, beyond)))
        frame = np.pad(widen(slide.frame(row), slide.stains, STAINS), ((0, 0), (0, beyond), (0, beyond)))
        own = slice(int(batch.cu_seqlens[k]), int(batch.cu_seqlens[k + 1]))
        found = list(zip(batch.token_position[own].tolist(), batch.tokens[own], batch.token_inside[own], strict=True))
        places = [(y, x) for y in range(grid) for x in range(grid)]
        cuts = [np.s_[y * patch_px : (y + 1) * patch_px, x * patch_px : (x + 1) * patch_px] for y, x in places]
        touched = [[*place, patch] for place, patch in zip(places, cuts, strict=True) if mask[patch].any()]
        assert [position for position, _, _ in found] == [[y, x] for y, x, _ in touched]
        for (_, token, inside), (_, _, patch) in zip(found, touched, strict=True):
            np.testing.assert_array_equal(token, frame[(slice(None), *patch)])
            np.testing.assert_array_equal(inside, mask[patch])
    frames, masks = batch.frames()
    assert frames.shape == (len(batch), len(STAINS), WINDOW, WINDOW)
    assert masks.sum() == batch.token_inside.sum()


def test_floats_are_normalised_inside_the_cell_and_contiguous(batch):
    mean, std = np.linspace(0.1, 0.6, len(STAINS)), np.linspace(0.5, 2, len(STAINS))
    frames, masks = batch.frames()
    has_stain = batch.has_stain[batch.slide].numpy()
    expected = (frames.numpy() / 255 - mean[:, None, None]) / std[:, None, None]
    expected *= masks.numpy()[:, None] * has_stain[:, :, None, None]
    floats = batch.floats(mean, std)
    assert floats.dtype == torch.float32
    assert floats.is_contiguous()
    np.testing.assert_allclose(floats, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(floats, batch.floats())


def test_floats_refuse_a_wrong_number_of_stains(batch):
    with pytest.raises(ValueError, match="expected 6 values each"):
        batch.floats([0.0], [1.0])


def test_the_operations_for_devices_give_the_same(batch):
    frames, masks = batch.frames()
    device_frames, device_masks = batch._frames_on_device()
    assert torch.equal(frames, device_frames)
    assert torch.equal(masks, device_masks)
    table = torch.arange(256).repeat(len(STAINS), 1) / 255
    torch.testing.assert_close(batch.floats(), batch._floats_on_device(table))


def test_every_tensor_goes_along_to_a_device(batch):
    moved = batch.to("meta")
    tensors = [getattr(moved, field.name) for field in dataclasses.fields(moved)]
    assert {t.device.type for t in tensors if isinstance(t, torch.Tensor)} == {"meta"}
    assert moved.counts.values.device.type == moved.tissue_counts.genes.device.type == "meta"


def test_counts_are_in_the_union_and_the_panel_says_what_was_measured(dataset, slides):
    assert dataset.genes == GENES
    for batch in batches_of(dataset):
        dense, on_panel = batch.counts.dense(), batch.on_panel[batch.slide]
        for k, (slide, row) in enumerate(owners(batch, slides)):
            np.testing.assert_array_equal(dense[k], widen(slide.counts[row], slide.genes, GENES))
            assert [gene for gene, on in zip(GENES, on_panel[k], strict=True) if on] == sorted(slide.genes)


def test_stains_are_matched_by_name_and_absent_ones_are_marked(dataset, slides):
    assert dataset.stains == STAINS
    batch = next(b for b in batches_of(dataset) if len(b.slide_index) == 2)
    assert batch.has_stain.tolist() == [[stain in slide.stains for stain in STAINS] for slide in slides]


def test_position_niche_tissue_and_slide_of_every_cell(dataset, slides):
    for batch in batches_of(dataset):
        for k, (slide, row) in enumerate(owners(batch, slides)):
            cell, niche, tissue = slide.cells.iloc[row], int(batch.niche[k]), int(batch.tissue[k])
            np.testing.assert_allclose(batch.position_um[k], [cell.x_um, cell.y_um], rtol=1e-6)
            assert dataset.files[int(batch.slide_index[batch.slide[k]])].name == slide.files.name
            assert int(batch.cell_row[k]) == row
            assert int(batch.niche_row[niche]) == cell.niche
            assert int(batch.tissue_row[tissue]) == cell.tissue
            grid = slide.niches.iloc[cell.niche]
            assert batch.niche_place[niche].tolist() == [grid.row % 4, grid.col % 4]


def test_niche_and_tissue_counts_are_sums_over_all_their_cells(dataset, slides):
    for batch in batches_of(dataset):
        niche_sums, tissue_sums = batch.niche_counts.dense(), batch.tissue_counts.dense()
        for k, (slide, row) in enumerate(owners(batch, slides)):
            cell = slide.cells.iloc[row]
            in_niche, in_tissue = slide.cells.niche == cell.niche, slide.cells.tissue == cell.tissue
            niche_sum, tissue_sum = slide.counts[in_niche].sum(0), slide.counts[in_tissue].sum(0)
            np.testing.assert_array_equal(niche_sums[batch.niche[k]], widen(niche_sum, slide.genes, GENES))
            np.testing.assert_array_equal(tissue_sums[batch.tissue[k]], widen(tissue_sum, slide.genes, GENES))


def test_other_batches_of_the_same_cells_share_what_is_open(slides):
    files = [slide.files for slide in slides]
    first, other = CellDataset(files, SMALL), dataclasses.replace(SMALL, whole="tissue", cells_per_batch=40)
    shared, alone = first.loaded_as(other), CellDataset(files, other)
    assert shared.slides is first.slides
    assert first.params == SMALL
    assert shared.fingerprint() == alone.fingerprint() != first.fingerprint()
    assert [batch.cell_id for batch in batches_of(shared)] == [batch.cell_id for batch in batches_of(alone)]


def test_the_counts_around_a_cell_are_of_the_whole_slide(slides):
    dataset = CellDataset([slide.files for slide in slides], dataclasses.replace(SMALL, around=True))
    n_outside = 0
    for batch in batches_of(dataset):
        cells = list(owners(batch, slides))
        for k, (slide, row) in enumerate(cells):
            distance = np.hypot(slide.cells.x_um - slide.cells.x_um[row], slide.cells.y_um - slide.cells.y_um[row])
            near = (distance <= 40) & (np.arange(len(distance)) != row)
            expected = widen(slide.counts[near].sum(0), slide.genes, GENES)
            np.testing.assert_array_equal(batch.around[k], expected)
            n_outside += len(set(np.flatnonzero(near)) - {other for owner, other in cells if owner is slide})
    assert n_outside  # neighbours that the batch does not have
    assert dataset[0, 0].niche_tiles is None is CellDataset([slides[0].files], SMALL)[0, 0].around


@pytest.mark.parametrize("level", [0, 1])
def test_tiles_and_context_equal_the_slide(slides, level):
    params = dataclasses.replace(SMALL, tiles=True, tissue_level=level, context=True)
    dataset = CellDataset([slide.files for slide in slides], params)
    for batch in batches_of(dataset)[:3]:
        for k, (slide, row) in enumerate(owners(batch, slides)):
            niche, tissue = int(batch.niche[k]), int(batch.tissue[k])
            grid, square = slide.niches.iloc[slide.cells.niche[row]], slide.tissues.iloc[slide.cells.tissue[row]]
            expected = widen(cut(slide.image, grid.y0, grid.x0, NICHE), slide.stains, STAINS)
            np.testing.assert_array_equal(batch.niche_tiles[niche], expected)
            full = cut(slide.image, square.y0, square.x0, TISSUE)[:, :: 2**level, :: 2**level]
            np.testing.assert_array_equal(batch.tissue_tiles[tissue], widen(full, slide.stains, STAINS))
            np.testing.assert_array_equal(batch.context[k], widen(slide.context(row), slide.stains, STAINS))
        frames, masks = batch.frames()
        assert torch.equal(batch.context * masks[:, None], frames)


def test_decoded_chunks_are_kept_within_the_cache(slides):
    params = dataclasses.replace(SMALL, tiles=True)
    files = [slides[0].files]
    large, small = CellDataset(files, params), CellDataset(files, dataclasses.replace(params, cache_mb=1))
    for one, other in zip(batches_of(large), batches_of(small), strict=True):
        assert torch.equal(one.niche_tiles, other.niche_tiles)
    assert large._chunks.n_decoded == len(slides[0].tissues)
    assert small._chunks.n_decoded > large._chunks.n_decoded
    assert len(small._chunks._chunks) == 1


def test_without_tiles_no_image_is_needed(slides):
    files = dataclasses.replace(slides[0].files, image=None)
    assert CellDataset([files], SMALL)[0, 0].niche_tiles is None
    with pytest.raises(SpatiaError, match=r"slide one: tiles and context need slide\.zarr"):
        CellDataset([files], LoadParams(tiles=True))[0, 0]


def test_a_level_that_is_not_stored_is_averaged_from_the_last_one(slides):
    shallow, deep = (
        CellDataset([slides[0].files], dataclasses.replace(SMALL, tiles=True, tissue_level=level))[0, 0].tissue_tiles
        for level in (1, 3)
    )
    n, c, side, _ = shallow.shape
    averaged = shallow.float().view(n, c, side // 4, 4, side // 4, 4).mean((3, 5))
    assert deep.shape == averaged.shape
    assert (deep.float() - averaged).abs().max() <= 0.5


# --- order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_cell_comes_exactly_once_per_epoch(dataset, slides, shuffle):
    dataset = CellDataset(dataset.files, dataclasses.replace(SMALL, shuffle=shuffle))
    found = [cell_id for ids in ids_of(batches_of(dataset, epoch=3)) for cell_id in ids]
    assert len(found) == dataset.n_cells == 160
    assert set(found) == {cell_id for slide in slides for cell_id in slide.cells.cell_id}


@pytest.mark.parametrize("whole", ["niche", "tissue"])
def test_niches_or_tissues_stay_whole_and_batches_within_their_size(dataset, slides, whole):
    dataset = CellDataset(dataset.files, dataclasses.replace(SMALL, whole=whole))
    batches = batches_of(dataset)
    for batch in batches:
        for slide, row in owners(batch, slides):
            table = slide.cells
            together = table.cell_id[table[whole] == table[whole][row]]
            assert set(together) <= set(batch.cell_id)
    sizes = [len(batch) for batch in batches]
    groups = [len(batch.niche_row if whole == "niche" else batch.tissue_row) for batch in batches]
    assert all(size <= 25 or n_groups == 1 for size, n_groups in zip(sizes, groups, strict=True))
    assert len(sizes) > 4


def test_the_order_depends_on_seed_and_epoch_only(dataset):
    again = CellDataset(dataset.files, SMALL)
    other_seed = CellDataset(dataset.files, dataclasses.replace(SMALL, seed=1))
    first = ids_of(batches_of(dataset))
    assert first == ids_of(batches_of(again))
    assert first != ids_of(batches_of(dataset, epoch=1))
    assert first != ids_of(batches_of(other_seed))


def test_the_order_is_the_same_with_any_number_of_workers(dataset):
    expected = [ids_of(batches_of(dataset, epoch)) for epoch in (0, 1)]
    order = BatchOrder(dataset)
    for n_workers in (0, 1, 2):
        loader = DataLoader(
            dataset, sampler=order, batch_size=None, num_workers=n_workers, persistent_workers=n_workers > 0
        )
        for epoch in (0, 1):
            order.set_epoch(epoch)
            assert ids_of(loader) == expected[epoch]


def test_a_batch_from_a_worker_is_the_same_batch(dataset):
    loader = DataLoader(dataset, sampler=BatchOrder(dataset), batch_size=None, num_workers=1)
    for sent, own in zip(loader, batches_of(dataset), strict=True):
        assert_same(sent, own)
        assert sent.counts.n_genes == own.counts.n_genes
        assert_same(sent.counts, own.counts)


def assert_same(one, other):
    """Compare the fields of two dataclasses, their inner dataclasses apart."""
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype, field.name
            assert torch.equal(left, right), field.name
        elif not dataclasses.is_dataclass(left):
            assert left == right, field.name


def test_a_pickled_dataset_opens_its_files_again(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 5000
    assert ids_of(batches_of(copy)) == ids_of(batches_of(dataset))


def test_niches_of_a_batch_come_from_many_tissues_of_both_slides():
    rng = np.random.default_rng(0)
    block = np.repeat(np.arange(200), 16)  # 200 tissues of 16 niches
    cells = rng.integers(5, 30, len(block))
    plan = plan_epoch(cells, block, 256, 32, np.random.default_rng(1))
    n_groups = np.array([len(plan.batch(k)) for k in range(len(plan) - 1)])
    n_blocks = np.array([len(np.unique(block[plan.batch(k)])) for k in range(len(plan) - 1)])
    # niches drawn at random from 32 tissues would lie in 32 (1 - (31/32)^n) of them: 12 of 15
    assert (n_blocks / n_groups).mean() > 0.7
    within_window = np.array([len(np.unique(block[plan.groups[k : k + 512]])) for k in range(0, 3072, 512)])
    assert (within_window <= 33).all()
    local = plan_epoch(cells, block, 256, 1, np.random.default_rng(1))
    assert np.mean([len(np.unique(block[local.batch(k)])) for k in range(len(local))]) < 3
    plain = plan_epoch(cells, block, 256, 32, None)
    np.testing.assert_array_equal(plain.groups, np.arange(len(block)))


def test_the_line_of_niches_is_cut_where_the_next_does_not_fit():
    assert cut_batches(np.array([3, 3, 4, 1, 12, 2, 2]), 10).tolist() == [0, 3, 4, 5, 7]
    assert cut_batches(np.array([10, 10]), 10).tolist() == [0, 1, 2]


def test_drop_last_leaves_out_what_is_left_over(dataset):
    kept, every = batches_of(dataset, drop_last=True), batches_of(dataset)
    assert ids_of(kept) == ids_of(every)[:-1]
    one_full = plan_epoch(np.array([4, 4]), np.zeros(2, int), 8, 1, None)
    assert one_full.n_full(8) == 1
    assert one_full.n_full(9) == 0


def test_ranks_share_the_batches(dataset):
    every = ids_of(batches_of(dataset))
    of_rank = [ids_of(batches_of(dataset, rank=rank, world_size=3)) for rank in range(3)]
    assert sorted(ids for ids_of_rank in of_rank for ids in ids_of_rank) == sorted(every)
    equal = [len(batches_of(dataset, rank=rank, world_size=3, drop_last=True)) for rank in range(3)]
    assert len(set(equal)) == 1
    assert batches_of_rank(8, 1, 3, drop_last=False).tolist() == [1, 4, 7]
    assert batches_of_rank(8, 1, 3, drop_last=True).tolist() == [1, 4]
    with pytest.raises(ValueError, match="rank: expected 0 to 2, found 3"):
        BatchOrder(dataset, rank=3, world_size=3)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_training_resumes_behind_the_last_batch_it_saw(dataset, rank, world_size):
    expected = ids_of(batches_of(dataset, epoch=2, rank=rank, world_size=world_size))
    order = BatchOrder(dataset, rank, world_size, epoch=2)
    loader = iter(DataLoader(dataset, sampler=order, batch_size=None, num_workers=1))
    seen = [next(loader), next(loader)]  # the worker has read further
    resumed = BatchOrder(CellDataset(dataset.files, SMALL), rank, world_size)
    resumed.load_state(order.state_after(seen[-1]))
    assert ids_of(seen) + ids_of(resumed.dataset[key] for key in resumed) == expected
    assert len(resumed) == len(expected) - 2


def test_a_state_of_other_batches_is_refused(dataset, batch):
    state = BatchOrder(dataset).state_after(batch)
    other = CellDataset(dataset.files, dataclasses.replace(SMALL, cells_per_batch=30))
    with pytest.raises(SpatiaError, match="resume: expected the cells, batching parameters"):
        BatchOrder(other).load_state(state)
    with pytest.raises(SpatiaError, match="resume"):
        BatchOrder(dataset, world_size=2).load_state(state)


# --- selection and options --------------------------------------------------------------------------------------


def test_cells_are_selected_by_id_or_by_row(slides):
    one = slides[0]
    chosen = one.cells.cell_id[::3]
    by_row = dataclasses.replace(one.files, cells=np.arange(len(one.cells)) % 3 == 0)
    for files in (dataclasses.replace(one.files, cells=list(chosen)), by_row):
        dataset = CellDataset([files], SMALL)
        assert sorted(cell_id for ids in ids_of(batches_of(dataset)) for cell_id in ids) == sorted(chosen)


@pytest.mark.parametrize(
    ("cells", "match"),
    [
        (["one-001", "nobody"], "1 of 2 are not in .*'nobody'"),
        (np.ones(3, bool), "expected 90 booleans"),
        ([], "found none; check the selection"),
    ],
)
def test_a_wrong_selection_is_named(slides, cells, match):
    with pytest.raises(SpatiaError, match=match):
        CellDataset([dataclasses.replace(slides[0].files, cells=cells)])


def test_stains_and_genes_can_be_chosen(slides):
    dataset = CellDataset([slide.files for slide in slides], SMALL, stains=("CD45", "DAPI"), genes=("D", "A", "X"))
    for batch in batches_of(dataset):
        frames, _ = batch.frames()
        dense = batch.counts.dense()
        for k, (slide, row) in enumerate(owners(batch, slides)):
            kept = [stain for stain in dataset.stains if stain in slide.stains]
            index = [slide.stains.index(stain) for stain in kept]
            np.testing.assert_array_equal(frames[k], widen(slide.frame(row)[index], kept, dataset.stains))
            known = [gene for gene in dataset.genes if gene in slide.genes]
            values = slide.counts[row][[slide.genes.index(gene) for gene in known]]
            np.testing.assert_array_equal(dense[k], widen(values, known, dataset.genes))
    assert dataset.genes == ("D", "A", "X")
    assert not batch.on_panel[:, 2].any()


def test_tissues_per_window_changes_the_order(dataset):
    wide = CellDataset(dataset.files, dataclasses.replace(SMALL, window_tissues=1))
    assert ids_of(batches_of(wide)) != ids_of(batches_of(dataset))


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("cells_per_batch", 0, "expected at least 1, found 0"),
        ("whole", "slide", "should be niche or tissue|expected niche or tissue|whole"),
        ("tissue_level", -1, "expected at least 0"),
        ("patch", 8, "unknown key 'patch'"),
    ],
)
def test_wrong_parameters_are_refused(key, value, match):
    with pytest.raises(SpatiaError, match=match):
        params_from_dict({key: value}, LoadParams, "here")


# --- files that do not fit --------------------------------------------------------------------------------------


def copied(slide, folder):
    """Return a copy of a slide's crops and tiles that may be broken."""
    for name in ("crops", "tiles"):
        shutil.copytree(getattr(slide.files, name), folder / name)
    return SlideFiles(slide.files.name, folder / "crops", folder / "tiles", slide.files.image)


def test_crops_and_tiles_of_other_cells_are_refused(slides, tmp_path):
    files = dataclasses.replace(slides[0].files, tiles=slides[1].files.tiles)
    with pytest.raises(SpatiaError, match="expected the 90 cells of .* in their order"):
        CellDataset([files])


def test_a_mask_that_disagrees_with_the_index_is_refused(slides, tmp_path):
    files = copied(slides[0], tmp_path)
    Path(files.crops / "masks.bin").write_bytes(bytes(Path(files.crops / "masks.bin").stat().st_size))
    with pytest.raises(SpatiaError, match="expected a mask of .* pixels for cell one-"):
        CellDataset([files])[0, 0]


def test_windows_of_other_size_are_refused(slides, tmp_path):
    files = copied(slides[1], tmp_path)
    header = (files.crops / "crops.json").read_text()
    (files.crops / "crops.json").write_text(header.replace('"window_px": 128', '"window_px": 160'))
    with pytest.raises(SpatiaError, match="slide two: expected window_px 128 as on slide one, found 160"):
        CellDataset([slides[0].files, files])


def test_a_box_outside_the_window_is_refused(slides, tmp_path):
    files = copied(slides[1], tmp_path)
    header = (files.crops / "crops.json").read_text()
    (files.crops / "crops.json").write_text(header.replace('"window_px": 128', '"window_px": 64'))
    with pytest.raises(SpatiaError, match="expected masks inside window and files, found cell two-"):
        CellDataset([files])


def test_counts_are_mapped_row_by_row(tmp_path):
    dense = np.array([[0, 2, 0, 7], [0, 0, 0, 0], [5, 0, 1, 300]])
    write_sparse(tmp_path / "counts.npz", sparse.csr_matrix(dense))
    counts = map_counts(tmp_path / "counts.npz")
    genes, values, lengths = counts.take(np.array([2, 1, 0]), np.array([1, 0, -1, 4], np.int32))
    assert genes.tolist() == [1, 4, 0, 4]
    assert values.tolist() == [5, 300, 2, 7]
    assert lengths.tolist() == [2, 0, 2]
    empty = counts.take(np.array([1]), np.arange(4, dtype=np.int32))
    assert [array.tolist() for array in empty] == [[], [], [0]]
