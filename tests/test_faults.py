"""What may go wrong around a run: signals, damage, other weights, full disks, lost servers. Nothing is lost."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MINIATURE, ROOT, config_file, examples_of, last_snapshot, run, short_config
from local_redis import local_redis
from rich.console import Console
from run_files import json_lines, without_times
from safetensors.numpy import load_file, save_file

from gfn_jax.evaluation.validation import Validation
from gfn_jax.experiment.experiment import build
from gfn_jax.rewards.likelihood import LikelihoodReward
from gfn_jax.runs.checkpoint import Checkpoints
from gfn_jax.runs.opened import open_run, read_finished_config
from gfn_jax.runtime.errors import TrainingError, UserError
from gfn_jax.runtime.interruption import Interruption
from gfn_jax.runtime.json_files import JsonLines
from gfn_jax.tasks import TASKS
from gfn_jax.tasks.next_sentence import NextSentence
from gfn_jax.training.loop import train
from gfn_jax.training.replay_rows import ReplayRows, make_buffer

LARGE = 1e25  # finite as a reward, but not squared


def assert_same_runs(settings, workdir, expected):
    """Everything that training made is the same to the last bit, but for times."""
    for file in ("metrics.jsonl", "samples.jsonl", "validation.jsonl"):
        assert without_times(json_lines(workdir / file)) == without_times(json_lines(expected / file))
    got, wanted = (last_snapshot(settings, place) for place in (workdir, expected))
    jax.tree.map(np.testing.assert_array_equal, (got.state, got.waiting), (wanted.state, wanted.waiting))
    np.testing.assert_array_equal(got.replay, wanted.replay)


@pytest.fixture(scope="module")
def settings():
    return short_config(train__pipeline_depth=1, train__steps=5)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, settings):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    run(settings, workdir)
    return workdir


class Intruder(LikelihoodReward):
    """A reward that lets something happen while the batch of some step is rewarded."""

    calls = 0
    happens: ClassVar = {}

    def components(self, frozen, examples, prompts, trajectories):
        rows = len(trajectories.length_N) // len(examples)
        if rows == 2:  # a training batch, not a validation one
            Intruder.calls += 1
            Intruder.happens.get(Intruder.calls, lambda: None)()
        return super().components(frozen, examples, prompts, trajectories)


class IntrudedTask(NextSentence):
    def reward(self, context):
        return Intruder(context)


@pytest.fixture(scope="module", autouse=True)
def intruded():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "next_sentence", IntrudedTask)
        yield


@pytest.fixture(autouse=True)
def happens(monkeypatch):
    """What happens at which training batch (from 1)."""
    monkeypatch.setattr(Intruder, "calls", 0)
    monkeypatch.setattr(Intruder, "happens", {})
    return Intruder.happens


def test_a_signal_ends_the_run_after_its_step_and_loses_nothing(settings, uninterrupted, happens, tmp_path):
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    # Batches are rewarded one ahead of the step that trains, and the one that waited again by the second start.
    for batch, number, step in ((2, signal.SIGTERM, 1), (5, signal.SIGINT, 3)):
        happens[batch] = lambda number=number: os.kill(os.getpid(), number)
        console = Console(record=True, width=100)
        assert not train(settings, tmp_path / "run", console).is_done
        assert f"stopped by {number.name} after step {step}" in console.export_text()
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
        assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()].count(str(step)) == 1
    assert "going on after step 3" in run(settings, tmp_path / "run")
    assert_same_runs(settings, tmp_path / "run", uninterrupted)


def test_a_signal_during_a_validation_loses_nothing_either(happens, tmp_path, monkeypatch):
    settings = short_config(train__steps=4, train__eval_every=2, train__checkpoint_every=4)
    measure = Validation.measure
    measured = []

    def interrupted(self, *given):
        measured.append(given)
        if len(measured) == 2:  # the first is before training
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "measure", interrupted)
        assert "stopped by SIGTERM after step 2" in run(settings, tmp_path / "run")
    assert "going on after step 2" in run(settings, tmp_path / "run")


def test_a_wish_that_comes_twice_at_once_is_one_and_a_later_one_acts(monkeypatch):
    with Interruption() as interruption:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested == "SIGINT"
        monkeypatch.setattr("gfn_jax.runtime.interruption._SAME_WISH_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def flip_a_byte(checkpoint):
    file = max(
        (each for each in (checkpoint / "state").rglob("*") if each.is_file()), key=lambda each: each.stat().st_size
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_the_buffer(checkpoint):
    for file in (checkpoint / "replay").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def lose_a_file(checkpoint):
    shutil.rmtree(checkpoint / "state" / "d", ignore_errors=True)
    (checkpoint / "state" / "_METADATA").unlink()


@pytest.mark.parametrize("damage", [flip_a_byte, cut_the_buffer, lose_a_file])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(settings, uninterrupted, tmp_path, damage):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    damage(workdir / "checkpoints" / "5")
    output = run(settings, workdir)
    assert "checkpoint 5 is damaged" in output
    assert "going on after step 4" in output
    assert (workdir / "damaged" / "checkpoint-5" / "metrics.jsonl").exists()
    assert_same_runs(settings, workdir, uninterrupted)


def test_where_no_checkpoint_can_be_read_nothing_is_touched(settings, uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    for checkpoint in (workdir / "checkpoints").iterdir():
        flip_a_byte(checkpoint)
    before = {file: file.read_bytes() for file in (workdir / "checkpoints").rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read; 5, the latest, fails with"):
        run(settings, workdir)
    assert before == {file: file.read_bytes() for file in (workdir / "checkpoints").rglob("*") if file.is_file()}


def test_damaged_figures_of_a_checkpoint_are_named_to_who_goes_on_and_passed_over_by_who_reads(
    settings, uninterrupted, tmp_path
):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    [file, *_] = (workdir / "checkpoints").glob("*/metrics/metrics")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=f"{re.escape(str(file))} is damaged: delete"):
        run(settings, workdir)
    with open_run(workdir, read_finished_config(workdir), "best") as trained:
        assert trained.snapshot.step
    shutil.rmtree(file.parent)
    assert "going on after step" in run(settings, workdir)


def test_a_checkpoint_of_other_frozen_weights_is_refused(tmp_path):
    shutil.copytree(MINIATURE / "gpt2", tmp_path / "model")
    settings = short_config(model__name_or_path=str(tmp_path / "model"), train__steps=1)
    run(settings, tmp_path / "run")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["transformer.ln_f.bias"] += 1e-3
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    before = {file: file.read_bytes() for file in (tmp_path / "run" / "checkpoints").rglob("*") if file.is_file()}
    with pytest.raises(
        UserError, match=r"1 depends on the weights of model\.name_or_path, which had another content then"
    ):
        run(settings, tmp_path / "run")
    assert before == {
        file: file.read_bytes() for file in (tmp_path / "run" / "checkpoints").rglob("*") if file.is_file()
    }


def test_a_checkpoint_is_gone_on_from_with_the_content_that_it_depends_on_alone(settings, uninterrupted):
    directory = uninterrupted / "checkpoints"
    with build(settings) as experiment:
        begun, content = experiment.beginning(), experiment.content

        def restored(content, **how):
            with Checkpoints(directory, content, **how) as checkpoints:
                return checkpoints.restore_latest(begun)[0]

        assert restored(content, keep=9) is not None
        for name in content:
            another = content | {name: "another"}
            for how in ({}, {"keep": 9}):
                with pytest.raises(UserError, match=f"depends on the {re.escape(name)}, which had another content"):
                    restored(another, **how)
            fewer = {key: value for key, value in content.items() if key != name}
            assert restored(fewer) is not None  # by a reader that does without it
            with pytest.raises(UserError, match=f"depends on the {re.escape(name)}, which had"):
                restored(fewer, keep=9)
        with pytest.raises(UserError, match="depends on the judge, which had"):
            restored(content | {"judge": "new"}, keep=9)


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    settings = short_config(train__steps=4, train__checkpoint_every=1, train__eval_every=1, train__keep_checkpoints=1)
    output = run(settings, tmp_path / "run")
    elbos = {
        row["step"]: row["val/elbo"] for row in json_lines(tmp_path / "run" / "metrics.jsonl") if "val/elbo" in row
    }
    del elbos[0]  # no checkpoint is made before the first step
    kept = {int(file.name) for file in (tmp_path / "run" / "checkpoints").iterdir()}
    best = max(elbos, key=lambda step: elbos[step])
    assert kept == {4, best}
    assert f"figures are of step 4; sample, evaluate and export use the checkpoint of step {best}" in output


@pytest.fixture
def file_limit():
    """Sets how large files may grow, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_best_checkpoint_outlives_a_restart(tmp_path):
    settings = {"train__checkpoint_every": 1, "train__eval_every": 1, "train__keep_checkpoints": 1}
    run(short_config(train__steps=3, **settings), tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "3", checkpoints / "1", dirs_exist_ok=True)
    metrics = checkpoints / "1" / "metrics" / "metrics"
    metrics.write_text(json.dumps({"elbo": 1e3}))  # better than whatever comes
    run(short_config(train__steps=5, **settings), tmp_path / "run")
    assert {file.name for file in checkpoints.iterdir()} == {"1", "5"}


