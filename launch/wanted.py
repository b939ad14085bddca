"""What a configuration wants of the machine that it runs on, for the launchers: a line for each.

python -m launch.wanted --config configs/NAME.py [--config.key=value ...]

    redis HOST PORT   a Redis server here, without a password, where none answers yet
    judge DEVICE      a GPU for a judge, which JAX must leave some memory of
"""

import socket
from urllib.parse import urlsplit

from ml_collections import config_flags

from gfn_jax.config import command_line

_CONFIG = config_flags.DEFINE_config_file("config", help_string="a Python file with get_config(), as in configs/")
_HERE = ("localhost", "127.0.0.1", "::1")


def main() -> None:
    config = command_line.read_config_flag(_CONFIG)
    replay = config.replay
    if replay.backend == "redis" and replay.fraction and not replay.password_variable:
        address = urlsplit(replay.url)
        host, port = address.hostname or "", address.port or 6379
        if address.scheme == "redis" and host in _HERE and not _answers(host, port):
            print(f"redis {host} {port}")
    for judge in (config.reward.nli, config.reward.sentences):
        if judge.name_or_path and judge.device.startswith("cuda"):
            print(f"judge {judge.device}")


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    command_line.run(main)
