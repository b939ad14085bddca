"""A configuration brought to life: its task's examples, its text, its model and its compiled functions."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gfn_jax import objectives
from gfn_jax.config.reading import without_younger_keys
from gfn_jax.config.schema import Config, check_terminal_reward
from gfn_jax.experiment.snapshot import Snapshot
from gfn_jax.experiment.train_step import StepFunctions
from gfn_jax.models.hf_files import TOKENIZER_FILES, find_directory
from gfn_jax.models.loading import find_model, load_model
from gfn_jax.models.mesh import batch_size, check_splits, make_mesh, model_layout, weight_shardings
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.policy.masks import Rules, make_rules
from gfn_jax.replay.entry import NOTHING
from gfn_jax.rewards.addition import Addition
from gfn_jax.rewards.function import with_function
from gfn_jax.rewards.protocol import Components, Reward, RewardContext
from gfn_jax.rewards.sentences import with_sentences
from gfn_jax.rewards.user_function import Function
from gfn_jax.runtime.content import text_sha256
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.rows import Rows
from gfn_jax.runtime.startup import configure_jax
from gfn_jax.runtime.stopwatch import Stopwatch
from gfn_jax.tasks import Task, make_task
from gfn_jax.text.prompts import bucket_of, pad_to_bucket
from gfn_jax.text.seen_prompts import SeenPrompts
from gfn_jax.text.tokenizer import Tokenizer
from gfn_jax.text.vocabulary import banned_items, terminator_id
from gfn_jax.types import Prompts, Scores, Trajectories

_AT_ONCE = 1024  # examples whose prompts are tokenised together

_OF_REWARDS: dict[str, Any] = {
    "task": True,
    "model": {"dtype", "quantize", "matmul_precision"},
    "reward": {
        "granularity": True,
        "answers": {"template", "min_new_tokens", "max_new_tokens"},
        "nli": {"contradiction_label", "max_length", "dtype"},
        "sentences": {"label", "max_length", "dtype"},
        "function": {"name", "granularity"},
    },
}
"""The configuration that a reward's components depend on, beside what `Experiment.content` names."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a command needs but the data; `adapter` is what training begins with.

    A context, at whose end whatever the reward started is ended. `remark` is what a user should know of where the
    model comes from, or nothing.
    """

    config: Config
    mesh: Mesh
    rows: Rows
    task: Task
    tokenizer: Tokenizer
    structure: ModelStructure
    adapter: Weights
    frozen: Weights
    frozen_sha256: str
    rules: Rules
    reward: Reward
    functions: StepFunctions
    stopwatch: Stopwatch
    remark: str = ""

    def __enter__(self) -> "Experiment":
        return self

    def __exit__(self, *_: object) -> None:
        self.reward.close()

    @functools.cached_property
    def model_content(self) -> dict[str, str]:
        """Hashes of what the policy is made of beside its adapter, by what a user calls each."""
        return {
            "weights of model.name_or_path": self.frozen_sha256,
            "config.json of model.name_or_path": text_sha256(repr(self.structure.architecture)),
            "tokenizer of model.tokenizer": self.tokenizer.sha256,
        }

    @functools.cached_property
    def content(self) -> dict[str, str]:
        """The same of all that a run goes on with: the reward's judges too, whose files are read for it."""
        return {**self.model_content, **self.reward.judges()}

    @functools.cached_property
    def _of_all_rewards(self) -> dict[str, Any]:
        return {
            "reward": _identity(self.reward),
            "content": self.content,
            "config": without_younger_keys(self.config.model_dump(mode="json", include=_OF_REWARDS)),
        }

    def content_key(self, example: Any) -> str:
        """What names an example by all that its rewards' components depend on, in every process and every run."""
        said = self._of_all_rewards | {
            "prompt": self.task.prompt(example),
            "example": dict(self.task.describe(example)),
        }
        return text_sha256(json.dumps(said, sort_keys=True))[:32]

    def request_check(self, examples: Sequence[Any]) -> Callable[[], None]:
        """Starts what checks examples on the reward's behalf; every process asks about some of them.

        Calling what it returns waits, and raises `UserError` where the reward has no use for an example.
        """
        return self.reward.request_check(examples[jax.process_index() :: jax.process_count()])

    def check_prompts(self, examples: Sequence[Any], *, in_buckets: bool = True) -> None:
        """Raises `UserError`, naming an example, where a prompt is empty, leaves no room to go on or fits no bucket."""
        lengths = self.lengths(examples)
        if min(lengths) == 0:
            raise UserError("a prompt is empty: the policy needs at least one token to continue")
        longest = max(lengths)
        text = self.task.prompt(examples[lengths.index(longest)])
        named = f"the prompt {text[:60]!r}... has {longest} tokens"
        max_len, largest = self.config.sampling.max_len, max(self.config.data.prompt_buckets)
        room = self.structure.architecture.context - max_len
        if longest > room:
            raise UserError(f"{named}, but the model's context leaves {room} beside sampling.max_len = {max_len}")
        if in_buckets and longest > largest:
            raise UserError(f"{named}, but the largest of data.prompt_buckets is {largest}")

    def encode(self, examples: Sequence[Any], like: Sequence[Any] = ()) -> Prompts:
        """The prompts of a batch's examples as token rows on the mesh, in a bucket that also holds those of `like`.

        Every process encodes its own.
        """
        longest = max(self.lengths([*examples, *like]))
        own = self.tokenizer.encode_prompts([self.task.prompt(example) for example in self.rows.own(examples)])
        return self.rows.place(pad_to_bucket(own, self.config.data.prompt_buckets, longest, self.common_beginning))

    def buckets(self, examples: Sequence[Any]) -> list[int]:
        """The lengths that batches of these examples are padded to."""
        return sorted({bucket_of(length, self.config.data.prompt_buckets) for length in set(self.lengths(examples))})

    def lengths(self, examples: Sequence[Any]) -> list[int]:
        """How many tokens each example's prompt has; none is tokenised twice."""
        found: list[int] = []
        for first in range(0, len(examples), _AT_ONCE):
            found += self._prompts.lengths(
                [self.task.prompt(example) for example in examples[first : first + _AT_ONCE]]
            )
        return found

    @property
    def common_beginning(self) -> tuple[int, ...]:
        """What the prompts of all examples begin with that were looked at so far, where that is long enough to tell."""
        return self._prompts.beginning

    @functools.cached_property
    def _prompts(self) -> SeenPrompts:
        return SeenPrompts(self.tokenizer.encode_prompts)

    def final_log_r(self, components: Components) -> jax.Array:
        """log R [N, T] as the end of training has it: the last phase's weights, the end temperature."""
        end = jnp.asarray(jnp.iinfo(jnp.int32).max)
        return self.reward.combine(components, end) / self.config.reward.temperature_end

    def of_states(self, scores: Scores, components: Components) -> tuple[jax.Array, jax.Array]:
        """g and log R [N, T], as the end of training has them; traceable."""
        log_r_NxT = self.final_log_r(components)
        return objectives.log_ratio(scores, log_r_NxT), log_r_NxT

    def at_stop(self, scores: Scores, components: Components) -> tuple[jax.Array, jax.Array]:
        """g and log R [N] where each trajectory stops, as the end of training has them; traceable."""
        g_NxT, log_r_NxT = self.of_states(scores, components)
        g_N, log_r_N = (objectives.at_last_state(values, scores.is_terminable_NxT) for values in (g_NxT, log_r_NxT))
        return g_N, log_r_N

    def beginning(self) -> Snapshot:
        """What a run begins with; a snapshot to restore is shaped and placed likewise."""
        functions = self.functions
        return Snapshot(functions.init(jax.tree.map(jnp.copy, self.adapter)), functions.no_trajectories(), NOTHING)

    def continuation(self, text: str) -> list[int]:
        """The tokens of a continuation from elsewhere, with or without the terminator's text at its end.

        Raises `UserError` where the terminator stands before, as whatever the policy writes ends with it.
        """
        terminator = self.config.task.terminator
        words = text.strip().removesuffix(terminator).strip()
        tokens = self.tokenizer.encode_continuation(f" {words}")
        if self.rules.terminator in tokens:
            raise UserError(f"{text[:60]!r} goes on after {terminator!r}, which ends whatever the policy writes")
        return tokens

    def texts(self, trajectories: Trajectories) -> list[str]:
        """The continuations of this process's rows as text, each with its terminator."""
        own = self.rows.fetch(trajectories)
        rows = zip(own.tokens_NxL, own.length_N, strict=True)
        return [self.tokenizer.decode([*tokens[:length].tolist(), self.rules.terminator]) for tokens, length in rows]


