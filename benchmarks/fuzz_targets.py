"""The readers that `fuzz.py` feeds: each is made once, in a directory of its own, and then given random numbers."""

import functools
import json
import random
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from gguf import GGUFWriter, TokenType
from ml_collections import config_flags
from mutations import ODD, changed_bytes, changed_json, changed_lines, changed_tree
from rich.console import Console
from safetensors.numpy import save
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, normalizers, processors

from gfn_jax.config import command_line
from gfn_jax.config.base import base
from gfn_jax.config.reading import flat, parse_config
from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import build
from gfn_jax.models import gguf_conversion, peft_adapters
from gfn_jax.models.hf_architecture import make_architecture, read_architecture
from gfn_jax.models.hf_weights import load_weights, tensor_shapes
from gfn_jax.models.parts import ModelStructure
from gfn_jax.replay.admission import Admission
from gfn_jax.replay.entry import Entry
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.replay.redis import RedisReplay
from gfn_jax.reporting.page import write_report
from gfn_jax.runs.checkpoint import Checkpoints
from gfn_jax.runs.opened import read_finished_config
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks import make_task
from gfn_jax.text.tokenizer import Tokenizer
from gfn_jax.text.vocabulary import banned_items, terminator_id
from gfn_jax.training.loop import train
from gfn_jax.training.seeds import sow
from gfn_jax.types import LoRAConfig

ROOT = Path(__file__).parent.parent
MINIATURE = ROOT / "data" / "miniworld"
Try = Callable[[random.Random], object]
"""Reads an input that these random numbers make."""

