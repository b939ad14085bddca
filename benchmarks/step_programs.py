"""The functions of a next-sentence training step over one mesh, and their programs compiled from shapes alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compiled import Program
from jax.sharding import Mesh, Sharding

from gfn_jax.config.schema import Config
from gfn_jax.experiment.batches import Replayed
from gfn_jax.experiment.train_step import StepFunctions
from gfn_jax.models.architecture import Architecture
from gfn_jax.models.mesh import make_mesh, model_layout, weight_shardings
from gfn_jax.models.parts import ModelStructure
from gfn_jax.policy.masks import Rules, make_rules
from gfn_jax.rewards.likelihood import LikelihoodReward, make_log_likelihood
from gfn_jax.rewards.protocol import RewardContext
from gfn_jax.runtime.rows import Rows
from gfn_jax.runtime.stopwatch import Stopwatch
from gfn_jax.types import LoRAConfig, Prompts, Trajectories


@dataclasses.dataclass(frozen=True)
class Step:
    """What a training step calls."""

    context: RewardContext
    rules: Rules
    reward: LikelihoodReward
    functions: StepFunctions


def make_step(
    config: Config, structure: ModelStructure, mesh: Mesh, *, terminator: int = 13, banned: np.ndarray | None = None
) -> Step:
    """The step of a configuration whose tokenizer is not there; `banned` is a mask over the vocabulary."""
    architecture, sampling = structure.architecture, config.sampling
    banned = np.zeros(architecture.vocab_size, bool) if banned is None else banned
    padded = architecture.padded_vocab_size
    rules = make_rules(banned, padded, terminator, sampling.min_len, sampling.max_len, sampling.support_min_p)
    context = RewardContext(config, structure, structure, None, terminator, Rows(mesh), Stopwatch())
    reward = LikelihoodReward(context)
    return Step(context, rules, reward, StepFunctions(config, structure, reward, rules, mesh))


class StepPrograms:
    """`sample`, `likelihood` and `update` of next-sentence continuation, as one device runs them.

    programs   by name
    temporary  bytes that each needs beside its arguments
    arguments  bytes of its arguments, weights among them, on one device
    """

    def __init__(self, config: Config, architecture: Architecture, prompt_length: int):
        structure, sampling = make_structure(config, architecture), config.sampling
        self.adapter, self.frozen = structure.abstract_adapter, structure.abstract_frozen
        lowered = lowered_programs(config, architecture, prompt_length)
        compiled = {name: program.compile() for name, program in lowered.items()}
        self.programs = {name: Program(each.as_text(), open_loops=sampling.max_len) for name, each in compiled.items()}
        memory = {name: each.memory_analysis() for name, each in compiled.items()}
        self.temporary = {name: each.temp_size_in_bytes for name, each in memory.items()}
        self.arguments = {name: each.argument_size_in_bytes for name, each in memory.items()}


def make_structure(config: Config, architecture: Architecture) -> ModelStructure:
    """The structure of a configuration's policy and frozen model over its mesh."""
    lora = LoRAConfig(config.model.lora.rank, config.model.lora.alpha, config.model.lora.targets)
    layout = model_layout(make_mesh(config.mesh.data, config.mesh.model), fsdp=config.mesh.fsdp)
    dtype = jnp.dtype(config.model.dtype)
    return ModelStructure(architecture, lora, dtype=dtype, remat=config.model.remat, layout=layout)


def placed_weights(config: Config, architecture: Architecture) -> Any:
    """The shapes of the frozen weights, and where they lie."""
    structure = make_structure(config, architecture)
    mesh = make_mesh(config.mesh.data, config.mesh.model)
    return _placed(structure.abstract_frozen, weight_shardings(mesh, structure, fsdp=config.mesh.fsdp))


def lowered_programs(config: Config, architecture: Architecture, prompt_length: int) -> dict[str, Any]:
    """`sample`, `likelihood` and `update`, lowered from shapes, by name."""
    structure, mesh = make_structure(config, architecture), make_mesh(config.mesh.data, config.mesh.model)
    step, sampling = make_step(config, structure, mesh), config.sampling
    context, functions, adapter = step.context, step.functions, structure.abstract_adapter
    frozen = placed_weights(config, architecture)
    prompts = config.train.prompts_per_step
    tokens, lengths = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((prompts, prompt_length), (prompts,)))
    batch = _placed(Prompts(tokens, lengths), context.rows.sharding)
    trajectories = _placed(jax.eval_shape(functions.sample, adapter, frozen, batch, 0), context.rows.sharding)
    rows = prompts * (sampling.samples_per_prompt - config.replayed_per_prompt)
    components = {"log_likelihood": jax.ShapeDtypeStruct((rows, sampling.max_len + 1), jnp.float32)}
    replayed = None
    if config.replayed_per_prompt:
        replayed = _remembered(prompts * config.replayed_per_prompt, sampling.max_len)
    state = jax.eval_shape(functions.init, adapter)
    return {
        "sample": functions.sample.lower(adapter, frozen, batch, 0),
        "likelihood": make_log_likelihood(context).lower(frozen, batch, trajectories),
        "update": functions.update.lower(state, frozen, batch, trajectories, components, replayed),
    }


def _remembered(rows: int, length: int) -> Replayed:
    def shape(*sizes: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, *sizes), dtype)

    trajectories = Trajectories(
        shape(length, dtype=jnp.int32), shape(dtype=jnp.int32), shape(length + 1, dtype=jnp.bool)
    )
    return Replayed(trajectories, {"log_likelihood": shape(length + 1, dtype=jnp.float32)}, shape(dtype=jnp.bool))


def _placed(tree, shardings):
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, shardings)
