"""Numbers as the page's tables show them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gfn_jax.config.base import base
from gfn_jax.config.reading import flat
from gfn_jax.config.schema import Config

_HEADINGS = {  # figure of a comparison -> heading; others follow under their own names
    "log_likelihood": "log-likelihood",
    "log_likelihood_best": "best log-likelihood",
    "log_r": "log R",
    "log_r_best": "best log R",
    "contradiction_rate": "contradiction rate",
    "discriminates": "discriminates",
    "about_subject": "names the subject",
    "distinct_contradicting": "distinct contradicting",
    "second_judge_contradiction_rate": "contradiction rate, second judge",
    "second_judge_discriminates": "discriminates, second judge",
    "diversity": "diversity",
    "distinct": "distinct share",
    "distinct_bigrams": "distinct bigrams",
    "self_bleu": "self-BLEU",
    "sentences": "sentences",
    "length": "length",
    "own_log_ratio_var": "log-ratio variance, own",
    "elbo": "elbo",
}


class Cell(NamedTuple):
    """A mean and half of its 95% interval, as text; "" where there is none, as of one prompt."""

    mean: str
    half: str


class Comparison(NamedTuple):
    """Methods of decoding and their figures; None where a method has no such figure."""

    headings: Sequence[str]
    rows: Sequence[tuple[Mapping[str, Any], Sequence[Cell | None]]]


class Setting(NamedTuple):
    """A configuration key; `default` is None where the value is the default."""

    key: str
    value: Any
    default: Any


def comparison(methods: Sequence[Mapping[str, Any]]) -> Comparison:
    """The table of all methods and all of their figures."""
    there: dict[str, None] = dict.fromkeys(name for method in methods for name in method["figures"])
    names = [*(name for name in _HEADINGS if name in there), *(name for name in there if name not in _HEADINGS)]
    headings = [_HEADINGS.get(name, name.replace("_", " ")) for name in names]
    return Comparison(
        headings, [(method, [_cell(method["figures"].get(name)) for name in names]) for method in methods]
    )


def _cell(figure: Mapping[str, float] | None) -> Cell | None:
    if figure is None:
        return None
    mean, low, high = np.array([figure["mean"], figure["low"], figure["high"]], float)
    if not np.isfinite(mean):
        return None
    places = 1 if abs(mean) >= 100 else 2 if abs(mean) >= 1 else 3
    half = f"{(high - low) / 2:.{places}f}" if np.isfinite(high - low) else ""
    return Cell(signed(mean, places), half)


def signed(value: float, decimals: int, sign: str = "-") -> str:
    """With a true minus; `sign` as in a format, "+" for one in any case."""
    return f"{value:{sign}.{decimals}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """In the largest unit that there are some of."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def value(setting: Any) -> str:
    """A setting in one line; an empty one as a dash."""
    if setting in ("", {}):
        return "–"
    return setting if isinstance(setting, str) and setting.isprintable() else json.dumps(setting, ensure_ascii=False)


def settings(config: Config) -> dict[str, list[Setting]]:
    """All keys by their section, beside the defaults that they differ from."""
    given, defaults = (dict(flat(tree)) for tree in (config.model_dump(mode="json"), base().to_dict()))
    sections: dict[str, list[Setting]] = {}
    for key, value in given.items():
        default = defaults.get(key, "")
        default = list(default) if isinstance(default, tuple) else default
        section = key.partition(".")[0] if "." in key else ""
        sections.setdefault(section, []).append(Setting(key, value, None if value == default else default))
    return sections
