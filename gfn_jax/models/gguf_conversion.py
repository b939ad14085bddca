"""A GGUF file as a Hugging Face directory: `python gguf_conversion.py FROM TO_DIRECTORY`, a program of its own.

Few bits become float32, exactly. What the file says of the model or of its text, and is not known here, is refused:
a wrong base, a permuted row or another way to split words would only make the model a little worse.
"""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

try:
    from gguf import GGUFReader
    from gguf.constants import TokenType
    from gguf.quants import dequantize
except ModuleNotFoundError:
    sys.exit("the package that reads GGUF files is not installed here: pip install gguf")

REFUSALS = (ValueError, OSError)
"""What a file that is refused ends in."""

_MODEL_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}

_SIZES = {  # by the file's keys: the names of a config.json
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
_READ = {
    *_SIZES,
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
_READ_OF_GEMMA = {
    "attention.sliding_window",
    "rope.freq_base_swa",
    "attn_logit_softcapping",
    "final_logit_softcapping",
}
_OFF: dict[str, Any] = {  # keys that change nothing, at these values; None stands for any
    "vocab_size": None,  # the embedding has it
    "rope.scaling.finetuned": None,
    "tensor_data_layout": None,  # of llama files, whose rows are permuted either way
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "attention.sliding_window_pattern": 6,  # of Gemma 3, which has no other
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
}

_NAMES = {  # of a layer's tensors
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OF_HEADS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_NAMES_OF = {
    "llama": _NAMES,
    "qwen2": _NAMES,
    "qwen3": _NAMES | _OF_HEADS,
    "gemma3": _NAMES
    | _OF_HEADS
    | {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}
_QKV = ("attn_q", "attn_k", "attn_v")
_MLP = ("ffn_gate", "ffn_up", "ffn_down")

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{DIGITS}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _split_by(digits: str) -> list[Any]:
    words = Regex(_WORDS.replace("{DIGITS}", digits) + _SPACES)
    return [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


_BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
_SPLITTERS: dict[str, list[Any]] = {  # by tokenizer.ggml.pre
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), _BYTE_LEVEL],
    "llama-bpe": _split_by("{1,3}"),
    "qwen2": _split_by(""),
}
_NORMALIZERS: dict[str, Any] = {"qwen2": normalizers.NFC()}
_SPACE = "▁"
_ITEMS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}  # by their keys' name


class _Reader(GGUFReader):
    """Behind a file's end the library reads nothing, and that as often as a damaged file says; this one stops there."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise IndexError(f"there is nothing at {offset}")
        return super()._get(offset, dtype, count, override_order)


class Source:
    """A GGUF file's metadata and tensors; raises `ValueError` where it is none, or not whole."""

    def __init__(self, file: Path):
        with file.open("rb") as content:
            if content.read(4) != b"GGUF":
                raise ValueError("it is not a GGUF file")
        try:
            self._reader = _Reader(file)
            self.metadata: dict[str, Any] = {key: field.contents() for key, field in self._reader.fields.items()}
        except (ValueError, KeyError, IndexError, OverflowError, RecursionError) as error:
            raise ValueError("it is cut short or damaged: copy or download it again") from error
        if self._reader.byte_order != "I" or self.metadata.get("split.count", 0) > 1:
            raise ValueError("it is one part of several, or of another byte order: merge it with llama-gguf-split")
        if self.metadata.get("general.type", "model") != "model":
            raise ValueError(f"it holds a {self.metadata['general.type']}, not a model")
        self.architecture = str(self.metadata.get("general.architecture"))
        if self.architecture not in _MODEL_TYPES:
            raise ValueError(f"its architecture is {self.architecture!r}; there are {', '.join(_MODEL_TYPES)}")
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.unread = set(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def of_model(self, key: str, default: Any = None) -> Any:
        """What the file says of its model; numbers of 32 bits as they were written, 1e-5 and not 9.99...e-6."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def rows(self, name: str) -> int:
        """How many rows a matrix has; 0 where there is none."""
        return int(self._tensors[name].shape[-1]) if name in self._tensors else 0

    def tensor(self, name: str, *shape: int) -> np.ndarray:
        """A tensor in float32; raises `ValueError` where there is none of this shape."""
        if name not in self._tensors:
            raise ValueError(f"it has no tensor {name}")
        self.unread.discard(name)
        tensor = self._tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError as error:
            raise ValueError(f"numbers of type {tensor.tensor_type.name}, as {name} has, cannot be read") from error
        if values.shape != shape:
            raise ValueError(f"{name} has shape {values.shape}, where its metadata asks for {shape}")
        return values


def read_config(source: Source) -> dict[str, Any]:
    """The `config.json`; raises `ValueError` where a key is missing, or one changes the model that is not known."""
    _check_keys(source)
    config: dict[str, Any] = {name: source.of_model(key) for key, name in _SIZES.items()}
    heads, width = config["num_attention_heads"], config["hidden_size"]
    config |= {
        "num_key_value_heads": source.of_model("attention.head_count_kv", heads),
        "head_dim": source.of_model("attention.key_length", width // heads),
        "rms_norm_eps": source.of_model("attention.layer_norm_rms_epsilon"),
    }
    head_dim = config["head_dim"]
    for key in ("attention.value_length", "rope.dimension_count"):
        if source.of_model(key, head_dim) != head_dim:
            raise ValueError(f"{source.architecture}.{key} is {source.of_model(key)}, and not that of a head's keys")
    if source.architecture == "gemma3":
        config |= _of_gemma(source, config)
    else:
        config |= {"hidden_act": "silu", "rope_parameters": _rope(source, head_dim)}
    if source.architecture == "qwen2":
        del config["head_dim"]  # its models know no other than width / heads
        if head_dim * heads != width:
            raise ValueError("its heads are not as wide together as its embedding")
    if source.architecture == "llama":
        config |= {"attention_bias": "blk.0.attn_q.bias" in source, "mlp_bias": "blk.0.ffn_gate.bias" in source}
    elif source.architecture == "qwen3":
        config["attention_bias"] = "blk.0.attn_q.bias" in source
    ids = {name: source.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _ITEMS.items()}
    return {
        "architectures": [_CLASSES[source.architecture]],
        "model_type": _MODEL_TYPES[source.architecture],
        **config,
        "tie_word_embeddings": "output.weight" not in source,
        "dtype": "float32",
        **{f"{name}_id": index for name, index in ids.items() if index is not None and name != "unk_token"},
    }


def _check_keys(source: Source) -> None:
    prefix = f"{source.architecture}."
    read = _READ | (_READ_OF_GEMMA if source.architecture == "gemma3" else set())
    for key in source.metadata:
        name = key.removeprefix(prefix)
        if name == key or name in read:
            continue
        if name not in _OFF or _OFF[name] not in (None, source.of_model(name)):
            raise ValueError(f"{key} = {source.metadata[key]!r:.60} is not known here")
    for name in (*_SIZES, "attention.head_count_kv", "attention.layer_norm_rms_epsilon"):
        value = source.of_model(name)
        if not isinstance(value, int | float) and name != "attention.head_count_kv":
            raise ValueError(f"{prefix}{name} is {value!r:.60}, where one number is needed")


def _rope(source: Source, head_dim: int) -> dict[str, Any]:
    """The rotary embedding's parameters, as transformers 5 calls them."""
    theta = source.of_model("rope.freq_base", 10_000.0)
    factor = source.of_model("rope.scaling.factor")
    kind = source.of_model("rope.scaling.type", "none" if factor in (None, 0, 1) else "linear")  # as llama.cpp has it
    original = source.of_model("rope.scaling.original_context_length")
    if "rope_freqs.weight" in source:
        if kind != "none":
            raise ValueError(f"it scales its rotary embedding twice, by rope_freqs.weight and by {kind!r}")
        return _llama3_rope(source.tensor("rope_freqs.weight", head_dim // 2), theta, head_dim, original or 8192)
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind not in ("linear", "yarn") or factor is None or (kind == "yarn" and original is None):
        raise ValueError(f"its rotary embedding's scaling {kind!r} is not known here, or lacks its factor")
    parameters = {"rope_type": kind, "rope_theta": theta, "factor": factor}
    if kind == "yarn":
        parameters["original_max_position_embeddings"] = original
        for name in ("beta_fast", "beta_slow"):
            if (value := source.of_model(f"rope.scaling.yarn_{name}")) is not None:
                parameters[name] = value
    return parameters


def _llama3_rope(divisors: np.ndarray, theta: float, head_dim: int, original: int) -> dict[str, Any]:
    """The scaling that has these divisors of the frequencies, whose two bounds are 1 and 4 in all models known."""
    found = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": float(divisors[-1]),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    turns = original / (2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim))  # within the original context
    smooth = np.clip((turns - found["low_freq_factor"]) / (found["high_freq_factor"] - found["low_freq_factor"]), 0, 1)
    if not np.allclose(divisors, 1 / ((1 - smooth) / found["factor"] + smooth), rtol=1e-4):
        raise ValueError("rope_freqs.weight is not a scaling as Llama 3 has it")
    return found


def _of_gemma(source: Source, config: Mapping[str, Any]) -> dict[str, Any]:
    """What Gemma 3 has beside; the file leaves out what all of its models share."""
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    is_27b = layers == 62  # its scale of the scores alone is not that of a head's width
    local = {"rope_type": "default", "rope_theta": source.of_model("rope.freq_base_swa", 10_000.0)}
    if (window := source.of_model("attention.sliding_window")) is None:
        raise ValueError("gemma3.attention.sliding_window is missing")
    kinds = ["full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(layers)]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": config["hidden_size"] // heads if is_27b else config["head_dim"],
        "sliding_window": window,
        "layer_types": kinds,
        "rope_parameters": {"full_attention": _rope(source, config["head_dim"]), "sliding_attention": local},
        "attn_logit_softcapping": source.of_model("attn_logit_softcapping"),
        "final_logit_softcapping": source.of_model("final_logit_softcapping"),
    }


def read_weights(source: Source, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """All tensors by their Hugging Face names; raises `ValueError` where one is missing, or is not known.

    Adds to `config` what the embedding says, its `vocab_size`.
    """
    width, heads, kv_heads = (config[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    head_dim, inner = config.get("head_dim", width // heads), config["intermediate_size"]
    shapes = {
        "attn_q": (heads * head_dim, width),
        "attn_k": (kv_heads * head_dim, width),
        "attn_v": (kv_heads * head_dim, width),
        "attn_output": (width, heads * head_dim),
        "attn_q_norm": (head_dim,),
        "attn_k_norm": (head_dim,),
        "ffn_gate": (inner, width),
        "ffn_up": (inner, width),
        "ffn_down": (width, inner),
    }
    biased = {*_QKV} if source.architecture == "qwen2" else set()
    biased |= {*_QKV, "attn_output"} if config.get("attention_bias") else set()
    biased |= {*_MLP} if config.get("mlp_bias") else set()
    rows_of = {"attn_q": heads, "attn_k": kv_heads} if source.architecture == "llama" else {}
    taken_from_norms = np.float32(source.architecture == "gemma3")  # its files hold 1 + w

    config["vocab_size"] = source.rows("token_embd.weight")
    weights = {"model.embed_tokens.weight": source.tensor("token_embd.weight", config["vocab_size"], width)}
    weights["model.norm.weight"] = source.tensor("output_norm.weight", width) - taken_from_norms
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = source.tensor("output.weight", config["vocab_size"], width)
    for layer, (ours, theirs) in itertools.product(
        range(config["num_hidden_layers"]), _NAMES_OF[source.architecture].items()
    ):
        shape = shapes.get(ours, (width,))
        for part, wanted in (("weight", shape), ("bias", shape[:1]))[: 1 + (ours in biased)]:
            values = source.tensor(f"blk.{layer}.{ours}.{part}", *wanted)
            if ours in rows_of:
                values = _unpermuted(values, rows_of[ours])
            if len(shape) == 1:
                values = values - taken_from_norms
            weights[f"model.layers.{layer}.{theirs}.{part}"] = np.ascontiguousarray(values)
    if source.unread:
        raise ValueError(f"it has a tensor {min(source.unread)}, which is not known here")
    return weights


def _unpermuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Each head's rows as Hugging Face has them, halves apart; llama.cpp rotates neighbours."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def read_tokenizer(source: Source) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer and its `tokenizer_config.json`; raises `ValueError` where the kind is not known."""
    of = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in source.metadata.items()
        if key.startswith("tokenizer.")
    }
    if not isinstance(items := of.get("tokens"), list):
        raise ValueError("it holds no tokenizer")
    types = of.get("token_type", [TokenType.NORMAL] * len(items))
    if of.get("model") == "gpt2":
        tokenizer = _byte_level(of, items, types)
    elif of.get("model") == "llama":
        items = [
            item.replace(" ", _SPACE) if kind == TokenType.USER_DEFINED else item
            for item, kind in zip(items, types, strict=True)
        ]
        tokenizer = _sentence_piece(of, items, types)
    else:
        raise ValueError(f"its tokenizer's kind is {of.get('model')!r}; there are gpt2 and llama")
    special = (TokenType.CONTROL, TokenType.UNKNOWN)
    is_spelled_in_text = of["model"] == "llama" and not of.get("add_space_prefix", True)  # its spaces are ▁
    for item, kind in zip(items, types, strict=True):
        if kind in special or kind == TokenType.USER_DEFINED:
            is_normalised = is_spelled_in_text and kind not in special
            tokenizer.add_tokens([AddedToken(item, special=kind in special, normalized=is_normalised)])
    named = {name: _item(of, items, f"{key}_token_id") for name, key in _ITEMS.items() if f"{key}_token_id" in of}
    _add_ends(tokenizer, of, named)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    settings |= {"clean_up_tokenization_spaces": False}
    if template := of.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    return tokenizer, settings


def _item(of: Mapping[str, Any], items: Sequence[str], key: str) -> str:
    index = of[key]
    if not (isinstance(index, int) and 0 <= index < len(items)):
        raise ValueError(f"tokenizer.ggml.{key} is {index!r}, and no item of its tokenizer")
    return items[index]


def _byte_level(of: Mapping[str, Any], items: Sequence[str], types: Sequence[int]) -> Tokenizer:
    pre = of.get("pre")
    if pre not in _SPLITTERS:
        raise ValueError(f"tokenizer.ggml.pre, how text is split, is {pre!r}; there are {', '.join(_SPLITTERS)}")
    merges = [tuple(merge.split(" ")) for merge in of.get("merges", ())]
    if not merges or any(len(merge) != 2 for merge in merges):
        raise ValueError("tokenizer.ggml.merges are missing, or not two items each")
    vocabulary = _vocabulary(items, types)
    if unknown := {part for merge in merges for part in (*merge, "".join(merge))} - vocabulary.keys():
        raise ValueError(f"tokenizer.ggml.merges name what is no item: {min(unknown)!r}")
    whole = pre == "llama-bpe"  # a word that is an item needs no merges
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole))
    if pre in _NORMALIZERS:
        tokenizer.normalizer = _NORMALIZERS[pre]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_SPLITTERS[pre])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(of: Mapping[str, Any], items: Sequence[str], types: Sequence[int]) -> Tokenizer:
    if of.get("remove_extra_whitespaces", False) or "precompiled_charsmap" in of:
        raise ValueError("its tokenizer changes text before it reads it, which is not known here")
    if not (scores := of.get("scores")):
        raise ValueError("tokenizer.ggml.scores are missing")
    vocabulary = _vocabulary(items, types)
    unknown = next((item for item, kind in zip(items, types, strict=True) if kind == TokenType.UNKNOWN), None)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(items, types, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=TokenType.BYTE in types,
        )
    )
    prepended = [normalizers.Prepend(_SPACE)] if of.get("add_space_prefix", True) else []
    tokenizer.normalizer = normalizers.Sequence([*prepended, normalizers.Replace(" ", _SPACE)])
    stripped = [decoders.Strip(" ", 1, 0)] if prepended else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *stripped]
    )
    return tokenizer


def _merges(items: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The pairs that make each piece, the best piece first: SentencePiece joins whatever makes the best."""
    pieces = {
        item: (-score, index)
        for index, (item, kind, score) in enumerate(zip(items, types, scores, strict=True))
        if kind == TokenType.NORMAL
    }
    ranked: list[tuple[float, tuple[str, str]]] = []
    for piece, (cost, _) in pieces.items():
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in pieces and pair[1] in pieces]
        ranked.extend((cost, pair) for pair in sorted(known, key=lambda pair: (-len(pair[0]), -len(pair[1]))))
    costs = Counter(cost for cost, _ in {(cost, "".join(pair)) for cost, pair in ranked})
    if any(count > 1 for count in costs.values()):
        raise ValueError("two pieces of its tokenizer have one score: which of them comes first cannot be told")
    return [pair for _, pair in sorted(ranked, key=lambda entry: entry[0])]


def _vocabulary(items: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """Ids by items, without those that only fill a gap."""
    kept = [index for index, kind in enumerate(types) if kind != TokenType.UNUSED]
    vocabulary = {items[index]: index for index in kept}
    if len(vocabulary) < len(kept):
        raise ValueError("two items of its tokenizer are spelled alike")
    return vocabulary


def _add_ends(tokenizer: Tokenizer, of: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """What the tokenizer puts before and behind a text."""
    begins = of.get("add_bos_token", of["model"] == "llama" or of.get("pre") == "llama-bpe")
    ends = of.get("add_eos_token", False)
    if (begins and "bos_token" not in named) or (ends and "eos_token" not in named):
        raise ValueError("its tokenizer adds an item at a text's end that it does not name")
    before = [named["bos_token"]] if begins else []
    behind = [named["eos_token"]] if ends else []
    if before or behind:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *behind],
            pair=[*before, "$A", *behind, *(f"{item}:1" for item in before), "$B:1", *(f"{item}:1" for item in behind)],
            special_tokens=[(item, tokenizer.token_to_id(item)) for item in {*before, *behind}],
        )


def convert(file: Path, directory: Path) -> None:
    """Raises `ValueError` where the file is no GGUF file, not whole, or of a kind that is not known here."""
    source = Source(file)
    config = read_config(source)
    tokenizer, settings = read_tokenizer(source)  # before the weights: it is refused sooner
    weights = read_weights(source, config)
    if len(tokenizer.get_vocab()) > config["vocab_size"]:
        raise ValueError("its tokenizer has more items than its embedding")
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(directory.stat().st_mode & 0o666)  # it writes for its user alone
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, content in (("config.json", config), ("tokenizer_config.json", settings)):
        (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python gguf_conversion.py FROM TO_DIRECTORY")
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except REFUSALS as error:
        sys.exit(" ".join(str(error).split()))
