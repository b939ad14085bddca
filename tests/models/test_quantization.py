"""Frozen kernels of few bits: the error that is stated, and nothing whole kept of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MINIATURE, short_config

from gfn_jax.experiment.experiment import build
from gfn_jax.models.hf_architecture import read_architecture
from gfn_jax.models.hf_weights import load_weights
from gfn_jax.models.merging import merge
from gfn_jax.models.parts import ModelStructure
from gfn_jax.models.quantization import ERROR_BOUNDS, LARGEST_TILE, dequantize_stack, quantize_stack
from gfn_jax.policy.masks import make_rules
from gfn_jax.policy.sampler import sample
from gfn_jax.policy.scorer import score
from gfn_jax.types import LoRAConfig, Prompts

LORA = LoRAConfig(3, 6.0, ("c_attn", "c_proj", "c_fc"))
METHODS = ("int8", "nf4")


def groups(kernel, contracted, method):
    """The largest magnitude of each weight's group, by a loop over all groups."""
    largest = np.empty_like(kernel)
    size = kernel.shape[contracted - 1]
    tile = max(width for width in range(1, LARGEST_TILE + 1) if size % width == 0)
    for output in np.ndindex(kernel.shape[contracted:]):
        column = (..., *output)
        if method == "int8":
            largest[column] = np.abs(kernel[column]).max()
            continue
        for first in range(0, size, tile):
            for before in np.ndindex(kernel.shape[: contracted - 1]):
                group = (*before, slice(first, first + tile), *output)
                largest[group] = np.abs(kernel[group]).max()
    return largest


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shape", "contracted"), [((130, 7), 1), ((53, 3, 5, 2), 1), ((3, 11, 13), 2)])
def test_no_weight_changes_by_more_than_the_stated_share_of_its_group(method, shape, contracted):
    kernels = np.random.default_rng(0).standard_t(3, (2, *shape)).astype(np.float32)
    back = np.asarray(dequantize_stack(quantize_stack(jnp.asarray(kernels), contracted, method), method))
    for kernel, got in zip(kernels, back, strict=True):
        share = np.abs(got - kernel) / groups(kernel, contracted, method)
        assert share.max() <= ERROR_BOUNDS[method] * (1 + 1e-4)  # rounding of float32
        assert share.max() > 0.5 * ERROR_BOUNDS[method]  # the bound is no looser than it must be


def quantised_blocks(architecture, blocks, method):
    """Weights of stacked layers, their kernels in few bits."""

    def of(name, part, weight):
        if part != "kernel":
            return weight
        return quantize_stack(jnp.asarray(weight), architecture.input_axes(("blocks", name, part)), method)

    return {name: {part: of(name, part, weight) for part, weight in parts.items()} for name, parts in blocks.items()}


@pytest.fixture(scope="module")
def miniature():
    """The language model of the miniature: whole, and quantised by either method; and prompts for it."""
    directory = MINIATURE / "gpt2"
    architecture = read_architecture(directory)

    def structure(method):
        return ModelStructure(architecture, LORA, dtype=jnp.float32, quantize=method, remat=False)

    structures = {method: structure(method) for method in ("", *METHODS)}
    weights = {"": jax.device_put(load_weights(directory, architecture, jnp.float32))}
    for method in METHODS:
        weights[method] = weights[""] | {"blocks": quantised_blocks(architecture, weights[""]["blocks"], method)}
    rng = np.random.default_rng(0)
    prompts = Prompts(jnp.asarray(rng.integers(0, 1495, (3, 17)), jnp.int32), jnp.asarray([17, 11, 5], jnp.int32))
    adapter = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.05, x.shape), x.dtype), structures[""].abstract_adapter
    )
    return structures, weights, prompts, adapter


@pytest.mark.parametrize("method", METHODS)
def test_the_quantised_model_is_the_model_of_the_dequantised_weights(miniature, method):
    structures, weights, prompts, adapter = miniature
    quantized = weights[method]
    blocks = {
        name: parts | ({"kernel": dequantize_stack(parts["kernel"], method)} if "kernel" in parts else {})
        for name, parts in quantized["blocks"].items()
    }

    def loss(method, frozen):
        def of(adapter, frozen):
            hidden, _ = structures[method].policy(adapter, frozen).encode(prompts)
            return jnp.square(hidden).sum(), hidden

        (_, hidden), gradient = jax.jit(jax.value_and_grad(of, has_aux=True))(adapter, frozen)
        return hidden, gradient

    hidden, gradient = loss(method, quantized)
    expected, expected_gradient = loss("", quantized | {"blocks": blocks})
    np.testing.assert_allclose(hidden, expected, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max()),
        gradient,
        expected_gradient,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_merged_export_is_the_policy_over_quantised_weights(miniature, method):
    structures, weights, prompts, adapter = miniature
    merged = merge(structures[method], adapter, weights[method], jnp.dtype("float32"))

    def hidden(model):
        return np.asarray(model.encode(prompts)[0])

    expected = hidden(structures[method].policy(adapter, weights[method]))
    np.testing.assert_allclose(hidden(structures[""].frozen(jax.device_put(merged))), expected, atol=1e-4)


