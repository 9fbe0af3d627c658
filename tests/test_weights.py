"""Starting weights: what is read, from where, and that renamed weights compute what they computed before."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from functools import partial

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional as F
from transformers import ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel

from spatia.errors import SpatiaError
from spatia.learn.scprint import EMBEDDING_KEYS, scprint_weights
from spatia.learn.vit_mae import one_stain, vit_mae_weights
from spatia.learn.weights import StoredWeights, read_weights

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}


class Foreign:
    """What a hostile file holds: an object that runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def write_config(folder, **settings):
    (folder / "config.json").write_text(json.dumps(settings))


# Reading


def test_a_folder_is_read_with_its_settings(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    write_config(tmp_path, hidden_size=3)
    stored = read_weights(str(tmp_path))
    assert same(stored.tensors, TENSORS)
    assert stored.settings == {"hidden_size": 3}
    assert stored.origin == str(tmp_path)


def test_a_folder_may_hold_a_torch_file(tmp_path):
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    stored = read_weights(str(tmp_path))
    assert same(stored.tensors, TENSORS)
    assert stored.settings == {}


def test_a_file_takes_the_settings_beside_it(tmp_path):
    save_file(TENSORS, tmp_path / "other.safetensors")
    write_config(tmp_path, hidden_size=3)
    assert read_weights(str(tmp_path / "other.safetensors")).settings == {"hidden_size": 3}


def test_a_lightning_checkpoint_brings_its_own_settings(tmp_path):
    torch.save({"state_dict": TENSORS, "hyper_parameters": {"nhead": 4}, "epoch": 1}, tmp_path / "medium.ckpt")
    write_config(tmp_path, nhead=7)
    stored = read_weights(str(tmp_path / "medium.ckpt"))
    assert same(stored.tensors, TENSORS)
    assert stored.settings == {"nhead": 4}


def test_the_mae_repository_keeps_its_tensors_under_model(tmp_path):
    torch.save({"model": TENSORS}, tmp_path / "mae.pth")
    assert same(read_weights(str(tmp_path / "mae.pth")).tensors, TENSORS)


@pytest.mark.parametrize("source", ["no/such/folder", "folder/model.safetensors", "missing.ckpt", "/no/file.bin"])
def test_nothing_there_is_one_line(source):
    with pytest.raises(SpatiaError, match=f"^{source}: expected a weights file .*, a folder with .*, or a hub id"):
        read_weights(source)


def test_a_folder_without_weights_names_what_it_holds(tmp_path):
    (tmp_path / "medium.ckpt").touch()
    with pytest.raises(SpatiaError, match="expected model.safetensors or pytorch_model.bin, found medium.ckpt"):
        read_weights(str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n"])
def test_a_damaged_file_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpatiaError, match=f"{name}: expected a weights file, found {len(content)} bytes"):
        read_weights(str(tmp_path / name))


def test_a_truncated_file_is_one_line(tmp_path):
    torch.save({"a": torch.zeros(20_000)}, tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:40_000])
    with pytest.raises(SpatiaError, match="found 40000 bytes that cannot be read"):
        read_weights(str(tmp_path / "half.pt"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.pt", [torch.zeros(1)], "expected tensors by name, found list"),
        ("numbers.pt", {"epoch": 1}, "expected tensors by name, found epoch"),
        ("model.h5", {}, "expected a file ending in .safetensors, .bin"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, name, content, message):
    torch.save(content, tmp_path / name)
    with pytest.raises(SpatiaError, match=message):
        read_weights(str(tmp_path / name))


def test_foreign_objects_are_refused_and_nothing_runs(tmp_path):
    torch.save({"state_dict": TENSORS, "x": Foreign(tmp_path / "ran")}, tmp_path / "bad.ckpt")
    with pytest.raises(SpatiaError, match="bad.ckpt: expected tensors and plain settings, found an object .*open"):
        read_weights(str(tmp_path / "bad.ckpt"))
    assert not (tmp_path / "ran").exists()


def test_the_remedy_for_foreign_objects_works(tmp_path):
    settings = {"nhead": 4, "genes": ["A", "B"], "other": argparse.Namespace(x=1)}
    torch.save({"state_dict": TENSORS, "hyper_parameters": settings}, tmp_path / "old.ckpt")
    with pytest.raises(SpatiaError, match=re.escape("argparse.Namespace")) as refusal:
        read_weights(str(tmp_path / "old.ckpt"))
    command = re.search(r'(python -c ".*") and give the folder', str(refusal.value))[1]
    subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=tmp_path, check=True)
    stored = read_weights(str(tmp_path))
    assert same(stored.tensors, TENSORS)
    assert (stored.settings["nhead"], stored.settings["genes"]) == (4, ["A", "B"])


# The hub


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment at import
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached_snapshot(hub_cache):
    folder, commit = hub_cache / "models--owner--name", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    return folder / "snapshots" / commit


@pytest.mark.parametrize(
    ("source", "command", "path"),
    [
        ("owner/name", "hf download owner/name model.safetensors config.json --local-dir name", "name, instead"),
        ("owner/name:m.ckpt", "hf download owner/name m.ckpt --local-dir name", "name/m.ckpt, instead"),
    ],
)
def test_a_hub_id_out_of_reach_says_how_to_get_it(hub_cache, source, command, path):
    with pytest.raises(SpatiaError, match=f"^{source}: expected .* in the hub's cache or by download") as refusal:
        read_weights(source)
    assert command in str(refusal.value)
    assert path in str(refusal.value)
    assert "offline mode is enabled" in str(refusal.value)


def test_a_cached_hub_id_needs_no_network(hub_cache):
    snapshot = cached_snapshot(hub_cache)
    torch.save(TENSORS, snapshot / "pytorch_model.bin")
    write_config(snapshot, hidden_size=3)
    stored = read_weights("owner/name")
    assert same(stored.tensors, TENSORS)
    assert stored.settings == {"hidden_size": 3}
    assert stored.origin == "owner/name"


def test_a_cached_file_of_a_hub_id_is_taken_by_name(hub_cache):
    torch.save({"state_dict": TENSORS, "hyper_parameters": {"nhead": 4}}, cached_snapshot(hub_cache) / "medium.ckpt")
    assert read_weights("owner/name:medium.ckpt").settings == {"nhead": 4}


def fake_hub(monkeypatch, files, missing):
    """Replace the client by one that has ``files`` online, none cached; return the list of what it was asked."""
    asked = []

    def download(repository, name, local_files_only):
        asked.append((name, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        if name not in files:
            raise missing
        return files[name]

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


def test_the_hub_is_asked_for_the_second_file_and_the_settings(tmp_path, monkeypatch):
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    files = {"pytorch_model.bin": str(tmp_path / "pytorch_model.bin")}
    asked = fake_hub(monkeypatch, files, EntryNotFoundError("404"))
    assert same(read_weights("owner/name").tensors, TENSORS)
    cached, online = (
        ("model.safetensors", "pytorch_model.bin"),
        ("model.safetensors", "pytorch_model.bin", "config.json"),
    )
    assert asked == [*((name, True) for name in cached), *((name, False) for name in online)]


def test_an_unreachable_hub_is_asked_once(monkeypatch):
    asked = fake_hub(monkeypatch, {}, LocalEntryNotFoundError("no connection"))
    with pytest.raises(SpatiaError, match="LocalEntryNotFoundError: no connection"):
        read_weights("owner/name")
    assert sum(not is_cached for _, is_cached in asked) == 1


def test_a_file_the_hub_lacks_is_one_line(monkeypatch):
    fake_hub(monkeypatch, {}, EntryNotFoundError("404"))
    with pytest.raises(SpatiaError, match="the repository has no such file"):
        read_weights("owner/name:large.ckpt")


# ViT-MAE


PATCH, IMAGE = 8, 32
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "decoder_hidden_size": 12,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 3,
    "decoder_intermediate_size": 48,
    "mask_ratio": 0.0,
}
ORIGINAL_NAMES = (
    (r"^vit\.embeddings\.cls_token", "cls_token"),
    (r"^vit\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^vit\.encoder\.layer\.", "blocks."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder_blocks."),
    (r"^vit\.layernorm", "norm"),
    (r"^decoder\.(mask_token|decoder_)", r"\1"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"(?<=\d\.)output\.dense", "mlp.fc2"),
)


@pytest.fixture(scope="module")
def mae():
    """A tiny ViT-MAE whose every tensor matters."""
    torch.manual_seed(0)
    model = ViTMAEForPreTraining(ViTMAEConfig(**TINY)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def with_prefix(mae, folder):
    mae.save_pretrained(folder)


def without_prefix(mae, folder):
    bare = ViTMAEModel(mae.config)
    bare.load_state_dict(mae.vit.state_dict())
    bare.save_pretrained(folder)


def as_on_the_hub(mae, folder):
    mae.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    renamed = {
        name.replace("decoder.decoder_encoder.layer", "decoder.decoder_layers"): tensors[name] for name in tensors
    }
    save_file(renamed, folder / "model.safetensors")


def as_in_the_mae_repository(mae, folder):
    mae.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"model": original_layout(tensors)}, folder / "pytorch_model.bin")


def original_layout(tensors):
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in ORIGINAL_NAMES:
            name = re.sub(old, new, name)
        renamed[name] = tensor
    for key in [name for name in renamed if ".query." in name]:
        parts = [renamed.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        renamed[key.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return renamed


LAYOUTS = [with_prefix, without_prefix, as_on_the_hub, as_in_the_mae_repository]
WITH_DECODER = [with_prefix, as_on_the_hub, as_in_the_mae_repository]


def timm_stack(blocks, norm, n_heads, eps):
    """timm's Blocks and a last norm, loaded strictly."""
    width = len(norm["weight"])
    layers = [Block(width, n_heads, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=eps)) for _ in blocks]
    stack = nn.Sequential(*layers, nn.LayerNorm(width, eps=eps)).eval()
    for layer, weights in zip(stack, [*blocks, norm], strict=True):
        layer.load_state_dict(weights)
    return stack.requires_grad_(False)


def patches_of(image):
    """(y, x) -> (patch, pixel)."""
    return image.unfold(0, PATCH, PATCH).unfold(1, PATCH, PATCH).reshape(-1, PATCH * PATCH)


@pytest.mark.parametrize("write", LAYOUTS)
def test_encoder_blocks_compute_what_they_computed(mae, tmp_path, write):
    write(mae, tmp_path)
    weights = vit_mae_weights(read_weights(str(tmp_path)), PATCH)
    image = torch.randn(IMAGE, IMAGE, generator=torch.Generator().manual_seed(1))
    n_patches = (IMAGE // PATCH) ** 2
    expected = mae.vit(image.expand(1, 3, -1, -1), noise=torch.arange(float(n_patches))[None]).last_hidden_state[0]
    positions = mae.vit.embeddings.position_embeddings[0]
    tokens = torch.cat([weights.cls[None], patches_of(image) @ weights.patch_weight + weights.patch_bias]) + positions
    stack = timm_stack(weights.encoder_blocks, weights.encoder_norm, weights.n_heads, weights.layer_norm_eps)
    assert torch.allclose(stack(tokens[None])[0], expected, atol=1e-5)
    assert (weights.width, weights.n_heads, weights.layer_norm_eps) == (16, 4, 1e-12)


@pytest.mark.parametrize("write", WITH_DECODER)
def test_decoder_blocks_compute_what_they_computed(mae, tmp_path, write):
    write(mae, tmp_path)
    weights = vit_mae_weights(read_weights(str(tmp_path)), PATCH)
    latent = torch.randn(1, 1 + 6, 16, generator=torch.Generator().manual_seed(1))
    expected = mae.decoder(latent, ids_restore=torch.arange(16)[None]).logits[0]
    embedded = latent[0] @ weights.decoder_embed["weight"].T + weights.decoder_embed["bias"]
    tokens = torch.cat([embedded, weights.mask_token.expand(10, -1)]) + mae.decoder.decoder_pos_embed[0]
    stack = timm_stack(weights.decoder_blocks, weights.decoder_norm, weights.decoder_n_heads, weights.layer_norm_eps)
    assert torch.allclose(mae.decoder.decoder_pred(stack(tokens[None])[0, 1:]), expected, atol=1e-5)
    assert (weights.decoder_width, weights.decoder_n_heads) == (12, 3)


def test_an_encoder_alone_has_no_decoder(mae, tmp_path):
    without_prefix(mae, tmp_path)
    weights = vit_mae_weights(read_weights(str(tmp_path)), PATCH)
    assert weights.decoder_blocks == []
    assert (weights.decoder_embed, weights.mask_token, weights.decoder_norm, weights.decoder_width) == (None,) * 4


@pytest.fixture(scope="module")
def stored(mae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mae")
    mae.save_pretrained(folder)
    return read_weights(str(folder))


def test_depth_takes_the_first_blocks(stored):
    whole, two = vit_mae_weights(stored, PATCH), vit_mae_weights(stored, PATCH, depth=2)
    assert len(whole.encoder_blocks) == 3
    assert len(two.encoder_blocks) == 2
    assert all(same(block, first) for block, first in zip(two.encoder_blocks, whole.encoder_blocks[:2], strict=True))
    assert len(two.decoder_blocks) == 2


@pytest.mark.parametrize("depth", [0, 4])
def test_another_depth_is_refused(stored, depth):
    with pytest.raises(SpatiaError, match=f"expected a depth of 1 to 3, its blocks, found {depth}"):
        vit_mae_weights(stored, PATCH, depth=depth)


@pytest.mark.parametrize(("part", "wanted", "found"), [("width", 32, 16), ("decoder_width", 24, 12)])
def test_another_width_is_refused(stored, part, wanted, found):
    with pytest.raises(SpatiaError, match=f"of width {wanted}, as the network is set, found {found}"):
        vit_mae_weights(stored, PATCH, **{part: wanted})


def test_a_missing_tensor_is_named(stored):
    name = "vit.encoder.layer.1.intermediate.dense.bias"
    tensors = {key: tensor for key, tensor in stored.tensors.items() if key != name}
    with pytest.raises(SpatiaError, match=f"toy: expected a tensor {name}, found none"):
        vit_mae_weights(StoredWeights(tensors, stored.settings, "toy"), PATCH)


def test_unknown_heads_are_asked_for(stored):
    with pytest.raises(SpatiaError, match="toy: expected num_attention_heads in .* config.json .*, found no settings"):
        vit_mae_weights(StoredWeights(stored.tensors, {}, "toy"), PATCH)


def test_heads_must_divide_the_width(stored):
    with pytest.raises(SpatiaError, match="divides the width 16, found 5"):
        vit_mae_weights(StoredWeights(stored.tensors, {"num_attention_heads": 5}, "toy"), PATCH)


def test_projections_without_bias_get_zeros(stored):
    tensors = {name: stored.tensors[name] for name in stored.tensors if not re.search("(query|key|value).bias", name)}
    weights = vit_mae_weights(StoredWeights(tensors, stored.settings, "toy"), PATCH)
    assert torch.equal(weights.encoder_blocks[0]["attn.qkv.bias"], torch.zeros(48))
    assert torch.equal(weights.decoder_blocks[1]["attn.qkv.bias"], torch.zeros(36))


def test_published_sizes_need_no_settings():
    block = {
        "norm1": (768,),
        "attn.qkv": (2304, 768),
        "attn.proj": (768, 768),
        "norm2": (768,),
        "mlp.fc1": (3072, 768),
        "mlp.fc2": (768, 3072),
    }
    modules = {f"blocks.0.{name}": shape for name, shape in block.items()}
    modules |= {"norm": (768,), "patch_embed.proj": (768, 3, 16, 16)}
    tensors = {f"{name}.weight": torch.zeros(shape) for name, shape in modules.items()}
    tensors |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in modules.items()}
    tensors["cls_token"] = torch.zeros(1, 1, 768)
    weights = vit_mae_weights(StoredWeights(tensors, {}, "mae_pretrain_vit_base.pth"), 8)
    assert (weights.width, weights.n_heads, weights.layer_norm_eps) == (768, 12, 1e-6)
    assert weights.patch_weight.shape == (64, 768)


def test_half_precision_becomes_single(stored):
    tensors = {name: tensor.half() for name, tensor in stored.tensors.items()}
    weights = vit_mae_weights(StoredWeights(tensors, stored.settings, "toy"), PATCH)
    assert weights.patch_weight.dtype == weights.encoder_blocks[0]["attn.qkv.weight"].dtype == torch.float32


@pytest.mark.parametrize("patch_px", [3, 8, 16, 24])
def test_a_constant_patch_keeps_its_token(patch_px):
    weight = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = F.conv2d(torch.full((1, 3, 16, 16), 0.7), weight).flatten()
    found = torch.full((patch_px**2,), 0.7) @ one_stain(weight, patch_px)
    assert torch.allclose(found, expected, atol=1e-4)


def test_patches_of_the_same_size_are_not_resized():
    weight = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    grey = torch.randn(16, 16, generator=torch.Generator().manual_seed(3))
    expected = F.conv2d(grey.expand(1, 3, -1, -1), weight).flatten()
    assert torch.allclose(grey.flatten() @ one_stain(weight, 16), expected, atol=1e-4)


def test_resizing_keeps_the_axes():
    down = torch.arange(16.0)[:, None].expand(16, 16)
    found = one_stain(down.expand(1, 1, -1, -1), 4).reshape(4, 4)
    assert torch.allclose(found, found[:, :1].expand(4, 4), atol=1e-3)
    assert torch.all(found[1:, 0] > found[:-1, 0])


@pytest.mark.parametrize("convert", [lambda s: vit_mae_weights(s, 8), lambda s: scprint_weights(s, ["A"], ["E"])])
def test_an_unknown_layout_names_keys_and_what_is_known(convert):
    with pytest.raises(SpatiaError, match=r"toy: expected (ViT-MAE|scPRINT) \(.*\), found tensors a, b; take"):
        convert(StoredWeights(TENSORS, {}, "toy"))


# scPRINT


WIDTH = 8
GENES = ["ENSG01", "ENSG02", "ENSMUSG03", "ACTB", "ENSG05"]


def scprint_checkpoint(key=EMBEDDING_KEYS[0], *, nhead=2, n_blocks=2, genes=GENES, **settings):
    """What ``medium.ckpt`` holds, in small."""
    draw = torch.Generator().manual_seed(4)
    block = {"norm1": (8,), "mixer.Wqkv": (24, 8), "mixer.out_proj": (8, 8), "norm2": (8,)}
    block |= {"mlp.fc1": (32, 8), "mlp.fc2": (8, 32)}
    modules = {f"transformer.blocks.{i}.{name}": shape for i in range(n_blocks) for name, shape in block.items()}
    modules |= {"transformer.norm": (8,)}
    modules |= {f"expr_encoder.encoder.{i}": shape for i, shape in ((0, (8, 1)), (1, (8,)), (4, (8, 8)))}
    state = {f"{name}.weight": torch.randn(shape, generator=draw) for name, shape in modules.items()}
    state |= {f"{name}.bias": torch.randn(shape[0], generator=draw) for name, shape in modules.items()}
    state[key] = torch.randn(5, WIDTH, generator=draw)
    state["pos_encoder.pe"] = torch.randn(5, 1, WIDTH, generator=draw)
    state["class_encoder.embedding.weight"] = torch.randn(3, WIDTH, generator=draw)
    settings = {"genes": genes, "nhead": nhead, "d_model": WIDTH, "normalization": "log", **settings}
    return {"state_dict": state, "hyper_parameters": settings, "pytorch-lightning_version": "2.3.0"}


def stored_scprint(**options):
    checkpoint = scprint_checkpoint(**options)
    return StoredWeights(checkpoint["state_dict"], checkpoint["hyper_parameters"], "toy")


def flash_blocks(state, n_heads, tokens):
    """scPRINT's way to compute its blocks: the residual sum is carried to the next norm."""

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    residual, hidden = torch.zeros_like(tokens), tokens
    for block in ("transformer.blocks.0", "transformer.blocks.1"):
        residual = residual + hidden
        packed = linear(f"{block}.mixer.Wqkv", norm(f"{block}.norm1", residual))
        query, key, value = packed.reshape(len(tokens), 3, n_heads, WIDTH // n_heads).unbind(1)
        attention = torch.einsum("thd,shd->hts", query, key).div((WIDTH // n_heads) ** 0.5).softmax(-1)
        mixed = torch.einsum("hts,shd->thd", attention, value).reshape(len(tokens), WIDTH)
        residual = residual + linear(f"{block}.mixer.out_proj", mixed)
        hidden = linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", residual))))
    return norm("transformer.norm", residual + hidden)


@pytest.mark.parametrize("key", EMBEDDING_KEYS)
def test_gene_rows_are_found_by_id_and_by_name(tmp_path, key):
    checkpoint = scprint_checkpoint(key)
    torch.save(checkpoint, tmp_path / "medium.ckpt")
    names, ids = ["TP53", "ACTB", "EGFR", "CDH1"], ["ENSG05", "ENSG99", "ENSG98", "ENSG02.11"]
    weights = scprint_weights(read_weights(str(tmp_path / "medium.ckpt")), names, ids)
    table, places = checkpoint["state_dict"][key], checkpoint["state_dict"]["pos_encoder.pe"][:, 0]
    assert torch.equal(weights.gene_embedding, torch.stack([table[4], table[3], torch.zeros(WIDTH), table[1]]))
    assert torch.equal(weights.gene_position, torch.stack([places[4], places[3], torch.zeros(WIDTH), places[1]]))
    assert weights.is_known.tolist() == [True, True, False, True]
    assert (weights.n_known, weights.width, weights.normalization) == (3, WIDTH, "log")


@pytest.mark.parametrize("n_heads", [2, 4])
def test_scprint_blocks_compute_what_they_computed(n_heads):
    stored = stored_scprint(nhead=n_heads)
    weights = scprint_weights(stored, ["ACTB"], ["ENSG01"])
    assert weights.n_heads == n_heads
    tokens = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(5))
    stack = timm_stack(weights.blocks, weights.norm, weights.n_heads, weights.layer_norm_eps)
    assert torch.allclose(stack(tokens[None])[0], flash_blocks(stored.tensors, n_heads, tokens), atol=1e-5)


def test_the_value_encoder_loads_into_its_layers():
    weights = scprint_weights(stored_scprint(), ["ACTB"], ["ENSG01"])
    layers = nn.Sequential(nn.Linear(1, 8), nn.LayerNorm(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8))
    layers.load_state_dict(weights.value_encoder)
    assert layers.eval()(torch.rand(3, 1)).shape == (3, WIDTH)


def test_unknown_genes_up_to_half_are_accepted():
    weights = scprint_weights(stored_scprint(), ["A", "B"], ["ENSG01", "ENSG77"])
    assert weights.is_known.tolist() == [True, False]
    with pytest.raises(
        SpatiaError, match="at least half of 3 genes among the checkpoint's 5, found 1; ours begin with"
    ):
        scprint_weights(stored_scprint(), ["A", "B", "C"], ["ENSG01", "ENSG77", "ENSG78"])


def test_names_and_ids_are_of_the_same_genes():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        scprint_weights(stored_scprint(), ["A", "B"], ["ENSG01"])


def test_genes_may_be_listed_by_organism():
    genes = {"mouse": ["ENSMUSG03"], "human": ["ENSG01", "ENSG02", "ENSG04", "ENSG05"]}
    stored = stored_scprint(genes=genes, organisms=["human", "mouse"])
    weights = scprint_weights(stored, ["X", "Y"], ["ENSMUSG03", "ENSG02"])
    assert torch.equal(weights.gene_embedding, stored.tensors[EMBEDDING_KEYS[0]][[4, 1]])


def test_a_checkpoint_without_places_in_the_genome():
    stored = stored_scprint()
    del stored.tensors["pos_encoder.pe"]
    assert scprint_weights(stored, ["ACTB"], ["ENSG01"]).gene_position is None


def test_scprint_depth_and_width(tmp_path):
    weights = scprint_weights(stored_scprint(), ["ACTB"], ["ENSG01"], depth=1, width=WIDTH)
    assert len(weights.blocks) == 1
    with pytest.raises(SpatiaError, match="expected a depth of 1 to 2, its blocks, found 3"):
        scprint_weights(stored_scprint(), ["ACTB"], ["ENSG01"], depth=3)
    with pytest.raises(SpatiaError, match="a gene encoder of width 256, as the network is set, found 8"):
        scprint_weights(stored_scprint(), ["ACTB"], ["ENSG01"], width=256)


@pytest.mark.parametrize("key", ["nhead", "genes"])
def test_missing_settings_are_named(key):
    stored = stored_scprint()
    del stored.settings[key]
    with pytest.raises(SpatiaError, match=f"toy: expected {key} in hyper_parameters or in a config.json"):
        scprint_weights(stored, ["ACTB"], ["ENSG01"])


def test_genes_of_another_checkpoint_are_refused():
    with pytest.raises(SpatiaError, match="one gene name per row of its embedding, 5, found 2"):
        scprint_weights(stored_scprint(genes=["ENSG01", "ENSG02"]), ["A"], ["ENSG01"])


def test_blocks_of_another_kind_are_refused():
    stored = stored_scprint()
    stored.tensors["transformer.blocks.1.cross_attn.Wq.weight"] = torch.zeros(8, 8)
    with pytest.raises(SpatiaError, match=r"found cross_attn.Wq.weight in them too"):
        scprint_weights(stored, ["ACTB"], ["ENSG01"])


def test_norms_after_the_sum_are_refused():
    with pytest.raises(SpatiaError, match="found prenorm false"):
        scprint_weights(stored_scprint(prenorm=False), ["ACTB"], ["ENSG01"])


def test_keys_shared_between_heads_are_refused():
    stored = stored_scprint()
    stored.tensors["transformer.blocks.0.mixer.Wqkv.weight"] = torch.zeros(16, 8)
    with pytest.raises(SpatiaError, match="of 8 rows each in transformer.blocks.0, found 16 rows"):
        scprint_weights(stored, ["ACTB"], ["ENSG01"])
