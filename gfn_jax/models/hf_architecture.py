"""Which architecture a Hugging Face `config.json` describes, and whether it is one that this project computes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gfn_jax.models import gemma3, gpt2, llama
from gfn_jax.models.architecture import Architecture
from gfn_jax.models.config_keys import ConfigKeys
from gfn_jax.models.hf_files import find_directory
from gfn_jax.runtime.errors import UserError

READERS: dict[str, Callable[[ConfigKeys], Architecture]] = {
    "gpt2": gpt2.read,
    "llama": llama.read_llama,
    "mistral": llama.read_mistral,
    "qwen2": llama.read_qwen2,
    "qwen3": llama.read_qwen3,
    "gemma3_text": gemma3.read,
}
"""By `model_type`."""

PUBLISHED: dict[str, Mapping[str, Any]] = {**gpt2.PUBLISHED, **llama.PUBLISHED}
"""Some `config.json`s by their hub names, so that a size can be tried with random weights without a network."""


def named_config(name_or_path: str) -> tuple[Mapping[str, Any], str]:
    """The `config.json` of a published size, or of a model's directory; and how errors name it."""
    if name_or_path in PUBLISHED:
        return PUBLISHED[name_or_path], name_or_path
    directory = find_directory(name_or_path, "model.name_or_path", ["config.json"])
    file = directory / "config.json"
    return read_settings(file), str(file)


def named_architecture(name_or_path: str) -> Architecture:
    """The architecture alone, for random weights: a published size, or a directory's config.json."""
    return make_architecture(*named_config(name_or_path))


def read_architecture(directory: Path) -> Architecture:
    """The architecture that `config.json` describes; what this project does not compute is refused."""
    file = directory / "config.json"
    return make_architecture(read_settings(file), str(file))


def make_architecture(raw: Mapping[str, Any], where: str) -> Architecture:
    """The architecture of a `config.json`'s content.

    Raises `UserError`, naming it, for a type of model that is not among `READERS`, a value that is not computed
    here, and for keys that nobody here knows.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in READERS:
        raise UserError(f"{where}: model_type is {kind!r}; there are {', '.join(READERS)}")
    keys = ConfigKeys(raw, where)
    architecture = READERS[kind](keys)
    keys.check_all_taken()
    return architecture


def read_settings(file: Path) -> dict[str, Any]:
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
