"""Requests and replies through the pool: every shape a driver may send them in."""
import contextlib
import io
import struct
import threading

import psycopg2
import psycopg2.errors
import pytest

from harness import ServerError, wait_until
from harness import wire as w


@pytest.fixture
def wire(pooler):
    with pooler.wire() as wire:
        yield wire


@pytest.fixture
def table(postgres):
    """An empty table t(a int, b text) of the user app."""
    postgres.sql("DROP TABLE IF EXISTS t", "CREATE TABLE t (a int, b text)", user="app")
    yield "t"
    postgres.sql("DROP TABLE IF EXISTS t")


def answers(wire, data, count=1):
    """Sends the bytes and reads this many ReadyForQuery."""
    wire.send_raw(data)
    return [wire.recv_until(b"Z") for _ in range(count)]


# ---- simple queries

def test_simple_query(wire):
    assert w.kinds(wire.query("SELECT 1 AS a, 'x' AS b, NULL AS c")) == "TDCZ"
    assert wire.dicts("SELECT 1 AS a, 'x' AS b, NULL AS c") == [{"a": "1", "b": "x", "c": None}]


def test_statements_of_one_query_are_answered_in_order(wire):
    answer = wire.query("SELECT 1; SELECT 2; BEGIN; SELECT 3; COMMIT; SHOW geqo")
    assert w.kinds(answer) == "TDCTDCCTDCCTDCZ"
    assert w.rows(answer) == [("1",), ("2",), ("3",), ("on",)]


def test_error_ends_the_rest_of_a_query(wire):
    answer = wire.query("SELECT 1; SELECT 1/0; SELECT 3")
    assert w.kinds(answer) == "TDCEZ" or w.kinds(answer) == "TDCTEZ"
    assert w.errors(answer)[0]["C"] == "22012"
    assert wire.value("SELECT 4") == "4"


def test_empty_query(wire):
    for text in ("", " ", ";", "-- nothing"):
        assert w.kinds(wire.query(text)) == "IZ"


def test_pipelined_simple_queries(wire):
    found = answers(wire, b"".join(w.query(f"SELECT {n}") for n in range(100)), 100)
    assert [w.rows(answer) for answer in found] == [[(str(n),)] for n in range(100)]


def test_transaction_status_is_passed_on(wire):
    for text, status in [("SELECT 1", "I"), ("BEGIN", "T"), ("SELECT 1/0", "E"), ("SELECT 1", "E"), ("ROLLBACK", "I")]:
        wire.query(text)
        assert wire.status == status, text


def test_error_fields_are_those_of_postgres(postgres, wire):
    with w.Wire(str(postgres.dir), postgres.port) as direct:
        direct.startup().login()
        for text in ("SELEC 1", "SELECT nothing", "SELECT 1/0", "SELECT * FROM nowhere",
                     "DO $$BEGIN RAISE EXCEPTION 'x' USING ERRCODE='P0042', DETAIL='d', HINT='h'; END$$"):
            assert w.errors(wire.query(text)) == w.errors(direct.query(text))


def test_notices_arrive(wire):
    wire.query("DO $$BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'careful'; END$$")
    assert [(notice["V"], notice["M"]) for notice in wire.notices] == [("NOTICE", "hello 1"), ("WARNING", "careful")]


# ---- extended protocol

def test_extended_query(wire):
    [answer] = answers(wire, w.extended("SELECT $1::int + $2::int", [40, 2]) + w.sync())
    assert w.kinds(answer) == "12TDCZ"
    assert w.rows(answer) == [("42",)]


def test_pipelined_syncs(wire):
    data = b"".join(w.extended("SELECT $1::text", [n]) + w.sync() for n in range(50))
    assert [w.rows(answer) for answer in answers(wire, data, 50)] == [[(str(n),)] for n in range(50)]


def test_bare_syncs_are_answered_one_by_one(wire):
    assert [w.kinds(answer) for answer in answers(wire, w.sync() * 20, 20)] == ["Z"] * 20


def test_everything_in_one_packet_is_answered_by_one_backend(wire):
    pid = "SELECT pg_backend_pid()"
    found = answers(wire, w.query(pid) + w.extended(pid) + w.sync() + w.query(pid), 3)
    assert len({w.rows(answer)[0] for answer in found}) == 1
    assert [w.kinds(answer) for answer in found] == ["TDCZ", "12TDCZ", "TDCZ"]


