"""Our adapters as the PEFT library's directories, and back: the same function there and here."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfn_jax.errors import UserError
from gfn_jax.models.gpt2 import LAYER_NAMES, adapted_layers
from gfn_jax.models.hf_architecture import read_json
from gfn_jax.models.hf_files import adapter_file, opened, save_tensors
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.types import LoRAConfig

FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model.transformer."
_TENSOR_NAME = re.compile(r"(?:base_model\.model\.)?(?:transformer\.)?(h\.\d+\..*\.lora_[AB])(?:\.default)?\.weight")
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


def save(directory: Path, adapter: Weights, lora: LoRAConfig, base: str) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, for the frozen model that is called `base`."""
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(lora.targets),
        "fan_in_fan_out": True,  # GPT-2's kernels are [inputs, outputs]
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (directory / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    tensors = {f"{_PREFIX}{name}.weight": values for name, values in to_peft(adapter).items()}
    save_tensors(tensors, directory / "adapter_model.safetensors")


def load(directory: Path, structure: ModelStructure) -> Weights:
    """The adapter of a PEFT directory, on the host.

    Raises `UserError` where it is of another model, of other settings than `structure`, or more than LoRA.
    """
    settings = read_json(directory / "adapter_config.json")
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
    tensors = _read(directory, where)
    base = settings.get("base_model_name_or_path")
    _check_settings(tensors, settings, structure.lora, where)
    _check_shapes(tensors, structure.abstract_adapter, f"{where} was made for another model ({base!r})")
    return from_peft(tensors, structure.abstract_adapter)


def to_peft(adapter: Weights) -> dict[str, np.ndarray]:
    """Every layer's `lora_A` [R, inputs] and `lora_B` [outputs, R], as PEFT has them for GPT-2."""
    return {
        _tensor_name(layer, name, factor): np.ascontiguousarray(_flat(factor, np.asarray(stack[layer])).T)
        for name, factor, stack in _stacks(adapter)
        for layer in range(stack.shape[0])
    }


def from_peft(tensors: Mapping[str, np.ndarray], like: Weights) -> Weights:
    """The adapter that these tensors are, shaped and typed as `like`; raises `KeyError` where one is missing."""
    adapter: Weights = {"blocks": {module: {} for module in like["blocks"]}}
    for name, factor, stack in _stacks(like):
        layers = [np.asarray(tensors[_tensor_name(layer, name, factor)]).T for layer in range(stack.shape[0])]
        adapter["blocks"][_module(name)][factor] = np.stack(layers).reshape(stack.shape).astype(stack.dtype)
    return adapter


def _read(directory: Path, where: str) -> dict[str, np.ndarray]:
    """The tensors of the adapter, under the names of `to_peft`."""
    with opened(adapter_file(directory)) as stored:
        named = {name: _TENSOR_NAME.fullmatch(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
        if strange := [name for name, match in named.items() if not match]:
            raise UserError(
                f"{where} has tensors that are not LoRA factors of GPT-2's layers, such as {strange[0]}: it was made "
                "for a model of another architecture, or also adapts embeddings"
            )
        tensors = {match[1]: stored.get_tensor(name) for name, match in named.items() if match}
    if not tensors:
        raise UserError(f"{where} holds no tensors")
    if flat := [name for name, tensor in tensors.items() if tensor.ndim != 2]:
        raise UserError(f"{where}: {flat[0]} has shape {tensors[flat[0]].shape}, and must have two axes")
    return tensors


def _check_settings(
    tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any], lora: LoRAConfig, where: str
) -> None:
    """Raises `UserError`, naming what would be right, where rank, alpha or adapted layers are not those of `lora`."""
    rank = next(iter(tensors.values())).shape[0 if next(iter(tensors)).endswith("lora_A") else 1]
    alpha = settings.get("lora_alpha", 8) * (math.sqrt(rank) if settings.get("use_rslora") else 1)
    adapted = tuple(name for name in LAYER_NAMES if any(f".{name}.lora_" in tensor for tensor in tensors))
    wanted = adapted_layers(lora.targets)
    wrong = {
        "rank": (rank, rank != lora.rank),
        "alpha": (alpha, not math.isclose(alpha, lora.alpha, rel_tol=1e-6)),
        "targets": (f'"{adapted}"', adapted != wanted),
    }
    flags = [f"--config.model.lora.{key}={value}" for key, (value, is_wrong) in wrong.items() if is_wrong]
    if flags:
        raise UserError(f"{where} has other settings than this configuration; it needs {' '.join(flags)}")


def _check_shapes(tensors: Mapping[str, np.ndarray], like: Weights, complaint: str) -> None:
    expected = {
        _tensor_name(layer, name, factor): _flat(factor, np.empty(stack.shape[1:], np.bool)).T.shape
        for name, factor, stack in _stacks(like)
        for layer in range(stack.shape[0])
    }
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(f"{complaint}: it has no {name}")
        if name not in expected:
            raise UserError(f"{complaint}: it has {name}, and the model does not")
        if tensors[name].shape != expected[name]:
            raise UserError(f"{complaint}: its {name} has shape {tensors[name].shape}, expected {expected[name]}")


def _stacks(adapter: Weights) -> Iterator[tuple[str, str, Any]]:
    """Layer name, factor ("lora_a" or "lora_b"), and that factor of all layers."""
    for name in LAYER_NAMES:
        for factor, stack in adapter["blocks"].get(_module(name), {}).items():
            yield name, factor, stack


def _module(name: str) -> str:
    return name.replace(".", "_")


def _tensor_name(layer: int, name: str, factor: str) -> str:
    return f"h.{layer}.{name}.{factor[:-1]}{factor[-1].upper()}"


def _flat(factor: str, values: np.ndarray) -> np.ndarray:
    """A, [*inputs, R], or B, [R, *outputs], with two axes."""
    rows = math.prod(values.shape[:-1]) if factor == "lora_a" else values.shape[0]
    return values.reshape(rows, -1)
