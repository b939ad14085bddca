"""Which vocabulary items a continuation may use, derived from the vocabulary by rules."""

import re
from collections.abc import Mapping

import numpy as np

from gfn_jax.errors import UserError
from gfn_jax.text.tokenizer import Tokenizer


def terminator_id(tokenizer: Tokenizer, terminator: str) -> int:
    """The one token that ends a continuation; raises `UserError` where `terminator` is not one token."""
    ids = tokenizer.encode(terminator)
    if len(ids) != 1:
        raise UserError(f"the terminator {terminator!r} must be one token of this tokenizer, and is {len(ids)}: {ids}")
    return ids[0]


def banned_items(tokenizer: Tokenizer, terminator: str, rules: Mapping[str, str]) -> dict[str, np.ndarray]:
    """For every rule a mask [vocabulary] of the items that it bans; the terminator itself never is.

    Three rules always hold, so that every prefix is text that the terminator alone can end:
    `special` items, items that are `part_of_character` and items with the `terminator`'s character.
    To these come `rules`, regular expressions by name, searched for in the text of each item.
    """
    patterns = {}
    for name, pattern in rules.items():
        try:
            patterns[name] = re.compile(pattern)
        except re.error as error:
            raise UserError(f"task.bans.{name} is not a regular expression: {error}") from error
    texts = [item.decode(errors="replace") for item in tokenizer.items]
    banned = {
        "special": np.array([index in tokenizer.special_ids for index in range(len(texts))]),
        "part_of_character": np.array(["\N{REPLACEMENT CHARACTER}" in text for text in texts]),
        "terminator": np.array([terminator in text for text in texts]),
    }
    for name, pattern in patterns.items():
        banned[name] = np.array([bool(pattern.search(text)) for text in texts])
    stop = terminator_id(tokenizer, terminator)
    for mask in banned.values():
        mask[stop] = False
    if np.any(list(banned.values()), axis=0).sum() >= len(texts) - 1:
        raise UserError("task.bans leaves no vocabulary item but the terminator")
    return banned
