"""What is wrong with a weights directory is said by name."""

import json
import shutil

import jax.numpy as jnp
import pytest
from helpers import save_gpt2
from safetensors.torch import load_file, save_file

from gfn_jax.errors import UserError
from gfn_jax.models.hf_weights import MODEL_FILES, find_directory, load_weights, read_architecture


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("original")
    save_gpt2(directory, vocab_size=17, n_positions=7, n_embd=6, n_head=2, n_layer=2)
    return directory


def damaged(original, tmp_path, change):
    directory = tmp_path / "damaged"
    shutil.copytree(original, directory)
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    return directory


def rename_without_prefix(tensors):
    for name in list(tensors):
        tensors[name.removeprefix("transformer.")] = tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("transformer.h.1.mlp.c_fc.bias"), r"missing tensors: h\.1\.mlp\.c_fc\.bias$"),
        (
            lambda tensors: tensors.update({"transformer.extra": tensors["transformer.ln_f.bias"].clone()}),
            "unexpected .*extra",
        ),
        (
            lambda tensors: tensors.update({"transformer.wpe.weight": tensors["transformer.ln_f.bias"].clone()}),
            r"wpe\.weight has shape \(6,\), expected \(7, 6\)",
        ),
        (
            lambda tensors: tensors.update({"ln_f.bias": tensors["transformer.ln_f.bias"].clone()}),
            "ln_f.bias is given twice",
        ),
    ],
)
def test_damaged_weights_are_refused_by_tensor_name(original, tmp_path, change, message):
    directory = damaged(original, tmp_path, change)
    with pytest.raises(UserError, match=message):
        load_weights(directory, read_architecture(directory), jnp.float32)


def test_names_without_prefix_and_sharded_files_load_the_same(original, tmp_path):
    architecture = read_architecture(original)
    expected = load_weights(original, architecture, jnp.float32)
    directory = damaged(original, tmp_path, rename_without_prefix)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, directory / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    loaded = load_weights(directory, architecture, jnp.float32)
    assert (loaded["blocks"]["attn_c_attn"]["kernel"] == expected["blocks"]["attn_c_attn"]["kernel"]).all()
    assert (loaded["wte"] == expected["wte"]).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "bert", "only 'gpt2'"),
        ("scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx"),
        ("n_head", 5, "not divisible by n_head 5"),
        ("n_layer", "four", r"n_layer: .*valid integer.*'four'"),
    ],
)
def test_architectures_that_are_not_computed_are_refused(original, tmp_path, key, value, message):
    raw = json.loads((original / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {key: value}))
    with pytest.raises(UserError, match=message):
        read_architecture(tmp_path)


def test_a_name_that_is_nowhere_is_one_clear_error():
    with pytest.raises(
        UserError, match=r"model\.name_or_path: 'no-such/model' is neither a directory here nor a model"
    ):
        find_directory("no-such/model", "model.name_or_path", MODEL_FILES)
