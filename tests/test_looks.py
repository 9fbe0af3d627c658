"""What a target is going to look like: the map of looks, and a network that does as it is told."""

import dataclasses

import numpy as np
import pytest
import torch

from spatia.learn import calibration
from spatia.learn.calibration import calibrate_looks
from spatia.learn.devices import Machine
from spatia.learn.generating import Request, Sampler, conditions_of, follow
from spatia.learn.generator_objective import stretched
from spatia.learn.generator_pairs import PairSet
from spatia.learn.generator_parts import LookSums, fit_looks, fit_map
from spatia.model.conditions import Conditions, unconditional
from spatia.model.linear_guess import LinearGuess, moments_of, symmetric
from spatia.model.looks import Look, LookMap, monge_map
from spatia.model.velocity import Generator
from spatia.model.velocity_shape import velocity_shape_of
from spatia.transitions.canvas import long_axis_of, share_of, to_canvas
from spatia.transitions.looks import looks_of, n_looks_of, stretch_to
from spatia.transitions.sampling import integrate

CPU = Machine(torch.device("cpu"), torch.float32)


def clouds(n=4000, seed=0):
    """Return two Gaussian clouds and what is between them: stretched, turned, moved."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(n, 3, generator=generator) @ torch.tensor([[1.0, 0.3, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 2.0]])
    end = torch.randn(n, 3, generator=generator) @ torch.tensor([[2.0, 0.0, 0.5], [0.3, 0.5, 0.0], [0.0, 0.0, 1.0]])
    return start + 1, end - torch.tensor([0.0, 2.0, 5.0])


def test_the_map_carries_mean_and_covariance_and_keeps_the_order():
    start, end = clouds()
    slope, offset = monge_map(start, end)
    moved = start @ slope + offset
    torch.testing.assert_close(moved.mean(0), end.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(moved.T), torch.cov(end.T), atol=0.1, rtol=0.05)
    # the gradient of a convex function: nothing is turned round
    torch.testing.assert_close(slope, slope.T, atol=1e-4, rtol=1e-3)
    assert torch.linalg.eigvalsh(slope.double()).min() > 0


def test_few_cells_that_are_all_alike_in_something_are_carried_by_their_means():
    start, end = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 6)
    start[:, 2] = 7.0
    slope, offset = monge_map(start, end + 3)
    assert slope.isfinite().all()
    torch.testing.assert_close(start.mean(0) @ slope + offset, torch.full((6,), 3.0), atol=1e-3, rtol=0)


def test_every_transition_has_its_own_map_and_one_without_pairs_changes_nothing():
    look = Look(velocity_shape_of("tiny"), 3, 3)
    start, end = clouds()
    number = torch.arange(len(start)) % 2
    look.set_scale(torch.cat([start, end]))
    end = torch.where(number[:, None] == 0, end, start + 4)
    for own in (0, 1):
        look.set_map(own, LookMap(*monge_map(*(look.standardise(cloud[number == own]) for cloud in (start, end)))))
    nowhere = torch.zeros(len(start), 0)
    asked = start[:6]
    kept = look.expected(asked, torch.full((6,), 2), nowhere[:6])
    torch.testing.assert_close(kept, asked, atol=1e-4, rtol=1e-4)
    farther = look.expected(asked, torch.ones(6, dtype=torch.long), nowhere[:6])
    torch.testing.assert_close(farther, asked + 4, atol=0.1, rtol=0)
    changed = look.expected(start, torch.zeros(len(start), dtype=torch.long), nowhere)
    torch.testing.assert_close(changed.mean(0), end[number == 0].mean(0), atol=0.15, rtol=0)


def test_targets_look_different_where_the_surroundings_said_so_in_every_group():
    # targets are 3 larger where surroundings are high; controls are everywhere alike
    generator = torch.Generator().manual_seed(1)
    around = torch.randn(800, 5, generator=generator)
    start = torch.randn(800, 2, generator=generator)
    effect = torch.stack([3 * (around[:, 0] > 0), torch.zeros(800)], dim=1)
    end = torch.randn(800, 2, generator=generator) + 1 + effect
    found = fit_map(start, end, around, np.arange(800) % 4)
    change = found.end_around[0, 0] / end[:, 0].std()
    assert float(change) > 0.4
    assert float(found.end_around[1:].abs().max()) < 0.15 > float(found.start_around.abs().max())
    told_nothing = fit_map(start, end, None, np.arange(800) % 4)
    assert told_nothing.end_around is None
    # what holds in one group and is the other way round in the next is not believed
    sign = torch.where(torch.arange(800) % 2 == 0, 1.0, -1.0)[:, None]
    doubted = fit_map(start, torch.randn(800, 2, generator=generator) + sign * effect, around, np.arange(800) % 2)
    assert float(doubted.end_around.abs().max()) < 0.01


def test_the_surroundings_move_the_expected_look():
    look = Look(velocity_shape_of("tiny", around_width=2), 1, 2, n_around=3)
    look.around.fit(torch.randn(100, 3, generator=torch.Generator().manual_seed(0)))
    look.set_map(0, LookMap(torch.eye(2), torch.zeros(2), torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])))
    context, here = torch.randn(4, 9), torch.zeros(4, dtype=torch.long)
    moved = look.expected(torch.zeros(4, 2), here, context)
    torch.testing.assert_close(moved[:, 0], look.components(context)[:, 0])
    assert torch.equal(moved[:, 1], torch.zeros(4))
    other = context.clone()
    other[:, :6] += 1  # the cell's own embedding
    assert torch.equal(look.expected(torch.zeros(4, 2), here, other), moved)


def make(**changes):
    torch.manual_seed(0)
    return Generator(velocity_shape_of("tiny", linear_guess=False, **changes), 3, 2, 4, 0, n_looks=2)


def told(n, look):
    said = torch.zeros(n, dtype=torch.bool)
    return Conditions(
        torch.zeros(n, dtype=torch.long),
        torch.zeros(n, 0),
        said,
        said,
        torch.zeros(n),
        None if look is None else torch.stack([torch.zeros_like(look), look], dim=1),
    )


@pytest.mark.parametrize("network", ["dit"])
def test_a_network_draws_the_look_it_is_told_where_nothing_else_says_it(network):
    # targets are all bright or all dark, at random: without being told, their mean is the best answer
    model, generator = make(network=network), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        level = torch.randint(2, (16, 1), generator=generator).float() * 2 - 1
        start = 0.1 * torch.randn(16, 3, 16, 16, generator=generator)
        time = torch.rand(16, generator=generator)
        velocity = level[:, :, None, None] - start
        field = start + time[:, None, None, None] * velocity
        loss = (model(field, time, told(16, level.repeat(1, 2))) - velocity).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    start = 0.1 * torch.randn(2, 3, 16, 16, generator=generator)
    asked = told(2, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    with torch.no_grad():
        found = integrate(lambda field, time: model(field, time, asked), start, "midpoint", 8).mean((1, 2, 3))
    assert found.tolist() == pytest.approx([-1, 1], abs=0.3)
    # a cell of which nothing is said is not told its look either
    nothing = unconditional(asked)
    other = dataclasses.replace(nothing, look=nothing.look + 3)
    with torch.no_grad():
        assert torch.equal(model(start, torch.zeros(2), nothing), model(start, torch.zeros(2), other))


def test_noise_on_looks_is_for_training_only():
    model = make(look_noise=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    field, time, asked = torch.randn(2, 3, 16, 16), torch.rand(2), told(2, torch.randn(2, 2))
    assert not torch.equal(model(field, time, asked), model(field, time, asked))
    model.eval()
    assert torch.equal(model(field, time, asked), model(field, time, asked))


def test_the_straight_line_knows_what_a_cell_of_some_look_is_like():
    # fields are mean + look * pattern + noise, with another look at the end: what is left of the velocity is the noise
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(2, 3, 8, 8, generator=generator)
    patterns = torch.stack([symmetric(pattern) for pattern in patterns])
    sums, guess = LookSums(), LinearGuess(1, 3, 8, n_looks=2)
    look = torch.randn(600, 2, 2, generator=generator) + torch.tensor([[0.0, 0.0], [2.0, -1.0]])
    noise = 0.3 * torch.randn(2, 600, 3, 8, 8, generator=generator)
    start, end = (torch.einsum("nl,lcyx->ncyx", look[:, k], patterns) + noise[k] + k for k in (0, 1))
    for field, own in ((start, look[:, 0]), (end, look[:, 1])):
        sums.add(field, own, None)
    guess.by_look.copy_(sums.solve(is_along=False))
    torch.testing.assert_close(guess.by_look, patterns, atol=0.2, rtol=0.1)
    guess.mean_look[0] = look.mean(0)
    away = look - look.mean(0)
    parts = [guess.of_look(away[:, k]) for k in (0, 1)]
    guess.set_moments([moments_of(start - parts[0], end - parts[1])], moments_of(start, end))
    here, told = torch.zeros(600, dtype=torch.long), torch.zeros(600, dtype=torch.bool)
    found = guess(start, torch.zeros(600), here, told, None, look)
    error = float((found - (end - start)).square().mean())
    assert error < 0.2
    blind = guess(start, torch.zeros(600), here, ~told, None, look)  # nothing is said, so the look is not either
    assert torch.equal(blind, guess(start, torch.zeros(600), here, ~told, None, look + 3))
    assert float((blind - (end - start)).square().mean()) > 3 * error


def test_what_is_drawn_too_small_is_asked_for_larger():
    # a generator that draws less of every change than it is told: the straight line alone, half of what looks say
    generator = torch.Generator().manual_seed(0)
    radii = 3 + 2 * torch.rand(40, generator=generator)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    shares = (((y - 7.5) ** 2 + (x - 7.5) ** 2)[None] < radii[:, None, None] ** 2).numpy()
    canvas = to_canvas((shares * 100).astype(np.uint8)[:, None], 255 * shares.astype(np.uint8))
    rows, number = np.arange(40), np.zeros(40, int)
    pairs = PairSet(
        canvas, torch.zeros(40, 0), rows, rows, number, number, np.ones(40, np.float32), rows.astype(str), number
    )
    shape = velocity_shape_of("tiny", long_axis=False, stretch=False)
    model = Generator(shape, 2, 1, 3, 0, n_looks=n_looks_of(1))
    fit_looks(model.conditioning.look, pairs)
    model.space.set_scale(canvas)
    looks = model.conditioning.look.standardise(looks_of(canvas))
    sums = LookSums()
    sums.add(model.encode(canvas), looks, None)
    model.guess.by_look.copy_(sums.solve(is_along=False))
    field = model.encode(canvas)
    moments = moments_of(field, field)
    model.guess.set_moments([moments], moments)
    model.conditioning.look.offset[0, 0] = 1.0  # larger by one sd
    model.guess.by_look[0] *= 0.5

    def drawn():
        said = conditions_of(Request(0, "t", "spatia", ()), torch.zeros(40, 0))
        found = follow(model, canvas, said, Sampler(steps=4), CPU)[-1]
        return float((model.conditioning.look.standardise(looks_of(found)) - looks).mean(0)[0])

    before = drawn()
    calibrate_looks(model.eval(), pairs, ("t",), CPU)
    assert before < 0.8
    assert abs(drawn() - 1) < 0.5 * (1 - before)
    assert float(model.conditioning.look.short[0, 0]) > 0.2


@pytest.mark.parametrize(
    ("rests", "kept"),
    [
        ([1.0, 2.0, 4.0, 8.0], 0.0),  # asking makes it worse
        ([1.0, -0.5, 0.75, 2.0], 1.0),
        ([1.0, 0.5, 0.25, 0.125], 1.75),
        ([1.0, 2.0, np.nan, np.nan], 0.0),
    ],
)
def test_the_correction_that_leaves_the_least_is_kept(monkeypatch, rests, kept):
    model = Generator(velocity_shape_of("tiny", long_axis=False), 2, 2, 3, 0, n_looks=n_looks_of(1))
    look, left = model.conditioning.look, iter(rests)
    monkeypatch.setattr(calibration, "rest_of", lambda *args: torch.full_like(look.short[1], next(left)))
    canvas, rows = torch.zeros(4, 2, 16, 16), np.arange(4)
    pairs = PairSet(
        canvas, torch.zeros(4, 0), rows, rows, rows, np.ones(4, int), np.ones(4, np.float32), rows.astype(str), rows
    )
    calibrate_looks(model, pairs, ("none", "t"), CPU)
    assert set(look.short[1].tolist()) == {kept}
    assert set(look.short[0].tolist()) == {0.0}


def an_oval(long=9.0, short=5.0, angle=0.4, side=48):
    """Return the canvas of an oval cell with an oval nucleus, of one stain."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    cell, nucleus = ((u / a) ** 2 + (v / b) ** 2 < 1 for a, b in ((long, short), (long / 2, short / 2)))
    return to_canvas((cell * 100).astype(np.uint8)[None, None], (cell * 255).astype(np.uint8)[None], 0, nucleus[None])


