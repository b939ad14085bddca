"""The colours of the plots: a page's own, which follow its scheme of light or dark, or those of a printed figure."""

import dataclasses

LIGHT = {
    "ink": "#1b2330",
    "muted": "#5d6776",
    "rule": "#dde1e7",
    "paper": "#ffffff",
    "series-1": "#1f6fb4",
    "series-2": "#d4601c",
    "series-3": "#0f8a6d",
    "series-4": "#a9529f",
    "series-5": "#b3860a",
    "series-6": "#3aa3c7",
}
"""The page's variables --NAME in light; its style sheet has those in the dark. Colour-blind eyes tell them apart."""


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours by what they are for, as matplotlib takes them."""

    colours: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.colours[name]

    def series(self, number: int) -> str:
        return self.colours[series(number)]


def series(number: int) -> str:
    """The name of the colour of the number-th line or group, from 0 on."""
    return f"series-{number % 6 + 1}"


PRINTED = Palette(LIGHT)
STAND_INS = Palette({name: f"#0{number:x}0b0c" for number, name in enumerate(LIGHT)})
"""Colours that nothing else has, in whose place a page's SVG has its variables."""
