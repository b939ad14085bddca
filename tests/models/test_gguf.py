"""GGUF files: written here as llama.cpp's converter writes them, with that project's own package."""

import functools
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType, quants
from gguf.constants import MODEL_ARCH, GGMLQuantizationType, RopeScalingType
from gguf.tensor_mapping import get_tensor_name_map
from helpers import MINIATURE
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from gfn_jax.models import gguf_conversion
from gfn_jax.models.hf_files import find_directory, find_model, weight_files
from gfn_jax.runtime.errors import UserError

SIZES = {
    "vocab_size": 37,
    "hidden_size": 96,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
F32, Q4_1 = GGMLQuantizationType.F32, GGMLQuantizationType.Q4_1
ROUNDED = GGMLQuantizationType.F16, GGMLQuantizationType.BF16, GGMLQuantizationType.Q8_0, Q4_1


def hugging_face(architecture: str, **changed: Any) -> Any:
    """A random model of Hugging Face's, with heads twice as wide together as the embedding where that can be."""
    torch.manual_seed(0)
    kind = {"gemma3": "gemma3_text"}.get(architecture, architecture)
    own: dict[str, Any] = {} if architecture == "qwen2" else {"head_dim": 32}
    if architecture == "gemma3":
        own |= {"num_hidden_layers": 7, "sliding_window": 5, "query_pre_attn_scalar": 32}
    config = AutoConfig.for_model(kind, **(SIZES | own | changed), pad_token_id=None)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter writes the rows of q and k: it rotates neighbours."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write(
    file: Path,
    model: Any,
    architecture: str,
    *,
    types: tuple[GGMLQuantizationType, ...] = (F32,),
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray | None] | None = None,
) -> Path:
    """A GGUF file of a model, in which matrices have the types by turns; `metadata` and `tensors` come last."""
    config = model.config
    arch = {"qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3, "gemma3": MODEL_ARCH.GEMMA3}.get(architecture)
    writer = GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if head_dim := getattr(config, "head_dim", None):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    add_tokenizer(writer, config.vocab_size)
    for key, value in (metadata or {}).items():
        writer.kv_data[0].pop(key, None)
        if value is not None:
            {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool}.get(
                type(value), writer.add_uint32
            )(key, value)

    names = get_tensor_name_map(arch or MODEL_ARCH.LLAMA, config.num_hidden_layers)
    found = {}
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        kind = name.split(".")[-2]
        if architecture == "llama" and kind in heads:
            values = permuted(values, heads[kind])
        if architecture == "gemma3" and kind.endswith("norm"):
            values = values + np.float32(1)
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        found[ours] = values, types[number % len(types)] if values.ndim > 1 else F32
    found |= {name: (values, F32) for name, values in (tensors or {}).items()}
    for name, (values, kind) in found.items():
        if values is not None:
            writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def add_tokenizer(writer: GGUFWriter, size: int) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", "<|end|>", *(f"item{index}" for index in range(4, size))])
    writer.add_token_types([TokenType.NORMAL] * 3 + [TokenType.CONTROL] + [TokenType.NORMAL] * (size - 4))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3)


def convert(file: Path) -> Path:
    directory = file.with_suffix("")
    gguf_conversion.convert(file, directory)
    return directory


def logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.arange(2 * 17).reshape(2, 17)).logits.numpy()


