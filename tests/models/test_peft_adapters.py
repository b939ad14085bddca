"""PEFT's adapters and ours are one function: there and here, with rank and targets of any kind, merged or not."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from architectures import MODELS, save_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gfn_jax.models import peft_adapters
from gfn_jax.models.hf_architecture import read_architecture
from gfn_jax.models.hf_weights import load_weights, to_hugging_face
from gfn_jax.models.merging import merge
from gfn_jax.models.parts import ModelStructure
from gfn_jax.runtime.errors import UserError
from gfn_jax.types import LoRAConfig, Prompts

CASES = [(1, slice(3, 4)), (5, slice(None)), (64, slice(0, None, 3))]
"""A rank, and which of an architecture's layers are adapted."""


class World:
    """A model of Hugging Face's, and our structure for it with adapters of a rank and targets."""

    def __init__(self, directory, rank, adapted, alpha=7.0):
        self.directory, self.architecture = directory, read_architecture(directory)
        self.targets = targets = self.architecture.layer_names[adapted]
        self.structure = ModelStructure(
            self.architecture, LoRAConfig(rank, alpha, targets), dtype=jnp.float32, remat=False
        )
        self.frozen = load_weights(directory, self.architecture, jnp.float32)
        self.tokens = np.random.default_rng(0).integers(0, self.architecture.vocab_size, (2, 11)).astype(np.int32)

    def random_adapter(self):
        rng = np.random.default_rng(1)
        return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), self.structure.abstract_adapter)

    def our_logits(self, adapter):
        @jax.jit
        def compute(adapter, frozen):
            prompts = Prompts(jnp.asarray(self.tokens), jnp.full(2, 11, jnp.int32))
            policy = self.structure.policy(adapter, frozen)
            return policy.logits(policy.encode(prompts)[0])

        return np.asarray(compute(adapter, self.frozen))[..., : self.architecture.vocab_size]

    def base(self):
        return AutoModelForCausalLM.from_pretrained(self.directory, attn_implementation="eager").eval()

    def logits_of(self, model):
        with torch.no_grad():
            return model.eval()(torch.from_numpy(self.tokens).long()).logits.numpy()