def test_many_executes_before_one_sync(wire):
    [answer] = answers(wire, b"".join(w.extended(f"SELECT {n}") for n in range(30)) + w.sync())
    assert w.kinds(answer) == "12TDC" * 30 + "Z"
    assert [row[0] for row in w.rows(answer)] == [str(n) for n in range(30)]


def test_error_skips_to_sync(wire):
    data = w.extended("SELECT 1") + w.extended("SELECT 1/0") + w.extended("SELECT 2") + w.sync() + \
        w.extended("SELECT 3") + w.sync() + w.query("SELECT 4")
    first, second, third = answers(wire, data, 3)
    assert w.rows(first)[0] == ("1",) and w.kinds(first).endswith("EZ")
    assert w.errors(first)[0]["C"] == "22012"
    assert w.rows(second) == [("3",)]
    assert w.rows(third) == [("4",)]


@pytest.mark.parametrize("bad", [
    w.parse("SELEC"), w.bind(name="missing"), w.describe("S", "missing"), w.describe("P", "missing"),
    w.execute("missing")], ids=["parse", "bind", "describe_statement", "describe_portal", "execute"])
def test_error_in_each_step(wire, bad):
    first, second = answers(wire, bad + w.execute() + w.sync() + w.query("SELECT 1"), 2)
    assert w.kinds(first) == "EZ"
    assert w.rows(second) == [("1",)]


def test_messages_split_at_every_byte(wire):
    data = w.query("SELECT 1") + w.extended("SELECT $1::text", ["two"]) + w.sync() + w.query("SELECT 'three'")
    for at in range(1, len(data)):
        wire.send_raw(data[:at])
        wire.send_raw(data[at:])
        found = [wire.recv_until(b"Z") for _ in range(3)]
        assert [w.rows(answer) for answer in found] == [[("1",)], [("two",)], [("three",)]], at
    wire.send_split(data, 1, 0.001)
    found = [wire.recv_until(b"Z") for _ in range(3)]
    assert [w.rows(answer) for answer in found] == [[("1",)], [("two",)], [("three",)]]


def test_flush_alone_brings_the_answers(wire):
    wire.send_raw(w.parse("SELECT $1::int") + w.describe("S") + w.flush())
    assert w.kinds(wire.recv_until(b"T")) == "1tT"
    wire.send_raw(w.bind([7]) + w.execute() + w.flush())
    assert w.kinds(wire.recv_until(b"C")) == "2DC"
    wire.send_raw(w.sync())
    assert w.kinds(wire.recv_until(b"Z")) == "Z"


def test_flush_after_an_error(wire):
    wire.send_raw(w.parse("SELEC") + w.flush())
    assert w.kinds(wire.recv_until(b"E")) == "E"
    wire.send_raw(w.parse("SELECT 1") + w.flush())
    assert wire.is_silent()
    assert w.kinds(answers(wire, w.sync())[0]) == "Z"
    assert wire.value("SELECT 1") == "1"


def test_row_limit_suspends_the_portal(wire):
    series = w.parse("SELECT generate_series(1, 5)") + w.bind()
    [answer] = answers(wire, series + w.execute(limit=2) + w.execute(limit=2) + w.execute(limit=2) + w.sync())
    assert w.kinds(answer) == "12DDsDDsDCZ"
    wire.query("BEGIN")
    wire.send_raw(w.parse("SELECT generate_series(1, 5)") + w.bind(portal="p") + w.execute("p", 3) + w.sync())
    assert w.kinds(wire.recv_until(b"Z")) == "12DDDsZ"
    assert w.kinds(answers(wire, w.execute("p", 3) + w.sync())[0]) == "DDCZ"
    wire.query("COMMIT")
    wire.send_raw(series + w.execute(limit=1) + w.flush())
    assert w.kinds(wire.recv_until(b"s")) == "12Ds"
    wire.send_raw(w.execute(limit=0) + w.flush())
    assert w.kinds(wire.recv_until(b"C")) == "DDDDC"
    answers(wire, w.sync())