_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
ARCHITECTURES: list[dict[str, Any]] = [
    {"model_type": "gpt2", "vocab_size": 37, "n_positions": 64, "n_embd": 16, "n_head": 4, "n_layer": 2},
    {**_SIZES, "model_type": "llama", "rope_parameters": _ROPE | {"original_max_position_embeddings": 8}},
    {**_SIZES, "model_type": "llama", "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {**_SIZES, "model_type": "mistral", "rope_theta": 1e4, "sliding_window": 5, "head_dim": 4},
    {**_SIZES, "model_type": "qwen2", "rope_theta": 1e4, "use_sliding_window": True, "sliding_window": 5},
    {**_SIZES, "model_type": "qwen3", "rope_theta": 1e4, "head_dim": 4},
    {
        **{name: value for name, value in _SIZES.items() if name != "hidden_act"},
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 4,
        "query_pre_attn_scalar": 4,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
]


def settings(**sections: Mapping[str, Any]) -> dict[str, Any]:
    """A short run of the miniature, as a configuration has it, with sections changed."""
    raw = base()
    raw.data.path, raw.data.val_prompts, raw.data.prompt_buckets = str(MINIATURE / "prompts.txt"), 3, (48,)
    raw.model.name_or_path = str(MINIATURE / "gpt2")
    raw.sampling.samples_per_prompt, raw.sampling.max_len = 2, 5
    raw.train.steps, raw.train.prompts_per_step, raw.train.microbatch_prompts = 2, 2, 2
    raw.train.checkpoint_every, raw.train.eval_every, raw.replay.fraction = 1, 1, 0.5
    raw.sampling.samples_per_prompt, raw.sampling.support_min_p = 4, 0.01
    raw.eval.samples_per_prompt, raw.eval.prompts_per_batch, raw.eval.probes = 2, 2, 1
    for name, values in sections.items():
        raw[name].update(values)
    return raw.to_dict()


_QUESTIONS = {
    "task": {"name": "contradiction", "prompt_template": "{subject}: {edit_fact}", "terminator": "?"},
    "reward": {"nli": settings()["reward"]["nli"] | {"name_or_path": str(MINIATURE / "nli")}},
    "data": {"path": str(MINIATURE / "facts_train.jsonl"), "val_path": str(MINIATURE / "facts_val.jsonl")},
}
_NUMBERS = {
    "task": {
        "name": "random_number",
        "prompt_template": "A number:",
        "options": {"target": "table", "low": 0, "high": 9, "mean": 3.0, "table": {"7": 1.0}, "invalid_log_r": -9.0},
    },
    "sampling": {"min_len": 1, "max_len": 2, "support_min_p": 0.0},
    "reward": {"temperature_end": 1.0},
}


def config(place: Path) -> Try:
    """Configurations as Python files give them, and the tasks and examples that they name."""
    whole = [settings(), settings(**_QUESTIONS), settings(**_NUMBERS)]

    def read(rng: random.Random) -> None:
        read_config = parse_config(changed_tree(rng, rng.choice(whole)))
        Examples.load(make_task(read_config), read_config.seed)

    return read


def overrides(place: Path) -> Try:
    """Flags that change a configuration's keys, as `train` reads them."""
    file = ROOT / "configs" / "next_sentence_mini.py"
    keys = [key for key, _ in flat(settings())]

    def read(rng: random.Random) -> None:
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file("config", flag_values=values)
        key = rng.choice(keys)
        key = rng.choice((key, key, key, key[:-1], f"{key}.x", key.split(".")[0], ""))
        value = rng.choice(("1", "-1", "(1,", "(1,2)", "None", "True", "0x1f", "1e999", str(rng.choice(ODD))))
        argv = ["train", f"--config={file}", f"--config.{key}={value}"]
        try:
            with mock.patch("sys.argv", argv):  # where the library looks for keys
                values(argv)
        except command_line.OF_FLAGS as error:
            raise UserError(command_line.one_line(error, argv)) from error
        command_line.read_config_flag(holder)

    return read


def data(place: Path) -> Try:
    """Files of prompts and of facts."""
    kinds = [("prompts.txt", changed_bytes, {}), ("facts_train.jsonl", changed_lines, _QUESTIONS)]

    wholes = {name: b"".join((MINIATURE / name).read_bytes().splitlines(keepends=True)[:20]) for name, _, _ in kinds}

    def read(rng: random.Random) -> None:
        name, change, task = rng.choice(kinds)
        file = place / name
        file.write_bytes(rng.choice((change, changed_bytes))(rng, wholes[name]))
        read_config = parse_config(settings(**task | {"data": {"path": str(file), "val_path": ""}}))
        Examples.load(make_task(read_config), read_config.seed)

    return read


def architecture(place: Path) -> Try:
    """A model's config.json."""
    contents = [json.dumps(raw).encode() for raw in ARCHITECTURES]

    def read(rng: random.Random) -> None:
        (place / "config.json").write_bytes(changed_json(rng, rng.choice(contents)))
        found = read_architecture(place)
        tensor_shapes(found)
        _structure(found).abstract_adapter  # noqa: B018 (a property that computes)

    return read


def tokenizer(place: Path) -> Try:
    """A tokenizer's files: of bytes, in one file and in two, and of SentencePiece."""
    kinds = [of_bytes(), of_pieces(), of_bytes_in_two_files()]
    for files in kinds:
        files["tokenizer_config.json"] = json.dumps({"eos_token": {"content": "</s>"}}).encode()
    rules = settings()["task"]["bans"]

    def read(rng: random.Random) -> None:
        files = dict(rng.choice(kinds))
        name = rng.choice(list(files))
        files[name] = (changed_bytes if name.endswith("txt") else changed_json)(rng, files[name])
        found = Tokenizer(written(place / "tokenizer", files))
        terminator = rng.choice((".", "<end of text>"))
        terminator_id(found, terminator)
        banned_items(found, terminator, rules)
        found.decode(found.encode_prompt("Mara went home. é"))
        found.encode_continuation(" home")

    return read


def safetensors(place: Path) -> Try:
    """A model's weights, in one file and behind an index."""
    raw = ARCHITECTURES[0]
    found, tensors = make_architecture(raw, "config.json"), _tensors(raw)
    whole = save(tensors)
    index = json.dumps({"weight_map": dict.fromkeys(tensors, "model-1.safetensors")}).encode()

    def read(rng: random.Random) -> None:
        files = {"model.safetensors": _changed_safetensors(rng, whole)}
        if rng.randrange(4) == 0:
            files = {"model.safetensors.index.json": changed_json(rng, index), "model-1.safetensors": whole}
        load_weights(written(place / "weights", files), found, np.float32)

    return read


def adapter(place: Path) -> Try:
    """A PEFT adapter's directory."""
    structure = _structure(make_architecture(ARCHITECTURES[0], "config.json"))
    original = place / "original"
    original.mkdir(exist_ok=True)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), structure.abstract_adapter)
    peft_adapters.save(original, zeros, structure, "some/model")
    whole = {file.name: file.read_bytes() for file in original.iterdir()}

    def read(rng: random.Random) -> None:
        files = dict(whole)
        if rng.randrange(2):
            files["adapter_config.json"] = changed_json(rng, files["adapter_config.json"])
        else:
            name = "adapter_model.safetensors"
            files[name] = _changed_safetensors(rng, files[name])
        directory = written(place / "adapter", files)
        peft_adapters.load(directory, structure)
        peft_adapters.remark_on_base(directory, "some/model")

    return read


