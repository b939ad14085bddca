"""A validation is read back as it was written, or not at all."""

import json

import numpy as np
import pytest

from gfn_jax.evaluation.recorded import read_measured
from gfn_jax.runtime.json_files import JsonLines

FIGURES = {"elbo": [-1.2345678901234567, 1 / 3], "log_ratio_var": [0.1, 2e-30]}
PROBES = [{"prompt": "Ada ran.", "continuation": f" No {number}.", "log_ratio": [None, 0.1]} for number in range(3)]
DISTRIBUTIONS = [{"prompt": "A number:", "policy": {"1": 0.25}}]
COUNTS = {"probes": 3, "distributions": 1}


def write(workdir, step, figures=FIGURES, probes=PROBES, distributions=DISTRIBUTIONS):
    for name, rows in (
        ("validation", [{"per_prompt": figures}]),
        ("samples", probes),
        ("distribution", distributions),
    ):
        file = JsonLines(workdir / f"{name}.jsonl", after_step=step - 1)
        file.write(step, rows)
        file.close()


def test_it_is_the_same_to_the_last_bit(tmp_path):
    write(tmp_path, 0)
    write(tmp_path, 5, {"elbo": [0.0, 0.0]})
    assert read_measured(tmp_path, 0, **COUNTS) == (FIGURES, PROBES, DISTRIBUTIONS)


@pytest.mark.parametrize(
    "written",
    [
        {"probes": PROBES[:2]},
        {"probes": []},
        {"distributions": []},
        {"figures": {"elbo": [1.0, np.nan]}},
        {"figures": {"elbo": [1.0, -np.inf]}},
    ],
)
def test_what_is_not_whole_is_none(tmp_path, written):
    write(tmp_path, 0, **written)
    assert read_measured(tmp_path, 0, **COUNTS) is None


def test_another_step_and_a_damaged_line_are_none(tmp_path):
    write(tmp_path, 1)
    assert read_measured(tmp_path, 0, **COUNTS) is None
    write(tmp_path, 0)
    assert read_measured(tmp_path, 0, **COUNTS)
    (tmp_path / "validation.jsonl").write_text(json.dumps({"step": 0, "per_prompt": FIGURES})[:-9] + "\n")
    assert read_measured(tmp_path, 0, **COUNTS) is None
