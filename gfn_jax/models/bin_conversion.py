"""A `.bin` file of PyTorch's as safetensors: `python bin_conversion.py FROM TO`, in a process of its own.

Only weights are unpickled, never code.
"""

import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file


def convert(source: Path, target: Path) -> None:
    """Raises `ValueError` where the file holds anything but tensors by name."""
    is_mappable = zipfile.is_zipfile(source)  # files from before PyTorch 1.6 are not
    weights = torch.load(source, map_location="cpu", weights_only=True, mmap=is_mappable)
    if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise ValueError("it does not hold tensors by name")
    kept: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        memory = tensor.untyped_storage().data_ptr()
        kept[name] = tensor.clone() if memory in seen else tensor.contiguous()  # safetensors shares nothing
        seen.add(memory)
    save_file(kept, target, metadata={"format": "pt"})


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
