"""What the commands share: flags, and errors as one line. Free of jax: workers import the main module again."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from gfn_jax.config.reading import known_keys, nearest_key, parse_config
from gfn_jax.config.schema import Config
from gfn_jax.runtime.errors import ElsewhereError, TrainingError, UserError
from gfn_jax.runtime.logs import leave_out_orbax

TRUST_CODE = (
    'import the task or the reward function that the run\'s config.json names as "module:name", which runs its code: '
    "for your own runs, and those of people whom you trust"
)
"""The help of --trust_code, a flag of the commands that read a run which may be somebody else's."""

OF_FLAGS = (flags.Error, AttributeError, KeyError, ValueError, TypeError, NameError, ImportError)
"""What flags that are wrong end in, those that override a configuration's keys included."""
OVERRIDE = (
    "KEY=VALUE: a key of the run's configuration that is another here, such as mesh.data=4 (the run is opened on one "
    "device unless told otherwise) or reward.nli.device=cpu; an unknown key lists those that may be"
)
"""What the flag `override` is, of the commands that open a finished run."""

_OPEN_ENDED = ("task.bans.", "task.options.", "reward.function.weights.")
"""Sections whose keys are the user's."""

_is_one_of_several = False


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`.

    What the user can mend ends in one line and status 2; training that cannot go on, in status 1.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        app.define_help_flags()
        try:
            return flags.FLAGS(list(argv))
        except OF_FLAGS as error:
            _stop(one_line(error, argv))
        except SyntaxError as error:
            _stop(f"--config: {error}")

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            _stop(f"unexpected argument {argv[1]!r}; --help lists the flags")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
            leave_out_orbax()
        try:
            main()
        except UserError as error:
            _stop(str(error))
        except ElsewhereError as error:
            _leave(error.status)
        except TrainingError as error:
            _stop(str(error), status=1)
        except Exception:
            if not _is_one_of_several:
                raise
            traceback.print_exc()
            _leave(1)

    app.run(guarded, flags_parser=parse)


def read_config_flag(flag: flags.FlagHolder) -> Config:
    """The typed configuration of a `--config` flag with its overrides."""
    if flag.value is None:
        raise UserError("--config is missing: name a file of configs/, such as configs/next_sentence_mini.py")
    try:
        return parse_config(flag.value.to_dict())
    except OSError as error:  # how ml_collections says that the file could not be read
        raise UserError(f"--config: {str(error).splitlines()[-1].strip()}") from error


def one_line(error: Exception, argv: Sequence[str]) -> str:
    """What is wrong with the flags, of which one ended in this error."""
    if isinstance(error, flags.Error):
        return str(error)
    for argument in argv:  # ml_collections stops at the first key that it does not find
        flag = argument.lstrip("-").split("=")[0]
        key = flag.removeprefix("config.")
        if key != flag and key not in known_keys() and not key.startswith(_OPEN_ENDED):
            return f"unknown configuration key {key}{nearest_key(key)}"
    raised = traceback.extract_tb(error.__traceback__)
    where = next((f"{frame.filename}:{frame.lineno}: " for frame in raised if frame.name == "get_config"), "")
    return where + " ".join(str(error).split())


def _stop(message: str, status: int = 2) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    _leave(status)


def end_alone() -> None:
    """Says that this is one of several processes, which an error in one of them ends at once.

    At Python's own end it would first wait for the others, and they for it.
    """
    global _is_one_of_several
    _is_one_of_several = True


def _leave(status: int) -> NoReturn:
    if _is_one_of_several:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
