"""Packed sequences: the same numbers as each sequence alone."""

import pytest
import torch
from timm.models.vision_transformer import Block

from spatia.model.packed import CrossAttention, Runs, join, make_blocks, pair_runs, reorder, run_block
from spatia.model.positions import sincos_2d


def pieces(values, lengths):
    return values.split(list(lengths))


def test_runs_of_equal_neighbours():
    runs = Runs.of(torch.tensor([2, 2, 5, 2]))
    assert runs == Runs((2, 1, 1), (2, 5, 2))
    assert (runs.n_sequences, runs.n_tokens, runs.sizes) == (4, 11, [4, 5, 2])
    assert runs.lengths_of().tolist() == [2, 2, 5, 2]


@pytest.mark.parametrize(("n", "expected"), [(0, ((), ())), (1, ((1,), (2,))), (3, ((2, 1), (2, 5)))])
def test_the_first_sequences(n, expected):
    assert Runs.of(torch.tensor([2, 2, 5, 2])).first(n) == Runs(*expected)


def test_mean_and_spread():
    runs = Runs.of(torch.tensor([2, 1]))
    values = torch.tensor([[1.0], [3.0], [10.0]])
    assert runs.mean(values).tolist() == [[2.0], [10.0]]
    assert runs.spread(torch.tensor([7, 8])).tolist() == [7, 7, 8]


def test_reorder_takes_whole_sequences():
    values, runs = reorder(torch.arange(6), Runs.of(torch.tensor([1, 2, 3])), torch.tensor([2, 0, 1]))
    assert values.tolist() == [3, 4, 5, 0, 1, 2]
    assert runs == Runs((1, 1, 1), (3, 1, 2))


def test_pairs_are_cut_where_either_changes():
    a, b = pair_runs(Runs.of(torch.tensor([2, 2, 2, 3])), Runs.of(torch.tensor([1, 4, 4, 4])))
    assert a == Runs((1, 2, 1), (2, 2, 3))
    assert b == Runs((1, 2, 1), (1, 4, 4))


def test_join_puts_each_sequence_behind_its_own_and_takes_empty_ones():
    first = torch.tensor([1, 2, 3]), Runs.of(torch.tensor([1, 1, 1]))
    second = torch.tensor([20, 21, 30]), Runs.of(torch.tensor([0, 2, 1]))
    values, runs = join([first, second])
    assert values.tolist() == [1, 2, 20, 21, 3, 30]
    assert runs.lengths_of().tolist() == [1, 3, 2]


def test_a_block_on_packed_tokens_equals_the_block_on_each_sequence():
    torch.manual_seed(0)
    block = Block(16, 4, qkv_bias=True).eval()
    lengths = torch.tensor([3, 3, 1, 7])
    x = torch.randn(14, 16)
    expected = torch.cat([block(part[None])[0] for part in pieces(x, lengths)])
    torch.testing.assert_close(run_block(block, x, Runs.of(lengths)), expected)


def test_cross_attention_stays_inside_each_sequence():
    torch.manual_seed(0)
    look = CrossAttention(8, 12, 2, gate=0.3)
    queries, keys = torch.tensor([2, 2, 1]), torch.tensor([4, 1, 1])
    x, context = torch.randn(5, 8), torch.randn(6, 12)
    found = look(x, Runs.of(queries), context, Runs.of(keys))
    alone = [
        look(q, Runs.of(torch.tensor([len(q)])), k, Runs.of(torch.tensor([len(k)])))
        for q, k in zip(pieces(x, queries), pieces(context, keys), strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(alone))
    changed = context.clone()
    changed[5] = torch.randn(12)  # the last sequence's only key
    again = look(x, Runs.of(queries), changed, Runs.of(keys))
    assert torch.equal(again[:4], found[:4])
    assert not torch.allclose(again[4], found[4])


def test_a_closed_gate_changes_nothing():
    look = CrossAttention(8, 8, 2, gate=0.0)
    x = torch.randn(3, 8)
    assert torch.equal(look(x, Runs.of(torch.tensor([3])), x, Runs.of(torch.tensor([3]))), x)
    assert look.gate.requires_grad
    assert not CrossAttention(8, 8, 2).gate.requires_grad


def test_blocks_have_the_asked_sizes():
    blocks = make_blocks(16, 3, 4, 2.0)
    assert len(blocks) == 3
    assert blocks[0].mlp.fc1.out_features == 32


def test_positions_differ_everywhere_and_swapped_axes_differ():
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    place = sincos_2d(torch.stack([rows, columns], -1).flatten(0, 1), 32)
    assert place.shape == (256, 32)
    assert torch.cdist(place, place).fill_diagonal_(9).min() > 1e-3
    assert not torch.allclose(sincos_2d(torch.tensor([[1, 5]]), 32), sincos_2d(torch.tensor([[5, 1]]), 32))
