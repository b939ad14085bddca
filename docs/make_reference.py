"""Writes docs/reference.md: every configuration key and every flag, as the code has them.

python docs/make_reference.py [--check]

Keys, defaults and meanings are those of gfn_jax/config/base.py, what a key may be of gfn_jax/config/schema.py, flags
those that the commands define. With --check nothing is written, and the status is 1 where the page is stale.
"""

import ast
import sys
import tokenize
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mdformat
from ml_collections import ConfigDict

from gfn_jax.__main__ import COMMANDS
from gfn_jax.config import base as base_file
from gfn_jax.config import command_line
from gfn_jax.config.overrides import SAFE_TO_OVERRIDE
from gfn_jax.config.reading import SAFE_TO_CHANGE, WHERE_CONTENT_IS, flat
from gfn_jax.config.schema import Config

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"

HEAD = """# Reference: every key and every flag

<!-- made by docs/make_reference.py: do not edit -->

[Configuration](#configuration) has all keys with their defaults, [Commands](#commands) all flags. What the
figures of a run mean is in [figures.md](figures.md), how all of it is used in [using.md](using.md).

## Configuration

A configuration is a Python file with a function `get_config()`, which begins with `gfn_jax.config.base.base()`
and changes what it wants otherwise; the files of `configs/` are examples. A command overrides a key by
`--config.KEY=VALUE`, `gfn_jax.load_config` by a keyword with two underscores for each dot
(`train__steps=20`). An unknown key is an error that names the nearest one.

A run's directory belongs to one configuration. Some keys may be others when it goes on, or is opened again:

- **g**: may change when training goes on in the same directory.
- **o**: may be overridden where a run is opened again (`--override KEY=VALUE`).
- **c**: names files that count by their content: they may lie elsewhere, and must be the same.
"""

SECTIONS = {
    "": "The seed",
    "task": "Task",
    "data": "Data",
    "model": "Model",
    "mesh": "Devices",
    "sampling": "Sampling",
    "objective": "Objective",
    "reward": "Reward",
    "replay": "Replay",
    "train": "Training",
    "eval": "Validation",
    "tracking": "Tracking",
}


