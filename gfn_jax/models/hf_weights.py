"""Hugging Face directories: finding them, their architecture, and their weights into our layout."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from gfn_jax.errors import UserError
from gfn_jax.models.gpt2 import ACTIVATIONS, ARCHITECTURES, GPT2Config

MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
_LAYER_TENSORS = {  # Hugging Face's name in a layer -> where it lives in our stacked blocks
    "ln_1.weight": ("ln_1", "scale"),
    "ln_1.bias": ("ln_1", "bias"),
    "attn.c_attn.weight": ("attn_c_attn", "kernel"),
    "attn.c_attn.bias": ("attn_c_attn", "bias"),
    "attn.c_proj.weight": ("attn_c_proj", "kernel"),
    "attn.c_proj.bias": ("attn_c_proj", "bias"),
    "ln_2.weight": ("ln_2", "scale"),
    "ln_2.bias": ("ln_2", "bias"),
    "mlp.c_fc.weight": ("mlp_c_fc", "kernel"),
    "mlp.c_fc.bias": ("mlp_c_fc", "bias"),
    "mlp.c_proj.weight": ("mlp_c_proj", "kernel"),
    "mlp.c_proj.bias": ("mlp_c_proj", "bias"),
}
_TOP_TENSORS = {
    "wte.weight": ("wte",),
    "wpe.weight": ("wpe",),
    "ln_f.weight": ("ln_f", "scale"),
    "ln_f.bias": ("ln_f", "bias"),
    "lm_head.weight": ("lm_head",),
}
_BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks that old checkpoints carry


def find_directory(name_or_path: str, key: str, files: Sequence[str]) -> Path:
    """A local directory as it is, or the hub's snapshot of these files of that name.

    `key` is the configuration's key that the name comes from, for the `UserError` where it is nothing.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(name_or_path, allow_patterns=list(files)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{key}: {name_or_path!r} is neither a directory here nor a model that the Hugging Face hub gives us "
            f"({type(error).__name__}); a directory would need {', '.join(files)}"
        ) from error


def read_architecture(directory: Path) -> GPT2Config:
    """The architecture that `config.json` describes; what this project does not compute is refused."""
    file = directory / "config.json"
    try:
        raw = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{directory} has no config.json") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file} does not hold a JSON object")
    if raw.get("model_type") != "gpt2":
        raise UserError(f"{file}: model_type is {raw.get('model_type')!r}, and only 'gpt2' can be loaded")
    unsupported = {
        "scale_attn_weights": raw.get("scale_attn_weights", True) is not True,
        "scale_attn_by_inverse_layer_idx": raw.get("scale_attn_by_inverse_layer_idx", False) is not False,
        "add_cross_attention": raw.get("add_cross_attention", False) is not False,
        "activation_function": raw.get("activation_function", "gelu_new") not in ACTIVATIONS,
    }
    if any(unsupported.values()):
        keys = ", ".join(key for key, wrong in unsupported.items() if wrong)
        raise UserError(f"{file}: this setting is not supported: {keys}")
    known = {field: raw[field] for field in GPT2Config.__dataclass_fields__ if field in raw}
    try:
        config = TypeAdapter(GPT2Config).validate_python(known)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file}: {first['loc'][0]}: {first['msg']} (it is {first['input']!r})") from error
    if config.n_embd % config.n_head:
        raise UserError(f"{file}: n_embd {config.n_embd} is not divisible by n_head {config.n_head}")
    return config


def named_architecture(name_or_path: str) -> GPT2Config:
    """The architecture alone, for random weights: a published size, or a directory's config.json."""
    if name_or_path in ARCHITECTURES:
        return ARCHITECTURES[name_or_path]
    return read_architecture(find_directory(name_or_path, "model.name_or_path", MODEL_FILES[:1]))


def load_weights(directory: Path, config: GPT2Config, dtype: jnp.dtype) -> dict[str, Any]:
    """The frozen weights as nested dicts of numpy arrays, layers stacked, vocabulary padded with zeros.

    Raises `UserError`, naming tensors, where any is missing, unexpected, given twice or wrongly shaped.
    """
    expected = _expected_shapes(config)
    found: dict[str, np.ndarray] = {}
    unexpected = []
    for name, tensor in _read_tensors(directory):
        name = name.removeprefix("transformer.")
        if name.endswith(_BUFFERS) or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        if name not in expected:
            unexpected.append(name)
        elif name in found:
            raise UserError(f"{directory}: tensor {name} is given twice")
        elif tensor.shape != expected[name]:
            raise UserError(f"{directory}: tensor {name} has shape {tensor.shape}, expected {expected[name]}")
        else:
            found[name] = tensor.astype(dtype)
    if unexpected:
        raise UserError(f"{directory}: unexpected tensors: {_some(unexpected)}")
    if missing := [name for name in expected if name not in found]:
        raise UserError(f"{directory}: missing tensors: {_some(missing)}")
    return _to_our_layout(found, config)


def _to_our_layout(found: dict[str, np.ndarray], config: GPT2Config) -> dict[str, Any]:
    weights: dict[str, Any] = {}
    padding = config.padded_vocab_size - config.vocab_size
    for name, path in _TOP_TENSORS.items():
        if name in found:
            tensor = found.pop(name)
            padded = np.pad(tensor, [(0, padding), (0, 0)]) if name in ("wte.weight", "lm_head.weight") else tensor
            _put(weights, path, padded)
    head_axes = (config.n_head, config.n_embd // config.n_head)
    split_axes = {  # flat columns or rows -> the axes that we keep apart
        ("attn_c_attn", "kernel"): (config.n_embd, 3, *head_axes),
        ("attn_c_attn", "bias"): (3, *head_axes),
        ("attn_c_proj", "kernel"): (*head_axes, config.n_embd),
    }
    for name, path in _LAYER_TENSORS.items():
        stack = np.stack([found.pop(f"h.{layer}.{name}") for layer in range(config.n_layer)])
        if path in split_axes:
            stack = stack.reshape(config.n_layer, *split_axes[path])
        _put(weights, ("blocks", *path), stack)
    return weights


def _expected_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    layer = {
        "attn.c_attn.weight": (width, 3 * width),
        "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width),
        "mlp.c_fc.weight": (width, inner),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, width),
    }
    shapes = {
        "wte.weight": (config.vocab_size, width),
        "wpe.weight": (config.n_positions, width),
        "ln_f.weight": (width,),
        "ln_f.bias": (width,),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, width)
    for index in range(config.n_layer):
        shapes |= {f"h.{index}.{name}": layer.get(name, (width,)) for name in _LAYER_TENSORS}
    return shapes


def weights_sha256(directory: Path) -> str:
    """The hash of the files that `load_weights` reads, in their order."""
    digest = hashlib.sha256()
    for path in _weight_files(directory):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.exists():
        try:
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{index} is not an index of safetensors files: {error}") from error
    else:
        files = ["model.safetensors"]
    if missing := [file for file in files if not (directory / file).exists()]:
        raise UserError(f"{directory} has no {missing[0]}")
    return [directory / file for file in files]


def _read_tensors(directory: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in _weight_files(directory):
        try:
            with safe_open(path, framework="flax") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    yield name, np.asarray(tensors.get_tensor(name))
        except SafetensorError as error:
            raise UserError(f"{path} cannot be read as safetensors: {error}") from error


def _put(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
