"""Loading what a configuration calls its model, and placing it on the mesh."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gfn_jax.config import Model
from gfn_jax.errors import UserError
from gfn_jax.models import hf_weights
from gfn_jax.models.gpt2 import LAYER_NAMES, Layout, matches
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.runtime.mesh import replicated
from gfn_jax.types import LoRAConfig


class Found(NamedTuple):
    """A model's structure, and the directory of its weights: None where they are random."""

    structure: ModelStructure
    directory: Path | None


class Loaded(NamedTuple):
    """A fresh adapter and frozen weights, placed on the mesh; and what identifies the frozen weights."""

    adapter: Weights
    frozen: Weights
    frozen_sha256: str


def find_model(config: Model, layout: Layout) -> Found:
    """The model that a configuration names, its weights not yet read.

    Raises `UserError` where there is none, or its layers are not those of `model.lora.targets`.
    """
    for target in config.lora.targets:
        if not any(matches(target, name) for name in LAYER_NAMES):
            raise UserError(f"model.lora.targets: no layer is called {target!r}; there are {', '.join(LAYER_NAMES)}")
    if config.random_init:
        directory, architecture = None, hf_weights.named_architecture(config.name_or_path)
    else:
        directory = hf_weights.find_directory(config.name_or_path, "model.name_or_path", hf_weights.MODEL_FILES)
        architecture = hf_weights.read_architecture(directory)
    lora = LoRAConfig(config.lora.rank, config.lora.alpha, config.lora.targets)
    dtype = jnp.dtype(config.dtype)
    return Found(ModelStructure(architecture, lora, dtype=dtype, remat=config.remat, layout=layout), directory)


def load_model(found: Found, mesh: Mesh, shardings: Any, seed: int) -> Loaded:
    """The weights of a model, the frozen ones placed by their `shardings`.

    Raises `UserError` for whatever is wrong with them.
    """
    structure, directory = found
    adapter = jax.jit(structure.random_adapter, out_shardings=replicated(mesh))(key_for(seed, Purpose.ADAPTER))
    if directory is None:
        frozen = jax.jit(structure.random_frozen, out_shardings=shardings)(key_for(seed, Purpose.FROZEN_WEIGHTS))
        described = f"random, seed {seed}: {structure.architecture}"
        return Loaded(adapter, frozen, hashlib.sha256(described.encode()).hexdigest())
    weights = hf_weights.load_weights(directory, structure.architecture, structure.dtype)
    return Loaded(adapter, jax.tree.map(_place, weights, shardings), hf_weights.weights_sha256(directory))


def _place(weight: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """A weight on the mesh; every process reads the parts of its own devices."""
    return jax.make_array_from_callback(weight.shape, sharding, lambda index: weight[index])
