"""The fixed random encoder sees what it should, and Inception's place is kept for it."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.models import inception_v3
from toy_generated import draw_cell

from spatia.measure.encoder import InceptionEncoder, RandomEncoder, embed_images
from spatia.measure.image_distances import make_kernel, squared_mmd


def images(n, level, radius, seed):
    rng = np.random.default_rng(seed)
    return np.stack([draw_cell(rng, level, radius)[0] for _ in range(n)])


def distance(one, other):
    encoder = RandomEncoder()
    kernel = make_kernel(embed_images(encoder, one), embed_images(encoder, other))
    return 100 * float(squared_mmd(kernel, np.ones((1, len(one))), np.ones((1, len(other))))[0])


@pytest.fixture(scope="module")
def halves():
    both = images(80, 0.3, 14, 0)
    return both[:40], both[40:]


def changed(images, function):
    return np.stack([np.stack([function(plane.astype(float)) for plane in image]) for image in images]).astype(np.uint8)


def test_real_halves_are_near(halves):
    other = images(40, 0.6, 18, 1)
    assert abs(distance(*halves)) < 0.05 * distance(halves[0], other)


@pytest.mark.parametrize(
    "steps",
    [
        [lambda plane, s=s: ndimage.gaussian_filter(plane, s) for s in (1, 2, 4)],
        [lambda plane, f=f: plane * f for f in (0.8, 0.6, 0.3)],
        [lambda plane, s=s: np.pad(plane[s:-s, s:-s], s) for s in (19, 21, 24)],  # less and less of the cell
        [lambda plane, k=k: np.roll(np.where(np.arange(64) % 8 < k, 0, plane), 0) for k in (2, 4, 6)],
    ],
    ids=["blur", "dimming", "cutting", "stripes"],
)
def test_the_distance_grows_with_the_change(halves, steps):
    found = [distance(halves[0], halves[1])] + [distance(halves[0], changed(halves[1], step)) for step in steps]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.2


def test_the_distance_grows_with_cells_of_another_state(halves):
    other = images(40, 0.6, 18, 1)
    found = [distance(halves[0], np.concatenate([halves[1][k:], other[:k]])) for k in (0, 10, 20, 40)]
    assert found == sorted(found)
    assert found[2] > 10 * abs(found[0])


def test_a_generator_that_gives_one_image_is_found_out(halves):
    same = np.repeat(halves[1].mean(axis=0, keepdims=True).astype(np.uint8), 40, axis=0)
    assert distance(halves[0], same) > 20 * abs(distance(*halves))


def test_the_encoder_is_always_the_same():
    one, two = RandomEncoder(), RandomEncoder()
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_stains_are_seen_alone_and_in_their_order():
    some = images(3, 0.3, 14, 0)
    both = embed_images(RandomEncoder(), some)
    first, second = (embed_images(RandomEncoder(), some[:, k : k + 1]) for k in (0, 1))
    assert both.shape == (3, 2 * RandomEncoder().num_features)
    assert both == pytest.approx(np.concatenate([first, second], axis=1))
    assert embed_images(RandomEncoder(), some[:0]).shape == (0, both.shape[1])


def test_inception_of_given_weights():
    torch.manual_seed(0)
    encoder = InceptionEncoder(inception_v3(weights=None, init_weights=False).state_dict())
    found = embed_images(encoder, images(2, 0.3, 14, 0))
    assert found.shape == (2, 2 * 2048)
    assert np.isfinite(found).all()