@pytest.mark.parametrize(
    ("architecture", "changed"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {}),
        ("qwen3", {"attention_bias": True}),
    ],
)
def test_a_model_comes_back_exactly(tmp_path, architecture, changed):
    theirs = hugging_face(architecture, **changed)
    directory = convert(write(tmp_path / "model.gguf", theirs, architecture))
    ours, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report.values())
    for name, values in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], values, err_msg=name)
    np.testing.assert_array_equal(logits(ours), logits(theirs))
    for key in (*SIZES, "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "head_dim", "hidden_act"):
        assert getattr(ours.config, key, None) == getattr(theirs.config, key, None), key


@pytest.mark.parametrize("softcapping", [None, 30.0])
def test_gemma_takes_one_from_its_norms_and_has_a_full_layer_in_six(tmp_path, softcapping):
    scaled = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    rope = {"full_attention": scaled, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    theirs = hugging_face("gemma3", final_logit_softcapping=softcapping, rope_parameters=rope)
    capped = {} if softcapping is None else {"gemma3.final_logit_softcapping": softcapping}
    scaling = {"gemma3.rope.scaling.type": RopeScalingType.LINEAR.value, "gemma3.rope.scaling.factor": 8.0}
    file = write(tmp_path / "model.gguf", theirs, "gemma3", metadata=scaling | capped)
    ours = AutoModelForCausalLM.from_pretrained(convert(file)).eval()
    for name, values in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], values, rtol=0, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(logits(ours), logits(theirs), rtol=1e-4, atol=1e-4)
    for key in ("rope_parameters", "layer_types", "sliding_window", "query_pre_attn_scalar", "final_logit_softcapping"):
        assert getattr(ours.config, key) == getattr(theirs.config, key), key


def test_few_bits_become_what_the_format_says(tmp_path):
    """Rows are rounded one by one, so that those of q and k may be compared in their own order."""
    model = hugging_face("llama")
    directory = convert(write(tmp_path / "model.gguf", model, "llama", types=ROUNDED))
    found = load_file(directory / "model.safetensors")
    differing = 0
    for number, (name, values) in enumerate(model.state_dict().items()):
        kind = ROUNDED[number % len(ROUNDED)] if values.ndim > 1 else F32
        expected = quants.dequantize(quants.quantize(values.numpy(), kind), kind)
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        assert found[name].dtype == np.float32
        differing += not np.array_equal(expected, values)
    assert differing >= 14


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_divisors(factor: float, theta: float, low: float = 1.0, high: float = 4.0, head_dim: int = 64) -> np.ndarray:
    """`rope_freqs.weight`: as llama.cpp's converter computes it, one frequency after the other."""
    divisors = []
    for index in range(0, head_dim, 2):
        wavelength = 2 * np.pi * theta ** (index / head_dim)
        if wavelength < 8192 / high:
            divisors.append(1.0)
        elif wavelength > 8192 / low:
            divisors.append(factor)
        else:
            smooth = (8192 / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


@pytest.mark.parametrize(
    ("metadata", "divisors", "expected"),
    [
        ({}, None, {"rope_type": "default"}),
        ({}, rope_divisors(8.0, 5e5), {"rope_type": "llama3", "factor": 8.0, **LLAMA3}),
        ({}, rope_divisors(32.0, 5e5), {"rope_type": "llama3", "factor": 32.0, **LLAMA3}),
        ({"type": "linear", "factor": 4.0}, None, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 32, "yarn_beta_fast": 16.0},
            None,
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16.0},
        ),
    ],
)
def test_rotary_scaling_is_what_transformers_calls_it(tmp_path, metadata, divisors, expected):
    parameters = {"rope_theta": 5e5, **expected}
    model = hugging_face("llama", head_dim=64, rope_parameters=parameters)
    named = {f"llama.rope.scaling.{key}": value for key, value in metadata.items()}
    file = write(tmp_path / "model.gguf", model, "llama", metadata=named, tensors={"rope_freqs.weight": divisors})
    ours = AutoModelForCausalLM.from_pretrained(convert(file)).eval()
    assert ours.config.rope_parameters == model.config.rope_parameters
    np.testing.assert_array_equal(ours.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁<")) | st.text(
    "in 19'sé\n\tD ", max_size=20
)
BASE = Tokenizer.from_file(str(MINIATURE / "gpt2" / "tokenizer.json"))


class Metadata:
    """A tokenizer's metadata without the file around it."""

    def __init__(self, **of: Any):
        self.metadata = {f"tokenizer.ggml.{key}": value for key, value in of.items()}


def byte_level(pre: str, **changed: Any) -> tuple[Tokenizer, dict[str, Any]]:
    model = json.loads(BASE.to_str())["model"]
    items = [*model["vocab"]]
    kinds = [TokenType.CONTROL if item == "<|endoftext|>" else TokenType.NORMAL for item in items]
    merges = [" ".join(pair) for pair in model["merges"]]
    end = items.index("<|endoftext|>")
    of = {"model": "gpt2", "pre": pre, "tokens": items, "token_type": kinds, "merges": merges, "eos_token_id": end}
    return gguf_conversion.read_tokenizer(Metadata(**(of | {"bos_token_id": end} | changed)))


@settings(max_examples=50, deadline=None)
@given(text=TEXTS)
def test_a_byte_level_tokenizer_is_that_which_it_was(text):
    ours, _ = _gpt2()
    assert ours.encode(text).ids == BASE.encode(text).ids
    assert ours.decode(ours.encode(text).ids) == text


@functools.cache
def _gpt2() -> tuple[Tokenizer, dict[str, Any]]:
    return byte_level("gpt-2")


ALONE, TOGETHER = ["\n", "!", "\n", "\n", "'", "S"], ["\n", "!\n\n", "'S"]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["in", " ", " 19995", *ALONE]),
        ("smollm", ["in", "  ", "1", "9", "9", "9", "5", *ALONE]),
        ("llama-bpe", ["in", " ", " ", "199", "95", *TOGETHER]),
        ("qwen2", ["in", " ", " ", "1", "9", "9", "9", "5", *TOGETHER]),
    ],
)
def test_text_is_split_as_the_file_names_it(pre, expected):
    """Where the published expressions differ: digits, the spaces before them, line breaks, contractions in capitals."""
    tokenizer, _ = byte_level(pre)
    text = "in  19995\n!\n\n'S"
    found = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in found] == expected


