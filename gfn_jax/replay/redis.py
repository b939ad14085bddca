"""A replay buffer that several processes share through a Redis server.

Every process works on a copy of what it has seen, and brings copy and server together twice a
step: before it draws and after it stores, each in one round trip for all prompts. A prompt's
entries are one hash, with a version: a count, and a word of whoever made it. A change is only
written over the version that it was made from, by a script, so that none gets lost; the script
also keeps count of all entries. While the server is away the copies serve alone, and what was
changed meanwhile is written when it is back, also where it came back with an older memory, or none.

Payloads are the bytes of `Entry.pack`: nothing that stands in the server is ever executed.
"""

import contextlib
import hashlib
import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import redis
from absl import logging
from redis.backoff import NoBackoff
from redis.retry import Retry

from gfn_jax.replay.admission import Admission, Outcome
from gfn_jax.replay.buffer import ReplayBuffer, Troubles
from gfn_jax.replay.entry import Entry, UnreadableError
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.runtime.errors import UserError

T = TypeVar("T")

_VERSION = b"version"
_TIMEOUT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_MOST_ROUNDS = 8  # of writing again what others changed at the same time
_AT_ONCE = 256  # prompts in a round trip where a whole buffer is moved

_READ = """
if redis.call('HGET', KEYS[1], 'version') == ARGV[1] then return false end
return redis.call('HGETALL', KEYS[1])
"""
# ARGV: the prompt, the version expected ('' for none), the new one, how many fields to delete, these, fields and values
_WRITE = """
if (redis.call('HGET', KEYS[1], 'version') or '') ~= ARGV[2] then return redis.call('HGETALL', KEYS[1]) end
local written, more = 5 + tonumber(ARGV[4]), 0
for place = 5, written - 1 do more = more - redis.call('HDEL', KEYS[1], ARGV[place]) end
for place = written, #ARGV, 2 do more = more + redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1]) end
redis.call('HSET', KEYS[1], 'version', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('INCRBY', KEYS[3], more)
return false
"""

_FORGET = """
local held = redis.call('HLEN', KEYS[1])
if held == 0 then return false end
redis.call('UNLINK', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('INCRBY', KEYS[3], 1 - held)
return false
"""


def connect(url: str, password_variable: str) -> redis.Redis:
    """A client of the server at a URL that `check_url` accepts (rediss:// with TLS), that was seen to answer.

    The password is in an environment variable, if any is wanted. Certificates are checked with the system's
    authorities, or those in the file that SSL_CERT_FILE names. Raises `UserError` where no server answers, or
    not to us.
    """
    password = os.environ.get(password_variable) if password_variable else None
    if password_variable and password is None:
        raise UserError(f"replay.password_variable: there is no environment variable {password_variable}")
    try:
        client = redis.Redis.from_url(
            url,
            password=password,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),
        )
        client.ping()
    except redis.AuthenticationError as error:
        raise UserError(f"replay.url: the server at {url} refuses the password or wants one: {error}") from error
    except (redis.RedisError, ValueError, OSError) as error:
        if isinstance(error.__context__, ssl.SSLCertVerificationError):
            raise UserError(
                f"replay.url: the certificate of the server at {url} is not trusted "
                f"({error.__context__.verify_message}): it must be for the host that the URL names, by an authority "
                "that the system knows, or that is in the file which SSL_CERT_FILE names"
            ) from error
        raise UserError(f"replay.url: no Redis server answers at {url}: {error}") from error
    return client


class _Health:
    """Whether a kind of calls is worth trying: later and later every time that one failed."""

    def __init__(self, kind: str):
        self._kind, self._pause, self._until, self._warned = kind, 0.0, 0.0, False

    def attempt(self, call: Callable[[], T], otherwise: T) -> T:
        """What a call returns; `otherwise` where it fails, or failed too lately to be made again."""
        if time.monotonic() < self._until:
            return otherwise
        try:
            result = call()
        except redis.RedisError as error:
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            self._until = time.monotonic() + self._pause
            if not self._warned:
                self._warned = True
                logging.warning("replay goes on in memory: %s the Redis server fails: %s", self._kind, error)
            return otherwise
        if self._warned:
            logging.warning("%s the Redis server works again", self._kind)
        self._pause, self._warned = 0.0, False
        return result


class _Seen(NamedTuple):
    """What the server held of a prompt when it was last heard of: a version, and its entries' scores by their keys."""

    version: bytes = b""
    scores: Mapping[str, float] = {}


