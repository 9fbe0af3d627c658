"""torch.compile changes how fast a model is, and nothing else.

The backend is one that only traces: a whole compilation takes a minute (benchmarks/compiling.py does it).
"""

import copy

import pytest
import torch
from toy_model import make_model, make_view, open_toys, toy_slides

from spatia.learn.compiling import compile_parts
from spatia.model.conditions import Conditions
from spatia.model.velocity import Generator
from spatia.model.velocity_shape import velocity_shape_of

BACKEND = "aot_eager"


def assert_same_gradients(one, two):
    for (name, first), (_, second) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None), name
        if first.grad is not None:
            torch.testing.assert_close(first.grad, second.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_an_embedding_model_compiled_in_parts_gives_the_same_embeddings_and_gradients(tmp_path):
    dataset = open_toys(toy_slides(tmp_path))
    model = make_model(dataset)
    compiled = copy.deepcopy(model)
    parts = compile_parts(compiled, BACKEND)
    assert len(parts) > 8
    assert compiled.state_dict().keys() == model.state_dict().keys()
    for number in (0, 1):  # batches of different lengths
        view = make_view(dataset, model, number=number)
        one, two = model(view), compiled(view)
        torch.testing.assert_close(two.fused, one.fused, atol=1e-5, rtol=1e-5)
        one.fused.square().sum().backward()
        two.fused.square().sum().backward()
    assert_same_gradients(model, compiled)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_compiled_generator_gives_the_same_velocities_and_gradients(network):
    torch.manual_seed(0)
    shape = velocity_shape_of("tiny", network=network)
    model = Generator(shape, 5, 2, 3, 6).eval()
    compiled = copy.deepcopy(model)
    assert compile_parts(compiled, BACKEND) == [compiled.network]
    assert compiled.state_dict().keys() == model.state_dict().keys()
    for n in (4, 3):
        said = Conditions(
            torch.arange(n) % 2, torch.randn(n, 6), torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool),
            torch.rand(n),
        )  # fmt: skip
        field, time = torch.randn(n, 5, shape.image_px, shape.image_px), torch.rand(n)
        one, two = model(field, time, said), compiled(field, time, said)
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-5)
        one.square().sum().backward()
        two.square().sum().backward()
    assert_same_gradients(model, compiled)