def test_ends_and_special_items_are_those_of_the_file():
    tokenizer, config = byte_level("qwen2", add_bos_token=True)
    end = tokenizer.token_to_id("<|endoftext|>")
    assert config["bos_token"] == config["eos_token"] == "<|endoftext|>"
    assert tokenizer.encode("a").ids == [end, *BASE.encode("a").ids]
    assert tokenizer.encode("a<|endoftext|>", add_special_tokens=False).ids == [*BASE.encode("a").ids, end]
    assert byte_level("gpt-2")[0].encode("a").ids == BASE.encode("a").ids
    assert byte_level("llama-bpe")[0].encode("a").ids[0] == end  # as llama.cpp has it where the file says nothing
    assert byte_level("gpt-2", add_bos_token=True, add_eos_token=True)[0].encode("a").ids[-1] == end


PIECES = ["▁", "t", "h", "e", "a", "▁t", "he", "▁the", "th", "at", "▁that", "▁a", "\n", "c", "ca", "▁ca", "cat", "▁cat"]


def sentence_piece(**changed: Any) -> tuple[Tokenizer, dict[str, Any]]:
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, "<|user|>", "  ", "[PAD279]"]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    kinds += [TokenType.NORMAL] * len(PIECES) + [TokenType.USER_DEFINED] * 2 + [TokenType.UNUSED]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(PIECES))] + [-1000.0] * 3
    ends = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    of = {"model": "llama", "pre": "default", "tokens": names, "token_type": kinds, "scores": scores, **ends}
    return gguf_conversion.read_tokenizer(Metadata(**(of | changed)))


def joined(text: str) -> list[str]:
    """What SentencePiece makes of a text: again and again the pair that is the best piece, the leftmost of equals."""
    parts = [*text]
    while True:
        pairs = [left + right for left, right in itertools.pairwise(parts)]
        known = [(PIECES.index(pair), place) for place, pair in enumerate(pairs) if pair in PIECES]
        if not known:
            return parts
        _, place = min(known)
        parts[place : place + 2] = [pairs[place]]


@settings(max_examples=100, deadline=None)
@given(text=st.text("thea c\né", max_size=14))
def test_pieces_are_joined_as_their_scores_say(text):
    """The best piece first; characters that are none fall back to their bytes."""
    tokenizer = _pieces(add_space_prefix=True)
    expected: list[str] = []
    for part in joined("▁" + text.replace(" ", "▁")) if text else []:
        expected += [part] if part in PIECES else [f"<0x{byte:02X}>" for byte in part.encode()]
    assert tokenizer.encode(text).tokens == ["<s>", *expected]


@functools.cache
def _pieces(**changed: Any) -> Tokenizer:
    return sentence_piece(**changed)[0]


def test_spaces_of_pieces_are_those_of_the_file():
    """Gemma puts none before a text, and has runs of them as items."""
    assert _pieces(add_space_prefix=True).encode("the  cat").tokens == ["<s>", "▁the", "▁", "▁cat"]
    gemma = _pieces(add_space_prefix=False)
    assert gemma.encode("the  cat<|user|>").tokens == ["<s>", "t", "he", "▁▁", "cat", "<|user|>"]
    assert gemma.decode(gemma.encode("the  cat").ids) == "the  cat"
    assert gemma.token_to_id("[PAD279]") is None  # fills a gap
    assert gemma.encode("</s>", add_special_tokens=False).ids == [2]
    assert _pieces(add_bos_token=False).encode("a").tokens == ["▁a"]


