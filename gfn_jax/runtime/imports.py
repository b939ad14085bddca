"""Code that a configuration names."""

import importlib
from typing import Any

from gfn_jax.runtime.errors import UserError


def named_object(name: str, key: str) -> Any:
    """What "module:name" means, as Python finds modules; raises `UserError`, naming the key, where it is nothing."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{key}: {name!r} cannot be imported: {error}") from error
