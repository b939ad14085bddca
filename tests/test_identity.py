"""What a run depends on counts by its content: in what it remembers, in its checkpoints, wherever the files lie."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers import MINIATURE, contradiction_config
from safetensors.numpy import load_file, save_file

from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import build

MODEL, JUDGE = "gpt2", "nli"


def settings(directory, **overrides):
    names = {"model__name_or_path": str(directory / MODEL), "reward__nli__name_or_path": str(directory / JUDGE)}
    return contradiction_config(**(names | overrides))


def copied(directory):
    for name in (MODEL, JUDGE):
        shutil.copytree(MINIATURE / name, directory / name)
    return directory


@pytest.fixture(scope="module")
def experiment():
    with build(contradiction_config()) as built:
        yield built


@pytest.fixture(scope="module")
def example(experiment):
    return Examples.load(experiment.task, experiment.config.seed).train[0]


def permute_labels(directory):
    file = directory / JUDGE / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.shape[0] == 3 and tensor.ndim == 2)
    save_file(tensors | {name: np.ascontiguousarray(tensors[name][::-1])}, file, metadata={"format": "pt"})


def edit_json(name, **changes):
    def edit(directory):
        content = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps(content | changes))

    return edit


def scale_weights(directory):
    file = directory / MODEL / "model.safetensors"
    save_file({name: 1.001 * tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (permute_labels, ["model of reward.nli.name_or_path"]),
        (edit_json(f"{JUDGE}/config.json", hidden_act="relu"), ["model of reward.nli.name_or_path"]),
        (scale_weights, ["weights of model.name_or_path"]),
        (edit_json(f"{MODEL}/config.json", activation_function="relu"), ["config.json of model.name_or_path"]),
        (edit_json(f"{MODEL}/tokenizer.json", normalizer={"type": "NFC"}), ["tokenizer of model.tokenizer"]),
        (edit_json(f"{MODEL}/config.json", transformers_version="0"), []),
        (lambda directory: (directory / JUDGE / "README.md").write_text("..."), []),
    ],
)
def test_files_count_by_content_and_not_by_place(tmp_path, experiment, example, change, changed):
    directory = copied(tmp_path)
    change(directory)
    with build(settings(directory)) as other:
        assert [name for name, hashed in other.content.items() if experiment.content[name] != hashed] == changed
        assert (other.content_key(example) == experiment.content_key(example)) == (not changed)


def test_components_are_known_by_all_that_they_depend_on_and_by_nothing_else(experiment, example):
    def key(**overrides):
        return dataclasses.replace(experiment, config=contradiction_config(**overrides)).content_key(example)

    kept = key()
    other_fact = example.model_copy(update={"edit_fact": f"{example.edit_fact} Indeed."})
    changed = [
        experiment.content_key(other_fact),
        dataclasses.replace(experiment, frozen_sha256="another").content_key(example),
        key(task__prompt_template="{edit_fact} {subject}"),
        key(model__dtype="float64"),
        key(model__quantize="int8"),
        key(reward__granularity="terminal", objective__name="tb"),
        key(reward__answers__template="{question} Answer:"),
        key(reward__answers__max_new_tokens=11),
        key(reward__answers__min_new_tokens=2),
        key(reward__nli__contradiction_label=1),
        key(reward__nli__max_length=32),
    ]
    assert len({kept, *changed}) == 1 + len(changed)
    of_machines = {"device": "cuda", "workers": 3, "threads": 5, "batch_size": 16, "timeout_s": 7.0, "attempts": 9}
    for name, value in of_machines.items():
        assert key(**{f"reward__nli__{name}": value}) == kept
        assert key(**{f"reward__sentences__{name}": value}) == kept
    assert key(reward__answers__batch_size=16) == kept
    assert key(reward__contradiction_weight=3.0, reward__answers__penalty=2.0) == kept
