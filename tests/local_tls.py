"""TLS in front of a server on the loopback interface, by a certificate of an authority of one's own."""

import contextlib
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]


def make_certificates(directory: Path) -> Path:
    """The file of an authority; beside it, server.pem and server.key, which it signed, for 127.0.0.1 alone."""
    authority = directory / "authority.pem"
    _openssl(directory, "/CN=authority", "authority")
    signed = ["-CA", str(authority), "-CAkey", str(directory / "authority.key")]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    _openssl(directory, "/CN=server", "server", *signed, *names)
    return authority


def _openssl(directory: Path, subject: str, name: str, *more: str) -> None:
    files = ["-keyout", str(directory / f"{name}.key"), "-out", str(directory / f"{name}.pem")]
    subprocess.run(["openssl", "req", "-x509", *_KEY, "-subj", subject, *files, *more], check=True, capture_output=True)


@contextlib.contextmanager
def behind_tls(port: int, directory: Path) -> Iterator[int]:
    """The port at which what listens on another one is reached by TLS, with the server's certificate of a directory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_serve, args=(listening, context, port), daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)  # wakes the thread, which ends


def _serve(listening: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listening.accept()
            threading.Thread(target=_join, args=(client, context, port), daemon=True).start()


def _join(client: socket.socket, context: ssl.SSLContext, port: int) -> None:
    """A client's connection, until either side ends it, or it is none of TLS."""
    with (
        client,
        contextlib.suppress(OSError),
        context.wrap_socket(client, server_side=True) as secret,
        socket.create_connection(("127.0.0.1", port)) as plain,
    ):
        while True:
            ready = [secret] if secret.pending() else select.select([secret, plain], [], [])[0]
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (plain if source is secret else secret).sendall(data)
