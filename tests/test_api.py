"""The package as it is used from Python: one run of a reward function, and all that can be done with it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import MINIATURE, ROOT, config_file, pages, short_config

import gfn_jax
from gfn_jax import api
from gfn_jax.api import load_config
from gfn_jax.config.base import base
from gfn_jax.evaluation.validation import Validation

PROMPTS = ["Mara walked to the market.", "Tom sat. He bought two ropes."]


def boat(prompts, texts):
    return [3.0 * ("boat" in text) for text in texts]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = short_config(objective__name="vargrad", reward__temperature_end=1.0)
    return gfn_jax.train(config, tmp_path_factory.mktemp("api") / "run", reward=boat)


@pytest.fixture(scope="module")
def opened(trained):
    with gfn_jax.open_run(trained.workdir, reward=boat) as run:
        yield run


def test_training_is_quiet_and_says_what_it_came_to(trained, tmp_path, capsys, monkeypatch):
    assert trained.is_done
    assert trained.step == 4
    assert trained.before.keys() == trained.after.keys() >= {"elbo", "boat"}
    config = short_config(objective__name="vargrad", reward__temperature_end=1.0)
    monkeypatch.setattr(Validation, "measure", None)  # nothing is measured again
    again = gfn_jax.train(config, trained.workdir, reward=boat)
    assert again.after == trained.after
    assert capsys.readouterr() == ("", "")


def test_samples_are_lists_of_texts_with_what_they_are_worth(opened):
    found = opened.sample(PROMPTS, n=3, seed=1)
    assert [len(samples) for samples in found] == [3, 3]
    for sample in (each for samples in found for each in samples):
        assert sample.log_r == pytest.approx(sum(sample.components.values()), rel=1e-5)
        assert sample.components["boat"] == 3.0 * ("boat" in sample.text)
    assert opened.sample(PROMPTS, n=3, seed=1) == found
    assert opened.sample([{"prompt": PROMPTS[0]}], n=3, method="greedy")[0][0].text.endswith(".")


def test_scores_of_given_texts_are_those_that_they_were_drawn_with(opened):
    drawn = opened.sample(PROMPTS[:1], n=5)[0]
    scored = opened.score(PROMPTS[0], [sample.text for sample in drawn])
    for one, other in zip(scored, drawn, strict=True):
        assert one.text == other.text
        assert one.log_pf == pytest.approx(other.log_pf, rel=1e-4)
        assert one.log_r == pytest.approx(other.log_r, rel=1e-4)
    assert opened.score(PROMPTS[0], []) == opened.sample([]) == []
    (outside,) = opened.score(PROMPTS[0], ["zq"])
    assert outside.log_pf == -np.inf


def test_a_comparison_has_figures_and_leaves_them_in_the_run(opened):
    evaluation = opened.evaluate(2, prompts=3, methods=["GFlowNet", "greedy"], candidates=0)
    figures = evaluation.figures()
    assert {"log_likelihood", "elbo", "boat"} <= figures.keys()
    written = json.loads((opened.workdir / "evaluation.json").read_text())
    assert written["methods"][0]["figures"]["elbo"]["mean"] == figures["elbo"].mean
    assert figures["diversity"].in_short in str(evaluation)
    assert "greedy" in str(evaluation)
    assert len(repr(evaluation)) < 500
    with pytest.raises(gfn_jax.UserError, match="'beam 8' was not compared; what was: GFlowNet, greedy"):
        evaluation.figures("beam 8")
    assert "greedy" in opened.report().read_text()


def test_a_policy_is_exported(opened, tmp_path):
    assert (opened.export(tmp_path / "adapter") / "adapter_model.safetensors").exists()


def test_an_adapter_is_compared_without_a_run(opened, tmp_path):
    """It is the policy of the run that it was exported from, and its figures are those of that run."""
    adapter = str(opened.export(tmp_path / "adapter"))
    how = {"prompts": 3, "methods": ["GFlowNet"], "candidates": 0}
    config = opened.config.model_copy(update={"reward": short_config().reward})
    with gfn_jax.open_adapter(config, adapter, tmp_path / "apart") as policy:
        figures = policy.evaluate(2, **how).figures()
    short = config.model_copy(update={"data": config.data.model_copy(update={"prompt_buckets": (2,)})})
    with (
        gfn_jax.open_adapter(short, adapter, tmp_path / "short") as policy,
        pytest.raises(gfn_jax.UserError, match=r"has .* tokens, but the largest of data\.prompt_buckets is 2"),
    ):
        policy.evaluate(2, **how)
    own = opened.evaluate(2, **how).figures()
    for name in ("log_likelihood", "diversity", "length"):
        assert figures[name].mean == pytest.approx(own[name].mean, rel=1e-4)
    settings = config_file(config, tmp_path)
    out = tmp_path / "out"
    flags = ["--n=2", "--prompts=3", "--methods=GFlowNet", "--candidates=0", f"--workdir={out}"]
    command = [sys.executable, "-m", "gfn_jax.evaluate", f"--config={settings}", f"--adapter={adapter}", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads((out / "evaluation.json").read_text())["methods"][0]["figures"]
    assert written["log_likelihood"]["mean"] == pytest.approx(figures["log_likelihood"].mean, rel=1e-4)


def test_what_is_wrong_is_one_line(opened, trained, tmp_path):
    wrong = {
        r"prompts\[1\] needs the field 'prompt'": lambda: opened.sample([PROMPTS[0], {"text": "-"}]),
        "there is no method 'beam 9'": lambda: opened.sample(PROMPTS, 2, method="beam 9"),
        "has .* tokens, and sampling.max_len is 7": lambda: opened.score(PROMPTS[0], ["a boat of glass " * 9]),
        r"'a boat. a map' goes on after '.'": lambda: opened.score(PROMPTS[0], ["a boat. a map"]),
        "but the model's context leaves": lambda: opened.score(" ".join(PROMPTS * 40), ["a boat"]),
        "takes a list of prompts": lambda: opened.sample(PROMPTS[0]),
        "wants a list of texts": lambda: opened.score(PROMPTS[0], "a text"),
        "the prompt must be a text or a dict": lambda: opened.score(PROMPTS[:1], ["a text"]),
        r"prompts\[0\] must be a text or a dict of the task's fields: it is 5": lambda: opened.sample([5]),
        "n 0: it must be 1 or more": lambda: opened.sample(PROMPTS, 0),
        "prompts .*: it is how many of the validation prompts": lambda: opened.evaluate(prompts=PROMPTS),
        "methods takes a list of names": lambda: opened.evaluate(methods="GFlowNet"),
        "a configuration is wanted, .* it is 'mini.py'": lambda: gfn_jax.train("mini.py", tmp_path),
        "reward must be a function, as def makes one: it is 'boat'": lambda: gfn_jax.train(
            short_config(), tmp_path, reward="boat"
        ),
        "names the reward function 'test_api:boat'": lambda: gfn_jax.open_run(trained.workdir),
        "--checkpoint 3: choose best, last or the step": lambda: gfn_jax.open_run(trained.workdir, 3, reward=boat),
        "is not a run's directory": lambda: gfn_jax.open_run(tmp_path),
        "unknown configuration key train.stps; did you mean train.steps": lambda: gfn_jax.load_config(
            base(), train__stps=1
        ),
        "cannot be read": lambda: gfn_jax.load_config(tmp_path / "none.py"),
    }
    for message, call in wrong.items():
        with pytest.raises(gfn_jax.UserError, match=message):
            call()


def test_a_configuration_is_read_from_a_file_or_made(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = gfn_jax.load_config("configs/quickstart.py", train__steps=20, reward__temperature_end=0.9)
    assert (config.train.steps, config.reward.temperature_end) == (20, 0.9)
    assert gfn_jax.load_config(base(), model__name_or_path=str(MINIATURE)).model.name_or_path == str(MINIATURE)


@pytest.mark.parametrize("name", ["the interface", "a reward"])
def test_what_the_readme_shows_runs(name, tmp_path, monkeypatch):
    """As it stands there; the configurations that it loads are made small, and where it writes is another place."""
    small = {
        **{f"data__{key}": value for key, value in {"val_prompts": 4, "prompt_buckets": (24, 40)}.items()},
        **{f"train__{key}": 1 for key in ("steps", "decay_steps", "eval_every")},
        **{f"train__{key}": 2 for key in ("prompts_per_step", "microbatch_prompts")},
        **{f"eval__{key}": 2 for key in ("samples_per_prompt", "prompts_per_batch")},
    }
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(api, "load_config", lambda file, **own: load_config(file, **{**own, **small}))
    block = (ROOT / "README.md").read_text().partition(f"<!-- python: {name} -->\n\n```python\n")[2].partition("```")[0]
    block = block.replace('"runs/', f'"{tmp_path}/')
    with pages():
        exec(
            block.replace("evaluate(n=8", 'evaluate(n=2, prompts=2, methods=["GFlowNet"]'),
            {"gfn_jax": gfn_jax},
        )
    assert list(tmp_path.glob("*/report.html"))


def test_importing_starts_no_jax_and_offers_what_it_says():
    assert sorted(gfn_jax._ROOMS) == sorted(gfn_jax.__all__)
    code = "import sys, gfn_jax; print([m for m in ('jax', 'torch', 'numpy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "[]\n"
    for name in gfn_jax.__all__:
        assert getattr(gfn_jax, name)


def test_one_command_has_all_of_them():
    done = subprocess.run(
        [sys.executable, "-m", "gfn_jax", "report", "--workdir=none"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (2, "error: none is not a run's directory: it has no config.json")
    done = subprocess.run([sys.executable, "-m", "gfn_jax", "trian"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode
    assert "there is no command 'trian'; there are train, sample" in done.stderr