def test_a_figure_that_validation_has_not_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match=r"train\.keep_best: validation has no figure 'ebo'; it has .*elbo"):
        run(short_config(train__keep_best="ebo"), tmp_path / "run")


def test_lines_that_were_cut_within_a_character_or_damaged_are_dropped(tmp_path):
    file = tmp_path / "samples.jsonl"
    file.write_bytes('{"step": 1, "text": "é"}\n\0\0\n{"step": 2, "text": "é'.encode()[:-1])
    rows = JsonLines(file, after_step=3)
    rows.write(3, [{"text": "ü"}])
    rows.close()
    assert [(row["step"], row["text"]) for row in json_lines(file)] == [(1, "é"), (3, "ü")]


def test_a_run_that_was_killed_while_it_began_can_begin_again(settings, uninterrupted, tmp_path):
    for name in ("lock", "run_id", "data.sha256", "config.json.new"):
        (tmp_path / name).write_text((uninterrupted / name).read_text() if (uninterrupted / name).exists() else "{")
    run(settings, tmp_path)
    assert_same_runs(settings, tmp_path, uninterrupted)


@pytest.mark.parametrize(("size", "file"), [(10, r"metrics\.jsonl"), (30_000, "checkpoints")])
def test_a_full_disk_ends_the_run_in_one_line(settings, uninterrupted, happens, file_limit, tmp_path, size, file):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    shutil.rmtree(workdir / "checkpoints" / "5")
    happens[1] = lambda: file_limit(size)
    with pytest.raises(TrainingError, match=f"{file} cannot be written.*the last ch") as error:
        run(settings, workdir)
    file_limit(resource.RLIM_INFINITY)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(f"{workdir}/checkpoints/4")
    assert "going on after step 4" in run(settings, workdir)
    assert_same_runs(settings, workdir, uninterrupted)


