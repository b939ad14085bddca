"""The contradiction task from its command to its files: with a side process, batches under way, and resuming."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, contradiction_config
from rich.console import Console
from run_files import json_lines, without_times

from gfn_jax.terminal import Wanted, print_samples
from gfn_jax.training.loop import train

COMMAND = """
import json, sys
from pathlib import Path
from rich.console import Console
from gfn_jax.config.reading import parse_config
from gfn_jax.training.loop import train
if __name__ == "__main__":
    train(parse_config(json.loads(sys.argv[1])), Path(sys.argv[2]), Console(width=100))
    print("loaded:", *(name for name in ("torch", "transformers") if name in sys.modules))
"""


def short_config(**overrides):
    settings = {
        "train__steps": 4,
        "train__pipeline_depth": 1,
        "train__learning_rate": 0.03,  # or the policy after two steps would draw what the one before has drawn
        "train__warmup_steps": 0,
        "train__eval_every": 4,
        "train__checkpoint_every": 2,
        "eval__samples_per_prompt": 3,
        "eval__prompts_per_batch": 16,
        "eval__probes": 2,
    }
    return contradiction_config(**(settings | overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run by a command of its own, which says what it had imported in the end."""
    workdir = tmp_path_factory.mktemp("questions") / "run"
    script = workdir.parent / "command.py"
    script.write_text(COMMAND)
    arguments = [json.dumps(short_config().model_dump()), str(workdir)]
    done = subprocess.run([sys.executable, str(script), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_the_main_process_needs_no_torch(finished):
    assert finished[1].rstrip().endswith("loaded:")


def test_a_run_logs_questions_answers_and_where_its_time_goes(finished):
    workdir, output = finished
    metrics = json_lines(workdir / "metrics.jsonl")
    for row in metrics:
        if "train/loss" in row:
            assert {"time/sampling", "time/judging", "time/update"} <= set(row)
            assert ("time/answering" in row) == (row["step"] < 4)  # behind the last step nothing is asked
            assert {"train/log_contradiction", "train/log_likelihood", "train/log_answer"} <= set(row)
        else:
            assert 0 <= row["val/contradiction_rate"] <= 1
            assert 0 <= row["val/distinct_contradicting"] <= 3
    sample = json_lines(workdir / "samples.jsonl")[0]
    assert {"subject", "edit_fact", "continuation", "answer", "p_contradiction", "log_r", "log_likelihood"} <= set(
        sample
    )
    assert sample["p_contradiction"] == pytest.approx(np.exp(sample["log_contradiction"]), rel=1e-5)
    assert sample["continuation"].endswith("?")
    assert "contradiction rate" in output
    assert "answer" in output


def test_a_resumed_run_trains_on_what_was_drawn_before_it_stopped(finished, tmp_path):
    """With empty caches and another order of questions, to the last bit."""
    workdir, _ = finished
    resumed = tmp_path / "resumed"
    shutil.copytree(workdir, resumed)
    shutil.rmtree(resumed / "checkpoints" / "4")
    train(short_config(), resumed, Console(quiet=True))
    for file in ("metrics.jsonl", "samples.jsonl", "validation.jsonl"):
        assert without_times(json_lines(resumed / file)) == without_times(json_lines(workdir / file))


def test_samples_are_shown_with_their_answers(finished):
    fields = {"prompt": None, "subject": "Nulon", "edit_fact": "Nulon lives in Corran."}
    console = Console(record=True, width=200)
    print_samples(finished[0], fields, "", Wanted(count=3), console, as_json=False)
    table = console.export_text()
    places = [table.index(heading) for heading in ("continuation", "answer", "p contradiction", "log π", "log R")]
    assert places == sorted(places)
    assert table.count("?") == 3
