"""Whether a text is a sentence, as far as its form says."""

import re

_PAIRS = {"(": ")", "[": "]", "“": "”", "«": "»"}
_ENDS = re.compile(r"[.!?]")
_WORD = re.compile(r"\w+")
_LONGEST_LOOP = 4  # words


def is_sentence(text: str) -> bool:
    """Words; one mark that ends it, at its end; quotes and brackets that close; nothing said over and over again."""
    text = text.strip()
    return bool(_WORD.search(text)) and _has_one_end(text) and _is_balanced(text) and not _loops(text)


def _has_one_end(text: str) -> bool:
    """Full stops within a word, such as those of 3.5 or U.S.A, end nothing."""
    ends = [match.start() for match in _ENDS.finditer(text)]
    return bool(ends) and ends[-1] == len(text) - 1 and all(not text[end + 1].isspace() for end in ends[:-1])


def _is_balanced(text: str) -> bool:
    opened: list[str] = []
    for character in text:
        if character in _PAIRS:
            opened.append(_PAIRS[character])
        elif character in _PAIRS.values() and (not opened or opened.pop() != character):
            return False
    return not opened and text.count('"') % 2 == 0


def _loops(text: str) -> bool:
    """Whether up to four words come three times in a row."""
    words = _WORD.findall(text.casefold())
    return any(
        words[start : start + size]
        == words[start + size : start + 2 * size]
        == words[start + 2 * size : start + 3 * size]
        for size in range(1, _LONGEST_LOOP + 1)
        for start in range(len(words) - 3 * size + 1)
    )
