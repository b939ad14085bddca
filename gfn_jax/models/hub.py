"""Models of the Hugging Face hub, and what is to be done where it gives none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from gfn_jax.runtime.errors import UserError

_HTTPError: Any = HfHubHTTPError.__mro__[1]
"""Of the hub's transport, whichever it is: proxies and broken connections too."""


def fetch(name: str, key: str, files: Sequence[str]) -> Path:
    """The hub's snapshot of these files of NAME or NAME@REVISION, from its cache where that has them.

    Raises `UserError`, naming the configuration's `key`, where there is none.
    """
    try:
        repository, _, revision = name.partition("@")
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(files)))
    except GatedRepoError as error:
        raise UserError(
            f"{key}: {name!r} is for those who accepted its terms on the Hugging Face hub: accept them there, "
            "and log in with `hf auth login` or HF_TOKEN"
        ) from error
    except (HFValidationError, _HTTPError, LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(
                f"{key}: {name!r} from the Hugging Face hub cannot be kept in {constants.HF_HUB_CACHE}: "
                f"{error.strerror}"
            ) from error
        if isinstance(error, _HTTPError) and not isinstance(error, HfHubHTTPError):
            raise UserError(
                f"{key}: the download of {name!r} from the Hugging Face hub failed ({type(error).__name__}): "
                "start again; files that are whole are not fetched again"
            ) from error
        raise UserError(
            f"{key}: {name!r} is neither a directory here nor a model that the Hugging Face hub gives us "
            f"({type(error).__name__}); a directory would need {', '.join(files)}. Without a network, download it "
            "elsewhere and give the directory"
        ) from error
