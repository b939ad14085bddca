"""Which checkpoint a trained run is opened at, and one clear line where it cannot be opened."""

import functools
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, run, short_config
from rich.console import Console
from run_files import json_lines
from safetensors.numpy import load_file

import gfn_jax
from gfn_jax.config.reading import YOUNGER, flat, read_run_config, without_younger_keys
from gfn_jax.reporting.page import write_report
from gfn_jax.runs.checkpoint import FORMAT
from gfn_jax.runs.hf_export import export_adapter, export_merged
from gfn_jax.runs.opened import open_run, read_finished_config
from gfn_jax.runtime.errors import UserError
from gfn_jax.terminal import Wanted, print_samples
from gfn_jax.terminal import print_evaluation as evaluate

FIELDS = {"prompt": "Mara walked to the market.", "subject": None, "edit_fact": None}
FIGURES = {1: 5.0, 2: 9.0, 3: 1.0}


def write_figures(workdir, figures):
    for step in (1, 2, 3):
        (workdir / "checkpoints" / str(step) / "metrics" / "metrics").write_text(json.dumps(figures.get(step, {})))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three checkpoints, of which the second one's elbo is the highest."""
    workdir = tmp_path_factory.mktemp("opening") / "run"
    every_step = {"train__checkpoint_every": 1, "train__eval_every": 1, "train__keep_checkpoints": 3}
    run(short_config(train__steps=3, **every_step), workdir)
    write_figures(workdir, {step: {"elbo": figure, "length": -figure} for step, figure in FIGURES.items()})
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def opened(workdir, checkpoint):
    with open_run(workdir, read_finished_config(workdir), checkpoint) as trained:
        return trained.snapshot.step, trained.account


def change_config(workdir, change: Callable[[dict], object]):
    file = workdir / "config.json"
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("checkpoint", "step", "reason"),
    [
        ("best", 2, "the best one, by its validation figure elbo = 9"),
        ("last", 3, "the last one"),
        ("1", 1, "the one that was asked for"),
    ],
)
def test_the_best_the_last_or_that_of_a_step(finished, checkpoint, step, reason):
    assert opened(finished, checkpoint) == (step, [f"checkpoint {step} is used: {reason}"])


def test_the_best_is_by_the_runs_own_figure_or_the_last_where_none_has_it(workdir):
    change_config(workdir, lambda raw: raw["train"].update(keep_best="length"))
    assert opened(workdir, "best")[0] == 3
    write_figures(workdir, {1: {"elbo": 1.0}})
    assert opened(workdir, "best") == (3, ["checkpoint 3 is used: the last one, for none has a figure length"])
    shutil.rmtree(workdir / "checkpoints" / "3" / "metrics")
    change_config(workdir, lambda raw: raw["train"].update(keep_best=""))
    assert opened(workdir, "best") == (3, ["checkpoint 3 is used: the last one, for train.keep_best is empty"])


def lose_a_file(checkpoint):
    (checkpoint / "state" / "_METADATA").unlink()


def lose_the_description(checkpoint):
    shutil.rmtree(checkpoint / "about")


