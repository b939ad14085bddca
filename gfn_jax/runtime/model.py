"""Loading what a configuration calls its model, and placing it on the mesh."""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gfn_jax.config import Model
from gfn_jax.errors import UserError
from gfn_jax.models import hf_weights
from gfn_jax.models.gpt2 import LAYER_NAMES, matches
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.runtime.mesh import check_weights, replicated, weight_shardings
from gfn_jax.types import LoRAConfig


class Loaded(NamedTuple):
    """A structure, a fresh adapter and frozen weights, placed on the mesh; and what identifies the frozen weights."""

    structure: ModelStructure
    adapter: Weights
    frozen: Weights
    frozen_sha256: str


def load_model(config: Model, mesh: Mesh, seed: int) -> Loaded:
    """The model that a configuration names.

    Raises `UserError` for whatever is wrong with the directory, its weights, the targets or the mesh.
    """
    for target in config.lora.targets:
        if not any(matches(target, name) for name in LAYER_NAMES):
            raise UserError(f"model.lora.targets: no layer is called {target!r}; there are {', '.join(LAYER_NAMES)}")
    if config.random_init:
        directory, architecture = None, hf_weights.named_architecture(config.name_or_path)
    else:
        directory = hf_weights.find_directory(config.name_or_path, "model.name_or_path", hf_weights.MODEL_FILES)
        architecture = hf_weights.read_architecture(directory)

    dtype = jnp.dtype(config.dtype)
    lora = LoRAConfig(config.lora.rank, config.lora.alpha, config.lora.targets)
    structure = ModelStructure(architecture, lora, dtype=dtype, remat=config.remat)
    check_weights(mesh, structure.abstract_frozen)
    shardings = weight_shardings(mesh, structure.abstract_frozen)
    adapter = jax.jit(structure.random_adapter, out_shardings=replicated(mesh))(key_for(seed, Purpose.ADAPTER))
    if directory is None:
        frozen = jax.jit(structure.random_frozen, out_shardings=shardings)(key_for(seed, Purpose.FROZEN_WEIGHTS))
        frozen_sha256 = hashlib.sha256(f"random, seed {seed}: {architecture}".encode()).hexdigest()
    else:
        frozen = jax.device_put(hf_weights.load_weights(directory, architecture, dtype), shardings)
        frozen_sha256 = hf_weights.weights_sha256(directory)
    return Loaded(structure, adapter, frozen, frozen_sha256)