@pytest.mark.parametrize(("size", "elongation"), [(0.5, 0.0), (-0.4, 0.0), (0.0, 0.5), (0.3, -0.4)])
def test_a_stretched_cell_is_as_large_and_as_long_as_asked_and_its_nucleus_with_it(size, elongation):
    canvas = an_oval()
    before, axis = looks_of(canvas, 0), long_axis_of(share_of(canvas[:, -1]))
    asked = before + torch.tensor([size, elongation, *[0.0] * 7])
    change = (looks_of(stretch_to(canvas, axis, before, asked, 0), 0) - before)[0]
    assert change[0] == pytest.approx(size, abs=0.04)
    assert change[1] == pytest.approx(elongation, abs=0.04)
    assert change[4] == pytest.approx(size, abs=0.1)  # log area of the nucleus
    assert change[2].abs() < 1e-3  # brightness stays
    again = stretch_to(stretch_to(canvas, axis, before, asked, 0), axis, before, asked, 0, -1.0)
    assert (share_of(again[:, -1]) - share_of(canvas[:, -1])).abs().mean() < 0.01


def test_nothing_is_stretched_more_than_twofold():
    canvas = an_oval(6, 6)
    before, axis = looks_of(canvas, 0), torch.zeros(1)
    far = before + torch.tensor([5.0, *[0.0] * 8])
    change = looks_of(stretch_to(canvas, axis, before, far, 0), 0)[0, 0] - before[0, 0]
    assert change == pytest.approx(2 * np.log(2), abs=0.05)


