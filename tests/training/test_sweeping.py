"""Several policies in one frontier: what is done is not done again, and the figures are those of the runs."""

import json
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from helpers import ROOT, short_config
from matplotlib.image import imread
from rich.console import Console

from gfn_jax.evaluation.frontier import Run, pooled
from gfn_jax.runtime.errors import TrainingError, UserError
from gfn_jax.training.grid import sweep

PROMPTS = 31
NOISE = np.random.default_rng(0).normal(0, 1, PROMPTS)


def method(name, family, setting, diversity, log_likelihood):
    values = {"diversity": diversity + 0.01 * NOISE, "log_likelihood": log_likelihood + NOISE}
    figures = {figure: {"per_prompt": own.tolist()} for figure, own in values.items()}
    return {"name": name, "family": family, "setting": setting, "figures": figures}


def settings(temperature=0.6, seed=0):
    return short_config(reward__temperature_end=temperature, seed=seed)


def evaluated(directory, temperature, seed, **about):
    """A run that was trained and compared by other means: its policy is likelier by one for each seed."""
    methods = [
        method("GFlowNet", "GFlowNet", temperature, temperature, -5.0 + seed),
        method("sampling", "temperature", 1.0, 0.95, -10.0),
        method("temperature 0.5", "temperature", 0.5, 0.45, -5.0),
        method("nucleus 0.9", "nucleus", 0.9, 0.85, -9.0),
        method("greedy", "greedy", None, 0.0, -3.0),
    ]
    run = directory / f"t{temperature:g}-seed{seed}"
    run.mkdir()
    written = {
        "step": 7,
        "machine": {"commit": f"of {run.name}"},
        "prompts": PROMPTS,
        "samples_per_prompt": 5,
        "methods": methods,
        **about,
    }
    (run / "evaluation.json").write_text(json.dumps(written))
    (run / "config.json").write_text(settings(temperature, seed).model_dump_json())
    asked = {"config": settings(temperature, seed).model_dump(mode="json"), "flags": []}
    (run / "swept.json").write_text(json.dumps(asked))


def swept(directory, temperatures=("0.6", "0.9"), seeds=("0", "1"), comparing=(), **changes):
    console, wanted = Console(record=True, width=100), short_config(**changes)
    sweep(wanted, ["--config", "configs/next_sentence_mini.py"], comparing, directory, temperatures, seeds, console)
    return console.export_text(), json.loads((directory / "frontier.json").read_text())


def test_every_policy_is_set_beside_baselines_that_are_as_diverse(tmp_path):
    for temperature in (0.6, 0.9):
        for seed in (0, 1):
            evaluated(tmp_path, temperature, seed)
    said, written = swept(tmp_path)
    rows = {(row["temperature"], *row["seeds"]): row for row in written["rows"]}
    assert set(rows) == {(0.6, 0), (0.6, 1), (0.6, 0, 1), (0.9, 0), (0.9, 1), (0.9, 0, 1)}
    for (temperature, *seeds), row in rows.items():
        log_likelihood = -5.0 + np.mean(seeds)
        assert row["log_likelihood"]["mean"] == pytest.approx(log_likelihood + NOISE.mean())
        baseline = -5.0 - 10 * (temperature - 0.45)
        difference = row["beside"]["temperature"]["difference"]
        assert difference["mean"] == pytest.approx(log_likelihood - baseline)
        assert difference["low"] <= difference["mean"] <= difference["high"]
    for row in written["rows"]:
        if len(row["seeds"]) > 1:  # their means are one apart, and their intervals reach to both
            for estimate in (row["log_likelihood"], row["beside"]["temperature"]["difference"]):
                assert estimate["high"] - estimate["low"] > 1
    assert rows[0.6, 0]["beside"]["nucleus"] is None  # which never is so little diverse
    assert rows[0.9, 0]["beside"]["nucleus"]["baseline"]["mean"] == pytest.approx(-9.5 + NOISE.mean())
    assert all(cell in said for cell in ("all", "outside", "1.50"))
    assert written["machines"] == {
        name: {"commit": f"of {name}"} for name in ("t0.6-seed0", "t0.9-seed0", "t0.6-seed1", "t0.9-seed1")
    }
    assert np.ptp(imread(tmp_path / "frontier.png")[..., :3]) > 0.5


def test_runs_that_were_compared_differently_are_refused(tmp_path):
    evaluated(tmp_path, 0.6, 0)
    evaluated(tmp_path, 0.9, 0, prompts=30)
    with pytest.raises(UserError, match="were not compared on the same prompts"):
        swept(tmp_path, seeds=["0"])


