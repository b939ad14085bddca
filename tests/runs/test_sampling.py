"""Samples of a trained run: by any method, of one prompt or many, for people or for programs."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import MINIATURE, ROOT, run, short_config
from rich.console import Console

from gfn_jax.policy.behaviour import Behaviour
from gfn_jax.policy.sampler import sample as sample_policy
from gfn_jax.runs.opened import open_run, read_finished_config
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.terminal import Wanted, print_samples
from gfn_jax.text.prompts import pad_to_bucket

NO_FIELDS = {"prompt": None, "subject": None, "edit_fact": None}
PROMPTS = ["Mara walked to the market.", "Tom sat. He bought two ropes.", "Ada looked for a golden boat."]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose policy is not the frozen model any more."""
    workdir = tmp_path_factory.mktemp("sampling") / "run"
    run(short_config(train__steps=2, train__learning_rate=3e-2, eval__prompts_per_batch=2), workdir)
    return workdir


def printed(workdir, file="", *, as_json=True, prompt=None, out=None, **wanted):
    out = out or io.StringIO()
    fields = NO_FIELDS | {"prompt": prompt}
    print_samples(workdir, fields, str(file), Wanted(**wanted), Console(file=out, width=100), as_json=as_json)
    return out.getvalue()


def sampled(workdir, file="", **wanted):
    return [json.loads(line) for line in printed(workdir, file, **wanted).splitlines()]


def change_sampling(workdir, elsewhere, **changes):
    """A copy of the run that is read with other settings."""
    shutil.copytree(workdir, elsewhere)
    raw = json.loads((elsewhere / "config.json").read_text())
    for name, values in changes.items():
        raw[name] |= values
    (elsewhere / "config.json").write_text(json.dumps(raw))
    return elsewhere


def write(file, *lines):
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_pf_is_the_trained_policys_own_at_whatever_temperature_it_was_drawn(workdir, temperature):
    """The sampler's own log-probabilities, which know nothing of the temperature, agree with the scorer's."""
    rows = sampled(workdir, prompt=PROMPTS[0], count=4, temperature=temperature, seed=3)
    with open_run(workdir, read_finished_config(workdir), "best") as trained:
        experiment = trained.experiment
        tokens = experiment.tokenizer.encode(PROMPTS[0])
        models = experiment.structure.policy_and_frozen(trained.snapshot.state.adapter, experiment.frozen)
        trajectories, scores = sample_policy(
            *models,
            experiment.rules,
            jax.device_put(pad_to_bucket([tokens], experiment.config.data.prompt_buckets, len(tokens))),
            key_for(3, Purpose.SAMPLING),
            samples_per_prompt=4,
            behaviour=Behaviour(temperature, temperature, 1.0),
        )
        texts = experiment.texts(trajectories)
    log_pf = np.asarray(scores.log_pf_NxL.sum(1) + scores.log_pterm_NxT.sum(1, where=_is_last(trajectories)))
    order = np.argsort(-log_pf)
    assert [row["continuation"] for row in rows] == [texts[index] for index in order]
    np.testing.assert_allclose([row["log_pf"] for row in rows], log_pf[order], rtol=1e-4)


def _is_last(trajectories):
    return np.arange(trajectories.is_terminable_NxT.shape[1]) == np.asarray(trajectories.length_N)[:, None]


def test_a_json_line_says_everything_of_a_continuation_the_likeliest_first(workdir):
    rows = sampled(workdir, prompt=f"  {PROMPTS[0]} ", count=4)
    own = json.loads((workdir / "samples.jsonl").read_text().splitlines()[0])
    for row in rows:
        assert set(row) == {"prompt", "continuation", "log_pf", "log_r", "log_likelihood"} <= set(own)
        assert row["prompt"] == PROMPTS[0]
        assert row["continuation"].endswith(".")
        assert row["log_r"] == pytest.approx(row["log_likelihood"] / 0.8, rel=1e-5)
    assert len(rows) == 4
    assert sorted((row["log_pf"] for row in rows), reverse=True) == [row["log_pf"] for row in rows]


def test_a_table_shows_the_same(workdir):
    rows = sampled(workdir, prompt=PROMPTS[0], count=4)
    table = printed(workdir, prompt=PROMPTS[0], count=4, as_json=False)
    assert "checkpoint 2 is used: " in table
    places = [table.index(row["continuation"].strip()) for row in rows]
    assert places == sorted(places)
    assert all(f"{row[name]:.2f}" in table for row in rows for name in ("log_pf", "log_r"))


def test_the_temperature_is_of_the_policy_and_of_the_frozen_model(workdir):
    for method in ("GFlowNet", "sampling"):
        cold, hot = (
            sampled(workdir, prompt=PROMPTS[0], count=4, method=method, temperature=temperature)
            for temperature in (0.01, 5.0)
        )
        assert len({row["continuation"] for row in cold}) == 1
        assert len({row["continuation"] for row in hot}) == 4