def assert_same_logits(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def randomise(model):
    """A PEFT model as training leaves it: neither factor is zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)


@pytest.mark.parametrize(("rank", "adapted"), CASES)
def test_peft_loads_our_adapter_as_the_same_function_merged_or_not(hugging_face_directory, tmp_path, rank, adapted):
    world = World(hugging_face_directory[1], rank, adapted)
    adapter = world.random_adapter()
    peft_adapters.save(tmp_path, adapter, world.structure, str(world.directory))
    theirs = PeftModel.from_pretrained(world.base(), tmp_path)
    ours = world.our_logits(adapter)
    assert np.abs(ours - world.logits_of(world.base())).max() > 0.1 * np.abs(ours).max()
    assert_same_logits(world.logits_of(theirs), ours)

    merged = merge(world.structure, adapter, jax.device_put(world.frozen), jnp.dtype("float32"))
    whole = AutoModelForCausalLM.from_config(world.base().config, attn_implementation="eager")
    tensors = {name: torch.from_numpy(np.array(fetch())) for name, fetch in to_hugging_face(merged, world.architecture)}
    result = whole.load_state_dict(tensors, strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) <= {"lm_head.weight"}
    whole.tie_weights()
    assert_same_logits(world.logits_of(whole), ours)
    assert_same_logits(world.logits_of(theirs.merge_and_unload()), ours)


@pytest.mark.parametrize("fan_in_fan_out", [True, False])
@pytest.mark.parametrize(("rank", "adapted"), CASES)
def test_an_adapter_trained_by_peft_is_the_same_function_here(
    hugging_face_directory, tmp_path, rank, adapted, fan_in_fan_out
):
    world = World(hugging_face_directory[1], rank, adapted)
    settings = LoraConfig(
        r=rank, lora_alpha=7, lora_dropout=0.1, target_modules=list(world.targets), fan_in_fan_out=fan_in_fan_out
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT's, which sets fan_in_fan_out right
        theirs = get_peft_model(world.base(), settings)
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    adapter = peft_adapters.load(tmp_path, world.structure)
    assert_same_logits(world.our_logits(adapter), world.logits_of(theirs))


def test_gradients_of_the_factors_equal_peft_s(hugging_face_directory, tmp_path):
    world = World(hugging_face_directory[1], 5, slice(None))
    adapter = world.random_adapter()
    peft_adapters.save(tmp_path, adapter, world.structure, "a model")
    theirs = PeftModel.from_pretrained(world.base(), tmp_path, is_trainable=True).eval()
    cotangent = np.random.default_rng(3).normal(size=(*world.tokens.shape, world.architecture.vocab_size))
    cotangent = cotangent.astype(np.float32)
    prompts = Prompts(jnp.asarray(world.tokens), jnp.full(2, 11, jnp.int32))

    @jax.jit
    @jax.grad
    def gradient(adapter, frozen):
        policy = world.structure.policy(adapter, frozen)
        return (policy.logits(policy.encode(prompts)[0])[..., : cotangent.shape[-1]] * cotangent).sum()

    (theirs(torch.from_numpy(world.tokens).long()).logits * torch.from_numpy(cotangent)).sum().backward()
    gradients = {
        name.replace(".default", ""): parameter.grad.numpy()
        for name, parameter in theirs.named_parameters()
        if parameter.grad is not None
    }
    ours = peft_adapters.to_peft(jax.device_get(gradient(adapter, world.frozen)), world.architecture)
    assert ours.keys() == gradients.keys()
    for name, values in gradients.items():
        np.testing.assert_allclose(ours[name], values, rtol=0, atol=1e-4 * np.abs(values).max(), err_msg=name)


def saved(directory, world, **settings):
    """An adapter that PEFT saved, with these settings over the common ones."""
    common = {"r": 5, "lora_alpha": 7, "target_modules": ["attn.c_attn"], "fan_in_fan_out": True}
    model = get_peft_model(world.base(), LoraConfig(**(common | settings)))
    randomise(model)
    model.save_pretrained(directory)
    return model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, MODELS["gpt2 tied"])
    return World(directory, 5, slice(1))


def test_rank_stabilised_scales_and_older_files_load_too(world, tmp_path):
    theirs = saved(tmp_path, world, use_rslora=True)
    file = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "adapter_model.bin")
    file.unlink()
    stabilised = World(world.directory, 5, slice(1), alpha=7 * 5**0.5)
    adapter = peft_adapters.load(tmp_path, stabilised.structure)
    assert_same_logits(stabilised.our_logits(adapter), world.logits_of(theirs))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 3}, r"it needs --config\.model\.lora\.rank=3$"),
        ({"lora_alpha": 9}, r"it needs --config\.model\.lora\.alpha=9$"),
        (
            {"target_modules": ["c_attn", "c_fc"]},
            r"""it needs --config\.model\.lora\.targets="\('attn\.c_attn', 'mlp\.c_fc'\)"$""",
        ),
        ({"use_dora": True}, "not supported here: use_dora=True"),
        ({"bias": "lora_only"}, "not supported here: bias='lora_only'"),
        ({"rank_pattern": {"h.0.attn.c_attn": 2}}, "not supported here: rank_pattern="),
    ],
)
def test_an_adapter_of_other_settings_is_refused_with_what_would_be_right(world, tmp_path, settings, message):
    saved(tmp_path, world, **settings)
    with pytest.raises(UserError, match=message):
        peft_adapters.load(tmp_path, world.structure)


def test_an_adapter_of_another_model_s_name_is_remarked_on(world, tmp_path):
    def remark(base):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        return peft_adapters.remark_on_base(tmp_path, str(world.directory))

    assert not remark(str(world.directory.resolve()))
    assert "was trained over 'some/other', and goes on here over" in remark("some/other")
    assert not remark(None)


def test_an_adapter_for_another_model_is_refused_by_tensor_and_base(world, tmp_path):
    saved(tmp_path, world)
    settings_file, file = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    settings, tensors = json.loads(settings_file.read_text()), load_file(file)
    settings_file.write_text(json.dumps(settings | {"base_model_name_or_path": "some/gpt2"}))
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"

    def refused(tensors, message):
        save_file(tensors, file)
        with pytest.raises(UserError, match=message):
            peft_adapters.load(tmp_path, world.structure)

    refused(
        tensors | {name: torch.zeros(5, 4)},
        r"another model \('some/gpt2'\): .*h\.0\.attn\.c_attn\.lora_A\.weight has shape \(5, 4\)",
    )
    refused(
        tensors | {name.replace("h.0", "h.7"): tensors[name].clone()},
        r"it has base_model\.model\.transformer\.h\.7\.attn\.c_attn\.lora_A",
    )
    refused(
        {each: tensors[each] for each in tensors if each != name},
        r"it has no base_model\.model\.transformer\.h\.0\.attn\.c_attn\.lora_A",
    )
    refused({name: torch.zeros(5)}, r"h\.0\.attn\.c_attn\.lora_A\.weight has shape \(5,\), and must have two axes")
    refused({}, "holds no tensors")
    llama = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    refused(
        {llama: tensors[name].clone()},
        r"was made for another model \('some/gpt2'\), .*q_proj.* is none of attn\.c_attn, ",
    )
    settings_file.write_text(json.dumps(settings | {"lora_alpha": "6"}))
    refused(tensors, "lora_alpha is '6', and must be a number")
