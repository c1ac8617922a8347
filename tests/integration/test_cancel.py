"""Cancel requests reach the query they name and nothing else."""
import contextlib
import os
import signal
import struct
import threading
import time

import psycopg2
import psycopg2.errors
import pytest

from harness import wait_until
from harness import wire as w
from harness.meddler import Meddler


def cancel(pooler, wire, pid=None, key=None, unix=False):
    with pooler.dial(unix=unix) as other:
        assert other.cancel_request(wire.pid if pid is None else pid, wire.key if key is None else key)


def start_sleeping(postgres, *wires, seconds=20):
    """Each sends a long query; returns when they all run."""
    marks = [f"mark {id(wire)}" for wire in wires]
    for wire, mark in zip(wires, marks):
        wire.send_raw(w.query(f"SELECT pg_sleep({seconds}) /* {mark} */"))
    for mark in marks:
        wait_until(lambda mark=mark: postgres.backends(f"state = 'active' AND query LIKE '%{mark}%'"), what=mark)


def error_of(wire):
    return w.errors(wire.recv_until(b"Z"))[0]["C"]


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_cancel_reaches_only_the_right_query(postgres, pooler, unix):
    with pooler.wire() as one, pooler.wire() as two, pooler.wire() as three:
        start_sleeping(postgres, one, two, three)
        cancel(pooler, two, unix=unix)
        assert error_of(two) == "57014"
        assert one.is_silent() and three.is_silent()
        assert two.value("SELECT 1") == "1"
        cancel(pooler, one)
        cancel(pooler, three)
        assert error_of(one) == error_of(three) == "57014"


def test_keys_of_clients_differ(pooler):
    wires = [pooler.wire() for _ in range(50)]
    assert len({(wire.pid, wire.key) for wire in wires}) == 50
    assert len({wire.key for wire in wires}) > 45
    for wire in wires:
        wire.close()


def test_wrong_key_does_nothing(postgres, pooler):
    with pooler.wire() as wire:
        start_sleeping(postgres, wire, seconds=2)
        wrong = bytes([*wire.key[:-1], wire.key[-1] ^ 1])
        cancel(pooler, wire, key=wrong)
        cancel(pooler, wire, pid=wire.pid ^ 1)
        cancel(pooler, wire, pid=-1, key=b"\xff" * 4)
        cancel(pooler, wire, pid=0, key=b"\0" * 4)
        cancel(pooler, wire, key=b"")
        assert w.kinds(wire.recv_until(b"Z")) == "TDCZ"


def test_backends_own_key_does_nothing(postgres, pooler):
    with pooler.wire() as wire:
        pid = wire.backend_pid()
        start_sleeping(postgres, wire, seconds=1)
        cancel(pooler, wire, pid=pid)
        assert w.kinds(wire.recv_until(b"Z")) == "TDCZ"


