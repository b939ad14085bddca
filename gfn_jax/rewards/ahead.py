"""What judges stand on, imported once, by the process that their workers are forked from; nobody else imports this."""

import contextlib
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the main process
with contextlib.suppress(Exception):  # the worker that needs it says why it cannot be imported
    import gfn_jax.rewards.classifier  # noqa: F401
