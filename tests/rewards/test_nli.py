"""The NLI model's scores are what transformers computes, whatever else is in the batch. Runs torch in this process."""

import random

import numpy as np
import pytest
import torch
from helpers import save_nli
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from gfn_jax.rewards.nli import NLIModel
from gfn_jax.runtime.errors import UserError

WORDS = ["Wexby", "keeps", "the", "drum", "of", "red", "goat", "was", "born", "in", "May", "likes", "cake"]


def nli(directory, **settings):
    defaults = {"contradiction_label": -1, "device": "cpu", "batch_size": 8, "max_length": 64, "threads": 2}
    return NLIModel(str(directory), **(defaults | settings))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_nli(tmp_path_factory.mktemp("nli"), ["entailment", "neutral", "contradiction"])


@pytest.fixture(scope="module")
def pairs():
    rng = random.Random(0)
    return [tuple(" ".join(rng.choices(WORDS, k=rng.randint(1, 17))) for _ in range(2)) for _ in range(31)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.15)])
def test_scores_equal_a_direct_call(directory, pairs, dtype, tolerance):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        log_p = [torch.log_softmax(model(**tokenizer(*pair, return_tensors="pt")).logits, -1)[0] for pair in pairs]
    expected = [(row[2].item(), row[:2].logsumexp(-1).item()) for row in log_p]
    scores = nli(directory, dtype=dtype).log_contradiction(pairs)
    np.testing.assert_allclose(scores, expected, atol=tolerance)
    assert (np.abs(np.subtract(scores, expected)).max() > 1e-4) == (dtype != "float32")
    assert np.ptp(expected, axis=0)[0] > 1  # the random model tells pairs apart


@pytest.mark.parametrize("threads", [1, 2])
def test_neither_order_nor_batch_mates_change_a_bit(directory, pairs, threads):
    model = nli(directory, threads=threads)
    scores = model.log_contradiction(pairs)
    for seed in range(5):
        order = random.Random(seed).sample(range(len(pairs)), len(pairs))
        assert model.log_contradiction([pairs[index] for index in order]) == [scores[index] for index in order]
    assert [model.log_contradiction([pair])[0] for pair in pairs] == scores


@pytest.mark.parametrize(
    ("labels", "chosen", "index"),
    [
        (["entailment", "neutral", "contradiction"], -1, 2),
        (["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], -1, 0),
        (["LABEL_0", "LABEL_1", "LABEL_2"], 1, 1),
    ],
)
def test_the_label_is_the_models_own_or_the_chosen_one(tmp_path, labels, chosen, index):
    directory = save_nli(tmp_path, labels)
    pair = ("Wexby keeps a goat", "the drum likes cake")
    inputs = AutoTokenizer.from_pretrained(directory)(*pair, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_pretrained(directory).eval()(**inputs).logits
    score = nli(directory, contradiction_label=chosen).log_contradiction([pair])[0][0]
    assert score == pytest.approx(torch.log_softmax(logits, -1)[0, index].item(), abs=1e-5)


def test_labels_that_say_nothing_are_refused(tmp_path):
    directory = save_nli(tmp_path, ["LABEL_0", "LABEL_1", "LABEL_2"])
    with pytest.raises(UserError, match=r"Set reward\.nli\.contradiction_label to its index"):
        nli(directory)
    with pytest.raises(UserError, match="contradiction_label is 3, but"):
        nli(directory, contradiction_label=3)


def test_what_cannot_be_loaded_or_judged_is_named_in_one_line(tmp_path, directory):
    with pytest.raises(UserError, match=r"reward\.nli\.name_or_path: .* cannot be loaded") as error:
        nli(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be loaded on 'teapot'"):
        nli(directory, device="teapot")
    model = nli(directory)
    model.check_premises(["Wexby keeps a goat"])
    with pytest.raises(
        UserError, match=r"the fact 'goat goat .* has 43 tokens of the NLI model's; at most half of its 64"
    ):
        model.check_premises(["Wexby keeps a goat", "goat " * 40])


def test_a_hypothesis_that_is_too_long_is_cut_and_judged(directory):
    model = nli(directory)
    short, long = ("Wexby keeps a goat", "cake " * 57), ("Wexby keeps a goat", "cake " * 500)
    assert model.log_contradiction([short]) == model.log_contradiction([long])


def test_an_empty_hypothesis_is_one(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer(["Wexby keeps a goat"], [""], return_tensors="pt")
    assert inputs["input_ids"].tolist()[0].count(tokenizer.sep_token_id) == 2
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    expected = torch.log_softmax(model(**inputs).logits, -1)[0, 2].item()
    assert nli(directory).log_contradiction([("Wexby keeps a goat", "")])[0][0] == pytest.approx(expected, abs=1e-5)
