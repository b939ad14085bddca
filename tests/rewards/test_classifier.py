"""A classifier's probability of a label is what its kind of model means by it. Runs torch in this process."""

import json

import pytest
import torch
from helpers import MINIATURE
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from gfn_jax.rewards.classifier import Classifier, find_label
from gfn_jax.runtime.errors import UserError

TEXTS = ["The night was cold.", "Mara bought a lamp.", "He forgot his broken boat in the rain.", "A dog."]
TOXIC = dict(enumerate(["toxic", "severe_toxic", "obscene"]))


def saved(directory, **settings):
    """The miniature's classifier with other labels, and a head of random weights where their number differs."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        MINIATURE / "mood", ignore_mismatched_sizes=True, **settings
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(MINIATURE / "mood").save_pretrained(directory)
    return model.eval(), AutoTokenizer.from_pretrained(directory)


def logits_of(model, tokenizer):
    with torch.no_grad():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])


@pytest.mark.parametrize(
    ("settings", "probability"),
    [
        ({}, lambda logits: torch.log_softmax(logits, -1)[:, 1]),
        (
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            lambda logits: torch.nn.functional.logsigmoid(logits)[:, 1],
        ),
        ({"num_labels": 1}, lambda logits: torch.nn.functional.logsigmoid(logits)[:, 0]),
    ],
    ids=["exclusive", "multi-label", "one logit"],
)
def test_probabilities_are_those_of_the_models_kind(tmp_path, settings, probability):
    expected = probability(logits_of(*saved(tmp_path, **settings))).tolist()
    classifier = Classifier(str(tmp_path), 0 if settings.get("num_labels") == 1 else 1, batch_size=8)
    assert classifier.log_probabilities(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert max(expected) > min(expected)
    assert classifier.log_probabilities(TEXTS[::-1]) == classifier.log_probabilities(TEXTS)[::-1]


def test_what_is_no_classifier_is_refused(tmp_path):
    saved(tmp_path, num_labels=1, problem_type="regression")
    with pytest.raises(UserError, match="gives a number, not the probability of a label"):
        Classifier(str(tmp_path), 0)


def test_code_beside_a_model_is_not_run_whatever_the_standard_input_answers(tmp_path, monkeypatch):
    saved(tmp_path)
    (tmp_path / "harmful.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w').close()\n")
    settings = {"model_type": "harmful", "auto_map": {"AutoConfig": "harmful.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(UserError, match="contains custom code"):
        Classifier(str(tmp_path), 0)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(("chosen", "index"), [("toxic", 0), ("Severe", 1), ("2", 2), (1, 1), ("OBSCENE", 2)])
def test_a_label_is_named_or_counted(chosen, index):
    assert find_label(TOXIC, chosen, "a model", "the key") == index


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("o", r"do not say which is 'o'.*Set the key to its index"),
        ("3", "the key is 3, but a model has"),
        ("mild", "do not say"),
    ],
)
def test_a_label_that_is_none_or_several_is_refused(chosen, message):
    with pytest.raises(UserError, match=message):
        find_label(TOXIC, chosen, "a model", "the key")
