"""Reads documents until there are prompts enough, shows how far it is, and saves every few seconds."""

import signal
import time
from typing import Self

from datasets import IterableDataset
from document_stream import documents
from prompt_collection import Collection
from prompt_drawing import Drawing
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_LINE_SECONDS = 10.0


class _Interrupt:
    """Notes Ctrl-C, so that the document at hand is finished and all is saved; a second one ends at once."""

    def __enter__(self) -> Self:
        self.is_asked = False
        self._former = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_: object) -> None:
        self.is_asked = True
        signal.signal(signal.SIGINT, self._former)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._former)


def search(
    stream: IterableDataset,
    drawing: Drawing,
    collection: Collection,
    count: int,
    console: Console,
    save_every_s: float = 5.0,
) -> None:
    """Fills the collection with `count` prompts, or with what the rest of the stream gives.

    On Ctrl-C all that was found is saved, and `KeyboardInterrupt` raised.
    """
    found, read = len(collection.prompts), collection.tally["documents/read"]
    if collection.position is not None:
        stream.load_state_dict(collection.position)
        console.print(f"goes on after {read} documents with {found} prompts", soft_wrap=True)
    progress = Progress(
        TextColumn("prompts"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("of {task.fields[documents]} documents  left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    saved = said = time.monotonic()
    with progress, _Interrupt() as interrupt:
        bar = progress.add_task("", total=count, completed=found, documents=read)
        for document in documents(stream, read) if found < count else ():
            prompt = drawing.draw(document, collection.tally)
            if prompt is not None:
                collection.offer(prompt)
            found, read, now = len(collection.prompts), collection.tally["documents/read"], time.monotonic()
            progress.update(bar, completed=found, documents=read)
            if not console.is_terminal and now - said > _PLAIN_LINE_SECONDS:
                said = now
                console.print(f"{found} of {count} prompts from {read} documents", soft_wrap=True)
            if found >= count:
                break
            if interrupt.is_asked or now - saved >= save_every_s:
                saved = now
                collection.save(stream.state_dict())
            if interrupt.is_asked:
                raise KeyboardInterrupt
