"""How a fact is written: single spaces, none before punctuation, and one end."""

import re

_STRAY_SPACE = re.compile(r" +(?=[,.;:!?](?:\s|$)|[)\]])|(?<=[(\[]) +")
_ENDED = re.compile(r"[.!?][\"'”’)\]]+$|[!?]$")
_LOOSE_END = " .,;:…"


def clean(text: str) -> str:
    """The text with single spaces, and none that clearly stands before or after punctuation by mistake."""
    return _STRAY_SPACE.sub("", " ".join(text.split()))


def as_statement(text: str) -> str:
    """The clean text with one full stop at its end, unless it ends in a question or an exclamation mark."""
    body = clean(clean(text).rstrip(_LOOSE_END))
    return body if not body or _ENDED.search(body) else f"{body}."
