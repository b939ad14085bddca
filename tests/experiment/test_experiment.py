"""What an experiment knows of its examples, in as many pieces as there are."""

import hashlib
import json
from types import SimpleNamespace

import pytest

from gfn_jax.experiment import experiment
from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import Experiment

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
    assert tokenizer.asked == [122, 1]
