"""Our adapters as the PEFT library's directories, and back: the same function there and here."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfn_jax.models.architecture import Architecture, module_name
from gfn_jax.models.hf_architecture import read_settings
from gfn_jax.models.hf_files import adapter_file, find_model, is_local, opened, save_tensors
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.runtime.errors import UserError

FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_WITHOUT_EFFECT = {  # settings of which any value leaves the adapter's function as it is, or that are read here
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",  # how the frozen kernel lies in memory
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
_CHANGES_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")  # ways to begin that also change the frozen weights


def save(directory: Path, adapter: Weights, structure: ModelStructure, base: str) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, for the frozen model that is called `base`."""
    lora, architecture = structure.lora, structure.architecture
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(architecture.adapted_layers(lora.targets)),
        "fan_in_fan_out": not architecture.outputs_first,
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (directory / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_tensors(to_peft(adapter, architecture), directory / "adapter_model.safetensors")


def load(directory: Path, structure: ModelStructure) -> Weights:
    """The adapter of a PEFT directory, on the host.

    Raises `UserError` where it is of another model, of other settings than `structure`, or more than LoRA.
    """
    settings = read_settings(directory / "adapter_config.json")
    where = f"model.lora.init_from: {directory}"
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{where} has an adapter of type {settings.get('peft_type')!r}, and only 'LORA' can be loaded")
    others = {name: value for name, value in settings.items() if value and name not in _WITHOUT_EFFECT}
    if others.pop("bias", "none") != "none":
        others["bias"] = settings["bias"]
    if str(settings.get("init_lora_weights")).startswith(_CHANGES_BASE):
        others["init_lora_weights"] = settings["init_lora_weights"]
    if others:
        said = ", ".join(f"{name}={value!r}" for name, value in others.items())
        raise UserError(f"{where} was trained with settings that are not supported here: {said}")
    if not isinstance(settings.get("lora_alpha", 8), int | float):
        raise UserError(f"{where}: lora_alpha is {settings['lora_alpha']!r}, and must be a number")
    architecture = structure.architecture
    base = settings.get("base_model_name_or_path")
    tensors = _read(directory, architecture, where, base)
    _check_settings(tensors, settings, structure, where)
    _check_shapes(tensors, structure, f"{where} was made for another model ({base!r})")
    return from_peft(tensors, structure.abstract_adapter, architecture)


def remark_on_base(directory: Path, model: str) -> str:
    """What to tell a user whose adapter was made over another model than `model`, or in another place; or nothing.

    Its shapes may fit all the same: other weights of one architecture are another model.
    """
    base = read_settings(directory / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        return ""
    if is_local(model):
        is_same = Path(str(base)) == find_model(model, "model.name_or_path").resolve()
    else:
        is_same = str(base).lower() == model.lower()
    if is_same:
        return ""
    return f"model.lora.init_from: {directory} was trained over {base!r}, and goes on here over {model!r}"


def to_peft(adapter: Weights, architecture: Architecture) -> dict[str, np.ndarray]:
    """Every layer's `lora_A` [R, inputs] and `lora_B` [outputs, R], as PEFT stores them."""
    return {
        _tensor_name(architecture, layer, name, factor): np.ascontiguousarray(_flat(factor, np.asarray(stack[layer])).T)
        for name, factor, stack in _stacks(adapter, architecture)
        for layer in range(stack.shape[0])
    }


def from_peft(tensors: Mapping[str, np.ndarray], like: Weights, architecture: Architecture) -> Weights:
    """The adapter that these tensors are, shaped and typed as `like`; raises `KeyError` where one is missing."""
    adapter: Weights = {"blocks": {module: {} for module in like["blocks"]}}
    for name, factor, stack in _stacks(like, architecture):
        names = [_tensor_name(architecture, layer, name, factor) for layer in range(stack.shape[0])]
        values = np.stack([np.asarray(tensors[each]).T for each in names])
        adapter["blocks"][module_name(name)][factor] = values.reshape(stack.shape).astype(stack.dtype)
    return adapter


def _read(directory: Path, architecture: Architecture, where: str, base: Any) -> dict[str, np.ndarray]:
    """The tensors of the adapter, under the names of `to_peft`."""
    prefix, layers = re.escape(architecture.prefix), re.escape(architecture.layers)
    pattern = re.compile(
        rf"(?:base_model\.model\.)?(?:{prefix})?({layers}\d+\.(?:{'|'.join(map(re.escape, architecture.layer_names))})"
        r"\.lora_[AB])(?:\.default)?\.weight"
    )
    with opened(adapter_file(directory)) as stored:
        named = {name: pattern.fullmatch(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
        if strange := [name for name, match in named.items() if not match]:
            raise UserError(
                f"{where} was made for another model ({base!r}), or adapts more than its layers: {strange[0]} is none "
                f"of {', '.join(architecture.layer_names)}"
            )
        tensors = {
            f"{_PREFIX}{architecture.prefix}{match[1]}.weight": stored.get_tensor(name)
            for name, match in named.items()
            if match
        }
    if not tensors:
        raise UserError(f"{where} holds no tensors")
    if flat := [name for name, tensor in tensors.items() if tensor.ndim != 2]:
        raise UserError(f"{where}: {flat[0]} has shape {tensors[flat[0]].shape}, and must have two axes")
    return tensors


def _check_settings(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any], structure: ModelStructure, where: str
) -> None:
    """Raises `UserError`, naming what would be right, where rank, alpha or adapted layers are others than here."""
    lora, architecture = structure.lora, structure.architecture
    rank = next(iter(tensors.values())).shape[0 if next(iter(tensors)).endswith("lora_A.weight") else 1]
    alpha = settings.get("lora_alpha", 8) * (math.sqrt(rank) if settings.get("use_rslora") else 1)
    names = architecture.layer_names
    adapted = tuple(name for name in names if any(f".{name}.lora_" in tensor for tensor in tensors))
    wanted = architecture.adapted_layers(lora.targets)
    wrong = {
        "rank": (rank, rank != lora.rank),
        "alpha": (alpha, not math.isclose(alpha, lora.alpha, rel_tol=1e-6)),
        "targets": (f'"{adapted}"', adapted != wanted),
    }
    flags = [f"--config.model.lora.{key}={value}" for key, (value, is_wrong) in wrong.items() if is_wrong]
    if flags:
        raise UserError(f"{where} has other settings than this configuration; it needs {' '.join(flags)}")


def _check_shapes(tensors: Mapping[str, np.ndarray], structure: ModelStructure, complaint: str) -> None:
    architecture = structure.architecture
    expected = {
        _tensor_name(architecture, layer, name, factor): _flat(factor, np.empty(stack.shape[1:], np.bool)).T.shape
        for name, factor, stack in _stacks(structure.abstract_adapter, architecture)
        for layer in range(stack.shape[0])
    }
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(f"{complaint}: it has no {name}")
        if name not in expected:
            raise UserError(f"{complaint}: it has {name}, and the model does not")
        if tensors[name].shape != expected[name]:
            raise UserError(f"{complaint}: its {name} has shape {tensors[name].shape}, expected {expected[name]}")


def _stacks(adapter: Weights, architecture: Architecture) -> Iterator[tuple[str, str, Any]]:
    """Layer name, factor ("lora_a" or "lora_b"), and that factor of all layers."""
    for name in architecture.layer_names:
        for factor, stack in adapter["blocks"].get(module_name(name), {}).items():
            yield name, factor, stack


def _tensor_name(architecture: Architecture, layer: int, name: str, factor: str) -> str:
    stem = f"{_PREFIX}{architecture.prefix}{architecture.layers}{layer}"
    return f"{stem}.{name}.{factor[:-1]}{factor[-1].upper()}.weight"


def _flat(factor: str, values: np.ndarray) -> np.ndarray:
    """A, [*inputs, R], or B, [R, *outputs], with two axes."""
    rows = math.prod(values.shape[:-1]) if factor == "lora_a" else values.shape[0]
    return values.reshape(rows, -1)