def test_a_run_that_was_trained_or_compared_otherwise_is_trained_on_and_compared_again(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("gfn_jax.training.grid._run", lambda command, *flags: commands.append((command, flags[-1])))
    evaluated(tmp_path, 0.6, 0)
    only = {"temperatures": ["0.6"], "seeds": ["0"]}
    swept(tmp_path, **only)
    assert not commands
    for change in ({"comparing": ["--checkpoint=last"]}, {"comparing": ["--checkpoint=last"], "train__steps": 9}, {}):
        swept(tmp_path, **only, **change)
        assert [name for name, _ in commands] == ["train", "evaluate"]
        commands.clear()
        swept(tmp_path, **only, **change)
        assert not commands


def test_a_run_of_another_configuration_is_refused_by_key(tmp_path):
    evaluated(tmp_path, 0.6, 0)
    (tmp_path / "t0.6-seed0").rename(tmp_path / "t0.9-seed0")
    with pytest.raises(UserError, match=r"t0\.9-seed0 belongs to .* differ: reward\.temperature_end\."):
        swept(tmp_path, temperatures=["0.9"], seeds=["0"])


def test_what_an_end_temperature_makes_another_is_not_averaged_over_temperatures():
    """The reference is a sample of the target, which each temperature has another of."""
    of_run = {
        (t, seed): [
            method("GFlowNet", "GFlowNet", t, t, -5.0 - seed),
            method("reference", "reference", None, t, -9.0 - seed),
            method("greedy", "greedy", None, 0.1, -t),
        ]
        for t in (0.6, 0.9)
        for seed in (0, 1)
    }
    found = {each["name"]: each["figures"] for each in pooled([Run(*which, own) for which, own in of_run.items()])}
    assert set(found) == {"GFlowNet 0.6", "GFlowNet 0.9", "reference 0.6", "reference 0.9", "greedy"}
    for t in (0.6, 0.9):
        assert found[f"reference {t:g}"]["diversity"]["mean"] == pytest.approx(t + 0.01 * NOISE.mean())
        reference = found[f"reference {t:g}"]["log_likelihood"]
        assert reference["mean"] == pytest.approx(-9.5 + NOISE.mean())
        assert reference["low"] < -10 + NOISE.mean() < -9 + NOISE.mean() < reference["high"]  # of the two seeds
    assert found["greedy"]["log_likelihood"]["mean"] == pytest.approx(-0.75 + NOISE.mean())


def test_a_run_that_was_compared_without_its_policy_is_named(tmp_path):
    evaluated(tmp_path, 0.6, 0, methods=[method("greedy", "greedy", None, 0.0, -3.0)])
    with pytest.raises(UserError, match=r"t0\.6-seed0/evaluation\.json has no method GFlowNet: delete it"):
        swept(tmp_path, temperatures=["0.6"], seeds=["0"])


def test_an_evaluation_that_is_none_is_named(tmp_path):
    evaluated(tmp_path, 0.6, 0, methods=[{"name": "GFlowNet"}])
    with pytest.raises(UserError, match=r"t0\.6-seed0/evaluation\.json holds what no run .*: methods\.0\.family: "):
        swept(tmp_path, temperatures=["0.6"], seeds=["0"])


def test_a_signal_to_the_sweep_stops_the_command_that_runs(tmp_path, monkeypatch):
    command = tmp_path / "command"
    command.write_text(
        f"#!/bin/sh\ntrap 'exit 3' TERM\ntouch {tmp_path}/began\nfor _ in $(seq 50); do sleep 0.1; done\n"
    )
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))

    def interrupt():
        for _ in range(200):
            if (tmp_path / "began").exists() and signal.getsignal(signal.SIGTERM) is not ignore:
                return os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def ignore(*_):
        pass

    before = signal.signal(signal.SIGTERM, ignore)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(TrainingError, match=r"^stopped; the same command goes on$"):
            swept(tmp_path, temperatures=["0.6"], seeds=["0"])
        assert signal.getsignal(signal.SIGTERM) is ignore
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_no_number_and_what_fails_is_one_clear_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--temperatures: could not convert string to float: 'warm'"):
        swept(tmp_path, temperatures=["warm"])
    with pytest.raises(UserError, match=r"^--seeds: there is none$"):
        swept(tmp_path, seeds=[])
    monkeypatch.chdir(ROOT)
    with pytest.raises(TrainingError, match=r"`gfn_jax.train .*temperature_end=-1.*` ended with status 2"):
        swept(tmp_path, temperatures=["-1"], seeds=["0"])
