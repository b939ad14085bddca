"""The recipes of examples/: each is one file, and trains as it is."""

import numpy as np
import pytest
import torch
from helpers import MINIATURE, ROOT, run, short_config
from run_files import json_lines
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from examples import favourite_word, red_team
from gfn_jax.config.reading import parse_config
from gfn_jax.runtime.errors import UserError


def shortened(recipe, **options):
    """A recipe's configuration for a few small steps."""
    raw = recipe.get_config().unlock()
    raw.update(short_config().model_dump(include={"data", "train", "eval"}))
    raw.task.options.update(options)
    return parse_config(raw.to_dict())


def test_a_task_of_ones_own_is_one_file(tmp_path):
    """Its reward's component shows, and its run is its own to resume."""
    settings = shortened(favourite_word, word="oa")
    run(settings, tmp_path / "run")
    assert 0 <= json_lines(tmp_path / "run" / "metrics.jsonl")[0]["val/has_word"] <= 1
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
    np.testing.assert_allclose([probe["log_objection"] for probe in probes], expected, atol=1e-5)
    assert np.ptp(expected) > 1  # it does tell them apart


def test_a_classifier_without_such_a_label_is_one_line_that_names_the_key(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"do not say which is 'toxic': .*Set task\.options\.label to its index"):
        run(shortened(red_team, label="toxic"), tmp_path / "run")
