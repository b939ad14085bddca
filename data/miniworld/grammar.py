"""Weighted grammars without recursion: sampled with Zipf-like preferences, recognised by a regular expression.

A grammar maps a name to its alternatives, likeliest first. An alternative is text in which
`<name>` stands for another rule. The r-th alternative (from 0) has weight 1 / (r + 1)^exponent, so
that every choice has favourites and a long tail: a language model of such text has something to
sharpen.
"""

import random
import re
from collections.abc import Mapping, Sequence

Rules = Mapping[str, Sequence[str]]

_SLOT = re.compile(r"<(\w+)>")


def choose(alternatives: Sequence[str], rng: random.Random, exponent: float) -> str:
    """Draws one of `alternatives`, the r-th with weight 1 / (r + 1)^exponent."""
    weights = [(rank + 1) ** -exponent for rank in range(len(alternatives))]
    return rng.choices(alternatives, weights)[0]


def expand(text: str, rules: Rules, rng: random.Random, exponent: float, bound: Mapping[str, str]) -> str:
    """Replaces every slot of `text`, by what `bound` says of it or else by a draw from its rule."""

    def fill(slot: re.Match[str]) -> str:
        name = slot.group(1)
        chosen = bound[name] if name in bound else choose(rules[name], rng, exponent)
        return expand(chosen, rules, rng, exponent, bound)

    return _SLOT.sub(fill, text)


def recogniser(text: str, rules: Rules) -> re.Pattern[str]:
    """A pattern whose full match accepts exactly what `text` can expand to."""

    def pattern(text: str) -> str:
        parts = _SLOT.split(text)  # literal, slot, literal, slot, ..., literal
        for index in range(0, len(parts), 2):
            parts[index] = re.escape(parts[index])
        for index in range(1, len(parts), 2):
            parts[index] = "(?:" + "|".join(pattern(option) for option in rules[parts[index]]) + ")"
        return "".join(parts)

    return re.compile(pattern(text))
