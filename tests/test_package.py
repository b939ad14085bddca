"""The wheel: it builds, and what it installs is enough to train with a configuration of one's own."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from helpers import ROOT

from gfn_jax.__main__ import COMMANDS


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The unpacked wheel, built of a copy of the sources."""
    place = tmp_path_factory.mktemp("package")
    source = place / "source"
    shutil.copytree(ROOT / "gfn_jax", source / "gfn_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(source)]
    subprocess.run([sys.executable, "-m", *build], check=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(place / "installed")
    return place / "installed"


def command(installed, *arguments):
    """A command of the installed package's, called from a directory where nothing else is."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    arguments = [sys.executable, "-m", *arguments]
    return subprocess.run(arguments, cwd=installed.parent, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_every_module_and_what_reports_are_made_of(installed):
    ours, theirs = (
        {str(file.relative_to(root)) for file in (root / "gfn_jax").rglob("*.*") if file.suffix != ".pyc"}
        for root in (ROOT, installed)
    )
    assert ours == theirs
    assert {"gfn_jax/reporting/page.html.jinja", "gfn_jax/reporting/page.css"} < theirs


def test_all_that_is_imported_is_installed_with_it():
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    installed = {_normalised(re.split(r"[<>=\[ ]", each)[0]) for each in requirements}
    imported = set()
    for file in (ROOT / "gfn_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    extra = {"gguf", "sentence_transformers"}  # where they are missing, an error says what installs them
    distributions = importlib.metadata.packages_distributions()
    for name in imported - set(sys.stdlib_module_names) - {"gfn_jax"} - extra:
        assert installed & set(map(_normalised, distributions.get(name, [name]))), name


def _normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_package_lists_all_of_its_commands(installed):
    listed = command(installed, "gfn_jax").stdout
    files = (file for file in (ROOT / "gfn_jax").glob("*.py") if "\n    command_line.run(main)" in file.read_text())
    names = {file.stem for file in files}
    assert set(COMMANDS) == names
    for name in names:
        assert f"gfn-jax {name} " in listed


def test_a_configuration_of_one_s_own_needs_the_package_alone(installed):
    own = installed.parent / "own.py"
    own.write_text(
        "from gfn_jax.config.base import base\n\n\ndef get_config():\n    config = base()\n"
        '    config.model.name_or_path, config.data.path = "gpt2", "no-such-file"\n    return config.lock()\n'
    )
    done = command(installed, "gfn_jax.train", "--config", str(own), "--workdir", str(installed.parent / "run"))
    assert done.stderr == "error: data.path: there is no file no-such-file\n"
