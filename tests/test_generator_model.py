"""The velocity networks, their conditions, and the VAE."""

import dataclasses

import pytest
import torch

from spatia.model.conditions import Conditions, time_features, unconditional
from spatia.model.linear_guess import LinearGuess, moments_of, parts_of
from spatia.model.unet import FilmBlock
from spatia.model.vae import Vae, vae_losses
from spatia.model.velocity import Generator, Pixels
from spatia.model.velocity_shape import GENERATOR_PRESETS, VelocityShape, velocity_shape_of
from spatia.transitions.canvas import turn, turn_by
from spatia.transitions.sampling import integrate

SIZES = {"unet": {"network": "unet"}, "dit": {"network": "dit"}, "vae": {"latent": "vae"}}


def make(kind="unet", n_context=5, seed=0, **changes):
    torch.manual_seed(seed)
    model = Generator(velocity_shape_of("tiny", **SIZES[kind], **changes), 3, 2, 4, n_context)
    model.conditioning.perturbation.set_signatures(torch.randn(2, 4))
    return model.eval()


def trained(model, seed=1):
    """Give every weight some value: networks are zero where they add, so an untrained one ignores its conditions."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.1 * torch.randn_like(parameter))
    return model


def conditions(transition=(0, 0), context=None, no_perturbation=False, no_context=False):
    n = len(transition)
    context = torch.zeros(n, 5) if context is None else context
    return Conditions(
        torch.tensor(transition), context, torch.full((n,), no_perturbation), torch.full((n,), no_context),
        torch.linspace(0, 1, n),
    )  # fmt: skip


def test_pixels_are_standardised_whichever_way_a_cell_lies_and_come_back():
    canvas = torch.rand(40, 2, 8, 8) * torch.tensor([1.0, 3.0])[:, None, None]
    pixels = Pixels(2, 8)
    pixels.set_scale(canvas)
    field = pixels.encode(canvas)
    assert field.std((0, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.05)
    for number in range(8):
        torch.testing.assert_close(turn(pixels.mean, number % 4, number >= 4), pixels.mean)
    torch.testing.assert_close(pixels.decode(field), canvas)


@pytest.mark.parametrize("kind", ["unet", "dit", "vae"])
def test_before_training_the_velocity_is_what_the_field_itself_says(kind):
    model = make(kind)
    field = model.encode(torch.randn(3, 3, 16, 16))
    velocity = model(field, torch.tensor([0.0, 0.5, 1.0]), conditions((0, 0, 0)))
    torch.testing.assert_close(velocity[0], -field[0])  # the control leaves
    assert not velocity[1].any()
    torch.testing.assert_close(velocity[2], field[2])  # the target has come


def test_without_the_linear_guess_the_velocity_is_zero_before_training():
    model = make(linear_guess=False)
    assert not model(torch.randn(2, 3, 16, 16), torch.rand(2), conditions()).any()


def gaussian_pairs(n=4000, side=2, seed=0):
    """Return pairs whose ends differ in mean and sd and have much in common."""
    generator = torch.Generator().manual_seed(seed)
    own, start, end = torch.randn(3, n, 2, side, side, generator=generator)
    return 1 + own + 0.3 * start, -2 + 2 * own + 0.5 * end


def test_the_guess_is_the_regression_of_velocity_on_field():
    start, end = gaussian_pairs()
    guess = LinearGuess(1, 2, 2)
    guess.set_moments([moments_of(start, end)])
    said = torch.zeros(len(start), dtype=torch.bool)
    for t in (0.0, 0.3, 0.7, 1.0):
        field, time = (1 - t) * start + t * end, torch.full((len(start),), t)
        left = end - start - guess(field, time, torch.zeros(len(start), dtype=torch.int64), said)
        assert float(left.mean().abs()) < 0.02
        assert abs(float((left * field).mean())) < 0.05


def test_followed_from_the_controls_the_guess_ends_at_mean_and_spread_of_the_targets():
    start, end = gaussian_pairs()
    guess = LinearGuess(2, 2, 2)
    guess.set_moments([moments_of(start, end), moments_of(start, start + 5)])
    said, number = torch.zeros(len(start), dtype=torch.bool), torch.zeros(len(start), dtype=torch.int64)
    for transition, wanted in ((0, end), (1, start + 5)):
        found = integrate(
            lambda field, time, n=transition: guess(field, time.expand(len(field)), number + n, said), start,
            "midpoint", 40,
        )  # fmt: skip
        assert float(found.mean()) == pytest.approx(float(wanted.mean()), abs=0.05)
        assert float(found.std()) == pytest.approx(float(wanted.std()), rel=0.05)


def test_a_transition_without_pairs_has_the_guess_of_all_others():
    guess = LinearGuess(2, 2, 2)
    guess.set_moments([None, moments_of(*gaussian_pairs(100))])
    field, time, said = torch.randn(2, 2, 2, 2), torch.tensor([0.2, 0.8]), torch.zeros(2, dtype=torch.bool)
    found, other = (guess(field, time, torch.full((2,), number), said) for number in (0, 1))
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, other)


def gaussian_textures(n=600, side=24, seed=1):
    """Return pairs that share their level and a wave, and have fine textures of their own."""
    generator = torch.Generator().manual_seed(seed)
    level, height = torch.randn(2, n, 1, 1, 1, generator=generator)
    wave = (torch.linspace(0, 2 * torch.pi, side + 1)[:-1]).sin().expand(n, 1, side, side)
    start, end = torch.randn(2, n, 1, side, side, generator=generator)
    return 3 * level + 2 * height * wave + start, 3 * level + 2 * height * wave + end


def test_level_coarse_and_fine_part_have_moments_of_their_own():
    start, end = gaussian_textures()
    level, coarse, fine = moments_of(start, end).spread[:, 0].tolist()
    assert level == pytest.approx([9, 9, 9], rel=0.15)
    assert coarse[2] == pytest.approx(2, rel=0.2)  # half of 2 ** 2, the mean square of the wave
    assert fine[0] == pytest.approx(1, rel=0.1)
    assert fine[2] == pytest.approx(0, abs=0.05)


def test_texture_that_the_two_do_not_share_is_as_strong_at_the_end():
    start, end = gaussian_textures()
    guess = LinearGuess(1, 1, 24)
    guess.set_moments([moments_of(start, end)])
    said, number = torch.zeros(len(start), dtype=torch.bool), torch.zeros(len(start), dtype=torch.int64)
    found = integrate(lambda field, time: guess(field, time.expand(len(field)), number, said), start, "midpoint", 24)
    rough = [float(fields.diff(dim=3).square().mean()) for fields in (found, end)]
    assert rough[0] == pytest.approx(rough[1], rel=0.08)
    assert float(found.mean((1, 2, 3)).std()) == pytest.approx(float(end.mean((1, 2, 3)).std()), rel=0.05)


def test_parts_sum_up_to_the_field():
    field = torch.randn(2, 3, 12, 12)
    level, coarse, fine = parts_of(field)
    torch.testing.assert_close(level + coarse + fine, field)


def test_the_guess_of_no_transition_is_that_of_all_pairs_together():
    start, end = gaussian_pairs()
    other = (start + 1, end - 3)
    guess, together = LinearGuess(2, 2, 2), LinearGuess(1, 2, 2)
    guess.set_moments([moments_of(start, end), moments_of(*other)])
    together.set_moments([moments_of(torch.cat([start, other[0]]), torch.cat([end, other[1]]))])
    field, time = torch.randn(3, 2, 2, 2), torch.tensor([0.1, 0.5, 0.9])
    untold, number = torch.ones(3, dtype=torch.bool), torch.tensor([0, 1, 0])
    found = guess(field, time, number, untold)
    torch.testing.assert_close(found, together(field, time, 0 * number, untold), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, guess(field, time, number, ~untold))


@pytest.mark.parametrize("kind", ["unet", "dit", "vae"])
def test_every_condition_changes_the_velocity(kind):
    model, field, time = trained(make(kind)), torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.2])
    field = model.encode(field)
    base = model(field, time, conditions())
    others = {
        "time": model(field, time + 0.5, conditions()),
        "transition": model(field, time, conditions((1, 1))),
        "context": model(field, time, conditions(context=torch.ones(2, 5))),
        "no perturbation": model(field, time, conditions(no_perturbation=True)),
        "no context": model(field, time, conditions(no_context=True)),
    }
    for name, other in others.items():
        assert float((base - other).detach().abs().max()) > 1e-4, name


def test_the_signature_changes_the_velocity():
    model, field = trained(make()), torch.randn(2, 3, 16, 16)
    before = model(field, torch.rand(2) * 0 + 0.3, conditions())
    model.conditioning.perturbation.set_signatures(torch.randn(2, 4))
    assert not torch.allclose(before, model(field, torch.rand(2) * 0 + 0.3, conditions()))


def test_signatures_enter_at_unit_scale():
    one, two = make(), make()
    dg = torch.tensor([[1.0, -2.0, 0.0, 3.0], [0.5, 0.0, 1.0, -1.0]])
    one.conditioning.perturbation.set_signatures(dg)
    two.conditioning.perturbation.set_signatures(100 * dg)
    torch.testing.assert_close(one.conditioning.perturbation.signatures, two.conditioning.perturbation.signatures)
    assert float(one.conditioning.perturbation.signatures.square().mean()) == pytest.approx(1)


def test_the_null_condition_knows_neither_transition_nor_context():
    model, field, time = trained(make()), torch.randn(2, 3, 16, 16), torch.full((2,), 0.4)
    null = model(field, time, unconditional(conditions((0, 1), torch.randn(2, 5))))
    again = model(field, time, unconditional(conditions((1, 0), torch.randn(2, 5))))
    assert torch.equal(null, again)
    assert torch.equal(null, model(field, time, conditions(no_perturbation=True, no_context=True)))


def test_rows_do_not_touch_each_other():
    model, field = trained(make()), torch.randn(3, 3, 16, 16)
    time, told = torch.tensor([0.1, 0.5, 0.9]), conditions((0, 1, 0), torch.randn(3, 5))
    whole = model(field, time, told)
    own = dataclasses.replace(conditions((1,), told.context[1:2]), axis=told.axis[1:2])
    one = model(field[1:2], time[1:2], own)
    torch.testing.assert_close(whole[1:2], one, atol=1e-5, rtol=1e-4)


def test_the_context_is_told_in_principal_components_of_the_training_cells():
    context = make(n_context=40, context_width=3).conditioning.context
    factors, axes = torch.randn(200, 2), torch.randn(2, 40)
    cells = factors @ axes + 0.1 * torch.randn(200, 40)
    cells = cells * torch.linspace(0.1, 100, 40) + 7  # values of any scale count equally
    context.components.fit(cells)
    told = context.components(cells)
    torch.testing.assert_close(told.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(told.T @ told / 200, torch.eye(3), atol=1e-3, rtol=0)
    fitted = factors @ torch.linalg.lstsq(factors, told[:, :2]).solution
    assert float((told[:, :2] - fitted).square().mean()) < 0.02


def test_directions_that_the_training_cells_do_not_have_are_not_told():
    context = make(n_context=40, context_width=5).conditioning.context
    cells = torch.randn(1, 40) + torch.randn(30, 1) * torch.randn(1, 40)
    context.components.fit(cells)
    told = context.components(cells + 1e-3 * torch.randn(30, 40))
    assert float(told[:, 0].std()) == pytest.approx(1, abs=0.1)
    assert float(told[:, 1:].abs().max()) == 0
    context.components.fit(cells[:1].repeat(3, 1))
    assert bool(context.components(cells).isfinite().all())


def test_noise_hides_what_one_value_of_the_context_says_in_training_only():
    model = trained(make(context_noise=1.0))
    field, time = torch.rand(2, 3, 16, 16), torch.full((2,), 0.5)
    told = conditions(context=torch.ones(2, 5))
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(model.eval()(field, time, told), model(field, time, told))
        model.train()
        assert not torch.equal(model(field, time, told), model(field, time, told))
        nothing = conditions(context=torch.ones(2, 5), no_context=True)
        assert torch.equal(model(field, time, nothing), model(field, time, nothing))


@pytest.mark.parametrize("kind", SIZES)
def test_the_long_axis_changes_the_velocity_and_is_a_switch(kind):
    model, time, told = trained(make(kind)), torch.tensor([0.2, 0.7]), conditions((0, 1))
    field = model.encode(torch.rand(2, 3, 16, 16)).detach()
    turned = dataclasses.replace(told, axis=told.axis + 0.5)
    assert not torch.equal(model(field, time, told), model(field, time, turned))
    round_about = dataclasses.replace(told, axis=told.axis + torch.pi)
    torch.testing.assert_close(model(field, time, told), model(field, time, round_about), atol=1e-4, rtol=1e-3)
    without = trained(make(kind, long_axis=False))
    assert torch.equal(without(field, time, told), without(field, time, turned))


def test_the_straight_line_along_the_axis_knows_what_is_long():
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, 32),) * 2, indexing="ij")
    bar = ((y / 0.2).square() + (x / 0.7).square() < 1).float()[None, None]
    axis = torch.rand(200, generator=torch.Generator().manual_seed(0)) * torch.pi
    end = turn_by(bar.expand(200, -1, -1, -1), axis)
    start = torch.zeros_like(end)
    guess, blind = LinearGuess(1, 1, 32), LinearGuess(1, 1, 32)
    guess.set_moments([moments_of(start, end, axis)])
    blind.set_moments([moments_of(start, end)])
    asked = (start[:3], torch.zeros(3), torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.bool))
    errors = [float((found - end[:3]).square().mean()) for found in (guess(*asked, axis[:3]), blind(*asked))]
    assert errors[0] < 0.1 * errors[1]


def test_a_generator_without_context_has_no_such_weights():
    model = make(n_context=0)
    assert model.conditioning.context is None
    told = Conditions(
        torch.tensor([0]), torch.zeros(1, 0), torch.tensor([False]), torch.tensor([False]), torch.zeros(1)
    )
    assert model(torch.randn(1, 3, 16, 16), torch.rand(1), told).shape == (1, 3, 16, 16)


def test_film_scales_and_shifts():
    torch.manual_seed(0)
    block = FilmBlock(8, 16, 4, 0.0).eval()
    torch.nn.init.normal_(block.second[-1].weight)
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        block.film[1].weight.zero_()
        block.film[1].bias.zero_()
        plain = block(x, torch.randn(1, 4))
        assert torch.equal(plain, block(x, torch.randn(1, 4)))  # no scale, no shift: the condition has no effect
        block.film[1].bias[:16] = -1  # scale by 1 - 1 = 0, shift by 0: nothing is left but the past
        empty = block.second[-1](block.second[0](torch.zeros(1, 16, 6, 6)))
        torch.testing.assert_close(block(x, torch.randn(1, 4)), block.past(x) + empty)


def test_time_features_tell_times_apart():
    features = time_features(torch.tensor([0.0, 0.5, 0.51, 1.0]), 16)
    assert features.shape == (4, 16)
    assert features[0].tolist() == [0.0] * 8 + [1.0] * 8
    assert float(torch.cdist(features, features)[1, 2]) > 0.1


UNET_CHANGES = [{"blocks": 2}, {"attention": False}, {"stem": 2}, {"multipliers": (1, 2, 2)}, {"channels": 24}]
CONDITION_CHANGES = [{"embedding": 64}, {"token": 16}, {"gene_width": 16}, {"context_width": 8}]


@pytest.mark.parametrize("change", UNET_CHANGES + CONDITION_CHANGES)
def test_every_size_of_the_unet_changes_the_network(change):
    n_parameters = [sum(p.numel() for p in make(**c).parameters()) for c in ({}, change)]
    assert n_parameters[0] != n_parameters[1]


@pytest.mark.parametrize("change", [{"patch_px": 2}, {"width": 64}, {"depth": 3}])
def test_every_size_of_the_dit_changes_the_network(change):
    n_parameters = [sum(p.numel() for p in make("dit", **c).parameters()) for c in ({}, change)]
    assert n_parameters[0] != n_parameters[1]


def test_presets_are_what_the_paper_and_the_methods_use():
    assert GENERATOR_PRESETS["cpu"].image_px == 48
    assert GENERATOR_PRESETS["cpu"].channels == 32
    base = GENERATOR_PRESETS["base"]
    assert (base.image_px, base.channels, base.multipliers) == (128, 128, (2, 2, 2))
    assert dataclasses.asdict(base) != dataclasses.asdict(GENERATOR_PRESETS["small"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_px": 50}, "image_px should be a multiple of 8"),
        ({"image_px": 40, "latent": "vae"}, "image_px should be a multiple of 16"),
        ({"network": "gan"}, "network should be unet or dit"),
        ({"channels": 30}, "channels should be a multiple of 8"),
    ],
)
def test_sizes_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(VelocityShape(), **change)


def test_lists_of_a_parameter_file_are_sizes_too():
    assert velocity_shape_of("cpu", multipliers=[1, 2]) == velocity_shape_of("cpu", multipliers=(1, 2))


def test_the_vae_halves_twice_and_learns_to_reconstruct():
    torch.manual_seed(0)
    vae = Vae(3, velocity_shape_of("tiny", latent="vae"))
    canvas = (
        torch.randn(1, 3, 1, 1) * torch.ones(4, 3, 16, 16) * torch.tensor([-1.0, -0.3, 0.3, 1.0])[:, None, None, None]
    )
    assert vae.encode(canvas).shape == (4, 4, 4, 4)
    optimizer = torch.optim.Adam(vae.parameters(), lr=3e-3)
    history = []
    for _ in range(80):
        losses = vae_losses(vae, canvas, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        (losses["reconstruction"] + 1e-6 * losses["kl"]).backward()
        optimizer.step()
        history.append(float(losses["reconstruction"]))
    assert history[-1] < 0.25 * history[0]
    vae.set_scale(vae.distribution(canvas)[0].detach())
    assert float(vae.encode(canvas).std((0, 2, 3)).mean()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(vae.decode(vae.encode(canvas)), vae.decoder(vae.distribution(canvas)[0]))


def test_kl_by_hand():
    torch.manual_seed(0)
    vae = Vae(3, velocity_shape_of("tiny", latent="vae"))
    with torch.no_grad():
        vae.encoder[-1].weight.zero_()
        vae.encoder[-1].bias.copy_(torch.tensor([2.0] * 4 + [0.0] * 4))  # mean 2, log variance 0
    losses = vae_losses(vae, torch.randn(2, 3, 16, 16), torch.Generator().manual_seed(0))
    assert float(losses["kl"]) == pytest.approx(2.0)  # (4 + 1 - 1 - 0) / 2
