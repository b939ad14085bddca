"""A trained policy as a directory that the Hugging Face libraries load: a PEFT adapter, or a whole model.

Both hold the tokenizer, a model card, and a `generation_config.json` with the masks that are part of the policy:
all but a support mask, which the Hugging Face libraries do not have.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from rich.console import Console
from rich.progress import track

from gfn_jax.config.schema import Model
from gfn_jax.models import peft_adapters
from gfn_jax.models.hf_architecture import named_config, read_settings
from gfn_jax.models.hf_files import TOKENIZER_FILES, find_directory, find_model, is_local, save_tensors
from gfn_jax.models.hf_weights import to_hugging_face
from gfn_jax.models.merging import merge
from gfn_jax.policy.masks import Rules
from gfn_jax.rewards.user_function import Function
from gfn_jax.runs.model_card import model_card
from gfn_jax.runs.opened import TrainedRun, open_run, read_finished_config
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.progress import has_bars

_LARGEST_FILE = 5 * 10**9


def export_adapter(
    workdir: Path,
    out: Path,
    checkpoint: str,
    console: Console,
    overrides: Sequence[str] = (),
    *,
    trust_code: bool = False,
    function: Function | None = None,
) -> None:
    """Writes a checkpoint's adapter (`open_run`) as a PEFT directory; `overrides` are of `read_finished_config`.

    Raises `UserError` where the run has no checkpoint, its frozen model is a random one, or `out` is there.
    """
    config = read_finished_config(workdir, overrides, trust_code=trust_code)
    if config.model.random_init:
        raise UserError(
            f"the frozen model of {workdir} is random (model.random_init), and an adapter is nothing without it: "
            "export the whole with --merged"
        )
    with _written_whole(out) as directory, open_run(workdir, config, checkpoint, function, judged=False) as run:
        base = config.model.name_or_path
        base = str(find_model(base, "model.name_or_path").resolve()) if is_local(base) else base
        adapter = {"blocks": run.snapshot.state.adapter["blocks"]}
        peft_adapters.save(directory, adapter, run.experiment.structure, base)
        _write_companions(run, directory, workdir, base, is_merged=False)
    _say(console, run, out, "PEFT adapter")


def export_merged(
    workdir: Path,
    out: Path,
    dtype: str,
    checkpoint: str,
    console: Console,
    overrides: Sequence[str] = (),
    *,
    trust_code: bool = False,
    function: Function | None = None,
) -> None:
    """Writes a checkpoint's policy as a whole causal language model in `dtype`; raises `UserError` likewise."""
    config = read_finished_config(workdir, overrides, trust_code=trust_code)
    with _written_whole(out) as directory, open_run(workdir, config, checkpoint, function, judged=False) as run:
        structure = run.experiment.structure
        weights = merge(structure, run.snapshot.state.adapter, run.experiment.frozen, jnp.dtype(dtype))
        tensors = dict(to_hugging_face(weights, structure.architecture))
        _save_tensors(tensors, directory, console)
        _write_architecture(config.model, directory, dtype)
        _write_companions(run, directory, workdir, config.model.name_or_path, is_merged=True)
    _say(console, run, out, f"{dtype} model")


def generation_config(rules: Rules, vocabulary: int, padding: int) -> dict[str, Any]:
    """The settings with which transformers' `generate` samples from the policy, its masks included.

    A support mask has none: with one, `generate` also samples what lies outside.
    """
    is_banned = ~np.asarray(rules.is_word_V)[:vocabulary]
    is_banned[rules.terminator] = False
    return {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "suppress_tokens": np.flatnonzero(is_banned).tolist(),
        "min_new_tokens": rules.min_len,
        "max_new_tokens": rules.max_len + 1,
        "eos_token_id": rules.terminator,
        "forced_eos_token_id": rules.terminator,
        "pad_token_id": padding,
    }


def _save_tensors(tensors: dict[str, Callable[[], np.ndarray]], directory: Path, console: Console) -> None:
    """Writes tensors in files of limited size, as Hugging Face's libraries name them."""
    plan: Any = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda fetch: fetch().nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=_LARGEST_FILE,
    )
    files = plan.filename_to_tensors.items()
    for file, names in track(files, "writing", console=console, transient=True, disable=not has_bars(console)):
        save_tensors({name: np.ascontiguousarray(tensors[name]()) for name in names}, directory / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(directory / "model.safetensors.index.json", index)


def _write_architecture(model: Model, directory: Path, dtype: str) -> None:
    name = model.name_or_path
    if model.random_init:
        published, _ = named_config(name)
    else:  # beside the weights, whatever a published model of that name has
        published = read_settings(find_model(name, "model.name_or_path") / "config.json")
    settings = {"bos_token_id": None, "eos_token_id": None} | dict(published) | {"dtype": dtype}
    settings.pop("torch_dtype", None)  # an older name of dtype
    _write_json(directory / "config.json", settings)


def _write_companions(run: TrainedRun, directory: Path, workdir: Path, base: str, *, is_merged: bool) -> None:
    """What stands beside the weights: tokenizer, generation settings, model card."""
    experiment = run.experiment
    model = experiment.config.model
    source = find_directory(model.tokenizer or model.name_or_path, "model.tokenizer", TOKENIZER_FILES)
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, directory / name)
    if not (directory / "tokenizer.json").exists():  # else transformers must be told which class reads the others
        experiment.tokenizer.save(directory / "tokenizer.json")
    if not (directory / "tokenizer_config.json").exists():
        _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    rules, vocabulary = experiment.rules, experiment.structure.architecture.vocab_size
    padding = min(experiment.tokenizer.special_ids, default=rules.terminator)
    _write_json(directory / "generation_config.json", generation_config(rules, vocabulary, padding))
    card = model_card(run, workdir, base, is_merged=is_merged)
    card.save(directory / "README.md")


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A directory that becomes `out` when all is in it; raises `UserError` where `out` is there, or cannot be made."""
    if out.exists():
        raise UserError(f"--out {out} is already there; choose another name")
    with contextlib.ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            place = stack.enter_context(tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-"))
            directory = Path(place) / out.name
            directory.mkdir()
        except OSError as error:
            raise UserError(f"--out {out} cannot be written: {error}") from error
        yield directory
        os.replace(directory, out)


def _say(console: Console, run: TrainedRun, out: Path, what: str) -> None:
    for line in run.account:
        console.print(line, soft_wrap=True)
    if run.experiment.rules.needs_frozen_logits:
        console.print(
            "its support mask (sampling.support_min_p) cannot be exported: `generate` also samples outside it",
            soft_wrap=True,
        )
    console.print(f"wrote the policy after step {run.snapshot.step} to {out}, as a {what}", soft_wrap=True)
