"""What is wrong with a weights directory is said by name."""

import functools
import json
import os
import shutil

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from architectures import save_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

from gfn_jax.models.hf_architecture import read_architecture
from gfn_jax.models.hf_files import find_model
from gfn_jax.models.hf_weights import load_weights, to_hugging_face
from gfn_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("original")
    save_model(directory, GPT2Config(vocab_size=17, n_positions=7, n_embd=6, n_head=2, n_layer=2))
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


def in_two_files(directory, tensors, save, pattern):
    """The tensors in two files with an index, as large models are published."""
    names = sorted(tensors)
    files = {pattern.format(number): names[number::2] for number in range(2)}
    for file, part in files.items():
        save({name: tensors[name] for name in part}, directory / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (directory / f"{pattern.replace('-{}', '')}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def save_without_zip(tensors, file):
    torch.save(tensors, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "save"),
    [("model.safetensors", save_file), ("pytorch_model.bin", torch.save), ("pytorch_model.bin", save_without_zip)],
)
@pytest.mark.parametrize("is_sharded", [False, True])
def test_every_way_to_publish_weights_loads_the_same(original, tmp_path, name, save, is_sharded):
    """With and without an index, as safetensors and pickled, now and before PyTorch 1.6; here without prefixes."""
    architecture = read_architecture(original)
    expected = load_weights(original, architecture, jnp.float32)
    directory = damaged(original, tmp_path, rename_without_prefix)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    if is_sharded:
        in_two_files(directory, tensors, save, name.replace(".", "-{}."))
    else:
        save(tensors, directory / name)
    loaded = load_weights(directory, architecture, jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


def test_a_pickle_that_would_run_code_runs_none(original, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    shutil.copy(original / "config.json", tmp_path)
    torch.save({"wte.weight": Attack()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"pytorch_model\.bin cannot be read .*: it is damaged, or holds more than weights"
    ):
        load_weights(tmp_path, read_architecture(original), jnp.float32)
    assert not (tmp_path / "harm").exists()


def test_a_file_that_was_cut_short_is_one_clear_error(original, tmp_path):
    directory = damaged(original, tmp_path, lambda tensors: None)
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file .*download it again"):
        load_weights(directory, read_architecture(directory), jnp.float32)


def test_a_tied_checkpoint_may_keep_either_name(original, tmp_path):
    """Of tensors that share memory, some programs write only the first name."""
    architecture = read_architecture(original)

    def rename(tensors):
        tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")

    directory = damaged(original, tmp_path, rename)
    loaded, expected = (load_weights(each, architecture, np.float32) for each in (directory, original))
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


@pytest.mark.parametrize("content", ["[]", "null", '{"weight_map": [1]}', "{", '{"weight_map": {"wte.weight": 3}}'])
def test_an_index_that_is_none_is_one_clear_error(original, tmp_path, content):
    directory = damaged(original, tmp_path, lambda tensors: None)
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match=r"is not an index of weight files|has no 3, which"):
        load_weights(directory, read_architecture(directory), jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_weights_are_cast_as_they_are_read(original, dtype):
    architecture = read_architecture(original)
    expected = load_weights(original, architecture, np.float32)
    loaded = load_weights(original, architecture, dtype)
    jax.tree.map(lambda got, wide: np.testing.assert_array_equal(got, wide.astype(dtype)), loaded, expected)


def test_any_part_of_a_weight_is_read_from_the_files_alone(original):
    architecture = read_architecture(original)
    whole = load_weights(original, architecture, np.float32)

    def place(path, shape, read):
        weight = functools.reduce(lambda branch, key: branch[key], path, whole)
        assert weight.shape == shape
        for _ in range(5):
            index = tuple(slice(*sorted(rng.integers(0, size + 1, 2))) for size in shape)
            np.testing.assert_array_equal(read(index), weight[index])

    rng = np.random.default_rng(0)
    load_weights(original, architecture, np.float32, place)


def test_names_and_shapes_of_hugging_face_come_back(hugging_face_directory):
    model, directory = hugging_face_directory
    architecture = read_architecture(directory)
    back = dict(to_hugging_face(load_weights(directory, architecture, np.float32), architecture))
    tied = {"lm_head.weight"} if architecture.tie_word_embeddings else set()
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name not in tied}
    assert back.keys() == expected.keys()
    for name, fetch in back.items():
        np.testing.assert_array_equal(fetch(), expected[name])


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_name_is_found_in_the_cache_without_a_network(original, tmp_path, monkeypatch, name):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "models--some--model"
    snapshot = place / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123")
    shutil.copy(original / "config.json", snapshot)
    tensors = load_file(original / "model.safetensors")
    (save_file if name == "model.safetensors" else torch.save)(tensors, snapshot / name)
    found = find_model("some/model", "model.name_or_path")
    loaded, expected = (load_weights(each, read_architecture(original), np.float32) for each in (found, original))
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "bert", "there are gpt2, llama"),
        ("scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx"),
        ("n_head", 5, "not divisible by n_head 5"),
        ("n_head", 0, "n_head is 0: at least 1 is needed"),
        ("n_layer", 0, "n_layer is 0: at least 1 is needed"),
        ("n_layer", "four", "n_layer is 'four', and a valid integer"),
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
        find_model("no-such/model", "model.name_or_path")
