"""Decoding in few kernels, as accelerators like it: the same as in the fewest FLOPs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import GROUPED, OF_TYPE

from gfn_jax.models.decoding import Decoder
from gfn_jax.models.hf_architecture import make_architecture
from gfn_jax.models.layout import WHEREVER
from gfn_jax.models.parts import ModelStructure
from gfn_jax.types import LoRAConfig, Prompts

SAMPLES, STEPS = 3, 5
WITH_WINDOWS = GROUPED | {"model_type": "gemma3_text"} | OF_TYPE["gemma3_text"]


def decoded(dtype, *, few: bool, rounded: bool = False, alpha: float = 7.0):
    """Hidden states of continuations that once change places, as in a beam search."""
    layout = dataclasses.replace(WHEREVER, has_few_kernels=few, rounds_adapter=rounded, multiple_of_samples=2)
    lora = LoRAConfig(2, alpha, ("all-linear",))
    architecture = make_architecture(WITH_WINDOWS, "GROUPED")
    structure = ModelStructure(architecture, lora, dtype=dtype, remat=False, layout=layout)
    adapter = jax.tree.map(lambda x: x + 0.3, structure.random_adapter(jax.random.key(0)))
    model = structure.policy(adapter, structure.random_frozen(jax.random.key(1)))
    numbers = np.random.default_rng(2)
    prompts = Prompts(jnp.asarray(numbers.integers(0, 6, (2, 7)), jnp.int32), jnp.asarray([7, 4], jnp.int32))
    tokens = jnp.asarray(numbers.integers(0, 6, (STEPS, 2, SAMPLES)), jnp.int32)
    parents = jnp.asarray([[2, 0, 0], [1, 1, 2]])

    @jax.jit
    def decode(model):
        decoder = Decoder(model, prompts, SAMPLES, STEPS)
        cache, hidden = decoder.empty_cache, []
        for step in range(STEPS):
            one, cache = decoder.advance(tokens[step], jnp.asarray(step), cache)
            hidden.append(one)
            if step == 2:
                cache = decoder.reordered(cache, parents)
        return jnp.stack(hidden)

    return np.asarray(decode(model).astype(jnp.promote_types(dtype, jnp.float32)))


@pytest.mark.accelerator
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("bfloat16", 0.1)])
def test_few_kernels_and_few_flops_give_the_same_hidden_states(dtype, tolerance):
    """In bfloat16 each rounds at other places; without the adapter's second factor they would be far apart."""
    with jax.enable_x64(dtype == "float64"):
        expected = decoded(jnp.dtype(dtype), few=False)
        few = decoded(jnp.dtype(dtype), few=True)
        np.testing.assert_allclose(few, expected, rtol=tolerance, atol=tolerance)
        rounded = decoded(jnp.dtype(dtype), few=True, rounded=True)
        np.testing.assert_allclose(rounded, expected, rtol=tolerance, atol=tolerance)
        assert (rounded == few).all() == (dtype == "float64")  # there the adapter is added in any case
        assert np.abs(decoded(jnp.dtype(dtype), few=False, alpha=0.0) - expected).max() > 5 * tolerance
