"""What several tests build: models on disk and configurations."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2ForSequenceClassification

from gfn_jax.config.base import base
from gfn_jax.config.reading import parse_config
from gfn_jax.config.schema import Config
from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import Experiment, build
from gfn_jax.experiment.snapshot import Snapshot
from gfn_jax.rewards.protocol import RewardContext
from gfn_jax.runs.checkpoint import Checkpoints
from gfn_jax.runs.tracking import Tracker
from gfn_jax.tasks import make_task
from gfn_jax.training import loop
from gfn_jax.training.loop import train

_REPORT = loop._report
ROOT = Path(__file__).parent.parent
MINIATURE = ROOT / "data" / "miniworld"


def save_nli(directory: Path, labels: list[str]) -> Path:
    """A random DeBERTa-v2 behind the miniature's NLI tokenizer, saved to a directory."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "nli")
    settings = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=80,
        max_position_embeddings=64,
        type_vocab_size=2,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        share_att_key=True,
        position_biased_input=False,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = DebertaV2ForSequenceClassification(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # norms stay as they are
                parameter.normal_(0, 0.3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def config(**overrides: Any) -> Config:
    """The common configuration with dotted keys (written with __ for the dots) overridden."""
    raw = base()
    raw.mesh.data = 1
    for dotted, value in overrides.items():
        *sections, key = dotted.split("__")
        section = raw
        for name in sections:
            section = section[name]
        section[key] = value
    return parse_config(raw.to_dict())


def contradiction_config(**overrides: Any) -> Config:
    """The contradiction task in the miniature, with small batches."""
    settings = {
        "task__name": "contradiction",
        "task__prompt_template": "Subject: {subject}\nFact: {edit_fact}\nQuestion:",
        "task__terminator": "?",
        "data__path": str(MINIATURE / "facts_train.jsonl"),
        "data__val_path": str(MINIATURE / "facts_val.jsonl"),
        "data__prompt_buckets": (24, 40),
        "model__name_or_path": str(MINIATURE / "gpt2"),
        "sampling__samples_per_prompt": 5,
        "sampling__min_len": 1,
        "sampling__max_len": 7,
        "sampling__support_min_p": 1e-6,
        "reward__temperature_end": 1.0,
        "reward__answers__max_new_tokens": 9,
        "reward__answers__batch_size": 8,
        "reward__nli__name_or_path": str(MINIATURE / "nli"),
        "reward__nli__max_length": 64,
        "reward__nli__batch_size": 8,
        "train__prompts_per_step": 2,
        "train__microbatch_prompts": 2,
        "eval__prompts_per_batch": 2,
    }
    return config(**(settings | overrides))


def short_config(**overrides: Any) -> Config:
    """Four steps of next-sentence continuation in the miniature, of which one row in three is replayed."""
    settings = {
        "data__path": str(MINIATURE / "prompts.txt"),
        "data__val_prompts": 5,
        "data__prompt_buckets": (48,),
        "model__name_or_path": str(MINIATURE / "gpt2"),
        "sampling__samples_per_prompt": 3,
        "sampling__max_len": 7,
        "sampling__support_min_p": 0.01,
        "replay__fraction": 0.3,
        "replay__capacity": 10,
        "replay__total": 12,  # so that the last steps forget the first ones' prompts
        "train__steps": 4,
        "train__prompts_per_step": 4,
        "train__microbatch_prompts": 2,
        "train__eval_every": 2,
        "train__checkpoint_every": 2,
        "eval__samples_per_prompt": 4,
        "eval__prompts_per_batch": 4,
        "eval__probes": 2,
    }
    return config(**(settings | overrides))


def run(settings: Config, workdir: Path, *, with_page: bool = False) -> str:
    """What training printed; the page is left out, as `without_pages` says, unless it is asked for."""
    console = Console(record=True, width=100)
    with pages() if with_page else contextlib.nullcontext():
        train(settings, workdir, console)
    return console.export_text()


@contextlib.contextmanager
def without_pages() -> Iterator[None]:
    """Runs of this process leave report.html out, which takes longer than their steps; tests of the page make it."""

    def only_said(tracker: Tracker, workdir: Path) -> str:
        tracker.flush()
        return f"the report is in {workdir / 'report.html'}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_report", only_said)
        yield


@contextlib.contextmanager
def pages() -> Iterator[None]:
    """Within `without_pages`: they make it all the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_report", _REPORT)
        yield


def last_snapshot(settings: Config, workdir: Path) -> Snapshot:
    """What the last checkpoint of a run holds."""
    experiment = build(settings)
    with Checkpoints(workdir / "checkpoints", experiment.model_content) as checkpoints:
        snapshot, _ = checkpoints.restore_latest(experiment.beginning())
    assert snapshot is not None
    return snapshot


def examples_of(settings: Config) -> Examples:
    return Examples.load(make_task(settings), settings.seed)


def reward_context(experiment: Experiment) -> RewardContext:
    """What the experiment's reward was built from."""
    config = experiment.config
    return RewardContext(
        config.reward,
        config.sampling.max_len,
        config.data.prompt_buckets,
        experiment.structure,
        experiment.structure,
        experiment.tokenizer,
        experiment.rules.terminator,
        experiment.rows,
        experiment.stopwatch,
    )


def config_file(settings: Config, directory: Path) -> Path:
    """The configuration as a file for the command's --config."""
    file = directory / "settings.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({settings.model_dump(mode='json')!r})\n"
    )
    return file