def test_named_statement_inside_a_transaction(wire):
    wire.query("BEGIN")
    answers(wire, w.parse("SELECT $1::text", "s1") + w.sync())
    for value in ("a", "b"):
        [answer] = answers(wire, w.bind([value], name="s1") + w.execute() + w.sync())
        assert w.rows(answer) == [(value,)]
    assert w.kinds(answers(wire, w.close("S", "s1") + w.close("P", "") + w.sync())[0]) == "33Z"
    wire.query("COMMIT")


def test_binary_formats_and_nulls(wire):
    data = w.parse("SELECT $1::int4, $2::text") + w.bind([struct.pack("!i", 7), None], formats=[1, 0], results=[1, 0])
    [answer] = answers(wire, data + w.execute() + w.sync())
    [body] = [body for kind, body in answer if kind == b"D"]
    assert body == struct.pack("!hiii", 2, 4, 7, -1)


def test_empty_extended_query(wire):
    assert w.kinds(answers(wire, w.parse("") + w.bind() + w.describe() + w.execute() + w.sync())[0]) == "12nIZ"


def test_function_call(postgres, wire):
    [(oid,)] = postgres.sql("SELECT 'int4pl(int4,int4)'::regprocedure::oid::int")
    data = w.functioncall(oid, struct.pack("!i", 40), struct.pack("!i", 2))
    first, second = answers(wire, data + w.query("SELECT 1"), 2)
    assert w.kinds(first) == "VZ"
    assert first[0][1] == struct.pack("!ii", 4, 42)
    assert w.rows(second) == [("1",)]
    first, second = answers(wire, w.functioncall(1) + w.query("SELECT 1"), 2)
    assert w.kinds(first) == "EZ"
    assert w.rows(second) == [("1",)]


# ---- sizes

