"""A `.bin` file of PyTorch's as safetensors: `python bin_conversion.py FROM TO`, in a process of its own.

Only weights are unpickled, never code.
"""

import pickle
import sys
import zipfile
from pathlib import Path

try:
    import torch
    from safetensors.torch import save_file
except ModuleNotFoundError:
    sys.exit("PyTorch, which reads it, is not installed here; give the model as safetensors")


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
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except pickle.UnpicklingError:
        sys.exit("it is damaged, or holds more than weights, which is not unpickled; ask for a safetensors copy")
    except (ValueError, RuntimeError, EOFError) as error:
        sys.exit(" ".join(str(error).split()))
