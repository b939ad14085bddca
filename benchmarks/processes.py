"""Training runs of one or more processes on this machine, each with virtual devices, joined over loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def heed_sigterm() -> None:
    """Has SIGTERM raise `SystemExit`, so that contexts end what was started in them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class Run:
    """The processes of one run; a context, at whose end all of them are ended, by their ids."""

    def __init__(
        self, command: Sequence[str], *, processes: int, devices: int, log: Path, cwd_of_last: Path | None = None
    ):
        """Starts `command` once for each process, with the flags that join them; `devices` is for each.

        The last process may start in another directory. What they print goes to `log` with the process's number as
        its suffix.
        """
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._logs = [log.with_suffix(f".{index}") for index in range(processes)]
        self.processes = []
        for index, file in enumerate(self._logs):
            joined = [f"--coordinator={address}", f"--processes={processes}", f"--process_id={index}"]
            with file.open("w") as opened:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *command, *(joined if processes > 1 else [])],
                        env=environment,
                        cwd=cwd_of_last if index == processes - 1 else None,
                        stdout=opened,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def wait(self, limit_s: float) -> list[int]:
        """The statuses that the processes end with; raises `TimeoutExpired` where one does not."""
        until = time.monotonic() + limit_s
        return [process.wait(max(0.0, until - time.monotonic())) for process in self.processes]

    def said(self, index: int) -> str:
        """What a process has printed so far."""
        return self._logs[index].read_text()

    def finish(self, limit_s: float) -> None:
        """Waits for the end; raises `RuntimeError`, with what it printed, where a process fails."""
        try:
            statuses = self.wait(limit_s)
        except subprocess.TimeoutExpired:
            statuses = [process.poll() for process in self.processes]
        for index, status in enumerate(statuses):
            if status:
                raise RuntimeError(f"process {index} ended with status {status}: {self.said(index)[-3000:]}")
        if None in statuses:
            raise RuntimeError(
                f"not done within {limit_s:.0f} s: {[self.said(i)[-500:] for i in range(len(statuses))]}"
            )
