"""The buffers against a simple model of themselves, and both against each other; on a real Redis server."""

import itertools

import msgpack
import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_redis import local_redis
from local_tls import behind_tls, make_certificates

from gfn_jax.replay.admission import Admission
from gfn_jax.replay.buffer import choose
from gfn_jax.replay.entry import NOTHING, Entry, UnreadableError, unpack_all
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.replay.redis import RedisReplay, connect
from gfn_jax.runtime.errors import UserError

WORDS = ("ada", "ran", "to", "town", "sat")


def entry(words, score, step=0):
    """A continuation whose tokens are its words' numbers, so that equal texts are equal tokens."""
    tokens = np.array([WORDS.index(word) for word in words], np.int32)
    states = len(tokens) + 1
    values = np.random.default_rng(len(tokens)).normal(size=states).astype(np.float32)
    return Entry(tokens, np.arange(states) > 0, {"log_p": values, "other": -values}, " ".join(words), score, step)


def same(left, right):
    return [each.pack() for each in left] == [each.pack() for each in right]


def word_distance(left, right):
    """The edit distance of two word lists by its textbook recursion, as a share of the longer one's length."""
    table = np.zeros((len(left) + 1, len(right) + 1))
    table[:, 0], table[0, :] = np.arange(len(left) + 1), np.arange(len(right) + 1)
    for i, j in itertools.product(range(1, len(left) + 1), range(1, len(right) + 1)):
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (left[i - 1] != right[j - 1]))
    return table[-1, -1] / max(len(left), len(right), 1)


class Model:
    """The rule in its plainest form: one prompt, everything compared with everything."""

    def __init__(self, capacity, min_edit_distance):
        self.capacity, self.least, self.kept = capacity, min_edit_distance, []

    def offer(self, new):
        near = [old for old in self.kept if word_distance(old.words, new.words) < self.least or old.words == new.words]
        better = [old for old in near if (-old.score, old.key) <= (-new.score, new.key)]
        if not better:
            self.kept = [old for old in self.kept if old not in near] + [new]
            self.kept = sorted(self.kept, key=lambda each: (-each.score, each.key))[: self.capacity]


@pytest.fixture(scope="module")
def server():
    with local_redis() as running:
        yield running


@pytest.fixture
def redis_replay(server, request):
    """Makes buffers on the server in a namespace of this test."""

    def make(admission, namespace="run"):
        return RedisReplay(connect(server.url, ""), f"{request.node.name}-{namespace}", admission)

    yield make
    server.client().flushall()


ENTRIES = st.builds(
    entry, st.lists(st.sampled_from(WORDS), max_size=4), st.sampled_from([-3.0, -2.0, -1.5, -1.0, 0.0, 2.5])
)
OFFERS = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.lists(ENTRIES, min_size=1, max_size=4)), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OFFERS, st.integers(1, 4), st.sampled_from([0.0, 0.3, 0.6, 1.0]))
def test_both_buffers_keep_what_the_model_keeps(redis_replay, offers, capacity, min_edit_distance):
    admission = Admission(capacity, min_edit_distance)
    models = {"a": Model(capacity, min_edit_distance), "b": Model(capacity, min_edit_distance)}
    memory, shared = MemoryReplay(admission), redis_replay(admission)
    shared.clear()
    for prompt, entries in offers:
        for each in entries:
            models[prompt].offer(each)
        assert memory.offer({prompt: entries}) == shared.offer({prompt: entries})
        kept = models[prompt].kept
        assert len(kept) <= capacity
        assert same(memory.stored([prompt])[0], kept)
        assert same(shared.stored([prompt])[0], kept)
    assert memory.size == shared.size == sum(len(model.kept) for model in models.values())
    other = redis_replay(admission)  # sees what the server holds, not what this process remembers
    assert all(same(*pair) for pair in zip(other.stored(["a", "b"]), memory.stored(["a", "b"]), strict=True))
    assert (memory.snapshot() == shared.snapshot()).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(ENTRIES, max_size=12))
