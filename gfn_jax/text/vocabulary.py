"""Which vocabulary items a continuation may use, derived from the vocabulary by rules."""

import re
from collections.abc import Mapping

import numpy as np

from gfn_jax.runtime.errors import UserError
from gfn_jax.text.tokenizer import Tokenizer

END_OF_TEXT = "<end of text>"
"""As a terminator: the item with which the tokenizer ends a text, whatever it is called."""


def terminator_id(tokenizer: Tokenizer, terminator: str) -> int:
    """The one token that ends a continuation; raises `UserError` where `terminator` is not one token."""
    if terminator == END_OF_TEXT:
        if tokenizer.end_of_text is None:
            raise UserError(f"task.terminator is {END_OF_TEXT!r}, but this tokenizer has no item that ends a text")
        return tokenizer.end_of_text
    if (index := tokenizer.find(terminator)) is None:
        ids = tokenizer.encode_continuation(terminator)
        if any(tokenizer.items[special] == terminator.encode() for special in tokenizer.special_ids):
            raise UserError(
                f"the terminator {terminator!r} is a special item, which is no text; {END_OF_TEXT!r} stands for the "
                "one that ends a text"
            )
        raise UserError(f"the terminator {terminator!r} must be one token of this tokenizer, and is {len(ids)}: {ids}")
    return index


def banned_items(tokenizer: Tokenizer, terminator: str, rules: Mapping[str, str]) -> dict[str, np.ndarray]:
    """For every rule a mask [vocabulary] of the items that it bans; the terminator itself never is.

    Five rules always hold, so that every prefix is text that the terminator alone can end: `unused` ids, which no
    item has, `special` items, items that are `part_of_character`, items of the byte fallback that are a character
    which `another_item` is, and items with the `terminator`'s character. To these come `rules`, regular expressions
    by name, searched for in the text of each item.
    """
    patterns = {}
    for name, pattern in rules.items():
        try:
            patterns[name] = re.compile(pattern)
        except re.error as error:
            raise UserError(f"task.bans.{name} is not a regular expression: {error}") from error
    texts = [item.decode(errors="replace") for item in tokenizer.items]
    spelled = {text for index, text in enumerate(texts) if index not in tokenizer.byte_ids}
    is_character = terminator != END_OF_TEXT  # of which no text has a part
    banned = {
        "unused": np.array([not text for text in texts]),
        "special": np.array([index in tokenizer.special_ids for index in range(len(texts))]),
        "part_of_character": np.array(["\N{REPLACEMENT CHARACTER}" in text for text in texts]),
        "another_item": np.array([i in tokenizer.byte_ids and text in spelled for i, text in enumerate(texts)]),
        "terminator": np.array([is_character and terminator in text for text in texts]),
    }
    for name, pattern in patterns.items():
        banned[name] = np.array([bool(pattern.search(text)) for text in texts])
    stop = terminator_id(tokenizer, terminator)
    for mask in banned.values():
        mask[stop] = False
    if np.any(list(banned.values()), axis=0).sum() >= len(texts) - 1:
        raise UserError("task.bans leaves no vocabulary item but the terminator")
    return banned
