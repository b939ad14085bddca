"""Every architecture computes what transformers computes: logits, gradients, frequencies; and reads its settings."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from architectures import LENGTH, LLAMA3, MODELS, SMALL, YARN, save_model
from safetensors.torch import save_file
from transformers import AutoConfig, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from gfn_jax.models.hf_architecture import make_architecture, named_architecture, read_architecture
from gfn_jax.models.hf_weights import load_weights
from gfn_jax.models.parts import ModelStructure
from gfn_jax.runtime.errors import UserError
from gfn_jax.types import LoRAConfig, Prompts

LORA = LoRAConfig(3, 6.0, ("all-linear",))
TOKENS = 13


@pytest.mark.accelerator
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_equal_hugging_face(name, tmp_path):
    directory = tmp_path / "model"
    theirs = save_model(directory, MODELS[name])
    architecture = read_architecture(directory)
    structure = ModelStructure(architecture, LORA, dtype=jnp.float32, remat=False)
    frozen = load_weights(directory, architecture, jnp.float32)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, architecture.vocab_size, (3, TOKENS)).astype(np.int32)
    prompts = Prompts(jnp.asarray(tokens), jnp.array([TOKENS, TOKENS - 4, 1]))
    is_real = np.arange(TOKENS)[None] < np.asarray(prompts.length_B)[:, None]
    cotangent = rng.normal(size=(*is_real.shape, architecture.vocab_size)).astype(np.float32) * is_real[..., None]

    def logits(frozen):
        model = structure.frozen(frozen)
        return model.logits(model.encode(prompts)[0])

    @jax.jit
    def both(frozen):
        ours, pullback = jax.vjp(logits, frozen)
        padded = jnp.pad(cotangent, [(0, 0), (0, 0), (0, ours.shape[-1] - cotangent.shape[-1])])
        return ours, pullback(padded)[0]

    ours, gradient = jax.device_get(both(frozen))
    their_logits = theirs(torch.from_numpy(tokens).long()).logits
    scale = their_logits.abs().max().item()
    np.testing.assert_allclose(
        ours[is_real][:, : architecture.vocab_size], their_logits.detach().numpy()[is_real], rtol=0, atol=1e-4 * scale
    )
    assert np.isneginf(ours[..., architecture.vocab_size :]).all()
    (their_logits * torch.asarray(cotangent)).sum().backward()
    # Their gradients, saved as if they were weights, come into our layout by the tested loader.
    tensors = {name: parameter.grad.clone() for name, parameter in theirs.named_parameters()}
    save_file(tensors, tmp_path / "model.safetensors")
    expected = load_weights(tmp_path, architecture, jnp.float32)
    assert jax.tree.structure(expected) == jax.tree.structure(gradient)
    for want, got in zip(jax.tree.leaves(expected), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default"},
        {"rope_type": "default", "rope_theta": 1e5},
        {"rope_type": "linear", "factor": 3.7, "rope_theta": 1e6},
        LLAMA3 | {"rope_theta": 5e5, "original_max_position_embeddings": 8192},
        LLAMA3 | {"rope_theta": 5e5, "original_max_position_embeddings": 8192, "factor": 32.0},
        YARN | {"rope_theta": 1e6, "original_max_position_embeddings": 4096},
        YARN | {"rope_theta": 1e6, "beta_fast": 16, "beta_slow": 2, "truncate": False},
        YARN | {"rope_theta": 1e6, "mscale": 0.7, "mscale_all_dim": 1.3, "original_max_position_embeddings": 512},
        YARN | {"rope_theta": 1e4, "attention_factor": 1.1, "original_max_position_embeddings": 512},
    ],
    ids=lambda parameters: parameters["rope_type"],
)
@pytest.mark.parametrize("head_dim", [26, 64, 128])
def test_rotary_frequencies_are_those_of_transformers(parameters, head_dim):
    """Equal to the last bit, but where PyTorch's power is not correctly rounded: a wrong setting changes more."""
    config = LlamaConfig(head_dim=head_dim, max_position_embeddings=32768, rope_parameters=dict(parameters))
    theirs = LlamaRotaryEmbedding(config)
    raw = SMALL | {"model_type": "llama", "num_attention_heads": 2, "head_dim": head_dim}
    given = {"rope_theta": 1e4} | parameters
    newer = make_architecture(raw | {"max_position_embeddings": 32768, "rope_parameters": given}, "config.json")
    scaling = {"type" if name == "rope_type" else name: value for name, value in given.items() if name != "rope_theta"}
    older = {"rope_theta": given["rope_theta"], "rope_scaling": scaling if len(scaling) > 1 else None}
    for architecture in (newer, make_architecture(raw | {"max_position_embeddings": 32768} | older, "config.json")):
        rotary = architecture.kinds[0].rotary
        ours, expected = rotary.frequencies(), theirs.inv_freq.numpy()
        np.testing.assert_allclose(ours, expected, rtol=2.0**-22)
        assert (ours == expected).mean() > 0.9
        assert rotary.amplitude == theirs.attention_scaling


