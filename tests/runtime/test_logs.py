"""What is kept off the terminal, and that nothing else is."""

import sys
import threading
import types

from gfn_jax.runtime.logs import leave_out_orbax


def test_a_writer_that_ends_after_its_save_has_failed_says_nothing(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: said.append(str(unraisable.exc_value)))
    leave_out_orbax()
    leave_out_orbax()

    def nobody_can_catch(message):
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(message)))

    for message in ("Event loop is closed", "the disk is full"):
        thread = threading.Thread(target=nobody_can_catch, args=[message])
        thread.start()
        thread.join()
    assert said == ["the disk is full"]
    nobody_can_catch("Event loop is closed")
    assert said == ["the disk is full", "Event loop is closed"]


def test_a_reader_that_is_closed_as_its_restore_has_failed_says_nothing(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: said.append(str(unraisable.exc_value)))

    @types.coroutine
    def wait():
        yield

    async def read():
        try:
            await wait()
        except BaseException as error:
            raise RuntimeError("this array was not read") from error

    def give_up():
        read().send(None)

    give_up()
    assert said == ["this array was not read"]  # as Python has it
    leave_out_orbax()
    give_up()
    assert len(said) == 1
