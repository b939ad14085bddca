"""What is exported is the trained policy, for the Hugging Face libraries and for training here; or one clear line."""

import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import MINIATURE, last_snapshot, run, short_config
from peft import PeftModel
from rich.console import Console
from run_files import json_lines
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from gfn_jax.experiment.experiment import build
from gfn_jax.policy.scorer import score
from gfn_jax.runs.hf_export import export_adapter, export_merged
from gfn_jax.runtime.errors import UserError
from gfn_jax.types import Prompts, Trajectories

PROMPT = "Mara walked to the market."
SAMPLES = 7


def settings(**overrides):
    return short_config(
        **(
            {
                "sampling__support_min_p": 0.0,
                "sampling__min_len": 2,
                "train__learning_rate": 1e-2,
                "model__lora__rank": 3,
                "model__lora__targets": ("attn.c_attn", "mlp.c_proj"),
            }
            | overrides
        )
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("exporting") / "some_run"
    run(settings(), workdir)
    return workdir


@pytest.fixture(scope="module")
def exported(trained):
    """The adapter's directory and the merged model's."""
    adapter, merged = (trained.parent / name for name in ("adapter", "merged"))
    export_adapter(trained, adapter, "last", Console(quiet=True))
    export_merged(trained, merged, "float32", "last", Console(quiet=True))
    return adapter, merged


def theirs(exported):
    base = AutoModelForCausalLM.from_pretrained(MINIATURE / "gpt2")
    return PeftModel.from_pretrained(base, exported[0]).eval(), AutoModelForCausalLM.from_pretrained(exported[1]).eval()


def test_generate_samples_from_the_policy_with_its_masks(trained, exported):
    """The probabilities that transformers draws from, token by token, are those of our scorer."""
    experiment = build(settings())
    state = last_snapshot(settings(), trained).state
    for model, directory in zip(theirs(exported), exported, strict=True):
        tokenizer = AutoTokenizer.from_pretrained(directory)
        encoded = tokenizer([PROMPT] * SAMPLES, return_tensors="pt")
        masks = GenerationConfig.from_pretrained(directory)
        torch.manual_seed(0)
        made = model.generate(**encoded, generation_config=masks, output_scores=True, return_dict_in_generate=True)
        drawn = made.sequences[:, encoded.input_ids.shape[1] :].numpy()
        stop = experiment.rules.terminator
        lengths = (drawn == stop).argmax(1)
        assert (drawn == stop).any(1).all()
        assert 2 <= lengths.min() < lengths.max() <= 7
        log_p = np.stack([torch.log_softmax(scores, -1).numpy() for scores in made.scores], 1)

        tokens = np.zeros((SAMPLES, 7), np.int32)
        for row, ids, length in zip(tokens, drawn, lengths, strict=True):
            row[:length] = ids[:length]
        prompt = encoded.input_ids[:1].numpy().astype(np.int32)
        prompts = Prompts(jnp.asarray(prompt), jnp.asarray([prompt.shape[1]], jnp.int32))
        trajectories = Trajectories.given(jnp.asarray(tokens), jnp.asarray(lengths, jnp.int32))
        models = experiment.structure.policy_and_frozen(state.adapter, experiment.frozen)
        scores = score(*models, experiment.rules, prompts, trajectories)
        for row, length in enumerate(lengths):
            expected = [log_p[row, step, tokens[row, step]] for step in range(length)]
            np.testing.assert_allclose(scores.log_pf_NxL[row, :length], expected, atol=1e-4)
            np.testing.assert_allclose(scores.log_pterm_NxT[row, length], log_p[row, length, stop], atol=1e-4)


def test_training_from_the_exported_adapter_begins_where_it_ended(trained, exported, tmp_path):
    workdir = tmp_path / "next"
    run(settings(model__lora__init_from=str(exported[0]), train__steps=2), workdir)
    first, last = json_lines(workdir / "metrics.jsonl")[0], json_lines(trained / "metrics.jsonl")[-1]
    assert first["step"] == 0
    assert first["val/mixture_log_ratio_var"] != json_lines(trained / "metrics.jsonl")[0]["val/mixture_log_ratio_var"]
    for name in (name for name in last if name.startswith("val/")):
        assert first[name] == pytest.approx(last[name], rel=1e-5), name

    gone = exported[0].rename(tmp_path / "elsewhere")  # the run keeps a copy of what it began from
    try:
        export_merged(workdir, tmp_path / "merged", "bfloat16", "last", Console(quiet=True))
        longer = settings(model__lora__init_from=str(exported[0]), train__steps=4)
        assert "going on after step 2" in run(longer, workdir)
    finally:
        gone.rename(exported[0])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16


def test_whoever_may_read_the_directory_may_read_the_weights(exported):
    for directory in exported:
        modes = {file.name: file.stat().st_mode & 0o777 for file in directory.iterdir()}
        assert set(modes.values()) == {0o666 & ~_umask()}, modes


def _umask():
    current = os.umask(0)
    os.umask(current)
    return current


def test_the_card_says_what_is_sampled_and_how_well(trained, exported):
    for directory in exported:
        card = (directory / "README.md").read_text()
        assert "log R = likelihood_weight * log p_frozen" in card
        assert "temperature at the end: `0.8`" in card
        last = json_lines(trained / "metrics.jsonl")[-1]
        assert f"| elbo | {json_lines(trained / 'metrics.jsonl')[0]['val/elbo']:.4g} | {last['val/elbo']:.4g} |" in card
    merged = json.loads((exported[1] / "config.json").read_text())
    assert merged["vocab_size"] == 1495


def test_what_cannot_be_exported_is_one_clear_line(trained, exported, tmp_path):
    with pytest.raises(UserError, match="is already there"):
        export_adapter(trained, exported[0], "last", Console(quiet=True))
    with pytest.raises(UserError, match="is not a run's directory"):
        export_adapter(tmp_path, tmp_path / "out", "last", Console(quiet=True))
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(trained / "config.json", begun)
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        export_merged(begun, tmp_path / "out", "float32", "last", Console(quiet=True))
    shutil.copytree(trained, tmp_path / "random")
    written = json.loads((trained / "config.json").read_text())
    written["model"]["random_init"] = True
    (tmp_path / "random" / "config.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"random \(model\.random_init\).*--merged"):
        export_adapter(tmp_path / "random", tmp_path / "out", "last", Console(quiet=True))
    assert not (tmp_path / "out").exists()