BASE = {name: config.to_dict() for name, config in MODELS.items()}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama tied, three share", {"rope_parameters": {"rope_type": "longrope"}}, "is 'longrope', and there"),
        ("llama tied, three share", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic', and there are"),
        ("llama tied, three share", {"rope_scaling": {"type": "linear"}}, "rope_parameters.factor is missing"),
        ("llama tied, three share", {"rope_parameters": YARN | {"alpha": 3}}, "not known here.* rope_parameters.alpha"),
        ("llama tied, three share", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, and only 1"),
        ("llama tied, three share", {"num_key_value_heads": 4}, "num_attention_heads 6 is not divisible by num_key"),
        ("llama tied, three share", {"hidden_size": "wide"}, "hidden_size"),
        ("llama tied, three share", {"residual_multiplier": 0.2, "xyz": 1}, "not known .*: residual_multiplier, xyz"),
        ("llama tied, three share", {"quantization_config": {"bits": 4}}, "quantization_config is"),
        ("llama tied, three share", {"hidden_act": "swish2"}, "hidden_act is 'swish2', and there are"),
        ("gemma3 tied, none share", {"final_logit_softcapping": 30.0}, "softcapping is 30.0, and only None"),
        ("gemma3 tied, none share", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu', and only"),
        ("qwen2 tied, three share", {"layer_types": ["chunked_attention"] * 3}, "layer_types is 'chunked_attention'"),
        ("qwen3 untied, three share", {"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe'; there are gpt2, llama"),
        ("gpt2 tied", {"n_ctx": 5, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ],
)  # fmt: skip
def test_settings_that_are_not_computed_are_refused_in_one_line(name, change, message):
    with pytest.raises(UserError, match=message) as caught:
        make_architecture(json.loads(json.dumps(BASE[name])) | change, "config.json")
    assert "\n" not in str(caught.value)


def test_defaults_of_absent_keys_are_those_of_transformers():
    heads = {"num_attention_heads": 6, "hidden_size": 60, "num_hidden_layers": 30, "max_position_embeddings": 32768}
    raw = {**SMALL, **heads, "num_key_value_heads": 3}
    make_architecture(raw | {"model_type": "llama", "max_sequence_length": 2048}, "an older file")
    make_architecture(raw | {"model_type": "qwen2", "use_mrope": False}, "an older file")
    windows = {}
    for kind in ("llama", "mistral", "qwen2", "qwen3", "gemma3_text"):
        ours = make_architecture({**raw, "model_type": kind}, "config.json")
        theirs = AutoConfig.for_model(kind, **raw)
        assert ours.head_width == getattr(theirs, "head_dim", 10)
        assert (ours.rms_norm_eps, ours.tie_word_embeddings) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
        assert {each.rotary.theta for each in ours.kinds} == (
            {1e4, 1e6} if kind == "gemma3_text" else {theirs.rope_parameters["rope_theta"]}
        )
        windows[kind] = [ours.kinds[index].window for index in ours.kind_of_layer]
    assert windows["llama"] == windows["qwen2"] == windows["qwen3"] == [None] * 30
    assert windows["mistral"] == [4096] * 30
    assert windows["gemma3_text"] == [None if layer % 6 == 5 else 4096 for layer in range(30)]
    del raw["num_key_value_heads"]
    assert make_architecture({**raw, "model_type": "llama"}, "config.json").key_value_heads == 6
    sliding = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 28, "num_key_value_heads": 3}
    qwen = make_architecture({**raw, **sliding, "model_type": "qwen2"}, "config.json")
    assert [qwen.kinds[index].window for index in qwen.kind_of_layer] == [None] * 28 + [9] * 2


def test_published_sizes_have_as_many_weights_as_their_names_say():
    counts = {"gpt2-xl": 1.56e9, "HuggingFaceTB/SmolLM2-135M": 134.5e6, "meta-llama/Llama-3.1-8B": 8.03e9}
    counts["Qwen/Qwen3-8B"] = 8.19e9
    for name, count in counts.items():
        architecture = named_architecture(name)
        top, layer = (
            sum(np.prod(tensor.shape) for tensor in tensors)
            for tensors in (architecture.top_tensors, architecture.layer_tensors)
        )
        assert top + architecture.depth * layer == pytest.approx(count, rel=0.005)
    assert LENGTH["max_position_embeddings"] < named_architecture("Qwen/Qwen3-8B").context
