"""What is kept off the terminal, and that nothing else is."""

import sys
import threading

from gfn_jax.runtime.logs import leave_out_orbax


def test_a_writer_that_ends_after_its_save_has_failed_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    leave_out_orbax()
    leave_out_orbax()

    def said_in_a_thread(message):
        thread = threading.Thread(target=lambda: sys.excepthook(RuntimeError, RuntimeError(message), None))
        thread.start()
        thread.join()
        return capsys.readouterr().err

    assert said_in_a_thread("Event loop is closed") == ""
    assert said_in_a_thread("the disk is full") == "RuntimeError: the disk is full\n"
    sys.excepthook(RuntimeError, RuntimeError("Event loop is closed"), None)
    assert capsys.readouterr().err == "RuntimeError: Event loop is closed\n"
