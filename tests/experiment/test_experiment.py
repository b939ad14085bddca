"""What an experiment knows of its examples, in as many pieces as there are."""

import hashlib
import itertools
import json
from types import SimpleNamespace

import pytest

from gfn_jax.experiment import experiment
from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.text.seen_prompts import SeenPrompts

TASK = SimpleNamespace(prompt=lambda example: f"Say {example}.", describe=lambda example: {"b": "é", "a": str(example)})


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_the_hash_of_the_examples_is_that_of_one_json_text(monkeypatch, at_once):
    monkeypatch.setattr(experiment, "_AT_ONCE", at_once)
    parts = [list(range(9)), [20, 30]]
    said = [[(TASK.prompt(example), TASK.describe(example)) for example in part] for part in parts]
    expected = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    assert Examples(*parts, 0, TASK).sha256() == expected


class CountingTokenizer:
    """One token for each character, and how many prompts it was asked about at a time."""

    def __init__(self):
        self.asked = []

    def encode_prompts(self, texts):
        self.asked.append(len(texts))
        return [list(text) for text in texts]

    def encode_prompt(self, text):
        return self.encode_prompts([text])[0]


def test_prompts_are_tokenised_together_and_none_twice():
    tokenizer = CountingTokenizer()
    config = SimpleNamespace(data=SimpleNamespace(prompt_buckets=(6, 8, 16)))
    parts = dict.fromkeys(("mesh", "rows", "structure", "adapter", "frozen", "frozen_sha256", "rules", "reward"))
    all_of_it = Experiment(config=config, task=TASK, tokenizer=tokenizer, functions=None, stopwatch=None, **parts)
    examples = [*range(120), 3, 4]
    assert all_of_it.buckets(examples) == [6, 8]
    assert all_of_it.buckets([*examples, 10**9]) == [6, 8, 16]
    assert tokenizer.asked == [120, 1]


@pytest.mark.parametrize(
    ("texts", "length"),
    [
        (["a" * 40], 0),  # of one prompt all would be its beginning
        (["a" * 40, "a" * 40], 0),
        (["a" * 17 + "b", "a" * 17 + "c"], 17),
        (["a" * 17 + "b", "a" * 17, "a" * 17 + "cd"], 16),  # each has more
        (["a" * 40, "a" * 15 + "b"], 0),  # too few to tell
        (["a" * 40, "a" * 30, "a" * 20 + "b"], 20),
        (["", "a" * 40, "a" * 40 + "b"], 0),
    ],
)
def test_the_common_beginning_is_what_all_prompts_so_far_begin_with_and_have_more(texts, length):
    for order in itertools.permutations(texts):
        seen = SeenPrompts(CountingTokenizer().encode_prompts)
        for text in order:
            assert seen.lengths([text]) == [len(text)]
        assert seen.beginning == ("a",) * length