def test_cancel_of_an_idle_client_hits_nobody(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire() as idle, pooler.wire() as busy:
        assert idle.value("SELECT 1") == "1"
        start_sleeping(postgres, busy, seconds=1)
        for _ in range(10):
            cancel(pooler, idle)
        assert w.kinds(busy.recv_until(b"Z")) == "TDCZ"
        assert idle.value("SELECT 2") == "2"


def test_late_cancel_never_hits_the_next_client(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire() as one, pooler.wire() as two:
        for _ in range(40):
            one.send_raw(w.query("SELECT pg_sleep(0.005)"))
            thread = threading.Thread(target=cancel, args=(pooler, one))
            thread.start()
            one.recv_until(b"Z")
            assert w.errors(two.query("SELECT pg_sleep(0.01)")) == []
            thread.join()
            assert w.errors(two.query("SELECT 1")) == []


def test_cancel_of_a_waiting_client(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("BEGIN")
        waiter.send_raw(w.query("SELECT 1"))
        assert waiter.is_silent()
        cancel(pooler, waiter)
        assert error_of(waiter) == "57014"
        assert waiter.status == "I"
        assert holder.value("SELECT 1") == "1"
        holder.query("COMMIT")
        assert waiter.value("SELECT 2") == "2"


def test_cancel_of_a_waiting_client_skips_to_sync(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("BEGIN")
        waiter.send_raw(w.extended("SELECT 1") + w.sync())
        assert waiter.is_silent()
        cancel(pooler, waiter)
        assert w.kinds(waiter.recv_until(b"Z")) == "EZ"
        holder.query("COMMIT")
        assert waiter.is_silent(0.2)
        assert waiter.value("SELECT 2") == "2"


def test_cancel_inside_a_transaction_leaves_it_failed(postgres, pooler):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        start_sleeping(postgres, wire)
        cancel(pooler, wire)
        assert error_of(wire) == "57014"
        assert wire.status == "E"
        wire.query("ROLLBACK")
        assert wire.value("SELECT 1") == "1"


def test_cancel_needs_no_place_among_the_clients(postgres, start_pooler):
    pooler = start_pooler(postgres, max_client_conn=1)
    with pooler.wire() as wire:
        start_sleeping(postgres, wire)
        cancel(pooler, wire)
        assert error_of(wire) == "57014"


def test_cancel_behind_an_encryption_request(postgres, pooler):
    with pooler.wire() as wire:
        start_sleeping(postgres, wire)
        with pooler.dial() as other:
            assert other.ssl_request() == b"N"
            assert other.cancel_request(wire.pid, wire.key)
        assert error_of(wire) == "57014"


def test_psycopg2_cancels(postgres, pooler):
    with contextlib.closing(pooler.connect(autocommit=True)) as connection, connection.cursor() as cursor:
        threading.Timer(0.5, connection.cancel).start()
        began = time.monotonic()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            cursor.execute("SELECT pg_sleep(20)")
        assert time.monotonic() - began < 5
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_storm_of_cancels_leaves_the_pool_sound(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=2)
    wires = [pooler.wire(timeout=30) for _ in range(6)]
    is_over = threading.Event()

    def storm():
        while not is_over.is_set():
            for wire in wires:
                cancel(pooler, wire)

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for _ in range(30):
            for wire in wires:
                wire.send_raw(w.query("SELECT pg_sleep(0.002)"))
            for wire in wires:
                assert {fields["C"] for fields in w.errors(wire.recv_until(b"Z"))} <= {"57014"}
    finally:
        is_over.set()
        thread.join()
    wait_until(lambda: all(w.errors(wire.query("SELECT 1")) == [] for wire in wires))
    assert len(postgres.backends("usename = 'app'")) <= 2
    for wire in wires:
        wire.close()


def test_queued_cancels_do_not_hold_up_the_recovery(fresh_postgres, start_pooler):
    """PgBouncer dialled the dead server once for each queued cancel, 15 s apart (pgbouncer #328)."""
    postgres = fresh_postgres()
    pooler = start_pooler(postgres, default_pool_size="20", transparent_retry="reads")
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(pooler.wire()) for _ in range(20)]
        waiting = [stack.enter_context(pooler.wire()) for _ in range(40)]
        start_sleeping(postgres, *busy, seconds=600)
        for wire in waiting:
            wire.send_raw(w.query("SELECT 'served'"))
        # The postmaster takes no new connection, so cancels queue up.
        os.kill(postgres.process.pid, signal.SIGSTOP)
        for number in range(500):
            other = stack.enter_context(pooler.dial())
            other.send_raw(struct.pack("!iii", 12 + len(busy[number % 20].key), w.CANCEL_REQUEST, busy[number % 20].pid)
                           + busy[number % 20].key)
        postgres.kill9()
        postgres.start()  # returns when it accepts
        began = time.monotonic()
        assert w.rows(waiting[0].recv_until(b"Z", 30)) == [("served",)]
        assert time.monotonic() - began < 2
        for wire in waiting[1:]:
            assert w.rows(wire.recv_until(b"Z", 30)) == [("served",)]


# ---- late, lost and impossible ones

def is_running(server, mark):
    return server.backends(f"state = 'active' AND query LIKE '%{mark}%'")


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_cancel_in_flight_hits_no_later_query_of_its_own_session(postgres, behind, protocol):
    """Inside a transaction the backend stays with its client, and what was meant for one query hit the next."""
    with Meddler(postgres.port) as relay:
        pooler = behind(relay)
        with pooler.wire() as wire:
            wire.query("BEGIN")
            for _ in range(2):
                relay.may_cancel.clear()
                seen = relay.cancels
                wire.send_raw(w.query("SELECT 'one' FROM pg_sleep(0.2)"))
                wait_until(lambda: is_running(postgres, "one"))
                cancel(pooler, wire)
                wait_until(lambda: relay.cancels > seen)
                assert w.rows(wire.recv_until(b"Z")) == [("one",)]
                text = "SELECT 'two' FROM pg_sleep(0.3)"
                wire.send_raw(w.query(text) if protocol == "simple" else w.extended(text) + w.sync())
                assert wire.is_silent(0.1)
                relay.may_cancel.set()
                assert w.rows(wire.recv_until(b"Z")) == [("two",)]
            assert w.tags(wire.query("COMMIT")) == ["COMMIT"]


def test_cancel_that_never_arrives_holds_nobody_for_ever(postgres, behind):
    """The wait of the test before has an end: then the transaction is given up."""
    with Meddler(postgres.port) as relay:
        pooler = behind(relay, cancel_wait_timeout="0.3s")
        relay.may_cancel.clear()
        with pooler.wire() as wire:
            wire.query("BEGIN")
            wire.send_raw(w.query("SELECT 'one' FROM pg_sleep(0.2)"))
            wait_until(lambda: is_running(postgres, "one"))
            cancel(pooler, wire)
            wait_until(lambda: relay.cancels == 1)
            assert w.rows(wire.recv_until(b"Z")) == [("one",)]
            assert w.errors(wire.query("SELECT 2", timeout=5))[0]["C"] == "40001"
            wire.query("ROLLBACK")
            assert wire.value("SELECT 3") == "3"
        relay.may_cancel.set()


@pytest.mark.parametrize("key", [None, struct.pack("!ii", 0, 0)], ids=["absent", "zero"])
def test_server_without_cancel_keys_serves_all_the_same(postgres, behind, key):
    """pgdog #918: some servers send no BackendKeyData, or process number 0."""
    def edit(link, kind, body):
        if kind != b"K":
            return w.message(kind, body)
        return w.message(b"K", key) if key else b""

    with Meddler(postgres.port, edit=edit) as relay:
        pooler = behind(relay, pool_size=2)
        with pooler.wire() as one, pooler.wire() as two:
            assert one.pid and one.key and (one.pid, one.key) != (two.pid, two.key)
            one.send_raw(w.query("SELECT 'one' FROM pg_sleep(0.3)"))
            two.send_raw(w.query("SELECT 'two' FROM pg_sleep(0.3)"))
            wait_until(lambda: is_running(postgres, "one") and is_running(postgres, "two"))
            cancel(pooler, one)
            assert w.rows(one.recv_until(b"Z")) == [("one",)]
            assert w.rows(two.recv_until(b"Z")) == [("two",)]
            assert one.value("SELECT 1") == two.value("SELECT 1") == "1"
        # A request of which PostgreSQL can make nothing is not sent.
        assert relay.cancels == 0