@pytest.mark.parametrize(
    ("make", "changed", "said"),
    [
        (byte_level, {"pre": "tekken"}, "how text is split, is 'tekken'; there are gpt-2, smollm, llama-bpe, qwen2"),
        (byte_level, {"pre": None}, "how text is split, is None"),
        (byte_level, {"merges": []}, "merges are missing"),
        (byte_level, {"merges": ["no item"]}, "tokenizer.ggml.merges name what is no item: 'item'"),
        (byte_level, {"eos_token_id": 10**6}, "tokenizer.ggml.eos_token_id is 1000000, and no item of its tokenizer"),
        (byte_level, {"bos_token_id": "0"}, "tokenizer.ggml.bos_token_id is '0', and no item of its tokenizer"),
        (byte_level, {"model": "bert"}, "its tokenizer's kind is 'bert'; there are gpt2 and llama"),
        (byte_level, {"tokens": None}, "it holds no tokenizer"),
        (byte_level, {"tokens": ["a", "a"], "token_type": [1, 1]}, "spelled alike"),
        (sentence_piece, {"scores": None}, "scores are missing"),
        (sentence_piece, {"scores": [0.0] * 280}, "two pieces of its tokenizer have one score"),
        (sentence_piece, {"remove_extra_whitespaces": True}, "changes text before it reads it"),
    ],
)
def test_a_tokenizer_that_is_not_known_is_refused(make, changed, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make(**({"pre": "gpt-2"} if make is byte_level else {}) | changed)


@pytest.mark.parametrize(
    ("architecture", "metadata", "tensors", "said"),
    [
        ("mamba", {}, {}, "its architecture is 'mamba'; there are llama, qwen2, qwen3, gemma3"),
        ("llama", {"llama.expert_count": 8}, {}, "llama.expert_count = 8 is not known here"),
        ("llama", {"llama.rope.dimension_count": 8}, {}, "llama.rope.dimension_count is 8, and not that"),
        ("llama", {"llama.rope.scaling.type": "longrope"}, {}, "scaling 'longrope' is not known here"),
        ("llama", {"llama.block_count": None}, {}, "llama.block_count is None, where one number is needed"),
        ("llama", {"llama.feed_forward_length": 95}, {}, "has shape (128, 96), where its metadata asks for (95, 96)"),
        ("llama", {"general.type": "adapter"}, {}, "it holds a adapter, not a model"),
        ("llama", {"split.count": 2}, {}, "one part of several"),
        ("llama", {}, {"blk.1.attn_k.weight": None}, "it has no tensor blk.1.attn_k.weight"),
        ("llama", {}, {"blk.1.attn_sinks.weight": np.ones(6, np.float32)}, "a tensor blk.1.attn_sinks.weight, which"),
        ("llama", {}, {"rope_freqs.weight": rope_divisors(8.0, 1e4, 2.0, 4.0, 32)}, "is not a scaling as Llama 3 has"),
        ("gemma3", {"gemma3.attention.sliding_window": None}, {}, "gemma3.attention.sliding_window is missing"),
    ],
)
def test_a_model_that_is_not_known_is_refused(tmp_path, architecture, metadata, tensors, said):
    model = hugging_face("gemma3" if architecture == "gemma3" else "llama")
    file = write(tmp_path / "model.gguf", model, architecture, metadata=metadata, tensors=tensors)
    with pytest.raises(ValueError, match=re.escape(said)):
        convert(file)
    assert not file.with_suffix("").exists()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gfn_jax" / "converted"


def test_a_file_is_converted_once_and_is_then_like_any_directory(tmp_path, cache):
    theirs = hugging_face("llama")
    file = write(tmp_path / "model.gguf", theirs, "llama")
    directory = find_model(str(file), "model.name_or_path")
    assert directory.parent == cache
    assert [each.name for each in weight_files(directory)] == ["model.safetensors"]
    assert {each.stat().st_mode & 0o777 for each in directory.iterdir()} == {
        (directory / "config.json").stat().st_mode & 0o777
    }
    written = (directory / "config.json").stat().st_mtime_ns
    assert find_directory(str(file), "model.tokenizer", ["tokenizer.json"]) == directory
    assert (directory / "config.json").stat().st_mtime_ns == written
    assert [each for each in cache.iterdir() if each.is_dir()] == [directory]
    np.testing.assert_array_equal(logits(AutoModelForCausalLM.from_pretrained(directory)), logits(theirs))
    assert AutoTokenizer.from_pretrained(directory)("abab")["input_ids"] == [2, 2]


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.2, 0.6, 0.999])
def test_a_cut_file_is_refused_in_one_line(tmp_path, cache, kept):
    file = write(tmp_path / "model.gguf", hugging_face("llama"), "llama")
    os.truncate(file, int(file.stat().st_size * kept))
    with pytest.raises(
        UserError, match=r"^model\.name_or_path: .*model\.gguf cannot be read as a GGUF model: it is "
    ) as raised:
        find_model(str(file), "model.name_or_path")
    assert "\n" not in str(raised.value)
    assert not any(each.is_dir() for each in cache.iterdir())


def test_a_missing_file_and_a_missing_package_are_said_in_one_line(tmp_path, cache):
    with pytest.raises(UserError, match=r"model\.name_or_path: there is no file .*none\.gguf"):
        find_model(str(tmp_path / "none.gguf"), "model.name_or_path")
    (tmp_path / "gguf.py").write_text("raise ModuleNotFoundError")
    command = [sys.executable, "-P", gguf_conversion.__file__, "from", "to"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["the package that reads GGUF files is not installed here: pip install gguf"]