@pytest.mark.parametrize("size", [1, 8191, 16384, 65530, 65536, 65537, 200_000, 8_000_000])
def test_values_of_any_size_both_ways(wire, size):
    value = ("0123456789abcdef" * (size // 16 + 1))[:size]
    [answer] = answers(wire, w.extended("SELECT $1::text", [value]) + w.sync())
    assert w.rows(answer) == [(value,)]
    assert wire.rows(f"SELECT '{value}', 1") == [(value, "1")]
    assert wire.value("SELECT 1") == "1"


def test_large_messages_among_small_ones(wire):
    large = "x" * 300_000
    data = b"".join(w.extended("SELECT $1::text", [text]) + w.sync() for text in ("a", large, "b", large, "c"))
    threading.Thread(target=wire.send_raw, args=(data,)).start()
    assert [w.rows(wire.recv_until(b"Z"))[0][0] for _ in range(5)] == ["a", large, "b", large, "c"]


def test_many_rows(wire):
    found = wire.rows("SELECT n, repeat('x', n % 100) FROM generate_series(1, 100000) n")
    assert len(found) == 100_000 and found[-1] == ("100000", "")
    assert all(text == "x" * (int(n) % 100) for n, text in found)


def test_slow_reader_gets_everything_and_costs_no_memory(pooler):
    with pooler.wire() as slow, pooler.wire() as other:
        before = pooler.rss_kb()
        slow.send_raw(w.query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
        for _ in range(50):
            assert other.value("SELECT 1") == "1"
        grown = pooler.rss_kb() - before
        assert grown < 20_000, f"{grown} kB more for a client that does not read"
        assert len(w.rows(slow.recv_until(b"Z"))) == 100_000


# ---- COPY

def test_copy_in_and_out(pooler, table):
    text = "".join(f"{n}\trow {n}\n" for n in range(50_000))
    with contextlib.closing(pooler.connect(autocommit=True)) as connection, connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(text))
        assert cursor.rowcount == 50_000
        out = io.StringIO()
        cursor.copy_expert(f"COPY {table} TO STDOUT", out)
        assert out.getvalue() == text
        cursor.execute(f"SELECT count(*), sum(a) FROM {table}")
        assert cursor.fetchone() == (50_000, sum(range(50_000)))


def test_copy_that_fails_while_the_client_still_streams(pooler, table):
    text = "".join(f"{'oops' if n == 10 else n}\trow\n" for n in range(300_000))
    with contextlib.closing(pooler.connect(autocommit=True)) as connection, connection.cursor() as cursor:
        for _ in range(3):
            with pytest.raises(psycopg2.errors.InvalidTextRepresentation):
                cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(text))
            cursor.execute(f"SELECT count(*) FROM {table}")
            assert cursor.fetchone() == (0,)
    with pooler.wire() as other:
        assert other.value("SELECT 1") == "1"


def test_late_copy_data_goes_nowhere(wire, table):
    wire.send_raw(w.query(f"COPY {table} FROM STDIN") + w.copydata(b"oops\tx\n"))
    wire.send_raw(w.copydata(b"1\tx\n") * 100 + w.copydone() + w.query("SELECT 5"))
    first = wire.recv_until(b"Z")
    assert w.kinds(first) == "GEZ"
    assert w.rows(wire.recv_until(b"Z")) == [("5",)]


def test_copy_fail(wire, table):
    data = w.query(f"COPY {table} FROM STDIN") + w.copydata(b"1\tx\n") + w.copyfail("changed my mind")
    [answer] = answers(wire, data)
    assert w.kinds(answer) == "GEZ"
    assert w.errors(answer)[0]["C"] == "57014"
    assert "changed my mind" in w.errors(answer)[0]["M"]
    assert wire.value(f"SELECT count(*) FROM {table}") == "0"


def test_sync_behind_copy_as_tokio_postgres_sends_it(wire, table):
    wire.send_raw(w.parse(f"COPY {table} FROM STDIN") + w.bind() + w.execute() + w.sync())
    assert w.kinds(wire.recv_until(b"G")) == "12G"
    wire.send_raw(w.copydata(b"1\ta\n") + w.copydata(b"2\tb\n"))
    wire.send_raw(w.copydone() + w.sync())
    answer = wire.recv_until(b"Z")
    assert w.tags(answer) == ["COPY 2"] and w.kinds(answer) == "CZ"
    assert wire.is_silent(0.1)
    assert wire.value(f"SELECT count(*) FROM {table}") == "2"


def test_sync_behind_a_copy_that_fails(wire, table):
    wire.send_raw(w.parse(f"COPY {table} FROM STDIN") + w.bind() + w.execute() + w.sync())
    assert w.kinds(wire.recv_until(b"G")) == "12G"
    wire.send_raw(w.copydata(b"oops\ta\n") + w.copydone() + w.sync())
    assert w.kinds(wire.recv_until(b"Z")) == "EZ"
    assert wire.is_silent(0.1)
    assert wire.value("SELECT 1") == "1"


def test_copy_out_then_query_in_one_packet(wire):
    first, second = answers(wire, w.query("COPY (SELECT generate_series(1, 1000)) TO STDOUT") + w.query("SELECT 2"), 2)
    assert w.kinds(first) == "H" + "d" * 1000 + "cCZ"
    assert w.rows(second) == [("2",)]


def test_copy_inside_a_transaction(wire, table):
    wire.query("BEGIN")
    [answer] = answers(wire, w.query(f"COPY {table} FROM STDIN") + w.copydata(b"1\tx\n") + w.copydone())
    assert w.kinds(answer) == "GCZ"
    assert wire.status == "T"
    wire.query("ROLLBACK")
    assert wire.value(f"SELECT count(*) FROM {table}") == "0"


# ---- leaving

STATES = {
    "idle": b"",
    "in_transaction": w.query("BEGIN; SELECT 1"),
    "in_failed_transaction": w.query("BEGIN; SELECT 1/0"),
    "behind_a_query": w.query("SELECT 1"),
    "during_a_query": w.query("SELECT pg_sleep(0.2)"),
    "before_sync": w.extended("SELECT 1"),
    "after_flush": w.extended("SELECT 1") + w.flush(),
    "in_copy_in": w.query("COPY t FROM STDIN") + w.copydata(b"1\tx\n"),
    "in_copy_out": w.query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 20000)) TO STDOUT"),
    "in_half_a_message": w.query("SELECT 1")[:-3],
}


