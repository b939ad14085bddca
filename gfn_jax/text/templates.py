"""Templates of the configuration: text with `{field}`s."""

from collections.abc import Collection
from string import Formatter

from gfn_jax.runtime.errors import UserError


class Template:
    """Text with fields, at `key` of the configuration: what depends on `required` ones must name them.

    `beginning` are the whole lines before the first field, such as examples, which whatever fills it begins with.
    """

    def __init__(self, key: str, text: str, *, required: Collection[str], optional: Collection[str] = ()):
        """Raises `UserError` where `text` is no template, lacks a field, names another, or ends in white space."""
        try:
            parts = [part for part in Formatter().parse(text) if part[1] is not None]
        except ValueError as error:
            raise UserError(f"{key} is not a template: {error}; a brace that is meant is written twice") from error
        there_are = ", ".join(f"{{{field}}}" for field in sorted([*required, *optional]))
        for _, name, form, conversion in parts:
            if name not in (*required, *optional) or form or conversion:
                raise UserError(f"{key} names the field {{{name}}}; there are {there_are}, without a format")
        for field in required:
            if field not in (part[1] for part in parts):
                raise UserError(f"{key} must name {{{field}}}: what follows depends on it")
        if text != text.rstrip():
            raise UserError(
                f"{key} ends in white space: the next word, which brings its own, would be off the model's distribution"
            )
        self._text = text
        first, *_ = Formatter().parse(text)
        self.beginning = first[0][: first[0].rfind("\n") + 1]

    def fill(self, **values: str) -> str:
        return self._text.format(**values)
