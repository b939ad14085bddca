"""What becomes of a file on the way here: bytes lost, doubled or turned, and values that nobody expected."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.5, -1e-9, 1e308, float("nan"), float("inf")),
    *("", " ", "a", "\0", "é", "▁", "{", "{0}", "(", "[", "\ud800", "../..", "x" * 3000, "1", "nan", "</s>"),
    *([], {}, [0], [None], [[]], {"a": 1}, {"type": "x"}, {"": None}),
]
"""Values of every type of JSON's, each of a kind that readers forget."""


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """The content with up to four changes, each at a place of its own."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        length = min(rng.choice((1, 1, 4, 64, 4096)), len(data) - start)
        kind = rng.randrange(6)
        if kind == 0:
            data[start : start + length] = rng.randbytes(length)
        elif kind == 1:
            del data[start : start + length]
        elif kind == 2:
            data[start:start] = data[start : start + length]
        elif kind == 3:
            data[start:start] = rng.choice((b"\0", b"\xff" * 8, b"{", b"]", b'"', b"\n", "é".encode(), b"NaN"))
        elif kind == 4:
            del data[start:]
        elif data:
            data[min(start, len(data) - 1)] ^= 1 << rng.randrange(8)
    return bytes(data)


def changed_tree(rng: random.Random, tree: Any) -> Any:
    """A copy of nested dicts and lists with up to three changes of values, keys or places."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            return rng.choice(ODD)
        parent, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice(("", "a", f"{key}s", f"{key}"[1:]))] = parent.pop(key)
        elif kind == 2:
            other, its = rng.choice(places)
            parent[key] = copy.deepcopy(other[its])
        elif kind == 3 and isinstance(parent[key], int | float):
            parent[key] = rng.choice((-1, 0.5, 2, 1000)) * parent[key]
        elif kind == 4 and isinstance(parent[key], str):
            parent[key] = _changed_text(rng, parent[key])
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD))
    return tree


def changed_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON file whose values have changed or, once in five times, its bytes."""
    if rng.randrange(5) == 0:
        return changed_bytes(rng, content)
    tree = rng.choice(ODD) if rng.randrange(20) == 0 else changed_tree(rng, json.loads(content))
    return json.dumps(tree).encode()


def changed_lines(rng: random.Random, content: bytes) -> bytes:
    """A file of JSON lines, one of which has changed."""
    lines = content.splitlines()
    number = rng.randrange(len(lines))
    lines[number] = changed_json(rng, lines[number])
    return b"\n".join(lines) + b"\n"


def _changed_text(rng: random.Random, text: str) -> str:
    place = rng.randint(0, len(text))
    return text[:place] + str(rng.choice(ODD)) + text[rng.randint(place, len(text)) :]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """All parents with their keys or indices."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            if isinstance(tree, list) and key >= 50:
                return  # one of a long list stands for the rest
            yield tree, key
            yield from _places(tree[key])