@pytest.mark.parametrize("ending", ["terminate", "close", "half_close", "reset"])
@pytest.mark.parametrize("state", STATES)
def test_leaving_in_every_state_spoils_nothing(postgres, start_pooler, table, state, ending):
    of_others = {backend["pid"] for backend in postgres.backends("usename = 'app'")}
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire() as wire:
        wire.send_raw(STATES[state])
        if ending == "terminate" and state != "in_half_a_message":
            wire.send_raw(w.terminate())
            wire.recv_all()
        elif ending in ("close", "terminate"):
            wire.close()
        elif ending == "half_close":
            wire.half_close()
            wire.recv_all()
        else:
            wire.is_silent(0.05)
            wire.reset()
    with pooler.wire() as other:
        assert w.kinds(other.query("SELECT 1")) == "TDCZ"
        assert other.status == "I"
        assert other.value(f"SELECT count(*) FROM {table}") == "0"
    assert len({backend["pid"] for backend in postgres.backends("usename = 'app'")} - of_others) <= 1


def test_complete_requests_are_finished_before_a_half_close(pooler, table):
    with pooler.wire() as wire:
        wire.send_raw(b"".join(w.query(f"INSERT INTO {table} VALUES ({n})") for n in range(20)))
        wire.half_close()
        assert w.tags(wire.recv_all()) == ["INSERT 0 1"] * 20
    with pooler.wire() as other:
        assert other.value(f"SELECT count(*) FROM {table}") == "20"


# ---- pool modes

def test_transaction_pooling_shares_backends(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=2)
    clients = [pooler.wire() for _ in range(10)]
    pids = {client.backend_pid() for _ in range(3) for client in clients}
    assert 1 <= len(pids) <= 2
    for client in clients:
        client.terminate()


def test_transaction_keeps_its_backend_from_begin_to_commit(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=2)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("BEGIN")
        two.query("BEGIN")
        pids = one.backend_pid(), two.backend_pid()
        assert pids[0] != pids[1]
        for _ in range(3):
            assert (one.backend_pid(), two.backend_pid()) == pids
        one.query("COMMIT")
        two.query("ROLLBACK")


