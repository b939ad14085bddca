"""The launchers, with an interpreter that writes down what it is asked instead of training."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from config_files import read_config
from helpers import ROOT
from local_redis import local_redis

LAUNCH = ROOT / "launch"
CONFIG = ["--config", "configs/quickstart.py"]
REPLAY = ["--config.replay.backend=redis", "--config.replay.fraction=0.25"]


@pytest.fixture
def recorder(tmp_path):
    """A stand-in for Python: keeps its training flags in `calls`, a line each, and does as `behaviour` says."""
    script = tmp_path / "python"
    script.write_text(
        f"""#!/usr/bin/env bash
if [[ "$2" != gfn_jax.train ]]; then exec {sys.executable} "$@"; fi
echo "$CUDA_VISIBLE_DEVICES|$XLA_PYTHON_CLIENT_MEM_FRACTION|$*" >>{tmp_path}/calls
source {tmp_path}/behaviour
"""
    )
    script.chmod(0o755)
    (tmp_path / "behaviour").write_text("exit 0\n")
    return script


def local(recorder, *flags, gpus="", **options):
    environment = os.environ | {"PYTHON": str(recorder), "CUDA_VISIBLE_DEVICES": gpus}
    environment.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)
    command = ["bash", LAUNCH / "local.sh", "--workdir", recorder.parent / "run", *CONFIG, *flags]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def calls(recorder):
    file = recorder.parent / "calls"
    return file.read_text().splitlines() if file.exists() else []


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def test_scripts_have_no_faults_that_shellcheck_knows():
    files = [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"]
    assert len(files) >= 6
    checked = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "-x", "--severity=warning", *files],
        cwd=LAUNCH,
        capture_output=True,
        text=True,
    )
    assert not checked.stdout
    for file in [*files, LAUNCH / "kubernetes.yaml"]:
        assert "/home/" not in file.read_text()
        assert "/root/" not in file.read_text()


def test_one_process_by_default_and_one_a_gpu_when_asked(recorder):
    process = local(recorder)
    assert process.wait(60) == 0
    [call] = calls(recorder)
    assert call == f"||-m gfn_jax.train --config=configs/quickstart.py --workdir={recorder.parent}/run"
    (recorder.parent / "calls").unlink()
    assert local(recorder, "--processes=3").wait(60) == 0
    devices, joined = zip(*(call.split("||") for call in sorted(calls(recorder))), strict=True)
    assert devices == ("0", "1", "2")
    assert [call.split()[-1] for call in joined] == [f"--process_id={index}" for index in range(3)]
    assert len({call.split("--coordinator=")[1].split()[0] for call in joined}) == 1
    assert all("--processes=3" in call for call in joined)


def test_a_dry_run_runs_nothing(recorder):
    process = local(recorder, "--dry-run", "--processes", "2", *REPLAY)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [line.split()[0] for line in said.splitlines()] == ["redis-server", "env", "env"]
    assert not calls(recorder)


def test_jax_leaves_memory_where_the_judge_shares_a_gpu(recorder):
    assert local(recorder, "--config.reward.nli.device=cuda:1").wait(60) == 0
    assert calls(recorder)[0].split("|")[1] == "0.7"


def test_a_crash_is_followed_by_another_start_and_wrong_input_is_not(recorder):
    (recorder.parent / "behaviour").write_text(f"[[ $(wc -l <{recorder.parent}/calls) == 3 ]] || exit 137\n")
    process = local(recorder, "--attempts", "5")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(calls(recorder)) == 3
    assert "start 2 of 5 ended with status 137" in said
    (recorder.parent / "behaviour").write_text("exit 2\n")
    assert local(recorder, "--attempts", "5").wait(60) == 2
    assert len(calls(recorder)) == 4


def test_a_wish_to_stop_reaches_the_training_and_ends_without_another_start(recorder):
    behaviour = f"trap 'echo saved >>{recorder.parent}/saved; exit 0' TERM\nwhile true; do sleep 0.1; done\n"
    (recorder.parent / "behaviour").write_text(behaviour)
    process = local(recorder, "--processes", "2")
    wait_for(lambda: len(calls(recorder)) == 2)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert (recorder.parent / "saved").read_text() == "saved\nsaved\n"
    assert len(calls(recorder)) == 2


def test_redis_is_started_where_none_answers_and_stopped_at_the_end(recorder, monkeypatch):
    with local_redis() as running:  # for its port, and for what it calls the server
        url, port = running.url, running.port
        assert local(recorder, *REPLAY, f"--config.replay.url={url}").wait(60) == 0  # one answers: none is started
    directory = recorder.parent / "bin"
    directory.mkdir()
    from local_redis import find_server

    (directory / "redis-server").symlink_to(find_server())
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    (recorder.parent / "behaviour").write_text(
        f"(exec 3<>/dev/tcp/127.0.0.1/{port}) && echo answers >>{recorder.parent}/answers\n"
    )
    assert local(recorder, *REPLAY, f"--config.replay.url={url}").wait(60) == 0
    assert (recorder.parent / "answers").read_text() == "answers\n"
    wait_for(lambda: subprocess.run(["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"], stderr=-3).returncode)


def test_the_gpus_that_were_given_are_used_and_no_others(recorder):
    assert local(recorder, "--processes=2", gpus="4,7").wait(60) == 0
    assert sorted(call.split("|")[0] for call in calls(recorder)) == ["4", "7"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes"], "--processes wants a value"),
        (["--processes=none"], "--processes none is no number"),
        (["--processes=2", "--config.reward.nli.device=cuda:1"], "each of several processes sees one GPU"),
        (["--config.train.stps=3"], "unknown configuration key train.stps"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_starts(recorder, flags, message):
    process = local(recorder, *flags)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not calls(recorder)


def test_where_a_process_fails_the_others_are_ended_and_all_start_again(recorder):
    behaviour = 'if [[ "$*" == *process_id=1* ]]; then exit 137; fi\nsleep 2\n'
    (recorder.parent / "behaviour").write_text(behaviour)
    process = local(recorder, "--processes", "2", "--attempts", "2")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 137
    assert len(calls(recorder)) == 4
    assert "start 2 of 2 ended with status 137" in said


def test_in_the_background_everything_is_in_the_log(recorder):
    (recorder.parent / "behaviour").write_text("echo trained; exit 2\n")
    process = local(recorder, "--background")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    log = Path(f"{recorder.parent}/run.log")
    assert str(log) in said
    wait_for(lambda: log.exists() and "ended with status 2" in log.read_text())
    assert "trained" in log.read_text()


def test_the_cluster_launchers_say_what_they_would_run():
    flags = ["--config", "configs/x.py", "--workdir", "runs/a b"]
    slurm = subprocess.run(
        ["bash", LAUNCH / "slurm.sbatch", "--dry-run", *flags], capture_output=True, text=True, check=True
    )
    assert slurm.stdout.startswith("srun ")
    assert "-m gfn_jax.train --status_if_stopped=75 --config configs/x.py" in slurm.stdout
    pod = subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh", "--dry-run", "pod", "zone", "dir", *flags],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--worker all" in pod.stdout
    remote = shlex.split(pod.stdout)[-1]
    assert remote.endswith(r"--distributed=on --config configs/x.py --workdir runs/a\ b")


def test_in_kubernetes_as_many_pods_are_started_as_join():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    arguments = dict(argument.lstrip("-").split("=", 1) for argument in container["args"])
    count = int(arguments["processes"])
    assert job["spec"]["parallelism"] == job["spec"]["completions"] == count
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    raw = read_config(LAUNCH.parent / arguments["config"])
    assert raw.mesh.data == -1  # all of them
    assert raw.train.prompts_per_step % (count * gpus) == raw.eval.prompts_per_batch % (count * gpus) == 0
    host = arguments["coordinator"].split(":")[0]
    assert host == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
