"""The files of Hugging Face models, on disk or from the hub: where they are, and which of them hold weights."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gfn_jax.runtime.cache import cache_directory
from gfn_jax.runtime.content import file_sha256, files_sha256
from gfn_jax.runtime.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
_OF_CLASSIFIERS = ("*.json", "*.txt", "*.model")
"""What transformers may read of a text classifier beside its weights."""


@dataclasses.dataclass(frozen=True)
class _Converter:
    """A program that is run by itself, as it alone imports what it needs: `program FROM TO`.

    It makes a file with this `suffix`, or a directory where that is empty; `source` says what it reads.
    """

    program: Path
    suffix: str
    source: str


_CONVERTERS = {
    ".bin": _Converter(Path(__file__).with_name("bin_conversion.py"), ".safetensors", "weights of PyTorch"),
    ".gguf": _Converter(Path(__file__).with_name("gguf_conversion.py"), "", "a GGUF model"),
}


def is_local(name_or_path: str) -> bool:
    """Whether the name is of a directory, or a GGUF file, here, and not of a model on the hub."""
    return Path(name_or_path).is_dir() or Path(name_or_path).suffix == ".gguf"


def find_directory(name_or_path: str, key: str, files: Sequence[str]) -> Path:
    """A local directory as it is, what a GGUF file holds as one, or the hub's snapshot of these files of that name.

    NAME@REVISION is what the hub had of NAME at a commit, a branch or a tag. The hub's cache, its offline mode
    (HF_HUB_OFFLINE) and its tokens are those of other Hugging Face programs.
    `key` is the configuration's key that the name comes from, for the `UserError` where it is nothing.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    if is_local(name_or_path):
        if not path.is_file():
            raise UserError(f"{key}: there is no file {name_or_path}")
        try:
            return _converted(path)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
    from gfn_jax.models.hub import fetch  # slow to import, and for the hub's models alone

    return fetch(name_or_path, key, files)


def find_model(name_or_path: str, key: str) -> Path:
    """The directory of a model's architecture and weights: as safetensors, or where there are none as `.bin`."""
    return _find_weights(name_or_path, key, ("config.json",))


def find_classifier(name_or_path: str, key: str) -> Path:
    """The directory of a text classifier or encoder, its tokenizer included, likewise."""
    return _find_weights(name_or_path, key, _OF_CLASSIFIERS)


def _find_weights(name_or_path: str, key: str, beside: Sequence[str]) -> Path:
    directory = find_directory(name_or_path, key, (*beside, *_SAFETENSORS))
    if not is_local(name_or_path) and not _listed(directory, "model.safetensors"):
        directory = find_directory(name_or_path, key, (*beside, *_PICKLED))
    return directory


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model's weights; `.bin` files are converted, once, in a process of their own."""
    return [_converted(file) for file in _source_files(directory)]


def adapter_file(directory: Path) -> Path:
    """The safetensors file of a PEFT adapter; a `.bin` is converted likewise."""
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        if (directory / name).exists():
            return _converted(directory / name)
    raise UserError(f"{directory} has neither adapter_model.safetensors nor adapter_model.bin")


def weights_sha256(directory: Path) -> str:
    """The hash of the files that a model's weights are published in."""
    return files_sha256(_source_files(directory))


def classifier_sha256(directory: Path) -> str:
    """The hash of all files that transformers may read of a text classifier or encoder."""
    patterns = (*_OF_CLASSIFIERS, *_SAFETENSORS, *_PICKLED)
    return files_sha256({file for pattern in patterns for file in directory.glob(pattern)})


@contextmanager
def opened(file: Path):
    """A safetensors file, opened for tensors as numpy arrays; raises `UserError` where it is none, or not whole."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a whole safetensors file ({error}): copy or download it again") from error
    except AttributeError as error:  # how the library says that numpy has no such numbers
        raise UserError(f"{file} has numbers that cannot be read here ({error}): give the model in float32") from error


def save_tensors(tensors: Mapping[str, np.ndarray], file: Path) -> None:
    """Writes a safetensors file as transformers and PEFT do, for whoever may read what this user writes."""
    save_file(dict(tensors), file, metadata={"format": "pt"})
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)  # safetensors writes through a file of its user's alone


def _source_files(directory: Path) -> list[Path]:
    """As published: safetensors before `.bin`, and one file before an index of several, as transformers takes them."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        if files := _listed(directory, single):
            return files
    raise UserError(f"{directory} has neither model.safetensors nor pytorch_model.bin, nor an index of either")


def _listed(directory: Path, single: str) -> list[Path]:
    """The file of this name, or those that its index lists; none where neither is there."""
    index = directory / f"{single}.index.json"
    if (directory / single).exists():
        return [directory / single]
    if not index.exists():
        return []
    try:
        names = sorted(str(name) for name in set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in names if not (directory / name).exists()]
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise UserError(f"{index} is not an index of weight files: {error}") from error
    if missing:
        raise UserError(f"{directory} has no {missing[0]}, which {index.name} lists")
    return [directory / name for name in names]


def _converted(file: Path) -> Path:
    """The file, or what its converter makes of it: kept in the user's cache, by the hashes of its content and of that.

    So a converter that was mended converts again.
    """
    if (converter := _CONVERTERS.get(file.suffix)) is None:
        return file
    try:
        name = f"{file_sha256(file)}-{file_sha256(converter.program)[:8]}"
        converted = cache_directory("converted") / f"{name}{converter.suffix}"
        converted.parent.mkdir(parents=True, exist_ok=True)
        with (converted.parent / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process of a machine converts, the others wait for it
            if not converted.exists():
                _convert(file, converter, converted)
    except OSError as error:
        place = cache_directory("converted")
        raise UserError(f"{file} cannot be read, or {place}, where it is converted to, not written: {error}") from error
    return converted


def _convert(file: Path, converter: _Converter, converted: Path) -> None:
    with tempfile.TemporaryDirectory(dir=converted.parent) as place:
        unfinished = Path(place) / converted.name
        command = [sys.executable, "-P", str(converter.program), str(file), str(unfinished)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"the converter ended with status {done.returncode}"])[-1]
            raise UserError(f"{file} cannot be read as {converter.source}: {reason:.300}")
        os.replace(unfinished, converted)
