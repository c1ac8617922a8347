"""The harness against PostgreSQL itself: what the other tests stand on."""
import threading
import time

import psycopg2
import pytest

from harness import Closed, ServerError, Wire, password_of, wait_until
from harness import wire as w


def dial(postgres, unix=False):
    return Wire(str(postgres.dir) if unix else "127.0.0.1", postgres.port)


@pytest.mark.parametrize("user, method", [("app", 10), ("old", 5)])
def test_wire_logs_in_with_what_the_server_asks_for(postgres, user, method):
    with dial(postgres) as wire:
        assert wire.startup(user).asked_method() == method
    with dial(postgres) as wire:
        wire.startup(user).login()
        assert wire.value("SELECT current_user") == user
        assert wire.parameters["server_encoding"] == "UTF8"
        assert wire.pid == wire.backend_pid()
        assert wire.status == "I"


def test_wire_logs_in_over_the_trusted_unix_socket(postgres):
    with dial(postgres, unix=True) as wire:
        assert wire.startup("ann").login().rows("SELECT current_user, 1 + 1, NULL") == [("ann", "2", None)]


@pytest.mark.parametrize("user", ["app", "old"])
def test_wire_is_refused_with_a_wrong_password(postgres, user):
    with dial(postgres) as wire, pytest.raises(ServerError) as refusal:
        wire.startup(user).login("nonsense")
    assert refusal.value.sqlstate == "28P01"
    assert refusal.value.fields["V"] == "FATAL"


def test_wire_reads_error_fields_and_goes_on(postgres):
    with dial(postgres, unix=True) as wire:
        wire.startup().login()
        answer = wire.query("SELECT 1/0")
        assert w.errors(answer)[0]["C"] == "22012"
        assert w.errors(answer)[0]["M"] == "division by zero"
        assert w.kinds(wire.query("BEGIN; SELECT 1")) == "CTDCZ"
        assert wire.status == "T"


def test_wire_speaks_the_extended_protocol_in_any_pieces(postgres):
    with dial(postgres, unix=True) as wire:
        wire.startup().login()
        wire.send_split(w.extended("SELECT $1::text || '!'", ["hello"]) + w.sync())
        answer = wire.recv_until(b"Z")
        assert w.kinds(answer) == "12TDCZ"
        assert w.rows(answer) == [("hello!",)]


def test_wire_asks_for_encryption(postgres):
    with dial(postgres) as wire:
        assert wire.gssenc_request() in (b"N", b"G")
    with dial(postgres) as wire:
        assert wire.ssl_request() == b"N"
        wire.startup().login()
        assert wire.is_silent()


def test_wire_cancels_a_query(postgres):
    with dial(postgres) as wire:
        wire.startup().login()
        wire.send_raw(w.query("SELECT pg_sleep(30)"))
        wait_until(lambda: postgres.backends(f"pid = {wire.pid} AND state = 'active'"))
        with dial(postgres) as other:
            assert other.cancel_request(wire.pid, wire.key)
        assert w.errors(wire.recv_until(b"Z"))[0]["C"] == "57014"


def test_wire_notices_the_end(postgres):
    with dial(postgres, unix=True) as wire:
        wire.startup().login()
        wire.send_raw(w.terminate())
        assert wire.eof()
        with pytest.raises(Closed):
            wire.recv()


def test_servers_are_independent_and_survive_every_kind_of_stop(postgres, fresh_postgres):
    server = fresh_postgres(conf="work_mem = '7MB'")
    assert server.port != postgres.port
    assert server.sql("SHOW work_mem") == [("7MB",)]
    server.sql("CREATE TABLE t AS SELECT 1 AS a")
    for mode in ("smart", "fast", "immediate"):
        server.restart(mode)
        assert server.sql("SELECT a FROM t") == [(1,)]
    server.kill9()
    assert not server.is_running()
    with pytest.raises(psycopg2.OperationalError):
        server.sql("SELECT 1")
    server.start()
    assert server.sql("SELECT 1") == [(1,)]


def test_backends_are_counted_without_the_one_that_asks(postgres):
    with dial(postgres) as wire:
        wire.startup("bob").login()
        assert [backend["pid"] for backend in postgres.backends("usename = 'bob'")] == [wire.pid]
        assert postgres.terminate_backends("usename = 'bob'") == [wire.pid]
        assert w.errors(wire.recv_all())[0]["C"] == "57P01"
    wait_until(lambda: postgres.backends("usename = 'bob'") == [])


def test_url_and_dsn_work(postgres):
    for target in (postgres.url("ann"), postgres.dsn("bob")):
        connection = psycopg2.connect(target)
        assert connection.info.dbname == "app"
        connection.close()
    assert password_of("ann") in postgres.url("ann")


def test_wait_until_takes_the_first_true_answer():
    flag = threading.Event()
    threading.Timer(0.1, flag.set).start()
    began = time.monotonic()
    assert wait_until(flag.is_set)
    assert time.monotonic() - began < 1
    with pytest.raises(AssertionError, match="not within"):
        wait_until(lambda: False, 0.1)