def gguf(place: Path) -> Try:
    """A GGUF file, by the program that converts it."""
    whole = whole_gguf(place / "whole.gguf")

    def read(rng: random.Random) -> None:
        content = whole[: rng.randint(0, 6000)] if rng.randrange(10) == 0 else whole
        head, rest = content[:6000], content[6000:]  # what it says of itself, and its weights
        (place / "changed.gguf").write_bytes(changed_bytes(rng, head) + rest)
        try:
            gguf_conversion.convert(place / "changed.gguf", place / "converted")
        except gguf_conversion.REFUSALS as error:
            raise UserError(" ".join(str(error).split())) from error

    return read


def replay(place: Path) -> Try:
    """What a Redis server holds, what a checkpoint holds of a buffer, and seeds."""
    entries = [
        Entry(np.array([number, 3], np.int32), np.ones(3, bool), {"log_p": np.zeros(3, np.float32)}, "a b", -1.0, 7)
        for number in range(3)
    ]
    memory = MemoryReplay(Admission(5, 0.0))
    memory.offer({"a": entries})
    snapshot, seeds = memory.snapshot(), place / "seeds"

    def read(rng: random.Random) -> None:
        fields = {entry.key.encode(): entry.pack() for entry in entries} | {b"version": b"1 0123"}
        name = rng.choice(list(fields))
        value = fields.pop(name)
        fields[name if rng.randrange(3) else changed_bytes(rng, name)] = changed_bytes(rng, value)
        answers = _Answers([part for item in fields.items() for part in item])
        shared: Any = RedisReplay(answers, "run", Admission(5, 0.0))  # pyright: ignore[reportArgumentType]
        shared.stored(["a"])
        shared.offer({"a": entries})
        shared.snapshot()
        seeds.mkdir(exist_ok=True)
        (seeds / "0.bin").write_bytes(changed_bytes(rng, snapshot.tobytes()))
        sow(MemoryReplay(Admission(5, 0.0)), place, ())

    return read


def report(place: Path, run: Path | None = None) -> Try:
    """The files of a run's directory, by the commands that read them."""
    run = run or trained(place.parent)
    names = ("config.json", "metrics.jsonl", "validation.jsonl", "samples.jsonl", "machine.json", "evaluation.json")
    whole = {name: (run / name).read_bytes() for name in names if (run / name).exists()}
    whole["evaluation.json"] = json.dumps(_evaluation()).encode()
    (place / "copy" / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)

    def read(rng: random.Random) -> None:
        name = rng.choice(names)
        change = changed_lines if name.endswith("jsonl") else changed_json
        directory = written(place / "copy", whole | {name: change(rng, whole[name])})
        read_finished_config(directory)
        write_report(directory)

    return read


def checkpoint(place: Path) -> Try:
    """The files of a run's checkpoints."""
    run = trained(place.parent)
    original, copy = run / "checkpoints", place / "checkpoints"
    experiment = build(parse_config(settings()))
    like = experiment.beginning()
    files = [file.relative_to(original) for file in sorted(original.rglob("*")) if file.is_file()]

    def read(rng: random.Random) -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        for file in rng.sample(files, rng.choice((1, 1, 1, 5))):
            content = (original / file).read_bytes()
            is_json = content[:1] == b"{" and content[-1:] == b"}"
            (copy / file).write_bytes((changed_json if is_json else changed_bytes)(rng, content))
        with Checkpoints(copy, experiment.model_content, keep_best="elbo") as checkpoints:
            rng.choice((checkpoints.restore_best, checkpoints.restore_latest))(like)

    return read