class RedisReplay(ReplayBuffer):
    """Entries under the keys of a namespace, which nothing else may use."""

    is_shared = True

    def __init__(self, client: redis.Redis, namespace: str, admission: Admission):
        self._client, self._admission = client, admission
        self._prefix = f"gfn_jax:{{{namespace}}}:"  # braces keep a namespace on one node of a cluster
        self._index, self._total, self._mark = (f"{self._prefix}{name}" for name in ("prompts", "size", "mark"))
        self._copy = MemoryReplay(admission)
        self._seen: dict[str, _Seen] = {}  # by prompt
        self._changed: set[str] = set()  # prompts whose copy is ahead of the server
        self._forgotten: set[str] = set()  # prompts that the server is to forget, before anything else
        self._is_cleared = True  # or what is in the server is of a time that is undone
        self._reading, self._writing = _Health("reading from"), _Health("writing to")
        self._unreadable = 0

    def stored(self, prompts: Sequence[str]) -> list[list[Entry]]:
        self._reading.attempt(lambda: self._read(prompts), None)
        return self._copy.stored(prompts)

    def offer(self, offered: Mapping[str, Sequence[Entry]]) -> Outcome:
        total = Outcome()
        for prompt, entries in offered.items():
            outcome = self._copy.offer({prompt: entries})
            total = total.plus(outcome)
            if outcome.added:
                self._changed.add(prompt)
        self._share()
        return total

    def sizes(self, prompts: Iterable[str] | None = None) -> list[tuple[str, int]]:
        return self._copy.sizes(prompts)

    def forget(self, prompts: Sequence[str], *, everywhere: bool = True) -> None:
        self._copy.forget(prompts)
        for prompt in prompts:
            self._seen.pop(prompt, None)
        self._changed.difference_update(prompts)
        if everywhere:
            self._forgotten.update(prompts)
            self._share()

    def snapshot(self, order: Iterable[str] = ()) -> np.ndarray:
        self._share()
        self._reading.attempt(self._read_all, None)
        return self._copy.snapshot(order)

    def restore(self, snapshot: np.ndarray) -> None:
        self._copy.restore(snapshot)
        self.clear()
        self._changed = set(self._copy.prompts)
        self._share()

    @property
    def size(self) -> int:
        """How many continuations the server holds, or where it is away, the copy."""
        if not self._is_cleared or self._changed or self._forgotten:
            return self._copy.size
        return self._reading.attempt(lambda: int(self._get(self._total) or 0), self._copy.size)

    def leave(self, mark: str) -> bool:
        return self._writing.attempt(lambda: bool(self._client.set(self._mark, mark)), otherwise=False)

    def finds(self, mark: str) -> bool:
        return self._reading.attempt(lambda: self._get(self._mark) == mark.encode(), otherwise=True)

    @property
    def troubles(self) -> Troubles:
        return Troubles(self._unreadable, len(self._changed | self._forgotten))

    def clear(self) -> None:
        """Deletes the namespace from the server, when it can be reached."""
        self._seen.clear()
        self._changed.clear()
        self._forgotten.clear()
        self._is_cleared = False
        self._writing.attempt(self._delete, None)

    def close(self) -> None:
        self.clear()
        self._client.close()

    def _share(self) -> None:
        """Writes what the copy has and the server has not, and the other way round."""
        if self._changed or self._forgotten:
            self._writing.attempt(self._write, None)

    def _read(self, prompts: Iterable[str]) -> None:
        """Takes over what others changed about these prompts; one round trip."""
        if not self._is_cleared:
            return
        prompts = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._forgotten]
        answers = self._call(_READ, [([self._key(prompt)], [self._seen_of(prompt).version]) for prompt in prompts])
        for prompt, answer in zip(prompts, answers, strict=True):
            if answer is not None:
                self._take_over(prompt, answer)

    def _read_all(self) -> None:
        if not self._is_cleared:
            return
        for some in _some_at_once(prompt.decode() for prompt in self._members()):
            self._read(some)

    def _write(self) -> None:
        """Writes all that is ahead of the server; a round trip, and another while others change the same prompts."""
        if not self._is_cleared:
            self._delete()
        for some in _some_at_once(self._forgotten):
            self._call(_FORGET, [([self._key(prompt), self._index, self._total], [prompt]) for prompt in some])
            self._forgotten.difference_update(some)
        for _ in range(_MOST_ROUNDS):
            for some in _some_at_once(self._changed):
                self._write_some(some)
            if not self._changed:
                return

    def _write_some(self, prompts: Sequence[str]) -> None:
        """Writes what the copy has of these prompts; where another wrote since, takes that over instead."""
        contents = [{entry.key: entry for entry in entries} for entries in self._copy.stored(prompts)]
        versions = [_next(self._seen_of(prompt).version) for prompt in prompts]
        calls = [
            ([self._key(prompt), self._index, self._total], self._change(prompt, content, version))
            for prompt, content, version in zip(prompts, contents, versions, strict=True)
        ]
        answers = self._call(_WRITE, calls)
        for prompt, content, version, answer in zip(prompts, contents, versions, answers, strict=True):
            if answer is None:
                self._seen[prompt] = _Seen(version, _scores(content.values()))
                self._changed.discard(prompt)
            else:
                self._take_over(prompt, answer)

    def _change(self, prompt: str, content: Mapping[str, Entry], version: bytes) -> list[Any]:
        """The arguments of `_WRITE` that make what the server was last seen to hold of a prompt this content."""
        expected, there = self._seen_of(prompt)
        gone = sorted(there.keys() - content.keys())
        new = sorted(key for key, entry in content.items() if there.get(key) != entry.score)
        written = [part for key in new for part in (key, content[key].pack())]
        return [prompt, expected, version, len(gone), *gone, *written]

    def _take_over(self, prompt: str, answer: Sequence[bytes]) -> None:
        """Makes the server's content the copy's, joined with what the copy alone has.

        Where the server's memory is older than the copy, the copy stays as it is.
        """
        version, theirs, unreadable = _parsed(answer)
        [kept] = self._copy.stored([prompt])
        if _count(version) >= _count(self._seen_of(prompt).version):
            ours = kept if prompt in self._changed else []
            kept, _ = self._admission.admit(theirs[: self._admission.capacity], ours)
        self._copy.put(prompt, kept)
        self._seen[prompt] = _Seen(version, _scores(theirs))
        self._unreadable += unreadable
        if _scores(kept) == _scores(theirs):
            self._changed.discard(prompt)
        else:
            self._changed.add(prompt)

    def _delete(self) -> None:
        keys = list(self._client.scan_iter(match=f"{self._prefix}*", count=1000))  # the index itself may be lost
        for some in _some_at_once(keys):
            self._client.unlink(*some)
        self._is_cleared = True

    def _seen_of(self, prompt: str) -> _Seen:
        return self._seen.get(prompt, _Seen())

    def _get(self, key: str) -> Any:
        return self._client.get(key)

    def _members(self) -> Any:
        """The prompts that have anything stored in the server."""
        return self._client.smembers(self._index)

    def _call(self, script: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """A script's answers to calls of (keys, arguments), all in one round trip."""
        if not calls:
            return []
        pipeline = self._client.pipeline(transaction=False)
        pipeline.script_load(script)
        for keys, arguments in calls:
            pipeline.evalsha(_sha(script), len(keys), *keys, *arguments)
        return pipeline.execute()[1:]

    def _key(self, prompt: str) -> str:
        return f"{self._prefix}prompt:{prompt}"


def _parsed(answer: Sequence[bytes]) -> tuple[bytes, list[Entry], int]:
    """What a prompt's hash holds: its version, its entries, best first, and how many payloads are none."""
    fields = dict(zip(answer[::2], answer[1::2], strict=True))
    version = fields.pop(_VERSION, b"")
    entries = []
    for name, payload in fields.items():
        with contextlib.suppress(UnreadableError):
            entry = Entry.unpack(payload)
            if name == entry.key.encode():
                entries.append(entry)
    return version, sorted(entries, key=lambda entry: entry.order), len(fields) - len(entries)


def _some_at_once(items: Iterable[T]) -> Iterator[list[T]]:
    """Items, sorted, as many at a time as go in one round trip."""
    ordered = sorted(items)  # pyright: ignore[reportArgumentType]
    for first in range(0, len(ordered), _AT_ONCE):
        yield ordered[first : first + _AT_ONCE]


def _next(version: bytes) -> bytes:
    """A version that follows another one, unlike any that somebody else makes."""
    return b"%d %s" % (_count(version) + 1, os.urandom(8).hex().encode())


def _count(version: bytes) -> int:
    """How many changes led to a version; 0 where it is none of ours."""
    count = version.partition(b" ")[0]
    return int(count) if count.isdigit() else 0


def _scores(entries: Iterable[Entry]) -> dict[str, float]:
    return {entry.key: entry.score for entry in entries}


def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