def test_session_pooling_keeps_one_backend_and_cleans_it_for_the_next(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, pool_mode="session")
    with pooler.wire() as one:
        pid = one.backend_pid()
        one.query("SET work_mem = '7MB'")
        one.query("SET search_path = pg_catalog")
        one.query("PREPARE mine AS SELECT 1")
        one.query("CREATE TEMP TABLE mine (a int)")
        one.query("SELECT pg_advisory_lock(42)")
        one.query("LISTEN mine")
        assert one.backend_pid() == pid
        assert one.value("SHOW work_mem") == "7MB"
        one.terminate()
    with pooler.wire() as two:
        assert two.backend_pid() == pid
        for name in ("work_mem", "search_path"):
            assert two.value(f"SHOW {name}") == postgres.sql(f"SHOW {name}", user="app")[0][0]
        assert two.value("SELECT count(*) FROM pg_prepared_statements") == "0"
        assert two.value("SELECT to_regclass('pg_temp.mine')") is None
        assert two.value(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = {pid}") == "0"
        assert two.value("SELECT count(*) FROM pg_listening_channels()") == "0"


def test_session_pooling_gives_no_second_client_the_backend(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, pool_mode="session")
    with pooler.wire() as one, pooler.wire() as two:
        assert one.value("SELECT 1") == "1"
        two.send_raw(w.query("SELECT 2"))
        assert two.is_silent()
        one.terminate()
        assert w.rows(two.recv_until(b"Z")) == [("2",)]


def test_statement_pooling_refuses_transactions(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, pool_mode="statement")
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"
        wire.send_raw(w.query("BEGIN"))
        [refusal] = w.errors(wire.recv_all())
        assert refusal["C"] == "0A000"
    with pooler.wire() as other:
        assert other.value("SELECT 2") == "2"
        assert other.status == "I"


def test_pool_mode_of_a_database_wins(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app"
    pooler = start_pooler(postgres, {"app": entry, "whole": f"{entry} pool_mode=session"}, pool_size=1)
    with pooler.wire(db="whole") as one, pooler.wire(db="whole") as two:
        one.value("SELECT 1")
        two.send_raw(w.query("SELECT 2"))
        assert two.is_silent()
        one.terminate()
        two.recv_until(b"Z")
    with pooler.wire() as one, pooler.wire() as two:
        assert one.backend_pid() == two.backend_pid()


def test_listen_and_notify_in_session_pooling(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_mode="session")
    with pooler.wire() as listener:
        listener.query("LISTEN news")
        postgres.sql("NOTIFY news, 'hello'")
        kind, body = listener.recv()
        assert kind == b"A" and body.endswith(b"news\0hello\0")
        assert listener.value("SELECT 1") == "1"


def test_psycopg2_transactions(postgres, pooler, table):
    with contextlib.closing(pooler.connect()) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (1, 'x')")
        with pytest.raises(psycopg2.errors.DivisionByZero), connection, connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (2, 'y')")
            cursor.execute("SELECT 1/0")
    assert postgres.sql(f"SELECT a FROM {table}") == [(1,)]
    wait_until(lambda: not postgres.backends("usename = 'app' AND state LIKE 'idle in transaction%'"))


@pytest.mark.parametrize("tail", [b"", w.copydata(b"1\tx\n"), w.copydata(b"nonsense\n"), w.copydone(), w.copydata(b"1\tx\n") + w.sync(),
                                  w.copydata(b"1\tx\n") + b"d\0\0"], ids=["start", "data", "bad", "done", "sync", "half"])
@pytest.mark.parametrize("begin", [b"", w.query("BEGIN")], ids=["alone", "transaction"])
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_client_that_left_a_copy_before_it_was_answered_leaves_its_backend(postgres, start_pooler, table, tail, begin, extended):
    """Sent at once with the request: when the client goes, PostgreSQL's CopyInResponse is still to come."""
    pooler = start_pooler(postgres, default_pool_size="1", cancel_wait_timeout="60")
    text = "COPY t FROM STDIN"
    start = w.parse(text) + w.bind() + w.execute() if extended else w.query(text)
    for reset in (False, True):
        wire = pooler.wire()
        wire.send_raw(begin + start + tail)
        if reset:
            wire.reset()
        else:
            wire.close()
        with pooler.wire() as other:
            assert other.value("SELECT 'served'", timeout=20) == "served"
            assert other.status == "I"
    if tail != w.copydone():
        assert postgres.sql("SELECT count(*) FROM t", user="app") == [(0,)]


@pytest.mark.parametrize("tail", [w.copydone(), w.copydata(b"1\tx\n") + w.copydone(), w.copydata(b"1\tx\n") + w.sync() + w.copydone()],
                         ids=["none", "row", "sync_among"])
@pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
@pytest.mark.parametrize("is_late", [False, True], ids=["at_once", "later"])
def test_client_that_left_between_the_end_of_a_copy_and_its_sync_leaves_no_slot_taken(
        postgres, start_pooler, table, tail, leave, is_late):
    """PostgreSQL ignores a Sync in front of the data and waits for another: there the backend stayed for ever."""
    pooler = start_pooler(postgres, pool_size=1)
    start = w.parse("COPY t FROM STDIN") + w.bind() + w.execute()
    for begin in (start + w.sync(), start):
        with pooler.wire() as wire:
            wire.send_raw(begin if is_late else begin + tail)
            if is_late:
                assert w.kinds(wire.recv_until(b"G")) == "12G"
                wire.send_raw(tail)
            getattr(wire, leave)()
            with pooler.wire(timeout=5) as other:
                assert other.value("SELECT 'served'") == "served" and other.status == "I"
                # As when a direct connection ends there.
                assert other.value("SELECT count(*) FROM t") == "0"


def test_copy_whose_sync_is_still_to_come_keeps_its_backend(postgres, start_pooler, table):
    """With a Flush its end is seen earlier; the transaction is not over before the Sync."""
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire() as wire, pooler.wire() as other:
        wire.send_raw(w.parse("COPY t FROM STDIN") + w.bind() + w.execute() + w.sync())
        assert w.kinds(wire.recv_until(b"G")) == "12G"
        wire.send_raw(w.copydata(b"1\tx\n") + w.copydone() + w.flush())
        assert w.tags(wire.recv_until(b"C")) == ["COPY 1"]
        other.send_raw(w.query("SELECT count(*) FROM t"))
        assert other.is_silent(0.1)
        wire.send_raw(w.sync())
        assert w.kinds(wire.recv_until(b"Z")) == "Z" and wire.status == "I"
        assert w.rows(other.recv_until(b"Z")) == [("1",)]
