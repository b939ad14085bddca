"""Fine-tunes a text encoder into a classifier of pairs, by the transformers library's own trainer."""

import dataclasses
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs import LABELS, Pair, as_written, part_of, read_pairs
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import set_verbosity_error

from gfn_jax.runtime.content import file_sha256
from gfn_jax.runtime.errors import UserError

_LONGEST = 128
_SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a judge depends on; the same settings come to the same judge, on the same machine."""

    encoder: str
    pairs: tuple[str, ...]
    half: str
    seed: int
    epochs: float
    batch_size: int
    learning_rate: float
    label_smoothing: float = 0.1
    warmup_share: float = 0.06
    weight_decay: float = 0.01


def train(settings: Settings, out: str, save_every: int) -> None:
    """Leaves the judge at `out`, with `judge.json` about it; goes on from `out`.unfinished where that is there.

    Raises `UserError` where there is something at `out`, the unfinished one is of other settings or pairs, or the
    encoder or a file of pairs cannot be read.
    """
    target = Path(out)
    unfinished = target.with_name(f"{target.name}.unfinished")
    if target.exists():
        raise UserError(f"--out: {target} is there already; delete it, or name another")
    pairs, undecided = read_pairs(settings.pairs)
    chosen, held_out = part_of(pairs, settings.half)
    if not chosen or not held_out:
        raise UserError(f"--pairs: {len(pairs)} pairs are too few: {len(chosen)} to train on, {len(held_out)} held out")
    print(
        f"{len(chosen):,} pairs to train on and {len(held_out):,} held out, of {len(pairs):,}; "
        f"{undecided:,} without a label",
        flush=True,
    )
    _claim(unfinished, {**dataclasses.asdict(settings), "sha256": [file_sha256(Path(file)) for file in settings.pairs]})
    set_verbosity_error()
    set_seed(settings.seed)
    model, tokenizer = _load(settings.encoder)
    shown = [pair for each in chosen for pair in (each, _written(each))]
    trainer = Trainer(
        model=model,
        args=_arguments(settings, unfinished, len(shown), save_every),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=_encoded(tokenizer, shown),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(unfinished)))
    figures = {
        "trained_on": len(chosen),
        "held_out": len(held_out),
        "as_is": _examine(trainer, tokenizer, held_out),
        "as_written": _examine(trainer, tokenizer, [_written(pair) for pair in held_out]),
    }
    finished = unfinished / "finished"
    trainer.save_model(str(finished))
    (finished / "training_args.bin").unlink()  # a pickle, which nobody should have to open
    tokenizer.save_pretrained(finished)
    about = json.dumps({**dataclasses.asdict(settings), **figures}, indent=2)
    (finished / "judge.json").write_text(about + "\n", encoding="utf-8")
    os.replace(finished, target)
    shutil.rmtree(unfinished)
    for name in ("as_is", "as_written"):
        found = figures[name]
        recalls = ", ".join(f"{label} {share:.3f}" for label, share in found["recall"].items())
        print(f"held-out accuracy, pairs {name.replace('_', ' ')}: {found['accuracy']:.3f} (recall: {recalls})")
    print(f"the judge is in {target}; --config.reward.nli.name_or_path={target} names it")


def _claim(unfinished: Path, settings: dict[str, Any]) -> None:
    """Writes down what is being made, or checks that the unfinished one is the same."""
    file = unfinished / _SETTINGS
    wanted = json.loads(json.dumps(settings))
    if not file.exists():
        unfinished.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    if differing := [name for name in wanted if found.get(name) != wanted[name]]:
        raise UserError(
            f"{unfinished} is of a training that differs in {', '.join(differing)}; delete it, or name another --out"
        )


def _load(encoder: str):
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}
    settings = {**names, "num_labels": len(LABELS), "problem_type": "single_label_classification"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(encoder, trust_remote_code=False, **settings)
    except Exception as error:  # the libraries raise whatever comes to their minds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--encoder: {encoder!r} cannot be loaded: {reason:.200}") from error
    if tokenizer.pad_token is None:
        raise UserError(f"--encoder: the tokenizer of {encoder!r} has no pad token, which batches need")
    return model, tokenizer


def _arguments(settings: Settings, unfinished: Path, pairs: int, save_every: int) -> TrainingArguments:
    steps = math.ceil(settings.epochs * math.ceil(pairs / settings.batch_size))
    return TrainingArguments(
        output_dir=str(unfinished),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=math.ceil(settings.warmup_share * steps),
        weight_decay=settings.weight_decay,
        label_smoothing_factor=settings.label_smoothing,
        train_sampling_strategy="group_by_length",  # neighbours in length share a batch, which the longest pads
        seed=settings.seed,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=1,
        logging_steps=save_every,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=not sys.stderr.isatty(),
    )


def _written(pair: Pair) -> Pair:
    return Pair(as_written(pair.premise), as_written(pair.hypothesis), pair.label)


def _encoded(tokenizer, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    rows = tokenizer(
        [pair.premise for pair in pairs],
        [pair.hypothesis for pair in pairs],
        truncation="only_first",
        max_length=_LONGEST,
    )
    return [
        {"labels": pair.label, **{name: values[index] for name, values in rows.items()}}
        for index, pair in enumerate(pairs)
    ]


def _examine(trainer: Trainer, tokenizer, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The share of right labels, of all pairs and of each label's."""
    said = trainer.predict(_encoded(tokenizer, pairs))  # by length, and so in another order than the pairs
    labels = said.label_ids
    right = np.argmax(said.predictions, axis=-1) == labels
    recall = {name: float(right[labels == index].mean()) for index, name in enumerate(LABELS) if index in labels}
    return {"accuracy": float(right.mean()), "recall": recall}
