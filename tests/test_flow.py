"""Bridge, contrast, guidance, solvers, average, canvas: against hand-made numbers and limits."""

import numpy as np
import pytest
import torch

from spatia.transitions.averaging import decay_at, update_average
from spatia.transitions.canvas import (
    OUTSIDE,
    from_canvas,
    n_channels_of,
    profile,
    to_canvas,
    turn,
    turn_each,
    with_gain,
)
from spatia.transitions.flow import (
    add_noise,
    bridge,
    confidence_weights,
    contrast_loss,
    endpoint,
    pick_negatives,
    squared_error,
    velocity_target,
    weighted_mean,
)
from spatia.transitions.sampling import count_calls, guide, guided, integrate, trace


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_bridge_starts_at_the_control_and_ends_at_the_target():
    start, end = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 4, 5)
    assert torch.equal(bridge(start, end, torch.zeros(3)), start)
    assert torch.equal(bridge(start, end, torch.ones(3)), end)
    quarter = bridge(start, end, torch.tensor([0.25, 0.0, 1.0]))
    torch.testing.assert_close(quarter[0], 0.75 * start[0] + 0.25 * end[0])
    assert torch.equal(quarter[1], start[1])


def test_the_velocity_carries_every_point_of_the_bridge_to_its_end():
    start, end, time = torch.rand(3, 1, 2, 2), torch.rand(3, 1, 2, 2), torch.tensor([0.0, 0.3, 0.9])
    torch.testing.assert_close(endpoint(bridge(start, end, time), velocity_target(start, end), time), end)


def test_each_contrastive_form_by_hand():
    positive, negative = torch.tensor([0.2, 0.2]), torch.tensor([0.5, 0.25])
    torch.testing.assert_close(contrast_loss(positive, negative, "none", 0.1, 0.1), positive)
    torch.testing.assert_close(contrast_loss(positive, negative, "minus", 0.1, 0.1), torch.tensor([0.15, 0.175]))
    torch.testing.assert_close(contrast_loss(positive, negative, "plus", 0.1, 0.1), torch.tensor([0.25, 0.225]))
    # 0.2 + 0.1 - 0.5 < 0: far enough; 0.2 + 0.1 - 0.25 = 0.05: too near
    torch.testing.assert_close(contrast_loss(positive, negative, "hinge", 0.1, 0.1), torch.tensor([0.2, 0.205]))
    with pytest.raises(ValueError, match="form should be"):
        contrast_loss(positive, negative, "both", 0.1, 0.1)


@pytest.mark.parametrize(("form", "sign"), [("minus", 1), ("plus", -1), ("hinge", 1)])
def test_the_gradient_pushes_away_from_the_negative_or_towards_it(form, sign):
    velocity = torch.zeros(1, 1, requires_grad=True)
    positive, negative = squared_error(velocity, torch.tensor([[0.0]])), squared_error(velocity, torch.tensor([[1.0]]))
    contrast_loss(positive, negative, form, 0.5, 2.0).sum().backward()
    assert sign * float(velocity.grad) > 0  # a step against the gradient leads away from 1, or towards it


def test_negatives_come_from_other_transitions_only():
    transition = torch.tensor([0, 0, 1, 2, 2, 2])
    for seed in range(20):
        chosen, has_one = pick_negatives(transition, generator(seed))
        assert bool(has_one.all())
        assert bool((transition[chosen] != transition).all())
    assert set(pick_negatives(torch.tensor([0, 1, 1, 1]), generator(s))[0][0].item() for s in range(30)) == {1, 2, 3}
    chosen, has_one = pick_negatives(torch.tensor([3, 3]), generator())
    assert not bool(has_one.any())
    assert chosen.tolist() == [0, 1]


def test_noise_strikes_about_the_share_asked_for():
    start = torch.zeros(400, 1, 2, 2)
    noisy = add_noise(start, 2.0, 0.5, generator())
    struck = noisy.flatten(1).abs().sum(1) > 0
    assert 160 < int(struck.sum()) < 240
    assert 1.8 < float(noisy[struck].std()) < 2.2
    assert add_noise(start, 0.0, 0.5, generator()) is start
    assert add_noise(start, 1.0, 0.0, generator()) is start


def test_confidence_weights_have_mean_one():
    weights = confidence_weights(torch.tensor([0.1, 0.3, 0.2]))
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5, 1.0]))
    assert float(weighted_mean(torch.tensor([2.0, 4.0]), torch.tensor([0.5, 1.5]))) == pytest.approx(3.5)
    with pytest.raises(ValueError, match="confidence should be"):
        confidence_weights(torch.tensor([0.1, torch.nan]))


