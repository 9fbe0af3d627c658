"""Hand-made features by hand, frames of another size, and what the small network can and cannot learn."""

import numpy as np
import pytest
import torch

from spatia.measure.references import (
    SmallCnn,
    cut_frames,
    mask_feature_names,
    mask_features,
    shrink_frames,
    train_cnn,
    turn_at_random,
)


@pytest.fixture(autouse=True)
def _one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- features ---


def test_features_by_hand():
    cell = np.array([[0, 10, 20, 30, 40], [7, 7, 7, 7, 7]], np.uint8)
    single = np.array([[255], [3]], np.uint8)
    found = mask_features([cell, single])
    assert found[0] == pytest.approx([20, np.sqrt(200), 40, 7, 0, 7, np.log(5)])
    assert found[1] == pytest.approx([255, 0, 255, 3, 0, 3, 0])
    assert mask_feature_names(["DAPI", "18S"]) == [
        *("DAPI mean", "DAPI sd", "DAPI p90", "18S mean", "18S sd", "18S p90"),
        "log area",
    ]


def test_p90_is_the_value_below_which_nine_of_ten_lie():
    assert mask_features([np.arange(100, dtype=np.uint8)[None]])[0, 2] == 90


def test_order_of_pixels_does_not_matter_and_brightness_does():
    pixels = np.random.default_rng(0).integers(256, size=(4, 300), dtype=np.uint8)
    shuffled = pixels[:, np.random.default_rng(1).permutation(300)]
    assert mask_features([pixels]) == pytest.approx(mask_features([shuffled]))
    assert not np.allclose(mask_features([pixels // 2]), mask_features([pixels]))
    assert mask_features([pixels]).shape == (1, 13)


def test_a_cell_without_pixels():
    with pytest.raises(ValueError, match="expected cells with pixels, found one without"):
        mask_features([np.zeros((4, 0), np.uint8)])


# --- frames ---


def test_the_middle_is_cut_out():
    frames = np.arange(36, dtype=np.uint8).reshape(1, 1, 6, 6)
    assert cut_frames(frames, 2).tolist() == [[[[14, 15], [20, 21]]]]
    assert cut_frames(frames, 6).tolist() == frames.tolist()


def test_a_shrunken_pixel_is_the_mean_of_four():
    frames = np.array([[0, 1, 8, 8], [2, 5, 8, 9], [1, 1, 0, 0], [1, 1, 255, 255]], np.uint8)[None, None]
    assert shrink_frames(frames, 2).tolist() == [[[[2, 8], [1, 128]]]]
    assert shrink_frames(frames, 2).dtype == np.uint8


@pytest.mark.parametrize("change", [cut_frames, shrink_frames])
def test_cells_and_stains_keep_their_place(change):
    frames = np.random.default_rng(0).integers(256, size=(3, 2, 8, 8), dtype=np.uint8)
    found = change(frames, 4)
    assert found.shape == (3, 2, 4, 4)
    assert np.array_equal(found[2:, 1:], change(frames[2:, 1:], 4))


def test_impossible_frames():
    with pytest.raises(ValueError, match="expected a divisor of 6, found 4"):
        shrink_frames(np.zeros((1, 1, 6, 6), np.uint8), 4)
    with pytest.raises(ValueError, match="found 8 for 6 x 6"):
        cut_frames(np.zeros((1, 1, 6, 6), np.uint8), 8)
    with pytest.raises(ValueError, match="found 2 for 6 x 4"):
        cut_frames(np.zeros((1, 1, 6, 4), np.uint8), 2)


# --- the network ---


def spots(n=96, side=16, seed=0):
    """Frames with a bright first or second stain, noise in the third, and how bright it is."""
    rng = np.random.default_rng(seed)
    which = rng.integers(2, size=n)
    level = rng.integers(60, 250, size=n)
    frames = rng.integers(30, size=(n, 3, side, side), dtype=np.uint8)
    frames[np.arange(n), which, 4:12, 4:12] = level[:, None, None]
    return frames, which, level


def test_shape_of_the_network():
    model = SmallCnn(torch.zeros(4), torch.ones(4), 7)
    assert model(torch.zeros(2, 4, 64, 64, dtype=torch.uint8)).shape == (2, 7)
    convolutions = [layer for layer in model.body if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 64, 96, 128]
    assert SmallCnn(torch.zeros(4), torch.ones(4), 7, (8, 8))(torch.zeros(2, 4, 8, 8)).shape == (2, 7)


def test_frames_are_standardised_by_stain():
    mean, spread = torch.tensor([0.2, 0.5]), torch.tensor([0.1, 2.0])
    model, plain = SmallCnn(mean, spread, 3).eval(), SmallCnn(torch.zeros(2), torch.ones(2), 3).eval()
    plain.load_state_dict(model.state_dict() | {"mean": plain.mean, "spread": plain.spread})
    frames = torch.randint(256, (5, 2, 16, 16), dtype=torch.uint8, generator=generator())
    standardised = (frames / 255 - mean[:, None, None]) / spread[:, None, None]
    assert torch.allclose(model(frames), plain(standardised * 255), atol=1e-4)


def test_the_network_finds_classes_in_other_frames():
    (frames, which, _), (test_frames, truth, _) = spots(64), spots(40, seed=1)
    names = np.array(["first", "second"])
    predict = train_cnn(frames, names[which], "classes", 5, generator(), batch_size=16, learning_rate=3e-3)
    assert (predict(test_frames) == names[truth]).all()


def test_the_network_finds_values_in_other_frames():
    (frames, which, level), (test_frames, truth, truth_level) = spots(192), spots(60, seed=1)
    targets = np.stack([which * 1000.0, level], axis=1)
    predict = train_cnn(frames, targets, "values", 8, generator(), batch_size=16, learning_rate=3e-3)
    found = predict(test_frames)
    assert found.shape == (60, 2)
    assert np.corrcoef(found[:, 0], truth)[0, 1] > 0.95
    assert np.corrcoef(found[:, 1], truth_level)[0, 1] > 0.8
    assert found[:, 0].mean() == pytest.approx(1000 * truth.mean(), abs=150)  # back on the targets' scale


def test_shuffled_labels_teach_nothing():
    (frames, which, _), (test_frames, truth, _) = spots(), spots(200, seed=1)
    shuffled = np.random.default_rng(3).permutation(which)
    predict = train_cnn(frames, shuffled, "classes", 2, generator(), batch_size=16)
    recall = [(predict(test_frames)[truth == one] == one).mean() for one in (0, 1)]
    assert np.mean(recall) == pytest.approx(0.5, abs=0.2)


def test_a_rare_class_weighs_as_much_as_a_common_one():
    rng = np.random.default_rng(0)
    frames, labels = rng.integers(256, size=(200, 2, 8, 8), dtype=np.uint8), np.repeat([0, 1], [180, 20])
    found = train_cnn(frames, labels, "classes", 6, generator(), batch_size=20)(frames)
    assert found.mean() > 0.25  # alike as they are, an unweighted fit calls nearly all of them common


def test_what_turning_changes_is_not_learned():
    rng = np.random.default_rng(0)
    frames, is_right = rng.integers(30, size=(96, 1, 16, 16), dtype=np.uint8), rng.integers(2, size=96)
    frames[is_right == 1, :, :, 8:] += 200
    frames[is_right == 0, :, :, :8] += 200
    targets = is_right[:, None].astype(float)
    found = train_cnn(frames, targets, "values", 5, generator(), batch_size=16, learning_rate=3e-3)(frames)
    assert found.std() < 0.4 * targets.std()


def outputs(**options):
    frames, which, level = spots(48)
    targets = np.stack([which, level], axis=1).astype(float)
    usual = {"epochs": 2, "generator": generator(), "batch_size": 16} | options
    return train_cnn(frames, targets, "values", **usual)(frames)


def test_options_of_the_network():
    usual = outputs()
    assert np.array_equal(outputs(), usual)
    for option in ({"epochs": 3}, {"generator": generator(1)}, {"batch_size": 8}, {"learning_rate": 1e-2}):
        assert not np.allclose(outputs(**option), usual), option


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = outputs()
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    assert np.array_equal(outputs(), first)


def test_a_prediction_does_not_depend_on_its_neighbours():
    frames, which, _ = spots(48)
    predict = train_cnn(frames, np.stack([which, 1 - which], axis=1), "values", 1, generator(), batch_size=16)
    assert predict(frames[:5]) == pytest.approx(predict(frames)[:5], abs=1e-5)


def test_read_only_frames_are_taken():
    frames, which, _ = spots(32)
    frames.setflags(write=False)
    assert len(train_cnn(frames, which, "classes", 1, generator())(frames)) == 32


def test_a_constant_stain_and_a_constant_value_do_no_harm():
    frames, which, _ = spots(32)
    frames[:, 2] = 9
    found = train_cnn(frames, np.stack([which, np.full(32, 4.0)], axis=1), "values", 1, generator())(frames)
    assert np.isfinite(found).all()
    assert found[:, 1] == pytest.approx(np.full(32, 4.0), abs=2)


def test_frames_are_turned_in_eight_ways():
    frame = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    turned = turn_at_random(frame.expand(400, 1, 2, 2), generator())
    found = {tuple(one.flatten().tolist()) for one in turned}
    assert found == {
        *((1, 2, 3, 4), (2, 4, 1, 3), (4, 3, 2, 1), (3, 1, 4, 2)),
        *((2, 1, 4, 3), (4, 2, 3, 1), (3, 4, 1, 2), (1, 3, 2, 4)),
    }
    assert not torch.equal(turn_at_random(frame.expand(400, 1, 2, 2), generator(1)), turned)


def test_impossible_training():
    frames, which, level = spots(8)
    with pytest.raises(ValueError, match="kind: expected classes or values, found 'genes'"):
        train_cnn(frames, which, "genes", 1, generator())
    with pytest.raises(ValueError, match=r"for 7 targets, at least 2; found uint8 \(8, 3, 16, 16\)"):
        train_cnn(frames, which[:7], "classes", 1, generator())
    with pytest.raises(ValueError, match="found float64"):
        train_cnn(frames / 255, which, "classes", 1, generator())
    with pytest.raises(FloatingPointError, match="expected a finite loss, found nan in epoch 0"):
        train_cnn(frames, level[:, None] * np.array([[np.nan]]), "values", 1, generator())
