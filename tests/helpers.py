"""What several tests build: small models, rules and configurations."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import GPT2Config as HFConfig
from transformers import GPT2LMHeadModel

from configs.common import base
from gfn_jax.config import Config, parse_config
from gfn_jax.models.gpt2 import GPT2Config
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.policy.masks import Rules, make_rules
from gfn_jax.types import LoRAConfig, Prompts, Trajectories

ROOT = Path(__file__).parent.parent
MINIATURE = ROOT / "data" / "miniworld"


def save_gpt2(directory: Path, **settings: Any) -> GPT2LMHeadModel:
    """A Hugging Face GPT-2 with weights large enough to matter, saved to a directory."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(HFConfig(**settings, attn_pdrop=0, embd_pdrop=0, resid_pdrop=0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(directory)
    return model


def config(**overrides: Any) -> Config:
    """The common configuration with dotted keys (written with __ for the dots) overridden."""
    raw = base()
    for dotted, value in overrides.items():
        *sections, key = dotted.split("__")
        section = raw
        for name in sections:
            section = section[name]
        section[key] = value
    return parse_config(raw.to_dict())


class TinyWorld:
    """A random policy over few enough tokens that all of its continuations can be listed.

    The vocabulary holds `words` items that may be used, then ⊤, then `banned` items that may not.
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
        dtype: Any = jnp.float32,
        adapter_std: float = 0.3,
    ):
        self.words, self.max_len = words, max_len
        architecture = GPT2Config(vocab_size=words + 1 + banned, n_positions=19, n_embd=width, n_layer=2, n_head=heads)
        lora = LoRAConfig(rank, 2.0 * rank, ("c_attn", "c_proj", "c_fc"))
        self.structure = ModelStructure(architecture, lora, dtype=dtype, remat=False)
        rng = np.random.default_rng(1)
        stds = {"wte": embedding_std, "wpe": embedding_std, "kernel": 1 / np.sqrt(width), "bias": 0.1}

        def frozen_leaf(path, leaf):
            std = stds.get(path[-1].key, 0.1)
            return jnp.asarray(rng.normal(1.0 if path[-1].key == "scale" else 0.0, std, leaf.shape), leaf.dtype)

        def adapter_leaf(path, leaf, fresh):
            std = 0.0 if fresh and path[-1].key == "lora_b" else adapter_std
            return jnp.asarray(rng.normal(0, std, leaf.shape), leaf.dtype)

        with_path = jax.tree_util.tree_map_with_path
        self.frozen: Weights = with_path(frozen_leaf, self.structure.abstract_frozen)
        self.fresh: Weights = with_path(partial(adapter_leaf, fresh=True), self.structure.abstract_adapter)
        self.adapter: Weights = with_path(partial(adapter_leaf, fresh=False), self.structure.abstract_adapter)
        is_banned = np.zeros(architecture.vocab_size, bool)
        is_banned[words + 1 :] = True
        self.rules: Rules = make_rules(
            is_banned, architecture.padded_vocab_size, words, min_len, max_len, support_min_p
        )
        self.prompts = Prompts(jnp.array([[1, 2, 0, 0, 0], [0, 1, 1, 2, 1]]), jnp.array([2, 5]))

    def policy(self, adapter: Weights | None = None):
        return self.structure.policy(self.adapter if adapter is None else adapter, self.frozen)

    def frozen_model(self):
        return self.structure.frozen(self.frozen)

    def all_continuations(self) -> Trajectories:
        """Every word string of at most the maximum length, once for each prompt (prompt-major)."""
        strings = [
            string
            for length in range(self.max_len + 1)
            for string in itertools.product(range(self.words), repeat=length)
        ]
        tokens = np.zeros((len(strings), self.max_len), np.int32)
        for row, string in zip(tokens, strings, strict=True):
            row[: len(string)] = string
        lengths = np.array([len(string) for string in strings], np.int32)
        return Trajectories(jnp.tile(tokens, (2, 1)), jnp.tile(lengths, 2))