def test_guidance_by_hand():
    said, unsaid = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(guide(said, unsaid, 0.2), torch.tensor([1.1, 1.8]))
    assert torch.equal(guide(said, unsaid, 0.0), said)


def test_without_guidance_the_unconditional_velocity_is_not_called():
    def fail(field, time):
        raise AssertionError

    assert float(guided(lambda field, time: field, fail, 0.0)(torch.ones(1), torch.zeros(1))) == 1


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
def test_every_solver_is_exact_on_a_constant_field(solver):
    start, velocity = torch.rand(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    torch.testing.assert_close(integrate(lambda field, time: velocity, start, solver, 3), start + velocity)


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_second_order_solvers_are_exact_where_velocity_is_linear_in_time(solver):
    found = integrate(lambda field, time: time[:, None], torch.zeros(2, 1), solver, 4)
    torch.testing.assert_close(found, torch.full((2, 1), 0.5))
    euler = integrate(lambda field, time: time[:, None], torch.zeros(2, 1), "euler", 4)
    torch.testing.assert_close(euler, torch.full((2, 1), 0.375))  # (0 + 1/4 + 2/4 + 3/4) / 4


def test_midpoint_by_hand_on_growth():
    # dx/dt = x, one step: x + (x + x / 2) = 2.5 x; two steps of 1/2: 1.625 ** 2
    grow = lambda field, time: field  # noqa: E731
    torch.testing.assert_close(integrate(grow, torch.ones(1, 1), "midpoint", 1), torch.full((1, 1), 2.5))
    torch.testing.assert_close(integrate(grow, torch.ones(1, 1), "heun", 2), torch.full((1, 1), 1.625**2))
    torch.testing.assert_close(
        integrate(grow, torch.ones(1, 1), "midpoint", 200), torch.e * torch.ones(1, 1), rtol=1e-4, atol=0
    )


def test_the_network_is_called_as_often_as_counted():
    calls = []

    def velocity(field, time):
        calls.append(float(time[0]))
        return field

    path = trace(guided(velocity, velocity, 0.2), torch.ones(1, 1), "midpoint", 12)
    assert len(calls) == count_calls("midpoint", 12, 0.2) == 48
    assert count_calls("midpoint", 100, 0.2) == 400
    assert count_calls("euler", 10, 0.0) == 10
    assert len(path) == 13
    assert calls[:4] == [0.0, 0.0, pytest.approx(1 / 24), pytest.approx(1 / 24)]
    with pytest.raises(ValueError, match="solver should be one of euler, midpoint, heun"):
        integrate(velocity, torch.ones(1, 1), "rk4", 2)


def test_the_average_by_hand():
    average = {"w": torch.tensor([1.0]), "n": torch.tensor(1)}
    update_average(average, {"w": torch.tensor([3.0]), "n": torch.tensor(7)}, 0.75)
    assert float(average["w"]) == 1.5
    assert int(average["n"]) == 7
    assert decay_at(0, 0.99) == 0.1
    assert decay_at(8, 0.99) == 0.5
    assert decay_at(10_000, 0.99) == 0.99


def test_a_canvas_becomes_the_image_that_it_was():
    frames = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(2, axis=1)
    coverage = np.full((1, 16, 16), 255, np.uint8)
    canvas = to_canvas(frames, coverage)
    assert canvas.shape == (1, 3, 16, 16)
    assert float(canvas.min()) == -1
    assert float(canvas.max()) == 1
    assert np.array_equal(from_canvas(canvas), frames)


def test_what_lies_outside_the_outline_is_black():
    coverage = np.zeros((1, 12, 12), np.uint8)
    coverage[0, :, 6:] = 255
    coverage[0, :, 5] = int(255 * OUTSIDE) + 2
    coverage[0, :, 4] = int(255 * OUTSIDE) - 1
    frames = np.minimum(coverage, 100)[:, None].repeat(2, axis=1)
    wanted = np.where(coverage[:, None] >= 255 * OUTSIDE, frames, 0)
    assert np.array_equal(from_canvas(to_canvas(frames, coverage)), wanted)


def a_disc(radius: float, grey: int, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.indices((side, side)) - (side - 1) / 2
    share = np.clip(radius - np.hypot(y, x) + 0.5, 0, 1)
    return np.round(grey * share).astype(np.uint8)[None, None], np.round(255 * share).astype(np.uint8)[None]


def test_halfway_between_two_cells_is_one_cell_of_middle_size_without_inner_edge():
    small, large = to_canvas(*a_disc(7, 80)), to_canvas(*a_disc(11, 80))
    between = from_canvas((small + large) / 2)[0, 0]
    wanted = a_disc(9, 80)[0][0, 0]
    assert abs(int((between > 0).sum()) - int((wanted > 0).sum())) <= 0.03 * (wanted > 0).sum()
    inside = a_disc(8, 255)[1][0] == 255
    assert int(np.ptp(between[inside])) <= 3


def with_nucleus(radius: float, grey: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a cell of radius 15 with cytoplasm of grey 40 in two stains, the second of which shows a nucleus."""
    frames, coverage = a_disc(15, 40)
    nucleus = a_disc(radius, 255)[1] >= 128
    return np.concatenate([frames, np.where(nucleus[:, None], grey, frames)], axis=1), coverage, nucleus


def test_a_canvas_with_a_nucleus_becomes_the_image_that_it_was():
    frames, coverage, nucleus = with_nucleus(6)
    frames[0, 1, 22:26, 20:24] = [[180], [220], [190], [230]]
    ragged = nucleus & (np.indices(nucleus.shape[1:]).sum(0) % 5 > 0)
    for mask in (nucleus, ragged, np.zeros_like(nucleus), coverage >= 128):
        canvas = to_canvas(frames, coverage, 1, mask)
        assert canvas.shape == (1, n_channels_of(2, 1), 48, 48)
        assert bool(canvas.isfinite().all())
        assert np.array_equal(from_canvas(canvas, 1), np.where(coverage[:, None] >= 255 * OUTSIDE, frames, 0))


def test_halfway_between_two_nuclei_is_one_nucleus_of_middle_size_with_one_edge():
    small, large = (to_canvas(*with_nucleus(r)[:2], 1, with_nucleus(r)[2]) for r in (4, 10))
    between = from_canvas((small + large) / 2, 1)[0, 1].astype(int)
    nucleus = with_nucleus(7)[2][0]
    bright = between > 120
    assert abs(int(bright.sum()) - int(nucleus.sum())) <= 0.1 * nucleus.sum()
    mean = to_canvas(*with_nucleus(4)[:2]) / 2 + to_canvas(*with_nucleus(10)[:2]) / 2
    plain = from_canvas(mean)[0, 1].astype(int)
    in_steps = [int(((image > 60) & (image < 180)).sum()) for image in (between, plain)]
    assert in_steps[0] <= 30 < 200 <= in_steps[1]


def test_stains_within_and_around_a_nucleus_have_the_same_gain():
    frames, coverage, nucleus = with_nucleus(6, grey=100)
    canvas = with_gain(to_canvas(frames, coverage, 1, nucleus), torch.tensor([[0.5**0.5, 1.2]]), 1)
    image = from_canvas(canvas, 1)[0, :, 24, :].astype(int)
    assert image[:, 24].tolist() == [20, 144]
    assert image[:, 12].tolist() == [20, 58]


def test_stains_go_on_beyond_the_outline_and_end_in_the_mean_of_the_cell():
    frames, coverage = a_disc(8, 100)
    frames[0, 0, :, 24:] //= 2
    canvas = to_canvas(frames, coverage)[0, 0].numpy()
    corner, right, left = canvas[0, 0], canvas[24, 24 + 9], canvas[24, 23 - 9]
    value = lambda root: ((root + 1) / 2) ** 2 * 255  # noqa: E731
    assert value(left) > value(corner) > value(right) > 40
    assert value(corner) == pytest.approx(np.square(np.sqrt([100, 50]).mean()), rel=0.05)


def test_a_picture_without_any_cell_stays_black():
    nothing = np.zeros((1, 2, 12, 12), np.uint8)
    canvas = to_canvas(nothing, nothing[:, 0])
    assert bool(canvas.isfinite().all())
    assert not from_canvas(canvas).any()


def test_values_beyond_the_scale_are_clipped():
    canvas = torch.tensor([[[[-3.0, 3.0]], [[1.0, 1.0]]]])
    assert from_canvas(canvas)[0, 0, 0].tolist() == [0, 255]


def test_eight_positions_of_a_square_and_all_differ():
    image = torch.arange(6.0).reshape(1, 2, 3)
    assert turn(image, 1, False)[0].tolist() == [[2, 5], [1, 4], [0, 3]]
    assert turn(image, 0, True)[0].tolist() == [[2, 1, 0], [5, 4, 3]]
    square = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(8, 1, 1, 1)
    turned = turn_each(square, torch.arange(8))
    assert len({tuple(row.flatten().tolist()) for row in turned}) == 8
    assert torch.equal(turned[0], square[0])


def test_a_profile_is_mean_and_sd_of_every_channel():
    canvas = torch.tensor([[[[0.0, 2.0]], [[1.0, 1.0]]]])
    torch.testing.assert_close(profile(canvas), torch.tensor([[1.0, 1.0, 1.0, 1e-3]]), atol=1e-5, rtol=0)
