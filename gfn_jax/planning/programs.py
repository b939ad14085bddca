"""A run's compiled functions from a configuration and shapes alone: no weights, no examples, no tokenizer, no judge.

The programs are those that training compiles (`experiment/step_calls.py`, `evaluation/validation.py`), with a reward of
the frozen model's likelihood: what a judge says is another array beside it.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding

from gfn_jax.config.schema import Config
from gfn_jax.evaluation.methods import all_methods, make_draw, prompts_at_once
from gfn_jax.evaluation.validation import ValidationFunctions
from gfn_jax.experiment.step_calls import StepCalls
from gfn_jax.experiment.train_step import StepFunctions
from gfn_jax.models.architecture import Architecture
from gfn_jax.models.layout import WHEREVER
from gfn_jax.models.loading import make_structure
from gfn_jax.models.mesh import batch_size, check_splits, make_mesh, model_layout, replicated, weight_shardings
from gfn_jax.models.parts import ModelStructure
from gfn_jax.policy.masks import Rules, make_rules
from gfn_jax.rewards.answering import Answerer
from gfn_jax.rewards.likelihood import LikelihoodReward
from gfn_jax.rewards.protocol import Call, RewardContext
from gfn_jax.runtime.rows import Rows
from gfn_jax.runtime.stopwatch import Stopwatch
from gfn_jax.types import Prompts

CHARACTERS_PER_TOKEN = 4
"""Assumed of the answer template, as there is no tokenizer."""


class Named(NamedTuple):
    """A call, and what it is to a user.

    length   that its prompts are padded to
    devices  that share its work
    turns    of a loop whose end depends on its data, at most
    """

    name: str
    length: int
    call: Call
    devices: int
    turns: int


class _NoTokenizer:
    """Stands in where only masks over the vocabulary are made of a tokenizer, whose values change no program."""

    items: Sequence[bytes] = ()
    special_ids: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a run compiles, over one mesh."""

    config: Config
    structure: ModelStructure
    mesh: Mesh
    rules: Rules
    context: RewardContext
    reward: LikelihoodReward
    functions: StepFunctions

    @functools.cached_property
    def frozen(self) -> Any:
        """The shapes of the frozen weights, and where they lie."""
        shardings = weight_shardings(self.mesh, self.structure, fsdp=self.config.mesh.fsdp)
        return _placed(self.structure.abstract_frozen, shardings)

    @functools.cached_property
    def state(self) -> Any:
        """The shapes of a training state, which every device has all of."""
        state = jax.eval_shape(self.functions.init, self.structure.abstract_adapter)
        return _placed(state, replicated(self.mesh))

    @property
    def calls(self) -> StepCalls:
        rows = self.context.rows.sharding
        return StepCalls(self.config, self.functions, self.reward, self.state, self.frozen, rows)

    def step(self, length: int) -> Iterator[Named]:
        """Sampling, likelihood and update of a step whose prompts are padded to this length."""
        calls = self.calls
        types = {"log_likelihood": jnp.promote_types(self.structure.dtype, jnp.float32)}
        yield self._named("sample", length, calls.sample(length))
        yield from (self._named("likelihood", length, call) for call in calls.rewards(length))
        yield self._named("update", length, calls.update(length, types))

    def validation(self, length: int) -> Iterator[Named]:
        rows = self.context.rows.sharding
        functions = ValidationFunctions(
            self.structure, self.rules, rows, self.config.eval.samples_per_prompt, self.config.seed
        )
        prompts = Prompts.shapes(self.config.eval.prompts_per_batch, length, rows)
        for call in functions.to_compile(self.structure.abstract_adapter, self.frozen, prompts):
            yield self._named(f"val. {call.function.__name__}", length, call)

    def comparison(self, length: int, samples: int) -> Iterator[Named]:
        """What `gfn_jax.evaluate` draws so many continuations of a prompt by: each way of drawing once."""
        batch, ways, rows = self.config.eval.prompts_per_batch, batch_size(self.mesh), self.context.rows.sharding
        key, draw = jax.eval_shape(lambda: jax.random.key(0)), make_draw(self.structure, self.rules)
        distinct = {method.draw: method for method in reversed(all_methods(samples, 1.0))}
        for method in reversed(distinct.values()):
            prompts = Prompts.shapes(prompts_at_once(method, batch, samples, ways), length, rows)
            call = Call(draw, (method.draw, self.state.adapter, self.frozen, prompts, key, method.arguments))
            name = method.family if method.family == "nucleus" else method.name
            yield self._named(f"eval. {name}", length, call)

    def _named(self, name: str, length: int, call: Call) -> Named:
        """A program whose loop, if its end depends on data, reads all tokens but the last one that it draws."""
        return Named(name, length, call, self.mesh.size, self.config.sampling.max_len - 1)

    def answers(self) -> Iterator[Named]:
        """The frozen model's answers to questions, where the reward asks for some."""
        config = self.config.reward.answers
        before, _, _ = config.template.partition("{")
        beginning, bare = (len(text) // CHARACTERS_PER_TOKEN for text in (before, config.template))
        answerer = Answerer(
            config,
            self.context.own_structure,
            self.context.tokenizer,
            self.config.data.prompt_buckets,
            self.context.rows.local(),
            beginning=[0] * beginning,
            room=bare + self.config.sampling.max_len + 1,
        )
        for call in answerer.to_compile(self._own_frozen()):
            length = call.arguments[1].tokens_BxP.shape[1]
            yield Named("answers", length, call, self.context.rows.local_mesh.size, config.max_new_tokens - 1)

    def _own_frozen(self) -> Any:
        local = self.context.rows.local_mesh

        def own(leaf: Any) -> Any:
            return leaf.update(sharding=jax.sharding.NamedSharding(local, leaf.sharding.spec))

        return jax.tree.map(own, self.frozen)


def outline(
    config: Config,
    structure: ModelStructure,
    mesh: Mesh,
    banned: np.ndarray | None = None,
    terminator: int = 13,
) -> Outline:
    """The functions of a configuration over a mesh, whose devices need not be here, as training compiles them there.

    `banned` is a mask over the vocabulary; which item ends a text changes no program. Raises
    `UserError` where the configuration does not fit the mesh.
    """
    structure = structure.with_layout(model_layout(mesh, fsdp=config.mesh.fsdp))
    check_splits("train.prompts_per_step", config.train.prompts_per_step, batch_size(mesh))
    check_splits("eval.prompts_per_batch", config.eval.prompts_per_batch, batch_size(mesh))
    architecture, sampling, rows = structure.architecture, config.sampling, Rows(mesh)
    banned = np.zeros(architecture.vocab_size, bool) if banned is None else banned
    padded = architecture.padded_vocab_size
    rules = make_rules(banned, padded, terminator, sampling.min_len, sampling.max_len, sampling.support_min_p)
    own_structure = structure.with_layout(model_layout(rows.local_mesh, fsdp=config.mesh.fsdp))
    no_tokenizer: Any = _NoTokenizer()
    settings = config.reward, sampling.max_len, config.data.prompt_buckets
    context = RewardContext(*settings, structure, own_structure, no_tokenizer, terminator, rows, Stopwatch())
    reward = LikelihoodReward(context)
    return Outline(
        config, structure, mesh, rules, context, reward, StepFunctions(config, structure, reward, rules, mesh)
    )


def outline_for(config: Config, architecture: Architecture, devices: Sequence[Any] | None = None) -> Outline:
    """The same over the mesh that the configuration asks for, of these devices or of all that are here."""
    mesh = make_mesh(config.mesh.data, config.mesh.model, devices, batches=config.batches)
    return outline(config, make_structure(config.model, architecture, WHEREVER), mesh)


def _placed(tree: Any, shardings: Any) -> Any:
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, shardings)
