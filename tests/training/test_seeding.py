"""Continuations from elsewhere: scored, left in the run's directory, and taken in once."""

import json

import pytest
from helpers import examples_of, last_snapshot, run, short_config
from rich.console import Console
from run_files import json_lines

from gfn_jax.replay.admission import Admission
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.runtime.errors import UserError
from gfn_jax.training.seeds import seed_replay, sow


def test_given_continuations_are_scored_and_sown_once(tmp_path):
    first, second, *_ = examples_of(short_config()).of_step(0, 4)
    lines = [
        {"prompt": first, "continuation": "Then she went home."},
        {"prompt": first, "continuation": "then she went home"},
        {"prompt": second, "continuation": "He sat"},
        {"prompt": second, "continuation": 'He said "no".'},
        {"prompt": second, "continuation": "and then " * 30},
        {"prompt": "Nobody asked.", "continuation": "He sat."},
    ]
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps(line) + "\n" for line in lines))
    loose = short_config(sampling__support_min_p=0.0, reward__temperature_end=0.9)
    console = Console(record=True, width=120)
    seed_replay(loose, tmp_path / "run", pool, console)
    output = console.export_text()
    assert "2 continuations of 2 prompts are kept" in output
    for reason in ("nearly the same", "not in the policy's support", "longer than", "no training example"):
        assert f"1 refused: {reason}" in output
    run(loose, tmp_path / "run")
    step = next(row for row in json_lines(tmp_path / "run" / "metrics.jsonl") if "replay/fill" in row)
    assert step["replay/fill"] == 0.5  # the seeds are drawn for two of the first step's four prompts
    assert step["replay/size"] == 2 + step["replay/added"]
    snapshot = last_snapshot(loose, tmp_path / "run")
    buffer = MemoryReplay(Admission(5, 0.0))
    assert sow(buffer, tmp_path / "run", snapshot.seeds) == snapshot.seeds
    assert buffer.size == 0
    assert len(sow(buffer, tmp_path / "run", ())) == 1
    assert buffer.size == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ('{"prompt": "Ada sang."}', 'line 1 is not a JSON object with "continuation"'),
        ('{"continuation": "Ada sang."}', "line 1 needs the field 'prompt'"),
    ],
)
def test_a_pool_that_is_none_is_refused_by_line(tmp_path, line, message):
    (tmp_path / "pool.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        seed_replay(short_config(), tmp_path / "run", tmp_path / "pool.jsonl", Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_pool_with_more_than_the_buffer_holds_is_refused(tmp_path):
    settings = short_config()
    (prompt,) = examples_of(settings).of_step(0, 1)
    line = json.dumps({"prompt": prompt, "continuation": "He sat."}) + "\n"
    (tmp_path / "pool.jsonl").write_text(line * (settings.replay.total + 1))
    with pytest.raises(UserError, match=r"^--pool has 13 continuations .*more than replay\.total = 12: leave"):
        seed_replay(settings, tmp_path / "run", tmp_path / "pool.jsonl", Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_run_that_replays_nothing_takes_no_seeds(tmp_path):
    with pytest.raises(UserError, match=r"replay\.fraction is 0"):
        seed_replay(short_config(replay__fraction=0.0), tmp_path / "run", tmp_path / "pool.jsonl", Console(quiet=True))
