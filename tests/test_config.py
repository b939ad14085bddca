"""Every key is known, read and explained; what is wrong is named."""

import importlib

import pytest
from helpers import ROOT, config

from gfn_jax.config.base import base
from gfn_jax.config.reading import SAFE_TO_CHANGE, WHERE_CONTENT_IS, differing_keys, known_keys, parse_config
from gfn_jax.runtime.errors import UserError

SHIPPED = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "common")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_are_valid(name):
    parse_config(importlib.import_module(f"configs.{name}").get_config().to_dict())


def test_the_common_configuration_holds_exactly_the_known_keys():
    def leaves(section, prefix=""):
        for key, value in section.items():
            yield prefix + key
            if hasattr(value, "items") and key != "bans":
                yield from leaves(value, f"{prefix}{key}.")

    assert sorted(leaves(base())) == sorted(known_keys())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda raw: raw["train"].update(stps=3),
            r"unknown configuration key train\.stps; did you mean train\.steps\?",
        ),
        (lambda raw: raw.pop("seed"), "lacks the key seed"),
        (
            lambda raw: raw["replay"].update(url="redis://:hunter2@localhost"),
            r"^replay\.url: it holds a password, .* put it into an environment variable",
        ),
        (lambda raw: raw["replay"].update(url="rediss://localhost?password=hunter2"), r"^replay\.url: options behind"),
        (lambda raw: raw["replay"].update(url="redis://["), r"^replay\.url: it is no URL"),
        (lambda raw: raw["replay"].update(url="localhost:6379"), r"^replay\.url: it does not begin with"),
        (lambda raw: raw["model"].update(name_or_path=""), r"model\.name_or_path: .*at least 1 character"),
        (lambda raw: raw["data"].update(prompt_buckets=()), r"data\.prompt_buckets: .*at least 1 item"),
        (lambda raw: raw["train"].update(adam_b1=1.0), r"train\.adam_b1: .*less than 1"),
        (lambda raw: raw["train"].update(learning_rate=float("inf")), r"train\.learning_rate: .*finite"),
        (lambda raw: raw["train"].update(steps=0), r"train\.steps: .*greater than or equal to 1 \(it is 0\)"),
        (lambda raw: raw["model"].update(dtype="int8"), r"model\.dtype: .*'bfloat16'"),
        (lambda raw: raw["replay"].update(total=49), r"replay: capacity 50, of a prompt, is greater than total 49"),
        (lambda raw: raw["sampling"].update(min_len=99), r"sampling: min_len 99 is greater than max_len 30"),
        (lambda raw: raw["sampling"].update(samples_per_prompt=1), r"set sampling\.samples_per_prompt to 2 or more"),
        (lambda raw: raw["sampling"].update(temperature_low=3.0), r"temperature_low 3.0 is greater"),
        (
            lambda raw: [
                raw["objective"].update(name="reinforce"),
                raw["sampling"].update(temperature_prob=0.5),
                raw["train"].update(pipeline_depth=1),
            ],
            r"itself samples alone: set sampling\.temperature_prob to 0 \(it is 0\.5\), train\.pipeline_depth to 0",
        ),
    ],
)
def test_wrong_values_are_named_in_one_line(change, message):
    raw = config(data__path="-", model__name_or_path="-").model_dump()
    change(raw)
    with pytest.raises(UserError, match=message) as error:
        parse_config(raw)
    assert "\n" not in str(error.value)
    assert "hunter2" not in str(error.value)


def test_only_safe_keys_may_change_in_a_run():
    names = {"data__path": "-", "model__name_or_path": "-"}
    one = config(**names, train__steps=10, tracking__wandb="disabled")
    safe = config(**names, train__steps=20, tracking__wandb="offline", train__eval_every=3)
    other = config(**names, train__steps=20, seed=1, model__lora__rank=3)
    assert differing_keys(one, safe) == []
    assert differing_keys(one, other) == ["model.lora.rank", "seed"]
    elsewhere = config(**names | {"model__name_or_path": "moved"}, reward__nli__device="cuda", reward__nli__workers=3)
    assert differing_keys(one, elsewhere) == ["model.name_or_path"]
    assert differing_keys(one, elsewhere, (*SAFE_TO_CHANGE, *WHERE_CONTENT_IS)) == []
