"""The prompts found so far, kept beside the output, so that a killed run goes on and ends as if it had not been."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from prompt_drawing import Prompt

from gfn_jax.runtime.errors import UserError
from gfn_jax.text.prompts import normalised


class Collection:
    """Different prompts, what was counted on the way, and where in the stream they end.

    What was last saved is what the next start finds: prompts as JSON lines in `OUT.partial`, all else in
    `OUT.state.json`. Raises `UserError` where these are of other settings, or damaged.
    """

    def __init__(self, out: Path, settings: dict[str, Any]):
        self.prompts: list[Prompt] = []
        self.tally: Counter[str] = Counter()
        self.position: dict[str, Any] | None = None  # a `state_dict` of the stream
        self._out, self._settings = out, settings
        self._partial, self._state = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.state.json")
        self._saved_prompts = self._saved_bytes = 0
        if self._state.exists():
            self._restore()
        self._known = {normalised(prompt.text) for prompt in self.prompts}

    def offer(self, prompt: Prompt) -> None:
        """Takes the prompt, unless it is there already."""
        key = normalised(prompt.text)
        if key in self._known:
            self.tally["documents/repeats an earlier prompt"] += 1
        else:
            self._known.add(key)
            self.prompts.append(prompt)

    def save(self, position: dict[str, Any]) -> None:
        """Keeps all that was offered up to this position of the stream."""
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        with self._partial.open("r+b" if self._saved_bytes else "wb") as file:
            file.seek(self._saved_bytes)
            file.write("".join(f"{json.dumps(prompt)}\n" for prompt in self.prompts[self._saved_prompts :]).encode())
            file.flush()
            os.fsync(file.fileno())
            self._saved_prompts, self._saved_bytes = len(self.prompts), file.tell()
        state = {
            "settings": self._settings,
            "prompts": self._saved_prompts,
            "partial_bytes": self._saved_bytes,
            "tally": self.tally,
            "position": position,
        }
        _replace(self._state, json.dumps(state, indent=1) + "\n")

    def finish(self) -> None:
        """Writes the prompts file, whole or not at all, if there is any; nothing is left to go on from."""
        if self.prompts:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            _replace(self._out, "".join(f"{prompt.text}\n" for prompt in self.prompts))
        self._state.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)

    def _restore(self) -> None:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            self._check(state["settings"])
            self._saved_prompts, self._saved_bytes = state["prompts"], state["partial_bytes"]
            if self._saved_bytes:
                lines = self._partial.read_bytes()[: self._saved_bytes].decode().splitlines()
                self.prompts = [Prompt(*json.loads(line)) for line in lines]
            self.tally, self.position = Counter(state["tally"]), state["position"]
            if len(self.prompts) != self._saved_prompts:
                raise ValueError(f"{self._partial} holds {len(self.prompts)} prompts, not {self._saved_prompts}")
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self._state} is damaged ({error}): delete it to start anew") from error

    def _check(self, theirs: dict[str, Any]) -> None:
        ours = self._settings
        names = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
        if names:
            said = ", ".join(f"{name} was {theirs.get(name)}, is {ours.get(name)}" for name in names)
            raise UserError(f"{self._state} is of other settings ({said}): give those, or delete it to start anew")


def _replace(file: Path, text: str) -> None:
    new = file.with_name(f"{file.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, file)
