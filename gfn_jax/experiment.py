"""A configuration brought to life: its task's examples, its text, its model and its compiled functions."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gfn_jax.config import Config
from gfn_jax.errors import UserError
from gfn_jax.models.hf_weights import TOKENIZER_FILES, find_directory
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.objectives import USES_INNER_STATES
from gfn_jax.policy.masks import Rules, make_rules
from gfn_jax.rewards.protocol import Components, Reward
from gfn_jax.runtime.mesh import by_prompt, check_divisible, make_mesh
from gfn_jax.runtime.model import load_model
from gfn_jax.runtime.startup import configure_jax
from gfn_jax.runtime.train_step import StepFunctions
from gfn_jax.tasks import TASKS
from gfn_jax.text.prompts import indices_of_step, pad_to_bucket
from gfn_jax.text.tokenizer import Tokenizer
from gfn_jax.text.vocabulary import banned_items, terminator_id
from gfn_jax.types import Prompts, Trajectories


@dataclasses.dataclass(frozen=True)
class Examples:
    """A task's examples; `validation` is never trained on."""

    train: list[Any]
    validation: list[Any]
    seed: int

    @classmethod
    def load(cls, config: Config) -> "Examples":
        """Raises `UserError` where the data is missing, empty or too little to split."""
        return cls(*TASKS[config.task.name]().load(config.data), config.seed)

    def sha256(self) -> str:
        """The hash of all examples in their order."""
        return hashlib.sha256(repr((self.train, self.validation)).encode()).hexdigest()

    def of_step(self, step: int, count: int) -> list[Any]:
        """The training examples of an optimiser step (from 0): a function of the seed and the step alone."""
        return [self.train[index] for index in indices_of_step(step, count, len(self.train), self.seed)]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a command needs but the data; with the fresh `adapter` the policy is the frozen model."""

    config: Config
    mesh: Mesh
    task: Any
    tokenizer: Tokenizer
    structure: ModelStructure
    adapter: Weights
    frozen: Weights
    rules: Rules
    reward: Reward
    functions: StepFunctions

    def check_lengths(self, examples: Sequence[Any], *, in_buckets: bool = True) -> None:
        """Raises `UserError`, naming a prompt, where one is empty, leaves no room to go on, or fits no bucket."""
        texts = [self.task.prompt(example) for example in examples]
        lengths = [len(self.tokenizer.encode(text)) for text in texts]
        if min(lengths) == 0:
            raise UserError("a prompt is empty: the policy needs at least one token to continue")
        longest = max(lengths)
        named = f"the prompt {texts[lengths.index(longest)][:60]!r}... has {longest} tokens"
        max_len, largest = self.config.sampling.max_len, max(self.config.data.prompt_buckets)
        room = self.structure.architecture.n_positions - max_len
        if longest > room:
            raise UserError(f"{named}, but the model's context leaves {room} beside sampling.max_len = {max_len}")
        if in_buckets and longest > largest:
            raise UserError(f"{named}, but the largest of data.prompt_buckets is {largest}")

    def encode(self, examples: Sequence[Any], like: Sequence[Any] = ()) -> Prompts:
        """The examples' prompts as token rows on the mesh, in a bucket that also holds those of `like`."""
        rows, others = (
            [self.tokenizer.encode(self.task.prompt(example)) for example in some] for some in (examples, like)
        )
        longest = max(map(len, (*rows, *others)))
        return jax.device_put(pad_to_bucket(rows, self.config.data.prompt_buckets, longest), by_prompt(self.mesh))

    def final_log_r(self, components: Components) -> jax.Array:
        """log R [N, T] as the end of training has it: the last step's weights, the end temperature."""
        last_step = jnp.asarray(self.config.train.steps)
        return self.reward.combine(components, last_step) / self.config.reward.temperature_end

    def texts(self, trajectories: Trajectories) -> list[str]:
        """The continuations as text, each with its terminator."""
        rows = zip(np.asarray(trajectories.tokens_NxL), np.asarray(trajectories.length_N), strict=True)
        return [self.tokenizer.decode([*tokens[:length].tolist(), self.rules.terminator]) for tokens, length in rows]


def build(config: Config) -> Experiment:
    """Reads, checks and places everything that the configuration names, the cheapest first; writes nothing.

    Raises `UserError` for whatever the user can mend.
    """
    task = TASKS[config.task.name]()
    if task.granularity == "terminal" and config.objective.name in USES_INNER_STATES:
        raise UserError(
            f"objective {config.objective.name!r} compares the states of one text, and the reward of task "
            f"{config.task.name!r} is of whole texts alone: it would cancel out of the loss. Choose objective.name "
            "vargrad or tb, or a reward that gives every prefix its own value"
        )
    tokenizer_key = "model.tokenizer" if config.model.tokenizer else "model.name_or_path"
    tokenizer_name = config.model.tokenizer or config.model.name_or_path
    tokenizer = Tokenizer(find_directory(tokenizer_name, tokenizer_key, TOKENIZER_FILES))
    terminator = terminator_id(tokenizer, config.task.terminator)
    banned = np.any(list(banned_items(tokenizer, config.task.terminator, config.task.bans).values()), axis=0)

    configure_jax(config.model.dtype)
    mesh = make_mesh(config.mesh.data, config.mesh.model)
    check_divisible(mesh, "train.microbatch_prompts", config.train.microbatch_prompts, "data")
    check_divisible(mesh, "eval.prompts_per_batch", config.eval.prompts_per_batch, "data")
    structure, adapter, frozen = load_model(config.model, mesh, config.seed)
    vocabulary = structure.architecture.vocab_size
    if len(tokenizer.items) > vocabulary:
        raise UserError(f"the tokenizer has {len(tokenizer.items)} items, but the model's vocabulary only {vocabulary}")

    sampling = config.sampling
    rules = make_rules(
        banned,
        structure.architecture.padded_vocab_size,
        terminator,
        sampling.min_len,
        sampling.max_len,
        sampling.support_min_p,
    )
    reward = task.reward(structure, terminator)
    functions = StepFunctions(config, structure, reward, rules, mesh)
    return Experiment(config, mesh, task, tokenizer, structure, adapter, frozen, rules, reward, functions)
