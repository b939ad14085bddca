"""Loading what a configuration calls its model, and placing it on the mesh."""

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gfn_jax.config.schema import Model
from gfn_jax.models import hf_architecture, hf_files, peft_adapters
from gfn_jax.models.architecture import ALL_LINEAR, Architecture
from gfn_jax.models.hf_weights import Index, Read, load_weights
from gfn_jax.models.layout import Layout
from gfn_jax.models.mesh import replicated
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.models.quantization import quantize_stack
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.types import LoRAConfig


class Found(NamedTuple):
    """A model's structure, and where its parts come from.

    directory  of the frozen weights; None where they are random
    adapter    what the policy begins with, on the host; None where it is a fresh one
    remark     what a user should know of it, or nothing
    """

    structure: ModelStructure
    directory: Path | None
    adapter: Weights | None
    remark: str


class Loaded(NamedTuple):
    """The adapter to begin with and the frozen weights, placed on the mesh; and what identifies the frozen weights."""

    adapter: Weights
    frozen: Weights
    frozen_sha256: str


def find_model(config: Model, layout: Layout) -> Found:
    """The model that a configuration names, its weights not yet read.

    Raises `UserError` where there is none, its layers are not those of `model.lora.targets`, or the adapter of
    `model.lora.init_from` is not one of these settings.
    """
    if config.random_init:
        directory, architecture = None, hf_architecture.named_architecture(config.name_or_path)
    else:
        directory = hf_files.find_model(config.name_or_path, "model.name_or_path")
        architecture = hf_architecture.read_architecture(directory)
    for target in config.lora.targets:
        if not architecture.adapted_layers((target,)):
            raise UserError(
                f"model.lora.targets: no layer of {config.name_or_path} is called {target!r}; there are "
                f"{', '.join(architecture.layer_names)}, and {ALL_LINEAR} for all of them"
            )
    structure = make_structure(config, architecture, layout)
    adapter, remark = None, ""
    if config.lora.init_from:
        files = hf_files.find_directory(config.lora.init_from, "model.lora.init_from", peft_adapters.FILES)
        adapter = peft_adapters.load(files, structure)
        remark = peft_adapters.remark_on_base(files, config.name_or_path)
    return Found(structure, directory, adapter, remark)


def make_structure(config: Model, architecture: Architecture, layout: Layout) -> ModelStructure:
    """The structure of a policy and its frozen model, of whatever architecture the configuration's model turned out."""
    return ModelStructure(
        architecture,
        LoRAConfig(config.lora.rank, config.lora.alpha, config.lora.targets),
        dtype=jnp.dtype(config.dtype),
        quantize=config.quantize,
        remat=config.remat,
        layout=layout,
    )


def load_model(found: Found, mesh: Mesh, shardings: Any, seed: int) -> Loaded:
    """The weights of a model, the frozen ones placed by their `shardings`, each straight from its file.

    Raises `UserError` for whatever is wrong with them.
    """
    structure, directory, adapter, _ = found
    if adapter is None:
        adapter = jax.jit(structure.random_adapter, out_shardings=replicated(mesh))(key_for(seed, Purpose.ADAPTER))
    else:
        # Not by device_put, by which several processes would compare the values with each other.
        adapter = jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, replicated(mesh), lambda index: x[index]), adapter
        )
    if directory is None:
        frozen = jax.jit(structure.random_frozen, out_shardings=shardings)(key_for(seed, Purpose.FROZEN_WEIGHTS))
        described = f"random, seed {seed}: {structure.architecture}"
        return Loaded(adapter, frozen, hashlib.sha256(described.encode()).hexdigest())
    place = functools.partial(_place, structure, shardings)
    frozen = load_weights(directory, structure.architecture, structure.dtype, place)
    return Loaded(adapter, frozen, hf_files.weights_sha256(directory))


def _place(structure: ModelStructure, shardings: Any, path: tuple[str, ...], shape: tuple[int, ...], read: Read) -> Any:
    """A weight on the mesh, of which every process reads the parts of its own devices; quantised if it is to be."""
    sharding = functools.reduce(lambda branch, key: branch[key], path, shardings)
    read = _remembering(read)
    if not isinstance(sharding, dict):
        return jax.block_until_ready(jax.make_array_from_callback(shape, sharding, read))
    wide = jnp.promote_types(structure.dtype, jnp.float32)
    whole = jax.make_array_from_callback(shape, sharding["qvalue"], functools.partial(read, dtype=wide))
    quantized = jax.jit(quantize_stack, static_argnums=(1, 2), out_shardings=sharding)
    return jax.block_until_ready(quantized(whole, structure.architecture.input_axes(path), structure.quantize))


def _remembering(read: Read) -> Read:
    """The same, reading a part once that several devices hold."""
    parts: dict[tuple, np.ndarray] = {}

    def remembered(index: Index, **how: Any) -> np.ndarray:
        bounds = tuple((part.start, part.stop) for part in index)
        if bounds not in parts:
            parts[bounds] = read(index, **how)
        return parts[bounds]

    return remembered