def test_a_workdir_that_cannot_be_written_is_one_line():
    with pytest.raises(UserError, match="--workdir /proc/nowhere cannot be written"):
        run(short_config(), Path("/proc/nowhere"))


def test_a_workdir_serves_one_process_at_a_time(settings, uninterrupted, happens, tmp_path):
    refused = []

    def begin_again():
        before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}
        with pytest.raises(UserError, match="another process is training in") as error:
            run(short_config(train__pipeline_depth=1, train__steps=9), tmp_path / "run")
        assert before == {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir() if file.is_file()}
        refused.append(error.value)

    happens[2] = begin_again
    run(settings, tmp_path / "run")
    assert refused
    assert_same_runs(settings, tmp_path / "run", uninterrupted)


class TooLarge(LikelihoodReward):
    def components(self, frozen, examples, prompts, trajectories):
        terms = super().components(frozen, examples, prompts, trajectories)["log_likelihood"]
        return {"log_likelihood": terms.at[0].multiply(LARGE)}


class TooLargeTask(NextSentence):
    def reward(self, context):
        return TooLarge(context)


def test_a_loss_that_is_not_finite_changes_nothing_and_ends_the_run_where_it_persists(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "next_sentence", TooLargeTask)
    settings = short_config(train__max_bad_steps=3, train__eval_every=100, train__steps=5)
    with pytest.raises(TrainingError, match=r"step 3: the loss .* not finite, .*; the last checkpoint is .*/2$"):
        run(settings, tmp_path / "run")
    metrics = [row for row in json_lines(tmp_path / "run" / "metrics.jsonl") if "train/loss" in row]
    assert [(row["train/skipped"], row["train/loss"]) for row in metrics] == [(1.0, None)] * 2
    experiment = build(settings)
    snapshot = last_snapshot(settings, tmp_path / "run")
    assert snapshot.step == 2
    jax.tree.map(np.testing.assert_array_equal, snapshot.state.adapter, experiment.adapter)
    fresh = experiment.functions.init(experiment.adapter)
    jax.tree.map(np.testing.assert_array_equal, snapshot.state.optimizer, fresh.optimizer)