def test_without_a_duplicates_rule_the_best_different_ones_are_kept(entries):
    buffer = MemoryReplay(Admission(3, 0.0))
    for each in entries:
        buffer.offer({"a": [each]})
    best = {}
    for each in entries:
        best[each.key] = min(best.get(each.key, each), each, key=lambda one: one.order)
    expected = sorted(best.values(), key=lambda one: one.order)[:3]
    assert [each.order for each in buffer.stored(["a"])[0]] == [each.order for each in expected]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_no_entry(payload):
    with pytest.raises(UnreadableError):
        Entry.unpack(payload)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.floats() | st.binary(max_size=9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_well_formed_data_of_another_shape_is_no_entry_and_no_buffer(value):
    payload = msgpack.packb(value)
    with pytest.raises(UnreadableError):
        Entry.unpack(payload)
    if value:
        with pytest.raises(UnreadableError):
            unpack_all(np.frombuffer(msgpack.packb({"a": value}), np.uint8))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_payload_is_no_entry(data):
    payload = entry(["ada", "ran"], -1.0).pack()
    with pytest.raises(UnreadableError):
        Entry.unpack(payload[: data.draw(st.integers(0, len(payload) - 1))])


def test_an_entry_is_read_as_it_was_written():
    for dtype in (np.float32, np.float64):
        written = Entry(
            np.array([3, 50_000], np.int32),
            np.array([False, True, True]),
            {"b": np.array([0.1, -np.inf, 3], dtype), "a": np.zeros(3, dtype)},
            "é ∞",
            -1e3,
            7,
        )
        read = Entry.unpack(written.pack())
        assert read.pack() == written.pack()
        assert read.components["b"].dtype == dtype
        assert (read.text, read.score, read.step, read.key) == (written.text, -1e3, 7, written.key)


def test_keys_are_the_same_in_every_process():
    assert entry(["ada", "ran"], -1.0).key == "01acecb507abfe1a354aa8064f4af5d3"


def test_garbage_in_the_server_is_skipped_counted_and_left_alone(server, redis_replay):
    admission = Admission(5, 0.0)
    buffer = redis_replay(admission)
    buffer.offer({"a": [entry(["ada"], -1.0), entry(["ran"], -2.0)]})
    [key] = server.client().keys("*:prompt:*")
    later = entry(["sat"], -1.0).pack().replace(b"\x97\x01", b"\x97\x02", 1)  # another format's number
    server.client().hset(key, mapping={"x": b"cos\nsystem\n(S'false'\ntR.", "y": later, "version": "garbage"})
    other = redis_replay(admission)
    assert len(other.stored(["a"])[0]) == 2
    assert other.troubles.unreadable == 2
    other.offer({"a": [entry(["to"], 0.0)]})
    assert {b"x", b"y"} < set(server.client().hkeys(key))
    assert len(redis_replay(admission).stored(["a"])[0]) == 3


def test_two_runs_share_a_server_without_touching_each_other(server, redis_replay):
    admission = Admission(5, 0.0)
    one, other = redis_replay(admission, "one"), redis_replay(admission, "other")
    one.offer({"a": [entry(["ada"], -1.0)]})
    other.offer({"a": [entry(["ran"], -2.0)]})
    assert [each.text for each in one.stored(["a"])[0]] == ["ada"]
    one.close()
    assert [each.text for each in redis_replay(admission, "other").stored(["a"])[0]] == ["ran"]
    assert not redis_replay(admission, "one").stored(["a"])[0]


def test_processes_that_change_a_prompt_at_once_lose_nothing(redis_replay):
    """Each starts from the same version; the second to write takes the first one's change over."""
    admission = Admission(5, 0.0)
    first, second = redis_replay(admission), redis_replay(admission)
    for buffer in (first, second):
        buffer.stored(["a"])
    first.offer({"a": [entry(["ada"], -1.0)]})
    second.offer({"a": [entry(["ran"], -2.0)]})
    assert [each.text for each in second.stored(["a"])[0]] == ["ada", "ran"]
    assert [each.text for each in first.stored(["a"])[0]] == ["ada", "ran"]
    assert (first.snapshot() == second.snapshot()).all()


def assert_alike_through(shared, memory, happens):
    """Both are offered a word after the other, and keep the same whatever `happens` before some of these."""
    for number, word in enumerate(WORDS):
        happens.get(number, lambda: None)()
        for buffer in (memory, shared):
            buffer.offer({"a": [entry([word], -float(number))]})
        assert same(shared.stored(["a"])[0], memory.stored(["a"])[0])


def test_a_server_that_goes_and_comes_back_empty_changes_nothing(monkeypatch):
    monkeypatch.setattr("gfn_jax.replay.redis._FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr("gfn_jax.replay.redis._LONGEST_PAUSE_S", 0.0)
    admission = Admission(5, 0.0)
    memory = MemoryReplay(admission)
    with local_redis() as server:
        shared = RedisReplay(connect(server.url, ""), "run", admission)

        def come_back():
            assert shared.troubles.unshared == 1
            server.start()

        assert_alike_through(shared, memory, {2: server.stop, 4: come_back})
        assert shared.troubles.unshared == 0
        assert same(RedisReplay(connect(server.url, ""), "run", admission).stored(["a"])[0], memory.stored(["a"])[0])


def test_a_server_that_comes_back_with_an_older_memory_changes_nothing(server, redis_replay):
    admission = Admission(1, 0.0)
    buffer, client = redis_replay(admission), server.client()
    buffer.offer({"a": [entry(["ada"], -2.0)]})
    [key] = client.keys("*:prompt:*")
    old = client.dump(key)
    buffer.offer({"a": [entry(["ran"], -1.0)]})
    client.restore(key, 0, old, replace=True)
    assert [each.text for each in buffer.stored(["a"])[0]] == ["ran"]
    buffer.offer({"b": [entry(["to"], 0.0)]})
    assert [each.text for each in redis_replay(admission).stored(["a"])[0]] == ["ran"]


def make_full(client, key):
    client.config_set("maxmemory", 1)


def make_a_replica(client, key):
    client.replicaof("127.0.0.1", 1)


def make_another_type(client, key):
    client.delete(key)
    client.lpush(key, "x")


@pytest.mark.parametrize("fault", [make_full, make_a_replica, make_another_type])
def test_a_server_that_refuses_is_like_one_that_is_away(fault, monkeypatch, caplog):
    monkeypatch.setattr("gfn_jax.replay.redis._FIRST_PAUSE_S", 0.0)
    admission = Admission(5, 0.0)
    memory = MemoryReplay(admission)
    with local_redis() as server:
        shared = RedisReplay(connect(server.url, ""), "run", admission)
        assert_alike_through(shared, memory, {1: lambda: fault(server.client(), server.client().keys("*:prompt:*")[0])})
        assert shared.troubles.unshared == 1
        assert (shared.snapshot() == memory.snapshot()).all()
        shared.close()
    assert 1 <= sum("goes on in memory" in record.message for record in caplog.records) <= 2


def test_what_a_server_held_of_an_undone_time_is_never_read(server, redis_replay, monkeypatch):
    """The server is away just when a snapshot is restored, and has its memory when it is back."""
    monkeypatch.setattr("gfn_jax.replay.redis._FIRST_PAUSE_S", 0.0)
    admission = Admission(5, 0.0)
    past = MemoryReplay(admission)
    past.offer({"a": [entry(["ada"], -1.0)]})
    redis_replay(admission).offer({"a": [entry(["ran"], 0.0)], "b": [entry(["to"], 0.0)]})
    buffer = redis_replay(admission)
    with monkeypatch.context() as away:
        away.setattr(redis.Redis, "scan_iter", lambda *_, **__: (_ for _ in ()).throw(redis.ConnectionError("away")))
        buffer.restore(past.snapshot())
        assert [each.text for each in buffer.stored(["a"])[0]] == ["ada"]
    buffer.offer({"a": [entry(["sat"], -2.0)]})
    assert [[each.text for each in some] for some in buffer.stored(["a", "b"])] == [["ada", "sat"], []]
    assert not redis_replay(admission).stored(["b"])[0]


def test_a_snapshot_goes_from_one_kind_of_buffer_to_the_other(redis_replay):
    admission = Admission(5, 0.0)
    memory = MemoryReplay(admission)
    memory.offer({"a": [entry(["ada"], -1.0), entry(["sat"], -2.0)], "b": [entry([], 0.0)]})
    shared = redis_replay(admission)
    shared.offer({"a": [entry(["ran"], 3.0)], "c": [entry(["to"], 3.0)]})  # of steps that a crash undid
    shared.restore(memory.snapshot())
    assert (redis_replay(admission).snapshot() == memory.snapshot()).all()
    shared.restore(NOTHING)
    assert (redis_replay(admission).snapshot() == NOTHING).all()


def test_a_snapshot_has_its_prompts_in_the_order_asked_for_and_a_buffer_keeps_it(redis_replay):
    admission, order = Admission(5, 0.0), ["c", "a", "nowhere", "d"]
    memory = MemoryReplay(admission)
    memory.offer({prompt: [entry(["ada"], -1.0), entry(["ran"], -2.0)] for prompt in "abcd"})
    snapshot = memory.snapshot(order)
    assert [*unpack_all(snapshot)] == ["c", "a", "d", "b"]
    for buffer in (MemoryReplay(admission), redis_replay(admission)):
        buffer.restore(snapshot)
        assert buffer.sizes() == [("c", 2), ("a", 2), ("d", 2), ("b", 2)]
        assert buffer.sizes(["b", "nowhere"]) == [("b", 2), ("nowhere", 0)]
        assert (buffer.snapshot(order) == snapshot).all()


def test_processes_that_forget_a_prompt_find_nothing_of_it_and_may_begin_again(server, redis_replay):
    """One of them forgets it everywhere, as all do their own copies; the others' prompts stay."""
    admission = Admission(5, 0.0)
    first, second, memory = redis_replay(admission), redis_replay(admission), MemoryReplay(admission)
    for buffer in (first, memory):
        buffer.offer({"a": [entry(["ada"], -1.0)], "b": [entry(["sat"], -1.0)]})
        buffer.offer({"a": [entry(["to"], -2.0)]})
    second.stored(["a", "b"])
    for buffer, everywhere in ((first, False), (second, True), (memory, True)):
        buffer.forget(["a", "never offered"], everywhere=everywhere)
    assert not server.client().keys("*:prompt:a")
    for each in (first, redis_replay(admission)):
        assert each.size == 1
        assert [len(some) for some in each.stored(["a", "b"])] == [0, 1]
        assert (each.snapshot() == memory.snapshot()).all()
    for buffer in (first, memory):
        buffer.offer({"a": [entry(["ran"], -3.0)]})
    assert [each.text for each in second.stored(["a"])[0]] == ["ran"]
    assert first.size == second.size == memory.size == 2
    assert (second.snapshot() == memory.snapshot()).all()


def test_what_was_forgotten_while_the_server_was_away_does_not_come_back(monkeypatch):
    monkeypatch.setattr("gfn_jax.replay.redis._FIRST_PAUSE_S", 0.0)
    admission = Admission(5, 0.0)
    with local_redis() as server:
        shared = RedisReplay(connect(server.url, ""), "run", admission)
        shared.offer({prompt: [entry(["ada"], -1.0)] for prompt in "ab"})
        with monkeypatch.context() as away:
            away.setattr(redis.Redis, "pipeline", lambda *_, **__: (_ for _ in ()).throw(redis.ConnectionError("away")))
            shared.offer({"a": [entry(["sat"], -2.0)]})
            shared.forget(["a", "b"])
            assert shared.troubles.unshared == 2
            shared.offer({"b": [entry(["ran"], -2.0)]})
        assert [[each.text for each in some] for some in shared.stored(["a", "b"])] == [[], ["ran"]]
        shared.offer({"c": [entry(["to"], 0.0)]})
        assert shared.troubles.unshared == 0
        assert shared.size == 2
        assert not server.client().keys("*:prompt:a")
        found = RedisReplay(connect(server.url, ""), "run", admission).stored(["a", "b"])
        assert [[each.text for each in some] for some in found] == [[], ["ran"]]


def test_a_draw_is_uniform_or_in_proportion_to_the_reward():
    entries = [entry([word], np.log(weight)) for word, weight in zip(WORDS, (1, 2, 3, 4, 5), strict=True)]
    rng, counts = np.random.default_rng(0), {True: np.zeros(5), False: np.zeros(5)}
    for by_reward, _ in itertools.product((True, False), range(4000)):
        [drawn] = choose(entries, 1, rng, by_reward=by_reward)
        counts[by_reward][WORDS.index(drawn.text)] += 1
    assert np.abs(counts[True] / 4000 - np.arange(1, 6) / 15).max() < 0.03
    assert np.abs(counts[False] / 4000 - 0.2).max() < 0.03


def test_a_draw_repeats_nothing_and_never_asks_for_more_than_there_is():
    entries = [entry([word], 0.0) for word in WORDS]
    rng = np.random.default_rng(0)
    drawn = choose(entries, 3, rng, by_reward=False)
    assert len({each.key for each in drawn}) == 3
    assert len(choose(entries[:2], 3, rng, by_reward=True)) == 2
    assert not choose([], 3, rng, by_reward=False)


def test_a_server_that_cannot_be_used_is_one_clear_error(monkeypatch):
    with local_redis(password="right") as server:
        with pytest.raises(UserError, match="refuses the password or wants one"):
            connect(server.url, "")
        monkeypatch.setenv("SECRET", "wrong")
        with pytest.raises(UserError, match="refuses the password or wants one") as error:
            connect(server.url, "SECRET")
        assert "\n" not in str(error.value)
        monkeypatch.setenv("SECRET", "right")
        assert connect(server.url, "SECRET").ping()
    with pytest.raises(UserError, match="no Redis server answers at redis://"):
        connect(server.url, "")
    with pytest.raises(UserError, match="there is no environment variable NOWHERE"):
        connect(server.url, "NOWHERE")


def test_a_server_behind_tls_is_trusted_by_the_authority_in_ssl_cert_file(tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SECRET", "right")
    authority, admission = make_certificates(tmp_path), Admission(5, 0.0)
    with local_redis(password="right") as server, behind_tls(server.port, tmp_path) as port:
        with pytest.raises(UserError, match=r"is not trusted \(.*issuer.*\): .* in the file which SSL_CERT_FILE"):
            connect(f"rediss://127.0.0.1:{port}/0", "SECRET")
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        buffer = RedisReplay(connect(f"rediss://127.0.0.1:{port}/0", "SECRET"), "run", admission)
        buffer.offer({"a": [entry(["ada"], -1.0)]})
        kept = RedisReplay(connect(f"rediss://127.0.0.1:{port}/0", "SECRET"), "run", admission).stored(["a"])[0]
        assert [each.text for each in kept] == ["ada"]
        with pytest.raises(UserError, match=r"is not trusted \(.*not valid for 'localhost'"):
            connect(f"rediss://localhost:{port}/0", "SECRET")
        with pytest.raises(UserError, match="refuses the password or wants one"):
            connect(f"rediss://127.0.0.1:{port}/0", "")