def meanings(source: Path) -> dict[str, str]:
    """The comment of every key of a file that makes a ConfigDict: what stands behind it, and goes on below it."""
    comments = _comments(source)
    tree = ast.parse(source.read_text(encoding="utf-8"))
    tables = {
        statement.targets[0].id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    found: dict[str, str] = {}

    def note(key: str, line: int) -> None:
        if line in comments:
            found[key] = comments[line]

    def read(key: str, value: ast.expr) -> None:
        if isinstance(value, ast.Call) and value.args:
            value = value.args[0]
        if not isinstance(value, ast.Dict):
            return
        for name, inner in zip(value.keys, value.values, strict=True):
            if name is None:  # **table
                read(key, tables[inner.id] if isinstance(inner, ast.Name) else inner)
            elif isinstance(name, ast.Constant):
                note(f"{key}.{name.value}", name.lineno)
                read(f"{key}.{name.value}", inner)

    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
            key = ast.unparse(statement.targets[0]).removeprefix("config.")
            note(key, statement.lineno)
            read(key, statement.value)
    return found


def keys() -> Iterator[tuple[str, Any]]:
    """Every key with its default; sections of the user's own keys are keys themselves."""
    defaults = dict(flat(base_file.base().to_dict()))
    order = {key: place for place, key in enumerate(meanings(Path(base_file.__file__)))}
    for key in sorted(defaults, key=lambda key: order.get(key, len(order))):
        if not key.startswith("task.bans."):
            yield key, defaults[key]


def undocumented() -> list[str]:
    """The keys that have no comment."""
    found = meanings(Path(base_file.__file__))
    return [key for key, _ in keys() if key not in found]


def page() -> str:
    parts = [HEAD, *_configuration(), "## Commands\n"]
    parts.append(
        "`gfn-jax COMMAND` and `python -m gfn_jax.COMMAND` are the same. Each has `--help`, and ends with status 0,\n"
        "with 2 where what it was given is wrong (one line says what), or with 1 where training cannot go on.\n"
    )
    parts += [_command(name) for name in COMMANDS]
    settings = tomllib.loads((ROOT / ".mdformat.toml").read_text())
    return mdformat.text("\n".join(parts), options=settings, extensions=("gfm", "tables"))


def _configuration() -> Iterator[str]:
    found = meanings(Path(base_file.__file__))
    by_section: dict[str, list[str]] = {}
    for key, default in keys():
        section = key.partition(".")[0] if "." in key else ""
        marks = _marks(key)
        row = (f"`{key}`", _code(default), _values(key), found.get(key, ""), marks)
        by_section.setdefault(section, []).append(_row(row))
        if key == "task.terminator":
            by_section[section].append(_row(("`task.bans`", "below", "text by name", found["task.bans"], "")))
    for section, rows in by_section.items():
        yield f"### {SECTIONS[section]}\n"
        yield "\n".join(
            [_row(("key", "default", "may be", "meaning", "")), "| --- | --- | --- | --- | --- |", *rows, ""]
        )
        if section == "reward":
            yield "The keys from `reward.contradiction_weight` on, but for `cache_mb`, are of contradiction alone.\n"
        if section == "task":
            bans = base_file.base().task.bans.to_dict()
            yield "The default `task.bans`:\n"
            rules = (
                _row((f"`{name}`", _code(rule, is_raw=True), found.get(f"task.bans.{name}", "")))
                for name, rule in bans.items()
            )
            yield "\n".join([_row(("rule", "expression", "")), "| --- | --- | --- |", *rules, ""])
            recipe = "configs/random_number_smollm2.py"
            yield f"The options of random_number stand in [{recipe}](../{recipe}).\n"


def _marks(key: str) -> str:
    def is_in(names: tuple[str, ...]) -> bool:
        return any(f"{key}.".startswith(f"{name}.") for name in names)

    marks = {"g": SAFE_TO_CHANGE, "o": SAFE_TO_OVERRIDE, "c": WHERE_CONTENT_IS}
    return " ".join(mark for mark, names in marks.items() if is_in(names))


def _values(key: str) -> str:
    """What the schema takes for a key."""
    section: Any = Config
    *sections, name = key.split(".")
    for each in sections:
        section = section.model_fields[each].annotation
    field = section.model_fields[name]
    return _type(field.annotation, field.metadata)


def _type(kind: Any, limits: typing.Sequence[Any] = ()) -> str:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        inner, *further = typing.get_args(kind)
        return _type(inner, further)
    if origin is typing.Literal:
        return ", ".join(_code(each) for each in typing.get_args(kind))
    if origin is tuple:
        return f"list of {_type(typing.get_args(kind)[0])}"
    if origin is dict:
        return f"{_type(typing.get_args(kind)[1])} by name"
    if isinstance(kind, types.UnionType) or kind is Any:
        return "anything"
    words = {int: "integer", float: "number", str: "text", bool: "True, False"}
    return ", ".join([words[kind], *_limits(limits)])


def _limits(limits: typing.Sequence[Any]) -> Iterator[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for limit in (each for some in limits for each in getattr(some, "metadata", [some])):
        for name, sign in signs.items():
            if getattr(limit, name, None) is not None:
                yield f"{sign} {getattr(limit, name)}"
        if getattr(limit, "multiple_of", None) is not None:
            yield f"a multiple of {limit.multiple_of}"


def _command(name: str) -> str:
    source = (ROOT / "gfn_jax" / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    calls = sorted(
        (node for node in ast.walk(tree) if isinstance(node, ast.Call) and "DEFINE_" in ast.unparse(node.func)),
        key=lambda node: node.lineno,
    )
    rows = [_flag(call) for call in calls]
    return "\n".join(
        [f"### {name}\n\n{first}\n", _row(("flag", "default", "meaning")), "| --- | --- | --- |", *rows, ""]
    )


def _flag(call: ast.Call) -> str:
    kind = ast.unparse(call.func).rpartition("DEFINE_")[2]
    named = {keyword.arg: _constant(keyword.value) for keyword in call.keywords}
    name, *values = map(_constant, call.args)
    if kind == "config_file":
        return _row((f"`--{name}`", "", f"{named['help_string']}; `--{name}.KEY=VALUE` overrides a key of it"))
    default, meaning = values[0], str(values[-1])
    if kind == "enum":
        meaning = f"{', '.join(_code(each) for each in values[1])}: {meaning}"
    if kind == "multi_string":
        meaning += "; may be repeated"
    shown = "required" if named.get("required") else "" if default in (None, "", []) else _code(default)
    return _row((f"`--{name}`", shown, meaning))


def _constant(node: ast.expr) -> Any:
    """A value in a command's source; what it takes from `command_line` is looked up there."""
    if isinstance(node, ast.Attribute):
        return getattr(command_line, node.attr)
    return ast.literal_eval(node)


def _comments(source: Path) -> dict[int, str]:
    """The comments behind code by their line, each with the lines of comment alone that follow it."""
    with source.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    found: dict[int, str] = {}
    owner = 0
    for token in tokens:
        if token.type == tokenize.COMMENT:
            text = token.string.removeprefix("#").strip()
            if token.line.lstrip().startswith("#"):
                if owner and not text.endswith(":"):  # one that ends so is a heading
                    found[owner] += f" {text}"
            else:
                owner = token.start[0]
                found[owner] = text
        elif token.type == tokenize.NEWLINE and token.start[0] != owner:
            owner = 0
    return found


def _code(value: Any, *, is_raw: bool = False) -> str:
    if value in ("", (), {}) or (isinstance(value, Mapping | ConfigDict) and not value):
        return "empty"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    shown = text if is_raw else text.replace(chr(10), chr(92) + "n")
    fence = "``" if "`" in shown else "`"
    return f"{fence}{shown}{fence}"


def _row(cells: typing.Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> int:
    wanted = page()
    if sys.argv[1:] == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is stale: python docs/make_reference.py writes it", file=sys.stderr)
        return 1
    if sys.argv[1:]:
        print("usage: python docs/make_reference.py [--check]", file=sys.stderr)
        return 2
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
