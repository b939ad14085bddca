"""The functions of a next-sentence training step over one mesh, and their programs compiled from shapes alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from compiled import Program
from jax.sharding import Mesh, Sharding

from gfn_jax.config import Config
from gfn_jax.models.architecture import Architecture
from gfn_jax.models.parts import ModelStructure
from gfn_jax.policy.masks import Rules, make_rules
from gfn_jax.rewards.likelihood import LikelihoodReward, make_log_likelihood
from gfn_jax.rewards.protocol import RewardContext
from gfn_jax.rows import Rows
from gfn_jax.runtime.mesh import make_mesh, model_layout, weight_shardings
from gfn_jax.runtime.train_step import StepFunctions
from gfn_jax.stopwatch import Stopwatch
from gfn_jax.types import LoRAConfig, Prompts


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
        fsdp, mesh = config.mesh.fsdp, make_mesh(config.mesh.data, config.mesh.model)
        lora = LoRAConfig(config.model.lora.rank, config.model.lora.alpha, config.model.lora.targets)
        dtype, layout = jnp.dtype(config.model.dtype), model_layout(mesh, fsdp=fsdp)
        structure = ModelStructure(architecture, lora, dtype=dtype, remat=config.model.remat, layout=layout)
        step, sampling = make_step(config, structure, mesh), config.sampling
        context, functions = step.context, step.functions
        self.adapter = structure.abstract_adapter
        self.frozen = structure.abstract_frozen
        frozen = _placed(self.frozen, weight_shardings(mesh, structure, fsdp=fsdp))
        prompts = config.train.prompts_per_step
        tokens, lengths = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((prompts, prompt_length), (prompts,)))
        batch = _placed(Prompts(tokens, lengths), context.rows.sharding)
        trajectories = _placed(jax.eval_shape(functions.sample, self.adapter, frozen, batch, 0), context.rows.sharding)
        rewards = (prompts * sampling.samples_per_prompt, sampling.max_len + 1)
        components = {"log_likelihood": jax.ShapeDtypeStruct(rewards, jnp.float32)}
        state = jax.eval_shape(functions.init, self.adapter)
        lowered = {
            "sample": functions.sample.lower(self.adapter, frozen, batch, 0),
            "likelihood": make_log_likelihood(context).lower(frozen, batch, trajectories),
            "update": functions.update.lower(state, frozen, batch, trajectories, components, None),
        }
        compiled = {name: program.compile() for name, program in lowered.items()}
        self.programs = {name: Program(each.as_text(), open_loops=sampling.max_len) for name, each in compiled.items()}
        memory = {name: each.memory_analysis() for name, each in compiled.items()}
        self.temporary = {name: each.temp_size_in_bytes for name, each in memory.items()}
        self.arguments = {name: each.argument_size_in_bytes for name, each in memory.items()}


def _placed(tree, shardings):
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, shardings)
