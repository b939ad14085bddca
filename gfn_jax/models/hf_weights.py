"""GPT-2's weights between Hugging Face's names and shapes and ours."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfn_jax.errors import UserError
from gfn_jax.models.gpt2 import GPT2Config
from gfn_jax.models.gpt2 import Path as WeightPath
from gfn_jax.models.hf_files import opened, weight_files

Index = tuple[slice, ...]
Read = Callable[..., np.ndarray]
"""Reads a part of a weight, an `Index`, from its files; in the model's dtype, unless another `dtype` is asked for."""
Place = Callable[[WeightPath, tuple[int, ...], Read], Any]
"""What becomes of the weight at a path, of a shape, whose parts can be read."""

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
_OF_VOCABULARY = ("wte.weight", "lm_head.weight")
_BUFFERS = (".attn.bias", ".attn.masked_bias")  # causal masks that old checkpoints carry


def load_weights(directory: Path, config: GPT2Config, dtype: Any, place: Place | None = None) -> dict[str, Any]:
    """The frozen weights as nested dicts, layers stacked, vocabulary padded with zeros.

    `place` makes of each weight what stands in the dicts, by default a numpy array; a stack is read layer by
    layer, so that no second copy of the model is in memory. Raises `UserError`, naming tensors, where any is
    missing, unexpected, given twice or wrongly shaped, before anything is placed.
    """
    place = place or _read_whole
    source = _Source(directory, config)
    weights: dict[str, Any] = {}
    for name in filter(source.expected.__contains__, _TOP_TENSORS):
        shape = source.expected[name]
        if name in _OF_VOCABULARY:
            shape = (config.padded_vocab_size, *shape[1:])
        path = _TOP_TENSORS[name]
        _put(weights, path, place(path, shape, functools.partial(source.read, name, dtype=dtype)))
    for name, tail in _LAYER_TENSORS.items():
        path, shape = ("blocks", *tail), (config.n_layer, *_our_shape(name, config))
        _put(weights, path, place(path, shape, functools.partial(source.read_stack, name, dtype=dtype)))
    return weights


def to_hugging_face(weights: Mapping[str, Any], config: GPT2Config) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Every tensor's name in a GPT2LMHeadModel, and a function that fetches its values."""
    shapes = tensor_shapes(config)

    def fetch(weight: Any, shape: tuple[int, ...], part: int | slice) -> np.ndarray:
        return np.asarray(weight[part]).reshape(shape)

    for name in _TOP_TENSORS:
        if name in shapes:
            full = name if name == "lm_head.weight" else f"transformer.{name}"
            rows = slice(shapes[name][0])  # without those that pad the vocabulary
            yield full, functools.partial(fetch, _get(weights, _TOP_TENSORS[name]), shapes[name], rows)
    for layer in range(config.n_layer):
        for name, tail in _LAYER_TENSORS.items():
            shape = shapes[f"h.{layer}.{name}"]
            weight = _get(weights, ("blocks", *tail))
            yield f"transformer.h.{layer}.{name}", functools.partial(fetch, weight, shape, layer)


class _Source:
    """The tensors of a model's files, whose names and shapes were found to be those of the architecture."""

    def __init__(self, directory: Path, config: GPT2Config):
        self._config, self.expected = config, tensor_shapes(config)
        self._places: dict[str, tuple[Path, str]] = {}
        unexpected, tied = [], None
        for file in weight_files(directory):
            with opened(file) as tensors:
                for stored in tensors.keys():  # noqa: SIM118 (not a mapping)
                    name = stored.removeprefix("transformer.")
                    shape = tuple(tensors.get_slice(stored).get_shape())
                    if name.endswith(_BUFFERS):
                        continue
                    if name == "lm_head.weight" and config.tie_word_embeddings:
                        tied = file, stored, shape
                        continue
                    if name not in self.expected:
                        unexpected.append(name)
                    elif name in self._places:
                        raise UserError(f"{directory}: tensor {name} is given twice")
                    elif shape != self.expected[name]:
                        raise UserError(
                            f"{directory}: tensor {name} has shape {shape}, expected {self.expected[name]}, "
                            "which config.json says"
                        )
                    else:
                        self._places[name] = (file, stored)
        if tied and "wte.weight" not in self._places and tied[2] == self.expected["wte.weight"]:
            self._places["wte.weight"] = tied[:2]  # of two names for one tensor some programs keep this
        if unexpected:
            raise UserError(f"{directory}: unexpected tensors: {_some(unexpected)}")
        if missing := [name for name in self.expected if name not in self._places]:
            raise UserError(f"{directory}: missing tensors: {_some(missing)}")

    def read(self, name: str, index: Index, *, dtype: Any) -> np.ndarray:
        """A part of a tensor, whose first axis may be padded with zeros behind its end."""
        tensor = self._tensor(name)
        rows = range(*index[0].indices(self._config.padded_vocab_size if name in _OF_VOCABULARY else len(tensor)))
        real = tensor[(slice(rows.start, rows.stop), *index[1:])]
        part = np.zeros((len(rows), *real.shape[1:]), dtype)
        part[: len(real)] = real
        return part

    def read_stack(self, name: str, index: Index, *, dtype: Any) -> np.ndarray:
        """A part of all layers' tensors of this name, in our shape."""
        layers, shape = range(*index[0].indices(self._config.n_layer)), _our_shape(name, self._config)
        sizes = [len(range(*part.indices(size))) for part, size in zip(index[1:], shape, strict=True)]
        stack = np.empty((len(layers), *sizes), dtype)
        for row, layer in zip(stack, layers, strict=True):
            row[...] = self._tensor(f"h.{layer}.{name}").reshape(shape)[index[1:]]
        return stack

    def _tensor(self, name: str) -> np.ndarray:
        file, stored = self._places[name]
        with opened(file) as tensors:  # and closed again, or the whole file would be mapped into memory in the end
            return tensors.get_tensor(stored)


def _read_whole(path: WeightPath, shape: tuple[int, ...], read: Read) -> np.ndarray:
    return read((slice(None),) * len(shape))


def _our_shape(name: str, config: GPT2Config) -> tuple[int, ...]:
    """A layer's tensor as we have it: heads on axes of their own."""
    head_axes = (config.n_head, config.n_embd // config.n_head)
    split_axes = {
        "attn.c_attn.weight": (config.n_embd, 3, *head_axes),
        "attn.c_attn.bias": (3, *head_axes),
        "attn.c_proj.weight": (*head_axes, config.n_embd),
    }
    return split_axes.get(name) or _layer_shape(name, config)


def _layer_shape(name: str, config: GPT2Config) -> tuple[int, ...]:
    """A layer's tensor as Hugging Face has it."""
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    shapes = {
        "attn.c_attn.weight": (width, 3 * width),
        "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width),
        "mlp.c_fc.weight": (width, inner),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, width),
    }
    return shapes.get(name, (width,))


def tensor_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors by Hugging Face's names, without the prefix `transformer.`."""
    shapes = {
        "wte.weight": (config.vocab_size, config.n_embd),
        "wpe.weight": (config.n_positions, config.n_embd),
        "ln_f.weight": (config.n_embd,),
        "ln_f.bias": (config.n_embd,),
    }
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, config.n_embd)
    for layer in range(config.n_layer):
        shapes |= {f"h.{layer}.{name}": _layer_shape(name, config) for name in _LAYER_TENSORS}
    return shapes


def _put(tree: dict[str, Any], path: WeightPath, value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _get(tree: Mapping[str, Any], path: WeightPath) -> Any:
    return functools.reduce(lambda branch, key: branch[key], path, tree)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