def lose_everything(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


@pytest.mark.parametrize("damage", [lose_a_file, lose_the_description, lose_everything])
def test_what_is_damaged_is_passed_over(workdir, damage):
    damage(workdir / "checkpoints" / "3")
    passed_over = "checkpoint 3 is damaged, and passed over"
    assert opened(workdir, "last") == (2, [passed_over, "checkpoint 2 is used: the last one"])
    assert opened(workdir, "best")[0] == 2
    with pytest.raises(UserError, match=rf"^{workdir}/checkpoints/3 is damaged: \w+") as error:
        opened(workdir, "3")
    assert "\n" not in str(error.value)
    damage(workdir / "checkpoints" / "2")
    step, account = opened(workdir, "best")
    assert step == 1
    assert account[-1] == "checkpoint 1 is used: the best one, by its validation figure elbo = 5"


def test_damaged_figures_are_none(workdir):
    (workdir / "checkpoints" / "2" / "metrics" / "metrics").write_text('{"elbo": 9')
    assert opened(workdir, "best")[0] == 1


def sample(workdir, tmp_path, checkpoint="best", **trust):
    print_samples(workdir, FIELDS, "", Wanted(checkpoint=checkpoint), Console(quiet=True), as_json=True, **trust)


def export(workdir, tmp_path, checkpoint="best", **trust):
    export_merged(workdir, tmp_path / "out", "float32", checkpoint, Console(quiet=True), **trust)


def export_peft(workdir, tmp_path, checkpoint="best", **trust):
    export_adapter(workdir, tmp_path / "out", checkpoint, Console(quiet=True), **trust)


def compare(workdir, tmp_path, checkpoint="best", **trust):
    evaluate(gfn_jax.open_run(workdir, checkpoint, **trust), 2, None, [], 0, Console(quiet=True))


COMMANDS = pytest.mark.parametrize("command", [sample, export, compare])


@COMMANDS
@pytest.mark.parametrize("checkpoint", ["7", "latest", "-1", ""])
def test_a_checkpoint_that_there_is_not_is_refused_with_those_that_there_are(finished, tmp_path, command, checkpoint):
    expected = rf"^--checkpoint {checkpoint}: choose best, last or the step of one .*/run/checkpoints: 1, 2, 3$"
    with pytest.raises(UserError, match=expected):
        command(finished, tmp_path, checkpoint)


def test_the_export_and_its_card_are_of_the_best(finished, tmp_path):
    console = Console(record=True, width=100)
    export_merged(finished, tmp_path / "out", "float32", "best", console)
    said = console.export_text()
    assert "checkpoint 2 is used: the best one, by its validation figure elbo = 9" in said
    assert "wrote the policy after step 2" in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert "for 2 steps to sample" in card
    assert "- checkpoint of step 2: the best one, by its validation figure elbo = 9" in card
    of_its_step = next(row for row in json_lines(finished / "metrics.jsonl") if "val/elbo" in row and row["step"] == 2)
    assert "| step 0 | step 2 |" in card
    assert f"| {of_its_step['val/elbo']:.4g} |" in card


def rows_of(workdir, *overrides):
    out = io.StringIO()
    wanted = Wanted(count=3, checkpoint="last")
    print_samples(workdir, FIELDS, "", wanted, Console(file=out, width=9), as_json=True, overrides=overrides)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_run_is_sampled_on_any_mesh_to_the_same_texts(finished):
    """One prompt, on a mesh that splits prompts, of a run whose microbatches of two would not fit it."""
    for one, other in zip(rows_of(finished), rows_of(finished, "mesh.data=4"), strict=True):
        assert other["continuation"] == one["continuation"]
        assert other["log_pf"] == pytest.approx(one["log_pf"], rel=1e-4)
        assert other["log_r"] == pytest.approx(one["log_r"], rel=1e-4)


def test_a_run_is_compared_and_exported_on_a_mesh_as_on_one_device(workdir, tmp_path):
    texts = []
    for number, overrides in enumerate([[], ["mesh.data=2", "mesh.model=2", "mesh.fsdp=true"]]):
        evaluate(gfn_jax.open_run(workdir, overrides=overrides), 2, 4, ["greedy"], 0, Console(quiet=True))
        (method,) = json.loads((workdir / "evaluation.json").read_text())["methods"]
        texts.append(method["texts"])
        export_merged(workdir, tmp_path / f"{number}", "float32", "best", Console(quiet=True), overrides)
    assert texts[0] == texts[1]
    assert len(texts[0]) == 4
    tensors = [load_file(tmp_path / f"{number}" / "model.safetensors") for number in range(2)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        np.testing.assert_allclose(tensors[1][name], tensor, atol=1e-6)


def test_what_does_not_fit_the_devices_is_one_line(finished):
    with pytest.raises(UserError, match=r"^the mesh 8 x 1 \(data x model\) does not fit the 4 devices here$"):
        rows_of(finished, "mesh.data=8")


def test_overrides_change_only_where_and_how_fast(finished):
    own = read_finished_config(finished)
    elsewhere = ["mesh.data=-1", "reward.nli.device=cuda:1", "reward.nli.timeout_s=5", "eval.prompts_per_batch=8"]
    changed = dict(flat(read_finished_config(finished, elsewhere).model_dump()))
    differing = {key: value for key, value in changed.items() if dict(flat(own.model_dump()))[key] != value}
    assert differing == {
        "mesh.data": -1,
        "reward.nli.device": "cuda:1",
        "reward.nli.timeout_s": 5.0,
        "eval.prompts_per_batch": 8,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", r"^--override seed=3: seed is the run's own; these may be overridden: .*, reward\.nli\.device, "),
        ("mesh=4", "^--override mesh=4: mesh is the run's own; these may be overridden: "),
        ("mesh.dat=4", r"^--override mesh\.dat=4: mesh\.dat is unknown; did you mean mesh\.data\?; these may be "),
        ("mesh.data", r"^--override mesh\.data: write it as KEY=VALUE, such as mesh\.data=4$"),
        ("mesh.data=four", r"^--override: mesh\.data: .*integer.* \(it is 'four'\)$"),
        ("reward.nli.batch_size=12", r"^--override: reward\.nli\.batch_size: .*multiple of 8"),
    ],
)
def test_an_override_that_is_none_is_one_clear_line(finished, override, message):
    with pytest.raises(UserError, match=message) as error:
        read_finished_config(finished, ["mesh.model=1", override])
    assert "\n" not in str(error.value)


def never_saved(workdir):
    shutil.rmtree(workdir / "checkpoints")


def nothing_in_it(workdir):
    never_saved(workdir)
    (workdir / "checkpoints").mkdir()


def killed_while_saving(workdir):
    nothing_in_it(workdir)
    (workdir / "checkpoints" / "1.orbax-checkpoint-tmp").mkdir()


def no_run(workdir):
    (workdir / "config.json").unlink()


def cut_configuration(workdir):
    file = workdir / "config.json"
    file.write_text(file.read_text()[:200])


def of_a_version_before(workdir):
    change_config(workdir, lambda raw: raw["train"].pop("patience"))


def of_a_version_to_come(workdir):
    change_config(workdir, lambda raw: raw["train"].update(patients=3))


def of_another_format(workdir):
    for step in (1, 2, 3):
        file = workdir / "checkpoints" / str(step) / "about" / "metadata"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 0}))