KINDS: dict[str, Callable[[Path], Try]] = {
    each.__name__: each
    for each in [
        config,
        overrides,
        data,
        architecture,
        tokenizer,
        safetensors,
        adapter,
        gguf,
        replay,
        report,
        checkpoint,
    ]
}


@functools.cache
def trained(place: Path) -> Path:
    """A run of two steps."""
    train(parse_config(settings()), place / "run", Console(quiet=True))
    return place / "run"


class _Answers:
    """A Redis client as far as reading goes: whatever is asked for, the server holds these fields."""

    def __init__(self, fields: list[bytes]):
        self._fields, self._asked = fields, 0

    def pipeline(self, transaction: bool) -> "_Answers":
        self._asked = 0
        return self

    def script_load(self, script: str) -> None:
        pass

    def evalsha(self, *arguments: Any) -> None:
        self._asked += 1

    def execute(self) -> list[Any]:
        return [None, *([self._fields] * self._asked)]

    def smembers(self, name: str) -> set[bytes]:
        return {b"a"}


def _structure(found: Any) -> ModelStructure:
    return ModelStructure(found, LoRAConfig(2, 4.0, ("all-linear",)), dtype=jnp.float32, remat=False)


def _tensors(raw: dict[str, Any]) -> dict[str, np.ndarray]:
    shapes = tensor_shapes(make_architecture(raw, "config.json"))
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _changed_safetensors(rng: random.Random, content: bytes) -> bytes:
    """Its header's values, or its bytes, of which the first are changed as often as all others."""
    (size,) = struct.unpack("<Q", content[:8])
    kind = rng.randrange(3)
    if kind == 0:
        header = changed_json(rng, content[8 : 8 + size])
        return struct.pack("<Q", len(header)) + header + content[8 + size :]
    if kind == 1:
        return changed_bytes(rng, content[: 8 + size]) + content[8 + size :]
    return changed_bytes(rng, content)


def written(directory: Path, files: Mapping[str, bytes]) -> Path:
    directory.mkdir(exist_ok=True)
    for old in directory.iterdir():
        if old.is_file():
            old.unlink()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def of_bytes() -> dict[str, bytes]:
    content = json.loads((MINIATURE / "gpt2" / "tokenizer.json").read_text())
    return {"tokenizer.json": json.dumps(content).encode()}


def of_bytes_in_two_files() -> dict[str, bytes]:
    model = json.loads((MINIATURE / "gpt2" / "tokenizer.json").read_text())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    lines = "".join(f"{line}\n" for line in ("#version: 0.2", *merges))
    return {"vocab.json": json.dumps(model["vocab"]).encode(), "merges.txt": lines.encode()}


def of_pieces() -> dict[str, bytes]:
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁MarwenthomeAB."]
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names))}
    made = HFTokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return {"tokenizer.json": made.to_str().encode()}


def whole_gguf(file: Path) -> bytes:
    """A llama of two layers with a tokenizer of bytes."""
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e4)
    items = ["<|endoftext|>", *"abcdefgĠ.", "ab", "Ġc"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(items)
    writer.add_token_types([TokenType.CONTROL, *[TokenType.NORMAL] * (len(items) - 1)])
    writer.add_token_merges(["a b", "Ġ c"])
    writer.add_eos_token_id(0)
    shapes = {"token_embd": (len(items), 32), "output_norm": (32,)}
    for layer in range(2):
        own = {"attn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
        own |= {"ffn_norm": (32,), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.read_bytes()


def _evaluation() -> dict[str, Any]:
    """A comparison of a policy with two methods, as `evaluate` leaves it."""
    figure = {"mean": 0.5, "low": 0.4, "high": 0.6, "per_prompt": [0.5, 0.4, 0.6]}
    figures = {"log_likelihood": figure, "diversity": figure}
    methods = [
        {"name": name, "family": family, "setting": setting, "seconds": 1.0, "figures": figures, "texts": []}
        for name, family, setting in [("GFlowNet", "GFlowNet", 0.8), ("sampling", "temperature", 1.0)]
    ]
    return {"step": 2, "prompts": 3, "samples_per_prompt": 8, "methods": methods}