def test_controls_become_as_large_as_their_targets_but_not_where_nothing_is_said():
    start, end = torch.cat([an_oval()] * 2), torch.cat([an_oval(12, 8)] * 2)
    axis = long_axis_of(share_of(start[:, -1]))
    found = looks_of(stretched(start, end, axis, 0, torch.tensor([False, True])), 0)[:, :2]
    torch.testing.assert_close(found[0], looks_of(end, 0)[0, :2], atol=0.04, rtol=0)
    torch.testing.assert_close(found[1], looks_of(start, 0)[1, :2], atol=1e-4, rtol=0)


def test_a_flow_begins_at_the_stretched_control_and_shows_the_way_from_the_control_itself():
    model = Generator(velocity_shape_of("tiny", image_px=48, linear_guess=False), 4, 1, 3, 0, n_looks_of(1, 0))
    for parameter in model.network.parameters():
        torch.nn.init.zeros_(parameter)  # no velocity: what is left is the stretching
    canvas = an_oval()
    model.conditioning.look.offset[0, 0] = 0.6  # of log area, with a scale of one
    said = conditions_of(Request(0, "t", "spatia", ("a",)), torch.zeros(1, 0))
    path = follow(model, canvas, said, Sampler(steps=4), CPU, None, 0)
    grown = [float(looks_of(step, 0)[0, 0] - looks_of(canvas, 0)[0, 0]) for step in path]
    np.testing.assert_allclose(grown, [0, 0.15, 0.3, 0.45, 0.6], atol=0.04)
    assert torch.equal(path[0], canvas)
    untold = conditions_of(Request(0, "t", "unconditional", ("a",)), torch.zeros(1, 0))
    end = follow(model, canvas, untold, Sampler(steps=4), CPU, None, 0)[-1]
    assert looks_of(end, 0)[0, 0] == pytest.approx(float(looks_of(canvas, 0)[0, 0]), abs=1e-3)
