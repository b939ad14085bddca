"""From raw configurations, and those of runs, to typed ones; nothing behind this sees a ConfigDict."""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gfn_jax.config.schema import Config
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.json_files import read_json

WHERE_CONTENT_IS = (
    "model.name_or_path",
    "model.tokenizer",
    "reward.nli.name_or_path",
    "reward.sentences.name_or_path",
)
"""Keys that name what a run depends on by its content (`Experiment.content`), wherever it lies."""

OF_THE_MACHINE = (
    *(
        f"reward.{judge}.{key}"
        for judge in ("nli", "sentences")
        for key in ("device", "workers", "threads", "batch_size", "timeout_s", "attempts")
    ),
    *(f"reward.function.{key}" for key in ("workers", "batch_size", "timeout_s", "attempts")),
    "reward.answers.batch_size",
    "reward.cache_mb",
)
"""Keys that no result depends on, as one machine has them and another not."""

YOUNGER: dict[str, Any] = {
    "model.matmul_precision": "default",
    "sampling.rounds_adapter": False,
    "reward.nli.dtype": "float32",
    "reward.sentences.dtype": "float32",
    "reward.function.name": "",
    "reward.function.granularity": "terminal",
    "reward.function.weights": {},
    "reward.function.workers": 0,
    "reward.function.batch_size": 256,
    "reward.function.timeout_s": 600.0,
    "reward.function.attempts": 3,
}
"""Keys that the configurations of older runs lack, and what these runs did."""

SAFE_TO_CHANGE = (
    "mesh",
    *OF_THE_MACHINE,
    "train.steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep_best",
    "train.eval_every",
    "train.log_every",
    "train.patience",
    "replay.backend",
    "replay.url",
    "replay.password_variable",
    "tracking",
)
"""Keys in which a run may differ from the one that its workdir holds, beside `WHERE_CONTENT_IS`."""


def parse_config(raw: Mapping[str, Any]) -> Config:
    """The typed configuration; raises `UserError` with one line that names every wrong key."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise UserError("; ".join(_explain(problem) for problem in error.errors())) from error


def differing_keys(config: Config, other: Config, safe: Sequence[str] = SAFE_TO_CHANGE) -> list[str]:
    """The keys, not safe to change, in which two configurations differ."""
    left, right = (dict(flat(each.model_dump(mode="json"))) for each in (config, other))
    differing = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    return [key for key in differing if not f"{key}.".startswith(tuple(f"{each}." for each in safe))]


def read_run_config(workdir: Path) -> Config:
    """The configuration that a run's directory holds."""
    file = workdir / "config.json"
    try:
        raw = read_json(file)
    except FileNotFoundError as error:
        raise UserError(f"{workdir} is not a run's directory: it has no config.json") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    try:
        return parse_config(_with_younger_keys(raw))
    except UserError as error:
        raise UserError(f"{file} is not a configuration of this version: {error}") from error


def _with_younger_keys(raw: dict[str, Any]) -> dict[str, Any]:
    filled = copy.deepcopy(raw)
    for key, value in YOUNGER.items():
        *sections, name = key.split(".")
        place: Any = filled
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.setdefault(name, value)
    return filled


def without_younger_keys(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A part of a configuration as an older version writes it, where nothing is asked for that it did not do."""
    kept = {}
    for key, value in raw.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            value = without_younger_keys(value, f"{name}.")
            if not value and any(younger.startswith(f"{name}.") for younger in YOUNGER):
                continue
        if name not in YOUNGER or YOUNGER[name] != value:
            kept[key] = value
    return kept


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A tree's leaves by their dotted keys; an empty branch is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def known_keys(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every key of the configuration, dotted."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{prefix}{name}.")


def nearest_key(key: str) -> str:
    """`; did you mean ...?` for an unknown key, or nothing where none is near."""
    near = difflib.get_close_matches(key, list(known_keys()), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown configuration key {key}{nearest_key(key)}"
    if problem["type"] == "missing":
        return f"the configuration lacks the key {key}"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if problem["type"] == "value_error" else f" (it is {problem['input']!r})"
    return f"{key}: {message}{given}" if key else message + given
