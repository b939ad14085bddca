"""The command as a user runs it: a short training in the miniature, its files, resuming, and wrong input."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MINIATURE, ROOT, contradiction_config, examples_of, last_snapshot, run, short_config
from rich.console import Console
from run_files import json_lines, without_times
from safetensors.torch import load_file, save_file

from gfn_jax.config.schema import Config, Section
from gfn_jax.evaluation.validation import Validation
from gfn_jax.experiment.experiment import build
from gfn_jax.rewards.likelihood import LikelihoodReward
from gfn_jax.rewards.names import RESERVED, check_names
from gfn_jax.runs.tracking import Tracker
from gfn_jax.runtime.errors import TrainingError, UserError
from gfn_jax.tasks import TASKS
from gfn_jax.tasks.next_sentence import NextSentence
from gfn_jax.training.replay_rows import make_buffer

TRAIN_METRICS = {"train/loss", "train/log_r", "train/seconds", "train/trajectories_per_s"}
COMPONENTS = (
    "log_contradiction",
    "log_original",
    "log_likelihood",
    "log_answer",
    "log_answer_per_token",
    "log_sentence",
)
VAL_METRICS = {
    "val/log_r",
    "val/mixture_log_ratio_var",
    "val/elbo",
    "val/log_likelihood",
    "val/diversity",
    "val/length",
}


def final_adapter(settings, workdir):
    return jax.device_get(last_snapshot(settings, workdir).state.adapter)


@pytest.fixture(scope="module")
def keys_read():
    """The keys of the configuration that the finished run asked for."""
    return set()


@pytest.fixture(scope="module")
def recording(keys_read):
    """A context in which every key that is asked for is written down, but by validation: a check is no use of a key."""
    plain, validate = Section.__getattribute__, Config.model_validate

    def recorded(self, name):
        keys_read.add((type(self), name))
        return plain(self, name)

    @contextmanager
    def record():
        with pytest.MonkeyPatch.context() as patch:

            def unrecorded(raw):
                patch.setattr(Section, "__getattribute__", plain)
                try:
                    return validate(raw)
                finally:
                    patch.setattr(Section, "__getattribute__", recorded)

            patch.setattr(Section, "__getattribute__", recorded)
            patch.setattr(Config, "model_validate", unrecorded)
            yield

    return record


@pytest.fixture(scope="module")
def finished(tmp_path_factory, recording):
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    settings = short_config()
    with recording():
        output = run(settings, workdir, with_page=True)
    return workdir, output


def test_a_run_leaves_its_files_and_a_table(finished):
    workdir, output = finished
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 4
    metrics = json_lines(workdir / "metrics.jsonl")
    assert [row["step"] for row in metrics if "train/loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in metrics if "val/elbo" in row] == [0, 2, 4]
    for row in metrics:
        assert set(row) >= (TRAIN_METRICS if "train/loss" in row else VAL_METRICS)
        if "train/loss" in row:  # of the three samples of each of four prompts, one is replayed
            assert row["train/trajectories_per_s"] * row["train/seconds"] == pytest.approx(4 * 2)
    samples = json_lines(workdir / "samples.jsonl")
    assert len(samples) == 3 * 2 * 4  # evaluations, probed prompts, samples
    assert {"step", "prompt", "continuation", "log_r", "log_pf", "log_likelihood"} <= set(samples[0])
    assert all(row["continuation"].endswith(".") for row in samples)
    for row in samples:
        assert "".join(row["tokens"]) == row["continuation"]
        assert row["log_ratio"][-1] == pytest.approx(row["log_r"] - row["log_pf"], abs=1e-4)
        assert len(row["log_ratio"]) == len(row["tokens"])
    validations = json_lines(workdir / "validation.jsonl")
    assert [row["step"] for row in validations] == [0, 2, 4]
    last = [row for row in metrics if "val/elbo" in row][-1]
    for name, values in validations[-1]["per_prompt"].items():
        assert np.mean(values) == pytest.approx(last[f"val/{name}"])
    assert json.loads((workdir / "machine.json").read_text())["jax"] == jax.__version__
    assert f"the report is in {workdir / 'report.html'}" in output.replace("\n", "")
    assert "5 examples that training did not see" in output
    assert "no prompt comes a second time, as 4 steps take 16 of" in output
    assert "elbo" in output


def test_no_component_may_have_the_name_of_what_a_run_writes_down(finished):
    workdir, _ = finished
    metrics, samples = json_lines(workdir / "metrics.jsonl"), json_lines(workdir / "samples.jsonl")
    figures = {name.partition("/")[2] for row in metrics for name in row if name.startswith(("train/", "val/"))}
    assert figures | samples[0].keys() <= RESERVED | {"log_likelihood"}


class TwiceNamedReward(LikelihoodReward):
    def components(self, frozen, examples, prompts, trajectories):
        found = super().components(frozen, examples, prompts, trajectories)
        return {**found, "elbo": found["log_likelihood"]}

    def combine(self, components, step):
        return components["log_likelihood"]


class TwiceNamedTask(NextSentence):
    """Next-sentence continuation with a reward whose component has the name of a figure."""

    def reward(self, context):
        return TwiceNamedReward(context)


def test_a_component_that_is_called_as_a_figure_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "next_sentence", TwiceNamedTask)
    with pytest.raises(UserError, match="a component of the reward has the name 'elbo', which is another figure's"):
        run(short_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tasks_figure_has_a_name_of_its_own():
    check_names("a figure of the task", ["objection_rate"], ["log_objection"])
    for name in ("diversity", "log_objection"):
        with pytest.raises(UserError, match=f"a figure of the task has the name '{name}'"):
            check_names("a figure of the task", ["objection_rate", name], ["log_objection"])


def test_every_key_has_a_reader(finished, keys_read, recording):
    def unread(section=Config, prefix=""):
        for name, field in section.model_fields.items():
            if (section, name) not in keys_read:
                yield prefix + name
            elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                yield from unread(field.annotation, f"{prefix}{name}.")

    judge = {"weight": 1.0, "name_or_path": str(MINIATURE / "mood"), "label": "gloomy"}
    function = {"name": "examples.favourite_word:harbour", "granularity": "prefix", "workers": 1}
    parts = {"sentences": judge, "function": function}
    of_parts = {f"reward__{part}__{key}": value for part, keys in parts.items() for key, value in keys.items()}
    settings = contradiction_config(**of_parts)
    with recording(), build(settings) as experiment:
        batch = examples_of(settings).of_step(0, 2)
        prompts = experiment.encode(batch)
        trajectories = experiment.functions.sample(experiment.adapter, experiment.frozen, prompts, 0)
        experiment.reward.components(experiment.frozen, batch, prompts, trajectories)
        experiment.reward.combine({name: jnp.zeros(1) for name in (*COMPONENTS, "harbour")}, jnp.asarray(0))
    with recording(), pytest.raises(UserError, match="no Redis server answers"):
        make_buffer(short_config(replay__backend="redis", replay__url="redis://localhost:1/0").replay, "name")
    # For tasks of one's own; a consent that only validation asks for; where wandb is not disabled.
    assert list(unread()) == ["task.options", "reward.allow_flat_target", "tracking.project"]


def test_before_training_the_policy_is_the_frozen_model(finished):
    """Then g is (1 / temperature - 1) log p but for the masks, so elbo and log R are known from the likelihood."""
    workdir, _ = finished
    probes = [row for row in json_lines(workdir / "samples.jsonl") if row["step"] == 0]
    for row in probes:
        assert row["log_r"] == pytest.approx(row["log_likelihood"] / 0.8, rel=1e-4)
        assert row["log_pf"] > row["log_likelihood"]  # the masks and the support only take away from others


@pytest.mark.accelerator
def test_a_resumed_run_equals_an_uninterrupted_one(finished, tmp_path, monkeypatch):
    """And it does not measure again what its files have: the untrained policy."""
    workdir, printed = finished
    resumed = tmp_path / "resumed"
    shutil.copytree(workdir, resumed)
    shutil.rmtree(resumed / "checkpoints" / "4")
    machine = json.loads((resumed / "machine.json").read_text())
    (resumed / "machine.json").write_text(json.dumps(machine | {"device_kind": "abacus", "xla_flags": ""}))
    measured, measure = [], Validation.measure
    monkeypatch.setattr(Validation, "measure", lambda *given: measured.append(given) or measure(*given))
    output = run(short_config(), resumed)
    assert "going on after step 2" in output
    said = " ".join(output.split())
    assert f"with device kind {jax.devices()[0].device_kind} instead of abacus and xla flags --xla_" in said
    assert "instead of none: its figures may differ in their last bits" in said
    assert "instead of" not in printed
    assert len(measured) == 1
    tables = [said[said.index("On 5 examples") : said.index("the report is in")] for said in (output, printed)]
    assert tables[0] == tables[1]
    jax.tree.map(
        np.testing.assert_array_equal, final_adapter(short_config(), resumed), final_adapter(short_config(), workdir)
    )
    for file in ("metrics.jsonl", "samples.jsonl", "validation.jsonl"):
        assert without_times(json_lines(resumed / file)) == without_times(json_lines(workdir / file))


def test_a_run_killed_while_it_wrote_goes_on(finished, tmp_path):
    """Half a line at the end, and a checkpoint older than the figures: both are cut."""
    workdir, _ = finished
    killed = tmp_path / "killed"
    shutil.copytree(workdir, killed)
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/lo')
    run(short_config(), killed)
    assert (killed / "metrics.jsonl").read_text() == (workdir / "metrics.jsonl").read_text()
    shutil.rmtree(killed / "checkpoints")  # as if killed before the first one
    run(short_config(), killed)
    for file in ("metrics.jsonl", "samples.jsonl", "validation.jsonl"):
        assert without_times(json_lines(killed / file)) == without_times(json_lines(workdir / file))


def test_a_run_goes_on_with_more_steps(finished, tmp_path):
    workdir, _ = finished
    longer = tmp_path / "longer"
    shutil.copytree(workdir, longer)
    assert "going on after step 4" in run(short_config(train__steps=5), longer)
    assert json_lines(longer / "metrics.jsonl")[-1]["step"] == 5


def test_changed_data_is_refused(tmp_path):
    (tmp_path / "prompts.txt").write_text((MINIATURE / "prompts.txt").read_text())
    settings = short_config(data__path=str(tmp_path / "prompts.txt"), train__steps=1)
    run(settings, tmp_path / "run")
    (tmp_path / "prompts.txt").write_text((MINIATURE / "prompts.txt").read_text() + "Ada sang.\n")
    with pytest.raises(UserError, match="began on other data"):
        run(settings, tmp_path / "run")


class NoReward(LikelihoodReward):
    """A reward that is broken for one row in every batch."""

    def components(self, frozen, examples, prompts, trajectories):
        terms = super().components(frozen, examples, prompts, trajectories)
        return {"log_likelihood": terms["log_likelihood"].at[4].set(jnp.nan)}


class BrokenTask(NextSentence):
    """Next-sentence continuation with a broken reward."""

    def reward(self, context):
        return NoReward(context)


def test_rows_without_a_reward_are_left_out_counted_and_end_the_run_where_they_persist(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "next_sentence", BrokenTask)
    settings = short_config(train__max_bad_steps=3, train__eval_every=100, train__steps=5)
    with pytest.raises(TrainingError, match=r"step 3: 1 of 12 rows .* the first is row 6, of the example '\w+"):
        run(settings, tmp_path / "run")
    metrics = [row for row in json_lines(tmp_path / "run" / "metrics.jsonl") if "train/loss" in row]
    assert [row["train/bad_rows"] for row in metrics] == [1, 1]
    assert all(np.isfinite(row["train/loss"]) and np.isfinite(row["train/log_r"]) for row in metrics)
    assert metrics[0]["train/grad_norm"] > 0


@pytest.mark.parametrize("objective", ["subtb", "db", "pooled", "vargrad", "tb"])
def test_a_terminal_reward_is_refused_where_it_would_cancel(objective):
    def settings():
        return short_config(objective__name=objective, reward__granularity="terminal")

    if objective in ("vargrad", "tb"):
        assert build(settings()).reward.granularity == "terminal"
    else:
        with pytest.raises(UserError, match=r"Choose objective\.name vargrad or tb, or a reward of every prefix"):
            settings()


class TerminalReward(LikelihoodReward):
    def __init__(self, context):
        super().__init__(context)
        self.granularity = "terminal"


class TerminalTask(NextSentence):
    """Next-sentence continuation whose reward is of whole texts alone, whatever the configuration says."""

    def reward(self, context):
        return TerminalReward(context)


def test_a_reward_of_ones_own_that_would_cancel_is_refused(monkeypatch):
    monkeypatch.setitem(TASKS, "next_sentence", TerminalTask)
    with pytest.raises(UserError, match=r"Choose objective\.name vargrad or tb, or a reward of every prefix"):
        build(short_config())


def test_a_deleted_and_restarted_run_is_another_one_for_wandb(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr("wandb.init", lambda **settings: names.append(settings["id"]) or Mock())
    for run_id in ("one", "one", "two"):
        (tmp_path / "run_id").write_text(run_id)
        with Tracker(short_config(tracking__wandb="online"), tmp_path, None, Console()):
            pass
    assert names[0] == names[1] != names[2]


def test_wandb_offline_needs_no_account_and_online_says_that_it_does(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(UserError, match=r"tracking\.wandb=online needs a login"):
        run(short_config(tracking__wandb="online"), tmp_path / "online")
    assert not (tmp_path / "online").exists()
    run(short_config(tracking__wandb="offline", train__steps=1), tmp_path / "offline", with_page=True)
    assert list((tmp_path / "offline" / "wandb").glob("offline-run-*/*.wandb"))
    (uploaded,) = (tmp_path / "offline" / "wandb").glob("offline-run-*/files/media/html/report*.html")
    assert uploaded.read_text() == (tmp_path / "offline" / "report.html").read_text()


def test_training_changes_only_the_adapter_and_checkpoints_hold_no_frozen_weights(finished):
    workdir, _ = finished
    fresh = build(short_config()).adapter
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), final_adapter(short_config(), workdir), fresh)
    assert all(jax.tree.leaves(changed))
    saved = sum(file.stat().st_size for file in (workdir / "checkpoints" / "4").rglob("*") if file.is_file())
    adapter_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(fresh))
    assert saved < 3.5 * adapter_bytes  # adapter and Adam's two moments


def test_another_configuration_is_refused_by_key(finished):
    workdir, _ = finished
    before = {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"keys differ: reward\.temperature_end, seed"):
        run(short_config(seed=1, reward__temperature_end=0.5), workdir)
    assert before == {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file()}


def damaged_weights(tmp_path):
    shutil.copytree(MINIATURE / "gpt2", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["transformer.h.2.mlp.c_fc.bias"]
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    return {"model__name_or_path": str(tmp_path / "model")}


def long_prompt(tmp_path):
    (tmp_path / "long.txt").write_text("Mara sat.\nTom sat.\n" + "Ada talked with the baker. " * 40)
    return {"data__path": str(tmp_path / "long.txt"), "data__val_prompts": 2, "data__prompt_buckets": (512,)}


def empty_file(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    return {"data__path": str(tmp_path / "empty.txt")}


def shared_example(tmp_path):
    for name, lines in (("train", "Mara sat.\nTom sat.\n"), ("held_out", "Ada ran.\nMARA  sat.\n")):
        (tmp_path / name).write_text(lines)
    return {"data__path": str(tmp_path / "train"), "data__val_path": str(tmp_path / "held_out")}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (shared_example, r"data\.path and data\.val_path share an example, .*: 'Mara sat\.' and 'MARA  sat\.'"),
        (lambda _: {"data__path": "nowhere.txt"}, r"data\.path: there is no file nowhere\.txt"),
        (empty_file, "holds no line"),
        (long_prompt, r"has \d+ tokens, but the model's context leaves 121 beside sampling\.max_len = 7"),
        (lambda _: {"data__prompt_buckets": (8,)}, r"the largest of data\.prompt_buckets is 8"),
        (lambda _: {"task__terminator": "the end"}, "must be one token of this tokenizer"),
        (damaged_weights, r"missing tensors: h\.2\.mlp\.c_fc\.bias$"),
        (
            lambda _: {"model__lora__targets": ("q_proj",)},
            r"no layer of \S+ is called 'q_proj'; there are attn\.c_attn",
        ),
        (
            lambda _: {"mesh__data": 3, "eval__prompts_per_batch": 3},
            "train.prompts_per_step 4 cannot be split over mesh.data = 3",
        ),
        (
            lambda _: {"mesh__model": 3},
            "mesh.model = 3 does not divide the",
        ),
        (lambda _: {"model__tokenizer": "no/such"}, r"model\.tokenizer: 'no/such' is neither"),
        (lambda _: {"mesh__data": 64}, "the mesh 64 x 1 .* does not fit the 4 devices"),
        (lambda _: {"model__name_or_path": "no/such"}, "neither a directory here nor a model"),
    ],
)
def test_wrong_input_is_one_clear_error_and_leaves_nothing_behind(tmp_path, wrong, message):
    settings = short_config(**wrong(tmp_path))
    with pytest.raises(UserError, match=message) as error:
        run(settings, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        run(short_config(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.stps=3"], "error: unknown configuration key train.stps; did you mean train.steps?"),
        (["--config.train.steps=many"], "error: flag --config.train.steps=many"),
        (["--config.data.path=nowhere.txt"], "error: data.path: there is no file nowhere.txt"),
        (["--config=configs/nothing.py"], "error: --config: "),
        (["--config.task.bans.quote=x", "--config.train.bogus=1"], "error: unknown configuration key train.bogus"),
        (["surplus"], "error: unexpected argument 'surplus'"),
    ],
)
def test_the_command_prints_one_line_and_exits_with_2(tmp_path, arguments, message):
    command = [sys.executable, "-m", "gfn_jax.train", "--config=configs/next_sentence_mini.py"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
