"""Which GPT-2 a Hugging Face `config.json` describes, and whether it is one that this project computes."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gfn_jax.errors import UserError
from gfn_jax.models.gpt2 import ACTIVATIONS, ARCHITECTURES, GPT2Config
from gfn_jax.models.hf_files import find_directory


def named_architecture(name_or_path: str) -> GPT2Config:
    """The architecture alone, for random weights: a published size, or a directory's config.json."""
    if name_or_path in ARCHITECTURES:
        return ARCHITECTURES[name_or_path]
    return read_architecture(find_directory(name_or_path, "model.name_or_path", ["config.json"]))


def read_architecture(directory: Path) -> GPT2Config:
    """The architecture that `config.json` describes; what this project does not compute is refused."""
    file = directory / "config.json"
    raw = read_json(file)
    if raw.get("model_type") != "gpt2":
        raise UserError(
            f"{file}: model_type is {raw.get('model_type')!r}, and only 'gpt2' can be loaded: one of "
            f"{', '.join(ARCHITECTURES)}, or another model of that architecture"
        )
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
    sizes = {"n_embd": config.n_embd, "n_head": config.n_head, "n_layer": config.n_layer}
    sizes |= {"n_positions": config.n_positions, "vocab_size": config.vocab_size}
    if wrong := [f"{name} is {size}" for name, size in sizes.items() if size < 1]:
        raise UserError(f"{file}: {' and '.join(wrong)}: at least 1 is needed")
    if config.n_embd % config.n_head:
        raise UserError(f"{file}: n_embd {config.n_embd} is not divisible by n_head {config.n_head}")
    return config


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object that a file holds; raises `UserError` where it is none."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} has no {file.name}") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file} does not hold a JSON object")
    return raw
