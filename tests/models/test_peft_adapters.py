"""Adapters under PEFT's names: the same function there and here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import GPT2LMHeadModel

from gfn_jax.models.hf_weights import load_weights, read_architecture
from gfn_jax.models.parts import ModelStructure
from gfn_jax.models.peft_adapters import from_peft, to_peft
from gfn_jax.types import LoRAConfig, Prompts


@pytest.mark.parametrize(("rank", "targets"), [(1, ("attn.c_proj",)), (5, ("c_attn", "c_proj", "c_fc"))])
def test_peft_computes_the_same_with_our_adapter(hugging_face_directory, rank, targets):
    _, directory = hugging_face_directory
    architecture = read_architecture(directory)
    structure = ModelStructure(architecture, LoRAConfig(rank, 7.0, targets), dtype=jnp.float32, remat=False)
    rng = np.random.default_rng(0)
    adapter = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), structure.abstract_adapter)
    tokens = rng.integers(0, architecture.vocab_size, (2, 11)).astype(np.int32)

    @jax.jit
    def ours(frozen):
        policy = structure.policy(adapter, frozen)
        return policy.logits(policy.encode(Prompts(jnp.asarray(tokens), jnp.full(2, 11, jnp.int32)))[0])

    settings = LoraConfig(r=rank, lora_alpha=7, target_modules=list(targets), fan_in_fan_out=True)
    theirs = get_peft_model(GPT2LMHeadModel.from_pretrained(directory), settings).eval()
    tensors = {name: torch.from_numpy(values) for name, values in to_peft(adapter).items()}
    assert tensors.keys() == get_peft_model_state_dict(theirs).keys()
    set_peft_model_state_dict(theirs, tensors)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    got = np.asarray(ours(load_weights(directory, architecture, jnp.float32)))[..., : architecture.vocab_size]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    back = from_peft(get_peft_model_state_dict(theirs), structure.abstract_adapter)
    jax.tree.map(np.testing.assert_array_equal, back, adapter)