def test_prompts_of_a_file_are_continued_in_their_order_as_each_one_alone(workdir, tmp_path):
    """Three prompts are two batches, the second of which is filled up."""
    file = write(tmp_path / "prompts.txt", *PROMPTS)
    together = sampled(workdir, file, method="greedy")
    assert [row["prompt"] for row in together] == PROMPTS
    for row, prompt in zip(together, PROMPTS, strict=True):
        (alone,) = sampled(workdir, prompt=prompt, method="greedy")
        assert alone["continuation"] == row["continuation"]
        for name in ("log_pf", "log_r", "log_likelihood"):
            assert alone[name] == pytest.approx(row[name], rel=1e-4)


def test_nothing_is_compiled_after_the_first_batch_is_printed(workdir, tmp_path):
    out = io.StringIO()
    early, late = [], []

    def watch(event, duration, **of):
        if event == "/jax/core/compile/backend_compile_duration":
            (late if out.getvalue() else early).append(of)

    jax.monitoring.register_event_duration_secs_listener(watch)
    try:
        printed(workdir, write(tmp_path / "prompts.txt", *PROMPTS * 2), count=4, out=out)
    finally:
        jax.monitoring.unregister_event_duration_listener(watch)
    assert early
    assert not late


def test_lines_may_be_objects_and_come_from_the_standard_input(workdir, tmp_path):
    """In a process of its own, whose standard output is JSON lines alone."""
    described = [json.dumps({"prompt": prompt, "source": 7}) for prompt in PROMPTS[1:]]
    lines = [PROMPTS[0], "", *described]
    expected = sampled(workdir, write(tmp_path / "prompts.txt", *lines), count=4)
    assert [row["prompt"] for row in expected] == [prompt for prompt in PROMPTS for _ in range(4)]
    command = [sys.executable, "-m", "gfn_jax.sample", f"--workdir={workdir}", "--input=-", "--json", "--n=4"]
    done = subprocess.run(command, cwd=ROOT, input="\n".join(lines), capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["continuation"] for row in rows] == [row["continuation"] for row in expected]
    assert done.stderr.startswith("checkpoint 2 is used: ")
    assert done.stderr.count("\n") == 1


def test_continuations_that_there_are_not_are_left_out(workdir, tmp_path):
    """With nothing but the likeliest token in the support there is one continuation to find."""
    narrow = change_sampling(workdir, tmp_path / "narrow", sampling={"support_min_p": 1.0})
    (only,) = sampled(narrow, prompt=PROMPTS[0], method="beam 4", count=4)
    assert only["log_pf"] == pytest.approx(0, abs=1e-5)


def test_a_prompt_longer_than_the_buckets_is_continued_too(workdir, tmp_path):
    longer = " ".join(PROMPTS * 3)
    short = change_sampling(workdir, tmp_path / "short", data={"prompt_buckets": [8]})
    rows = [sampled(place, prompt=longer, method="greedy")[0]["continuation"] for place in (workdir, short)]
    assert rows[0] == rows[1]


def test_a_run_of_several_devices_is_sampled_on_one(workdir, tmp_path):
    elsewhere = change_sampling(workdir, tmp_path / "elsewhere", mesh={"data": 64})
    assert sampled(elsewhere, prompt=PROMPTS[0], count=4) == sampled(workdir, prompt=PROMPTS[0], count=4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "Tom sat."', r"^--input: .*/lines line 3 is not JSON: "),
        ('{"text": "Tom sat."}', r"^--input: .*/lines line 3 needs the field 'prompt', a text that is not empty$"),
        ('{"prompt": 5}', r"line 3 needs the field 'prompt', a text"),
        ('{"prompt": " "}', r"line 3 needs the field 'prompt', a text"),
        ("Tom sat. " * 200, r"^--input: .*/lines line 3: the prompt 'Tom sat.* tokens, but the model's context leaves"),
    ],
)
def test_a_bad_line_is_named_by_its_number_before_anything_is_printed(workdir, tmp_path, capsys, line, message):
    with pytest.raises(UserError, match=message) as error:
        sampled(workdir, write(tmp_path / "lines", PROMPTS[0], "", line, PROMPTS[1]))
    assert "\n" not in str(error.value)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"method": "beam 9"}, "^method: there is no method 'beam 9'; there are GFlowNet, sampling, .*, beam 8, "),
        ({"method": "greedy", "temperature": 0.5}, "^temperature is for GFlowNet or sampling: leave it out"),
        ({"temperature": 0.0}, r"^temperature 0: it must be 0\.001 or more$"),
        ({"temperature": float("nan")}, "^temperature nan: it must be"),
        ({"file": MINIATURE / "prompts.txt"}, "^--input names the examples: leave out --prompt$"),
        ({"file": Path("nowhere"), "prompt": None}, "^--input: there is no file nowhere$"),
        ({"prompt": None}, "^task 'next_sentence' needs --prompt"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(workdir, flags, message):
    with pytest.raises(UserError, match=message) as error:
        sampled(workdir, **({"prompt": PROMPTS[0]} | flags))
    assert "\n" not in str(error.value)
