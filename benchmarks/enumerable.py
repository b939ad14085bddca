"""Problems small enough that every continuation can be listed, and the exact distribution of a policy over them."""

import itertools
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gfn_jax.models.architecture import Architecture
from gfn_jax.models.gpt2 import GPT2Config
from gfn_jax.models.language_model import LanguageModel
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.policy.masks import Rules, make_rules
from gfn_jax.policy.scorer import score
from gfn_jax.rewards.protocol import Reward
from gfn_jax.types import LoRAConfig, Prompts, Scores, Trajectories


class TinyWorld:
    """A random policy over few enough tokens that all of its continuations can be listed.

    The vocabulary holds `words` items that may be used, then ⊤, then `banned` items that may not.
    There are two prompts, unless others are given. The frozen model's logits are scaled down by `logit_scale`,
    so that every string can be met by sampling.
    """

    def __init__(
        self,
        *,
        words: int,
        min_len: int,
        max_len: int,
        banned: int = 1,
        support_min_p: float = 0.0,
        width: int = 22,
        heads: int = 2,
        rank: int = 3,
        embedding_std: float = 1.0,
        logit_scale: float = 1.0,
        dtype: Any = jnp.float32,
        adapter_std: float = 0.3,
        prompts: Prompts | None = None,
        architecture: Architecture | None = None,
    ):
        """The architecture is GPT-2's with `width` and `heads`, unless one of as many vocabulary items is given."""
        self.words, self.max_len = words, max_len
        self.prompts = prompts or Prompts(jnp.array([[1, 2, 0, 0, 0], [0, 1, 1, 2, 1]]), jnp.array([2, 5]))
        architecture = architecture or GPT2Config(
            vocab_size=words + 1 + banned, n_positions=19, n_embd=width, n_layer=2, n_head=heads
        )
        lora = LoRAConfig(rank, 2.0 * rank, ("all-linear",))
        self.structure = ModelStructure(architecture, lora, dtype=dtype, remat=False)
        rng = np.random.default_rng(1)
        stds = dict.fromkeys(("token_embedding", "position_embedding"), embedding_std)
        stds |= {"kernel": 1 / np.sqrt(width), "bias": 0.1}

        def frozen_leaf(path, leaf):
            mean, std = float(path[-1].key == "scale"), stds.get(path[-1].key, 0.1)
            return jnp.asarray(rng.normal(mean, std, leaf.shape), leaf.dtype)

        def adapter_leaf(path, leaf):
            return jnp.asarray(rng.normal(0, adapter_std, leaf.shape), leaf.dtype)

        with_path = jax.tree_util.tree_map_with_path
        self.frozen: Weights = with_path(frozen_leaf, self.structure.abstract_frozen)
        self.frozen["final_norm"] = jax.tree.map(lambda leaf: leaf * logit_scale, self.frozen["final_norm"])
        self.adapter: Weights = with_path(adapter_leaf, self.structure.abstract_adapter)
        is_banned = np.zeros(architecture.vocab_size, bool)
        is_banned[words + 1 :] = True
        self.rules: Rules = make_rules(
            is_banned, architecture.padded_vocab_size, words, min_len, max_len, support_min_p
        )
        self._log_probs = jax.jit(self._exact_log_probs)

    def fresh_adapter(self, seed: int = 0) -> Weights:
        """An adapter that changes nothing yet."""
        rng = np.random.default_rng([2, seed])

        def leaf(path, like):
            std = 0.0 if path[-1].key == "lora_b" else 0.3
            return jnp.asarray(rng.normal(0, std, like.shape), like.dtype)

        return jax.tree_util.tree_map_with_path(leaf, self.structure.abstract_adapter)

    def policy(self, adapter: Weights | None = None) -> LanguageModel:
        return self.structure.policy(self.adapter if adapter is None else adapter, self.frozen)

    def frozen_model(self) -> LanguageModel:
        return self.structure.frozen(self.frozen)

    def strings(self) -> list[tuple[int, ...]]:
        """Every word string of at most the maximum length, shortest first."""
        lengths = range(self.max_len + 1)
        return [string for length in lengths for string in itertools.product(range(self.words), repeat=length)]

    def all_continuations(self) -> Trajectories:
        """Every string once for each prompt (prompt-major)."""
        strings, prompts = self.strings(), len(self.prompts.length_B)
        tokens = np.zeros((len(strings), self.max_len), np.int32)
        for row, string in zip(tokens, strings, strict=True):
            row[: len(string)] = string
        lengths = np.array([len(string) for string in strings], np.int32)
        return Trajectories.given(jnp.tile(tokens, (prompts, 1)), jnp.tile(lengths, prompts))

    def exact_log_probs(self, adapter: Weights) -> np.ndarray:
        """log π(y ⊤ | x) of every string, one row for each prompt; -inf where the masks forbid it."""
        return np.asarray(self._log_probs(adapter), np.float64).reshape(len(self.prompts.length_B), -1)

    def _exact_log_probs(self, adapter):
        everything = self.all_continuations()
        scores = score(self.policy(adapter), self.frozen_model(), self.rules, self.prompts, everything)
        return log_prob_of_stopping(scores, everything)


def log_prob_of_stopping(scores: Scores, trajectories: Trajectories) -> jax.Array:
    """log π(y ⊤) of each trajectory, -inf where it may not stop."""
    last = trajectories.length_N[:, None]
    may_stop = jnp.take_along_axis(scores.is_terminable_NxT, last, 1)[:, 0]
    log_pterm = jnp.take_along_axis(scores.log_pterm_NxT, last, 1)[:, 0]
    return jnp.where(may_stop, scores.log_pf_NxL.sum(1) + log_pterm, -jnp.inf)


class TableReward(Reward):
    """log R from a table [prompts, strings] over the strings of a `TinyWorld`, of which `table` may be replaced."""

    def __init__(self, world: TinyWorld, table: np.ndarray, granularity: Literal["prefix", "terminal"] = "prefix"):
        self.granularity: Literal["prefix", "terminal"] = granularity
        self.table = jnp.asarray(table, jnp.float32)
        self._look_up = jax.jit(partial(_look_up, words=world.words))

    def components(self, frozen, examples, prompts, trajectories) -> dict[str, jax.Array]:
        return self.look_up(self.table, trajectories)

    def look_up(self, table: jax.Array, trajectories: Trajectories) -> dict[str, jax.Array]:
        """The components from another table."""
        return {"log_r": self._look_up(table, trajectories.tokens_NxL)}

    def combine(self, components, step) -> jax.Array:
        return components["log_r"]


def _look_up(table, tokens_NxL, words):
    """log R of every prefix; prefixes are numbered as `TinyWorld.strings` lists them."""
    numbers = [jnp.zeros(tokens_NxL.shape[0], jnp.int32)]
    for step in range(tokens_NxL.shape[1]):
        numbers.append(numbers[-1] * words + 1 + tokens_NxL[:, step])
    prompt_N = jnp.repeat(jnp.arange(table.shape[0]), tokens_NxL.shape[0] // table.shape[0])
    return table[prompt_N[:, None], jnp.stack(numbers, 1)]


def target_distribution(world: TinyWorld, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R / Z over all strings that the masks allow, one row for each prompt, and log Z of each prompt."""
    may_be_sampled = np.isfinite(world.exact_log_probs(world.fresh_adapter()))
    log_r = np.where(may_be_sampled, np.asarray(table, np.float64), -np.inf)
    log_z = np.logaddexp.reduce(log_r, axis=1)
    return np.exp(log_r - log_z[:, None]), log_z


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Half the sum of absolute differences, for each row."""
    return 0.5 * np.abs(p - q).sum(1)