def all_damaged(workdir):
    for step in (1, 2, 3):
        lose_a_file(workdir / "checkpoints" / str(step))


@COMMANDS
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (never_saved, "holds no checkpoint yet"),
        (nothing_in_it, "holds no checkpoint yet"),
        (killed_while_saving, "holds no checkpoint yet"),
        (no_run, "is not a run's directory: it has no config.json"),
        (cut_configuration, r"/config\.json is not JSON: "),
        (of_a_version_before, "is not a configuration of this version: the configuration lacks the key train.patience"),
        (of_a_version_to_come, "unknown configuration key train.patients; did you mean train.patience"),
        (of_another_format, f"/2 is of format 0, and this version reads {FORMAT}"),
        (all_damaged, "no checkpoint in .* can be read; 2, the best, fails with "),
    ],
)
def test_a_run_that_cannot_be_opened_is_one_clear_line(workdir, tmp_path, command, damage, message):
    damage(workdir)
    with pytest.raises(UserError, match=message) as error:
        command(workdir, tmp_path, "best")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_configuration_of_a_version_before_means_what_it_meant(tmp_path):
    raw = short_config().model_dump(mode="json")
    for key in YOUNGER:
        *sections, name = key.split(".")
        functools.reduce(dict.__getitem__, sections, raw).pop(name)
    assert raw["reward"].pop("function") == {}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    read = read_run_config(tmp_path).model_dump(mode="json")
    assert dict(flat(read)) == dict(flat(short_config().model_dump(mode="json"))) | YOUNGER
    assert without_younger_keys(read) == raw  # what its examples are remembered by


@pytest.mark.parametrize(
    "arguments",
    [
        ["gfn_jax.sample", "--prompt=Mara walked to the market.", "--override=mesh.data=2"],
        ["gfn_jax.export", "--merged", "--out={place}/out", "--override=mesh.data=2", "--override=mesh.model=2"],
        ["gfn_jax.evaluate", "--n=2", "--override=mesh.model=2"],
    ],
)
def test_the_commands_say_that_one_line_alone_and_exit_with_2(workdir, tmp_path, arguments):
    """Here of a run with a task of its own, which they are told to trust."""
    name_task(workdir, "gfn_jax.tasks.next_sentence:NextSentence")
    all_damaged(workdir)
    done = command(*(each.format(place=tmp_path) for each in arguments), "--trust_code", f"--workdir={workdir}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: no checkpoint in {workdir}/checkpoints can be read; 2, the best, fails")
    assert done.stderr.count("\n") == 1


def command(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def name_task(workdir, name, **options):
    change_config(workdir, lambda raw: raw["task"].update(name=name, options=options))


@pytest.fixture
def somebody_elses(workdir, tmp_path, monkeypatch):
    """A run whose task is a module that can be imported, and leaves a file when it is."""
    (tmp_path / "harmful.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w').close()\n\nOwn = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    name_task(workdir, "harmful:Own")
    yield workdir
    sys.modules.pop("harmful", None)


@pytest.mark.parametrize("command", [sample, export, export_peft, compare])
def test_the_code_that_a_run_names_is_run_for_those_alone_who_trust_it(somebody_elses, tmp_path, command):
    expected = r"/run/config\.json names the task 'harmful:Own', and .* the module 'harmful', .* add --trust_code$"
    with pytest.raises(UserError, match=expected) as error:
        command(somebody_elses, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()
    with pytest.raises(UserError, match="'harmful:Own' is not a subclass"):
        command(somebody_elses, tmp_path, trust_code=True)
    assert (tmp_path / "harm").exists()


def test_a_report_runs_no_code_of_the_run(somebody_elses, tmp_path):
    assert write_report(somebody_elses).exists()
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("flags", "message"), [((), "names the task 'examples.nowhere:Own'"), (("--trust_code",), "cannot be imported")]
)
def test_seeds_are_made_by_a_run_s_own_code_for_those_alone_who_trust_it(workdir, flags, message):
    name_task(workdir, "examples.nowhere:Own")
    done = command("gfn_jax.seed_replay", f"--workdir={workdir}", "--pool=none", *flags)
    assert done.returncode == 2
    assert message in done.stderr


def test_nothing_is_written_through_a_link_that_a_run_holds(workdir, tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (workdir / "report.html.new").symlink_to(tmp_path / "elsewhere")
    write_report(workdir)
    assert (tmp_path / "elsewhere").read_text() == "precious"