def _identity(reward: Reward) -> list[Any]:
    """The class and version of a reward, and before it those of the reward that it is made of."""
    inner = _identity(reward.inner) if isinstance(reward, Addition) else []
    return [*inner, f"{type(reward).__module__}:{type(reward).__qualname__}", reward.version]


def build(config: Config, function: Function | None = None) -> Experiment:
    """Reads, checks and places everything that the configuration names, the cheapest first; writes nothing.

    A `function` is the one that `reward.function.name` is the name of, where it need not be imported.
    Raises `UserError` for whatever the user can mend.
    """
    task = make_task(config)
    tokenizer_key = "model.tokenizer" if config.model.tokenizer else "model.name_or_path"
    tokenizer_name = config.model.tokenizer or config.model.name_or_path
    tokenizer = Tokenizer(find_directory(tokenizer_name, tokenizer_key, TOKENIZER_FILES))
    terminator = terminator_id(tokenizer, config.task.terminator)
    banned = np.any(list(banned_items(tokenizer, config.task.terminator, task.bans()).values()), axis=0)

    configure_jax(config.model.dtype, config.model.matmul_precision)
    mesh = make_mesh(config.mesh.data, config.mesh.model, batches=config.batches)
    rows = Rows(mesh)
    check_splits("eval.prompts_per_batch", config.eval.prompts_per_batch, batch_size(mesh))
    fsdp = config.mesh.fsdp
    found = find_model(config.model, model_layout(mesh, fsdp=fsdp))
    structure = found.structure
    shardings = weight_shardings(mesh, structure, fsdp=fsdp)
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
    stopwatch = Stopwatch()
    own_structure = structure.with_layout(model_layout(rows.local_mesh, fsdp=fsdp))
    context = RewardContext(
        config.reward,
        sampling.max_len,
        config.data.prompt_buckets,
        structure,
        own_structure,
        tokenizer,
        terminator,
        rows,
        stopwatch,
        task.prompt,
        function,
    )
    reward = with_sentences(with_function(task.reward(context), context), context)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(reward.close)
        if reward.granularity == "terminal":
            check_terminal_reward(config.objective.name)
        functions = StepFunctions(config, structure, reward, rules, mesh)
        loaded = load_model(found, mesh, shardings, config.seed)
        on_failure.pop_all()
    parts = rules, reward, functions, stopwatch, found.remark
    return Experiment(config, mesh, rows, task, tokenizer, structure, *loaded, *parts)
