"""The recipes of examples/: each is one file, and trains as it is."""

import re

import numpy as np
import torch
from helpers import MINIATURE, ROOT, run, short_config
from run_files import json_lines
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from examples import arithmetic, favourite_word, red_team
from gfn_jax.config.reading import parse_config
from gfn_jax.experiment.experiment import build


def shortened(recipe):
    """A recipe's configuration for a few small steps."""
    raw = recipe.get_config().unlock()
    raw.update(short_config().model_dump(include={"data", "train", "eval"}))
    return parse_config(raw.to_dict())


def test_a_function_is_all_that_a_reward_needs(tmp_path, monkeypatch):
    """Its term shows, and its run is its own to resume."""
    monkeypatch.chdir(ROOT)
    settings = shortened(favourite_word)
    run(settings, tmp_path / "run")
    probes = json_lines(tmp_path / "run" / "samples.jsonl")
    assert all(probe["harbour"] == 3.0 * ("harbour" in probe["continuation"]) for probe in probes)
    assert "going on after step 4" in run(settings, tmp_path / "run")


def test_red_teaming_is_rewarded_by_what_the_classifier_says_of_each_continuation(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    run(shortened(red_team), tmp_path / "run")
    probes = json_lines(tmp_path / "run" / "samples.jsonl")
    texts = [probe["continuation"].strip() for probe in probes]
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "mood")
    model = AutoModelForSequenceClassification.from_pretrained(MINIATURE / "mood").eval()
    with torch.no_grad():
        expected = [torch.log_softmax(model(**tokenizer(text, return_tensors="pt")).logits, -1)[0, 1] for text in texts]
    np.testing.assert_allclose([probe["objection"] for probe in probes], expected, atol=1e-5)
    assert np.ptp(expected) > 1  # it does tell them apart


def test_sums_are_worked_out_under_their_own_bans(monkeypatch):
    """The recipe as it is, but for the model, which knows no more than that it is to write numbers."""
    monkeypatch.chdir(ROOT)
    raw = arithmetic.get_config().unlock()
    raw.model.name_or_path, raw.sampling.support_min_p = str(MINIATURE / "gpt2"), 0.0
    raw.sampling.max_len, raw.mesh.data = 5, 1
    raw.data.prompt_buckets = (160,)
    with build(parse_config(raw.to_dict())) as experiment:
        example = experiment.task.example(prompt="3 + 4 - 2 =")
        prompts = experiment.encode([example])
        drawn = experiment.functions.sample(experiment.adapter, experiment.frozen, prompts, 0)
        components = experiment.reward.components(experiment.frozen, [example], prompts, drawn)
        texts = experiment.texts(drawn)
    assert all(re.fullmatch(r"[ \d+=-]*\.", text) for text in texts)
    last = np.asarray(components["is_right"])[np.arange(len(texts)), np.asarray(drawn.length_N)]
    assert last.tolist() == arithmetic.is_right([example] * len(texts), texts)
