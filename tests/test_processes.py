"""One run on other devices and in several processes: the same figures, and one clear line where it cannot be."""

import shutil

import jax
import numpy as np
import pytest
from helpers import MINIATURE, config_file, run, short_config
from processes import Run
from run_files import json_lines, without_times
from safetensors.numpy import load_file, save_file

from gfn_jax.experiment.experiment import build
from gfn_jax.models import peft_adapters

SPREAD = {"mesh__data": 4, "train__microbatch_prompts": 4}


def figures(workdir):
    return [without_times(json_lines(workdir / f"{name}.jsonl")) for name in ("metrics", "samples", "validation")]


def assert_same(got, expected, tolerance):
    """Equal but for the rounding of numbers, however deep they lie."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        got, expected = list(got.values()), list(expected.values())
    if isinstance(expected, list):
        for mine, its in zip(got, expected, strict=True):
            assert_same(mine, its, tolerance)
    elif isinstance(expected, float):
        np.testing.assert_allclose(got, expected, atol=tolerance, rtol=tolerance)
    else:
        assert got == expected


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """A run over four devices, and as it was when it had saved two of its four steps."""
    directory = tmp_path_factory.mktemp("halfway")
    run(short_config(**SPREAD), directory / "whole")
    shutil.copytree(directory / "whole", directory / "half")
    shutil.rmtree(directory / "half" / "checkpoints" / "4")
    return directory


def test_a_run_goes_on_over_other_devices_with_the_same_figures(halfway, tmp_path):
    workdir = shutil.copytree(halfway / "half", tmp_path / "run")
    said = run(short_config(**SPREAD | {"mesh__data": 2, "mesh__model": 2}), workdir)
    assert "going on after step 2" in said
    assert_same(figures(workdir), figures(halfway / "whole"), 1e-4)


def test_a_run_goes_on_in_two_processes_with_the_same_figures(halfway, tmp_path):
    """Each reads, samples, rewards and remembers its own half of every batch, and saves its part of what waits."""
    workdir = shutil.copytree(halfway / "half", tmp_path / "run")
    command = ["-m", "gfn_jax.train", f"--config={config_file(short_config(**SPREAD), tmp_path)}"]
    with Run([*command, f"--workdir={workdir}"], processes=2, devices=2, log=tmp_path / "run.log") as started:
        started.finish(280)
        assert "going on after step 2" in started.said(0)
        assert "going on" not in started.said(1)
    assert_same(figures(workdir), figures(halfway / "whole"), 1e-4)
    again = run(short_config(**SPREAD), workdir)  # what two processes saved, one can read
    assert "going on after step 4" in again


OF_DIRECTORY = {"model__name_or_path": "model", "model__lora__init_from": "adapter"}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A directory with a model and an adapter that are others than those in the current one."""
    monkeypatch.chdir(tmp_path)
    for place, scale in ((tmp_path, 1.0), (tmp_path / "elsewhere", 1.5)):
        shutil.copytree(MINIATURE / "gpt2", place / "model")
        tensors = load_file(place / "model" / "model.safetensors")
        save_file({name: scale * tensor for name, tensor in tensors.items()}, place / "model" / "model.safetensors")
        with build(short_config(model__name_or_path=str(place / "model"))) as experiment:
            adapter = jax.tree.map(lambda x, scale=scale: np.full_like(x, scale), experiment.adapter)
            (place / "adapter").mkdir()
            peft_adapters.save(place / "adapter", adapter, experiment.structure, "model")
    return tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("settings", "speaker", "message"),
    [
        ({}, 0, "the mesh 1 x 1 (data x model) cannot be shared by 2 processes: mesh.data, here 1, is split over"),
        (
            SPREAD | OF_DIRECTORY,
            1,
            "process 1 has another weights of model.name_or_path and another adapter in model.lora.init_from than",
        ),
    ],
)
def test_what_is_wrong_is_said_once_and_ends_all_processes(tmp_path, elsewhere, settings, speaker, message):
    command = ["-m", "gfn_jax.train", f"--config={config_file(short_config(**settings), tmp_path)}"]
    command.append(f"--workdir={tmp_path / 'run'}")
    with Run(command, processes=2, devices=2, log=tmp_path / "run.log", cwd_of_last=elsewhere) as started:
        assert started.wait(120) == [2, 2]
        said = [[line for line in started.said(index).splitlines() if "error" in line] for index in range(2)]
    [line] = said[speaker]
    assert line.startswith(f"error: {message}")
    assert not said[1 - speaker]
    assert not (tmp_path / "run").exists()