@pytest.mark.parametrize(("method", "most"), [("int8", 1e-3), ("nf4", 0.1)])
def test_next_token_distributions_stay_near_the_whole_model_s(miniature, method, most):
    structures, weights, prompts, _ = miniature

    def log_p(method):
        def compute(frozen):
            model = structures[method].frozen(frozen)
            return jax.nn.log_softmax(model.logits(model.encode(prompts)[0])[..., :1495])

        return np.asarray(jax.jit(compute)(weights[method]), np.float64)

    whole, quantized = log_p(""), log_p(method)
    divergence = (np.exp(whole) * (whole - quantized)).sum(-1)
    assert 0 < divergence.mean() < most


@pytest.mark.accelerator
@pytest.mark.parametrize("method", METHODS)
def test_what_is_sampled_is_what_is_scored(hugging_face_directory, method):
    architecture = read_architecture(hugging_face_directory[1])
    if method == "nf4" and jax.default_backend() == "gpu" and architecture.width % 2:
        pytest.skip("GPUs slice values of 4 bits by whole bytes: none of a layer whose weights are odd in number")
    structure = ModelStructure(architecture, LORA, dtype=jnp.float32, quantize=method, remat=False)
    weights = load_weights(hugging_face_directory[1], architecture, jnp.float32)
    weights["blocks"] = quantised_blocks(architecture, weights["blocks"], method)
    rng = np.random.default_rng(0)
    adapter = jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape).astype(x.dtype), structure.abstract_adapter)
    rows = rng.integers(0, architecture.vocab_size, (3, 11)).astype(np.int32)
    prompts = Prompts(jnp.asarray(rows), jnp.asarray([11, 6, 1], jnp.int32))
    vocabulary = architecture.vocab_size, architecture.padded_vocab_size
    rules = make_rules(np.zeros(vocabulary[0], bool), vocabulary[1], 13, 1, 7, 0.0)

    @jax.jit
    def both(adapter, frozen):
        models = structure.policy_and_frozen(adapter, frozen)
        trajectories, scores = sample(*models, rules, prompts, jax.random.key(0), samples_per_prompt=5)
        return scores, score(*models, rules, prompts, trajectories)

    drawn, scored = both(adapter, jax.device_put(weights))
    np.testing.assert_allclose(drawn.log_pf_NxL, scored.log_pf_NxL, atol=5e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_backward_pass_keeps_no_whole_kernels(miniature, method):
    """Else a model of few bits would need the memory of the whole one, for as long as an update lasts."""
    structures, weights, prompts, adapter = miniature

    def loss(adapter, frozen):
        return jnp.square(structures[method].policy(adapter, frozen).encode(prompts)[0]).sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(adapter, weights[method]))
    whole = weights[""]["blocks"]["mlp_c_fc"]["kernel"].shape
    assert f"f32[{','.join(map(str, whole[1:]))}]" in text  # one layer's
    assert f"f32[{','.join(map(str, whole))}]" not in text  # all layers'


@pytest.mark.parametrize("method", METHODS)
def test_quantised_weights_are_split_over_any_mesh(miniature, method):
    """Loaded from files straight into parts of quantised weights, they are the same model."""
    structures, weights, prompts, _ = miniature
    tokens = jnp.concatenate([prompts.tokens_BxP, prompts.tokens_BxP[:1]])
    prompts = Prompts(tokens, jnp.asarray([17, 11, 5, 17], jnp.int32))

    def hidden(structure, frozen, prompts):
        return jax.jit(lambda frozen, prompts: structure.frozen(frozen).encode(prompts)[0])(frozen, prompts)

    expected = hidden(structures[method], weights[method], prompts)
    for mesh in ({"mesh__model": 4}, {"mesh__data": 2, "mesh__model": 2, "mesh__fsdp": True}):
        experiment = build(short_config(model__quantize=method, **mesh))
        kernel = experiment.frozen["blocks"]["mlp_c_fc"]["kernel"]["qvalue"]
        assert kernel.addressable_shards[0].data.size == kernel.size / 4
        placed = experiment.rows.place(jax.tree.map(np.asarray, prompts))
        np.testing.assert_allclose(hidden(experiment.structure, experiment.frozen, placed), expected, atol=1e-4)
