"""A model's weights between Hugging Face's names and shapes and ours."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfn_jax.models.architecture import HEAD, Architecture, Tensor
from gfn_jax.models.architecture import Path as WeightPath
from gfn_jax.models.hf_files import opened, weight_files
from gfn_jax.runtime.errors import UserError

Index = tuple[slice, ...]
Read = Callable[..., np.ndarray]
"""Reads a part of a weight, an `Index`, from its files; in the model's dtype, unless another `dtype` is asked for."""
Place = Callable[[WeightPath, tuple[int, ...], Read], Any]
"""What becomes of the weight at a path, of a shape, whose parts can be read."""


def load_weights(directory: Path, architecture: Architecture, dtype: Any, place: Place | None = None) -> dict[str, Any]:
    """The frozen weights as nested dicts, layers stacked, vocabulary padded with zeros.

    `place` makes of each weight what stands in the dicts, by default a numpy array; a stack is read layer by
    layer, so that no second copy of the model is in memory. Raises `UserError`, naming tensors, where any is
    missing, unexpected, given twice or wrongly shaped, before anything is placed.
    """
    place = place or _read_whole
    source = _Source(directory, architecture)
    weights: dict[str, Any] = {}
    for tensor in architecture.top_tensors:
        shape = tensor.shape
        if _is_of_vocabulary(tensor):
            shape = (architecture.padded_vocab_size, *shape[1:])
        read = functools.partial(source.read, tensor, dtype=dtype)
        _put(weights, tensor.path, place(tensor.path, shape, read))
    for tensor in architecture.layer_tensors:
        path, shape = ("blocks", *tensor.path), (architecture.depth, *tensor.shape)
        _put(weights, path, place(path, shape, functools.partial(source.read_stack, tensor, dtype=dtype)))
    return weights


def to_hugging_face(
    weights: Mapping[str, Any], architecture: Architecture
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Every tensor's name in a causal language model of Hugging Face's, and a function that fetches its values."""

    def fetch(tensor: Tensor, weight: Any, part: int | slice) -> np.ndarray:
        return tensor.to_stored(np.asarray(weight[part]))

    for tensor in architecture.top_tensors:
        full = tensor.name if tensor.name == HEAD else f"{architecture.prefix}{tensor.name}"
        rows = slice(tensor.shape[0])  # without those that pad the vocabulary
        yield full, functools.partial(fetch, tensor, _get(weights, tensor.path), rows)
    for layer in range(architecture.depth):
        for tensor in architecture.layer_tensors:
            weight = _get(weights, ("blocks", *tensor.path))
            name = f"{architecture.prefix}{architecture.layers}{layer}.{tensor.name}"
            yield name, functools.partial(fetch, tensor, weight, layer)


class _Source:
    """The tensors of a model's files, whose names and shapes were found to be those of the architecture."""

    def __init__(self, directory: Path, architecture: Architecture):
        self._architecture = architecture
        expected = tensor_shapes(architecture)
        embedding = architecture.token_embedding
        self._places: dict[str, tuple[Path, str]] = {}
        unexpected, tied = [], None
        for file in weight_files(directory):
            with opened(file) as tensors:
                for stored in tensors.keys():  # noqa: SIM118 (not a mapping)
                    name = stored.removeprefix(architecture.prefix)
                    shape = tuple(tensors.get_slice(stored).get_shape())
                    if name.endswith(architecture.ignored):
                        continue
                    if name == HEAD and architecture.tie_word_embeddings:
                        tied = file, stored, shape
                        continue
                    if name not in expected:
                        unexpected.append(name)
                    elif name in self._places:
                        raise UserError(f"{directory}: tensor {name} is given twice")
                    elif shape != expected[name]:
                        raise UserError(
                            f"{directory}: tensor {name} has shape {shape}, expected {expected[name]}, "
                            "which config.json says"
                        )
                    else:
                        self._places[name] = (file, stored)
        if tied and embedding not in self._places and tied[2] == expected[embedding]:
            self._places[embedding] = tied[:2]  # of two names for one tensor some programs keep this
        if unexpected:
            raise UserError(f"{directory}: unexpected tensors: {_some(unexpected)}")
        if missing := [name for name in expected if name not in self._places]:
            raise UserError(f"{directory}: missing tensors: {_some(missing)}")

    def read(self, tensor: Tensor, index: Index, *, dtype: Any) -> np.ndarray:
        """A part of a tensor, whose first axis may be padded with zeros behind its end."""
        values = self._tensor(tensor.name)
        padded = self._architecture.padded_vocab_size if _is_of_vocabulary(tensor) else len(values)
        rows = range(*index[0].indices(padded))
        real = values[(slice(rows.start, rows.stop), *index[1:])]
        part = np.zeros((len(rows), *real.shape[1:]), dtype)
        part[: len(real)] = real
        return part

    def read_stack(self, tensor: Tensor, index: Index, *, dtype: Any) -> np.ndarray:
        """A part of all layers' tensors of this name, in our shape."""
        layers = range(*index[0].indices(self._architecture.depth))
        sizes = [len(range(*part.indices(size))) for part, size in zip(index[1:], tensor.shape, strict=True)]
        stack = np.empty((len(layers), *sizes), dtype)
        for row, layer in zip(stack, layers, strict=True):
            values = self._tensor(f"{self._architecture.layers}{layer}.{tensor.name}")
            row[...] = tensor.from_stored(values)[index[1:]]
        return stack

    def _tensor(self, name: str) -> np.ndarray:
        file, stored = self._places[name]
        with opened(file) as tensors:  # and closed again, or the whole file would be mapped into memory in the end
            return tensors.get_tensor(stored)


def _read_whole(path: WeightPath, shape: tuple[int, ...], read: Read) -> np.ndarray:
    return read((slice(None),) * len(shape))


def tensor_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors by Hugging Face's names, without their common prefix."""
    shapes = {tensor.name: tensor.stored_shape for tensor in architecture.top_tensors}
    for layer in range(architecture.depth):
        shapes |= {
            f"{architecture.layers}{layer}.{tensor.name}": tensor.stored_shape for tensor in architecture.layer_tensors
        }
    return shapes


def _is_of_vocabulary(tensor: Tensor) -> bool:
    return tensor.axes[0].name == "vocabulary"


def _put(tree: dict[str, Any], path: WeightPath, value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _get(tree: Mapping[str, Any], path: WeightPath) -> Any:
    return functools.reduce(lambda branch, key: branch[key], path, tree)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
