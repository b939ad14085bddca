"""Where the programs that tests compile are kept from one run of the tests to the next."""

import hashlib
import platform
import shutil
from pathlib import Path

import jaxlib

LIMIT_BYTES = 2 * 2**30
_ROOT = Path(__file__).parent.parent / ".compiled_cache"


def compiled_cache(root: Path = _ROOT, limit_bytes: int = LIMIT_BYTES) -> Path:
    """The directory for this kind of processor and this jaxlib; everything is forgotten where there is too much.

    JAX names a program by its content, its flags and its version, but not by the processor's instructions.
    """
    if sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) > limit_bytes:
        shutil.rmtree(root)
    directory = root / hashlib.sha256(f"{jaxlib.__version__} {_instructions()}".encode()).hexdigest()[:16]
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _instructions() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    described = sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})
    return " ".join([platform.machine(), *described])