def test_redis_gives_what_memory_gives_also_when_it_is_lost_for_a_while(
    settings, uninterrupted, happens, tmp_path, monkeypatch
):
    monkeypatch.setattr("gfn_jax.replay.redis._FIRST_PAUSE_S", 0.0)
    with local_redis() as server:
        happens[2], happens[4] = server.stop, server.start
        shared = short_config(train__pipeline_depth=1, train__steps=5, replay__backend="redis", replay__url=server.url)
        run(shared, tmp_path / "run")
        assert not server.client().keys()  # nothing is left behind
    rows = json_lines(tmp_path / "run" / "metrics.jsonl")
    expected = json_lines(uninterrupted / "metrics.jsonl")
    assert max([row.pop("replay/unshared", 0.0) for row in rows]) > 0
    for row in expected:
        row.pop("replay/unshared", None)
    assert without_times(rows) == without_times(expected)


def test_a_run_goes_on_with_another_kind_of_buffer(settings, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "5")
    with local_redis() as server:
        shared = short_config(train__pipeline_depth=1, train__steps=5, replay__backend="redis", replay__url=server.url)
        assert "going on after step 4" in run(shared, tmp_path / "run")
    assert_same_runs(settings, tmp_path / "run", uninterrupted)


def test_a_run_that_wants_a_server_that_is_not_there_begins_nothing(tmp_path):
    shared = short_config(replay__backend="redis", replay__url="redis://127.0.0.1:1/0")
    with pytest.raises(UserError, match="no Redis server answers at redis://127"):
        run(shared, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def long_work():
    """What a device will be at for a second or so."""
    matrix = jnp.full((512, 512), 1 / 512)
    return jax.jit(lambda x: jax.lax.fori_loop(0, 400, lambda _, y: jnp.tanh(y @ x), x))(matrix)


def test_replayed_rows_repeat_what_was_rewarded(settings):
    """A continuation comes back with its tokens, mask and components, and its reward is computed anew to the same."""
    experiment = build(settings)
    batch = examples_of(settings).of_step(0, 4)
    prompts = experiment.encode(batch)
    trajectories = experiment.functions.sample(experiment.adapter, experiment.frozen, prompts, 0)
    components = experiment.reward.components(experiment.frozen, batch, prompts, trajectories)
    experience = ReplayRows(experiment, make_buffer(settings.replay, ""))
    log_r = experience.final_log_r(components)
    busy = long_work()
    outcome = experience.remember(0, batch, trajectories, components, log_r)
    assert not busy.is_ready()  # what a device is still at is not waited for
    recalled = experience.only_usable(experience.draw(1, batch), components)
    replayed = experience.rows(recalled, components)
    assert not replayed.is_absent_N.any()
    again = experiment.reward.components(experiment.frozen, batch, prompts, replayed.trajectories)
    mask = np.asarray(replayed.trajectories.is_terminable_NxT)
    np.testing.assert_allclose(
        np.asarray(again["log_likelihood"])[mask],
        np.asarray(replayed.components["log_likelihood"])[mask],
        rtol=1e-5,
    )
    assert experience.statistics(recalled, outcome)["fill"] == 1
    drawn = experience.draw(1, batch)
    endless = [
        [replace(each, is_terminable=np.append(each.is_terminable[:-1], False)) for each in own]
        for own in drawn.entries
    ]
    assert not any(experience.only_usable(replace(drawn, entries=endless), components).entries)
    of_another_run = {"of_another_run": components["log_likelihood"]}
    recalled = experience.only_usable(experience.draw(1, batch), of_another_run)
    assert experience.rows(recalled, of_another_run).is_absent_N.all()
    statistics = experience.statistics(recalled, outcome)
    assert (statistics["fill"], statistics["hit_rate"], statistics["unreadable"]) == (0, 0, 4)
    recalled = experience.only_usable(experience.draw(1, examples_of(settings).of_step(7, 4)), components)
    assert experience.rows(recalled, components).is_absent_N.all()
    assert experience.statistics(recalled, outcome)["fill"] == 0


def test_weights_and_biases_out_of_reach_does_not_stop_a_run(tmp_path):
    """In a process of its own, which alone is logged in."""
    online = short_config(tracking__wandb="online", train__steps=1)
    command = [sys.executable, "-m", "gfn_jax.train", f"--config={config_file(online, tmp_path)}"]
    away = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "3"}
    without_service = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # of other tests
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        env=without_service | away,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Weights & Biases is not reached" in done.stdout
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_the_pieces_of_this_test_are_what_they_seem(settings):
    """The reward that overflows is finite itself, and overflows when it is squared."""
    assert np.isfinite(np.float32(LARGE))
    assert not jnp.isfinite(jnp.square(jnp.float32(LARGE)))
