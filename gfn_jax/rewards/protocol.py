"""What a reward must offer to be trained on."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax

from gfn_jax.config import schema
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.runtime.rows import Rows
from gfn_jax.runtime.stopwatch import Stopwatch
from gfn_jax.text.tokenizer import Tokenizer
from gfn_jax.types import Prompts, Trajectories

Components = Mapping[str, jax.Array]
"""The untempered terms of log R by name, each [N, T]: the value of stopping at each state."""


class Call(NamedTuple):
    """A function that `jax.jit` made, and what it is called with: arrays, or their shapes."""

    function: Any
    arguments: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class RewardContext:
    """What a reward may be built from.

    settings       the configuration's section `reward`
    max_len        the most tokens of a continuation, without ⊤
    prompt_buckets  the lengths that prompts are padded to
    structure      the model, for what all processes compute together
    own_structure  the same, for what this one computes alone on its own devices
    rows           how a batch's leading axis lies on the mesh, and which of them are this process's
    stopwatch      for the phases of `request` that the main process itself spends time on
    prompt         the text that an example's continuations go on from
    function       a reward of the user's, where it was given as a function and not by its name alone
    """

    settings: schema.Reward
    max_len: int
    prompt_buckets: tuple[int, ...]
    structure: ModelStructure
    own_structure: ModelStructure
    tokenizer: Tokenizer
    terminator: int
    rows: Rows
    stopwatch: Stopwatch
    prompt: Callable[[Any], str] = str
    function: Callable[[list[str], list[str]], Any] | None = None


class Reward(abc.ABC):
    """log R in two steps: its components, which may cost a lot, and their combination, which is pure.

    granularity  "prefix" where every terminable state has its own log R, "terminal" where only the last has
    version      raised whenever the same example and text come to other components, so that none are
                 replayed that were computed otherwise
    gives_log_likelihood  whether a component "log_likelihood" is what `rewards.likelihood.log_likelihood` computes, so
                 that a comparison of methods need not
    """

    granularity: Literal["prefix", "terminal"] = "prefix"
    version: int = 1
    gives_log_likelihood: bool = False

    def components(
        self, frozen: Weights, examples: Sequence[Any], prompts: Prompts, trajectories: Trajectories
    ) -> Components:
        """The components of every terminable state of every trajectory.

        Prompts, trajectories and components are of the whole batch; `examples` are those of this process's
        rows (`RewardContext.rows`).
        """
        return self.request(frozen, examples, prompts, trajectories)()

    def request(
        self, frozen: Weights, examples: Sequence[Any], prompts: Prompts, trajectories: Trajectories
    ) -> Callable[[], Components]:
        """The same for a reward that others work on: starts them; calling what it returns waits for them.

        A reward overrides one of the two.
        """
        components = self.components(frozen, examples, prompts, trajectories)
        return lambda: components

    @abc.abstractmethod
    def combine(self, components: Components, step: jax.Array) -> jax.Array:
        """log R [N, T] before tempering, at an optimiser step; traced."""

    def check(self, examples: Sequence[Any]) -> None:
        """Raises `UserError` where there is an example that the reward can do nothing with.

        Each process is given some of the examples.
        """

    def request_check(self, examples: Sequence[Any]) -> Callable[[], None]:
        """The same for a reward whose own models check: starts them; calling what it returns waits for them."""
        return lambda: self.check(examples)

    def to_compile(self, frozen: Weights, prompts: Prompts, trajectories: Trajectories) -> Sequence[Call]:
        """What computing a batch's components will call, to be compiled ahead; of the batch, only shapes are given."""
        return ()

    def explain(self, frozen: Weights, examples: Sequence[Any], texts: Sequence[str]) -> list[dict[str, Any]]:
        """What a person would want to read beside each example's continuation: such as the answer to a question.

        Some processes are asked, others not: what is computed here is computed by one alone.
        """
        return [{} for _ in texts]

    def judges(self) -> Mapping[str, str]:
        """Hashes of the models, beside the frozen one, that the components depend on, by what a user calls each.

        A run goes on, and remembers components, only while they are what they were.
        """
        return {}

    def close(self) -> None:
        """Ends what the reward started."""
