"""What a sentence must be to stand in a prompt: one named filter after the other."""

import re
from collections.abc import Callable

_OPENING = "\"'“‘«"
_CLOSING = r"\"'”’»)\]"
_ENDING = re.compile(rf"[.!?][{_CLOSING}]*$")
_TRAILING_OFF = re.compile(rf"\.\.[{_CLOSING}]*$")
_ABBREVIATION = re.compile(  # whose full stop ends no sentence
    rf"(?:^|[\s(\"“])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|Sts?|Gen|Sen|Rep|Gov|Capt|Lt|Col|Sgt|Rev|Hon|Nos?|Vol|Figs?|Chap|Sec|"
    rf"pp?|vs?|eds?|cf|[eE]\.g|[iI]\.e|viz|et al|[oO]p|[cC]it|[iI]bid|Jan|Feb|Aug|Sept?|Oct|Nov|Dec)\.[{_CLOSING}]*$"
)
_MOJIBAKE = re.compile("\ufffd|â€|ï»¿|[ÃÂ][\u0080-\u00bf]")
_ADDRESS = re.compile(
    r"://|www\.|\S@\S|(?:^|\s)[@#]\w|\w\.(?:com|org|net|edu|gov|info|html?|php|pdf|co\.uk|io|tv|ly)\b", re.IGNORECASE
)
_MARKUP = re.compile(r"[<>{}|\\^~=_*`#]|&(?:[a-zA-Z]+|#\d+);|\]\(|\[[\s\d,]*\]|;\.|::|\+\+|\(\)|\s--[a-z]|\$[A-Za-z@]")
_NUMBERED = re.compile(
    r"^(?:[A-Z]\.)?\d+(?:\.\d+)*[.):]?(?:\s[-–—])?\s+[A-Z]|\s\d+\.\d+\.\d+\.$"
)  # list items, and lines of contents
_REFERENCE = re.compile(
    r"[^\W\d_], (?:1[89]|20)\d\d[a-z]?\.$|\bpp?\. ?\d|\b(?:op\. ?cit|ibid|et al)\b|\(eds?\.\)", re.IGNORECASE
)
_PAGE_TALK = re.compile(
    r"^see\b|\b(?:click (?:here|on|the)|read more (?:about|at|here|on)|sign up|subscribe|newsletters?|share this|"
    r"all rights reserved|follow (?:us|me|him|her|them) on|privacy policy|terms of (?:use|service)|getty images|"
    r"(?:image|media) caption|(?:photo|image|picture)s? (?:by|credit|courtesy|via)|comments? below|in the comments|"
    r"this (?:article|story|post) (?:was|has been|originally|first)|(?:reporting|editing) by|try again later)\b",
    re.IGNORECASE,
)
_SPACING = re.compile(r"[a-z0-9)\]][.!?][A-Z]|\w- \w|\s[.,;:!?](?:\s|$)|[,;:]{2}|[!?]{3}|\.{4}|[(\[]\s|\s[)\]]")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_OPENING_SINGLE = re.compile(r"(?<!\w)'(?=\w)")
_CLOSING_SINGLE = re.compile(r"(?<=[\w.,!?])'(?!\w)")
_PAIRS = {")": "(", "]": "[", "”": "“", "»": "«"}


def _begins_amid(sentence: str) -> bool:
    first = sentence.lstrip(_OPENING)[:1]
    return not (first.isupper() or (first.isascii() and first.isdigit()))


def _ends_amid(sentence: str) -> bool:
    return not _ENDING.search(sentence) or bool(_TRAILING_OFF.search(sentence) or _ABBREVIATION.search(sentence))


def _is_unreadable(sentence: str) -> bool:
    return not sentence.isprintable() or bool(_MOJIBAKE.search(sentence))


def _has_few_letters(sentence: str) -> bool:
    return sum(map(str.isalpha, sentence)) < 0.65 * len(sentence.replace(" ", ""))


def _is_foreign(sentence: str) -> bool:
    letters = list(filter(str.isalpha, sentence))
    return sum(map(str.isascii, letters)) < 0.9 * len(letters)


def _is_shouted(sentence: str) -> bool:
    words = [word for word in _WORD.findall(sentence) if len(word) > 1]
    capital = [word.isupper() for word in words]
    return sum(capital) > len(words) / 2 or any(all(capital[at : at + 4]) for at in range(len(words) - 3))


def _is_title(sentence: str) -> bool:
    words = _WORD.findall(sentence)
    return sum(word[0].islower() for word in words) < 0.3 * len(words)


def _is_unbalanced(sentence: str) -> bool:
    opened = []
    for character in sentence:
        if character in _PAIRS.values():
            opened.append(character)
        elif character in _PAIRS and (not opened or opened.pop() != _PAIRS[character]):
            return True
    left_open = len(_OPENING_SINGLE.findall(sentence)) > len(_CLOSING_SINGLE.findall(sentence))
    return bool(opened) or left_open or sentence.count('"') % 2 == 1 or sentence.count("‘") > sentence.count("’")


FILTERS: dict[str, Callable[[str], object]] = {  # true of what is refused
    "begins amid a sentence": _begins_amid,
    "ends amid a sentence": _ends_amid,
    "unreadable characters": _is_unreadable,
    "an address": _ADDRESS.search,
    "markup": _MARKUP.search,
    "few letters": _has_few_letters,
    "foreign letters": _is_foreign,
    "in capitals": _is_shouted,
    "a title": _is_title,
    "unbalanced quotes or brackets": _is_unbalanced,
    "broken spacing": _SPACING.search,
    "a numbered item": _NUMBERED.search,
    "a reference": _REFERENCE.search,
    "speaks of the page": _PAGE_TALK.search,
}


def refusal(sentence: str) -> str | None:
    """The name of the first filter that refuses the sentence, or nothing."""
    return next((name for name, refuses in FILTERS.items() if refuses(sentence)), None)
