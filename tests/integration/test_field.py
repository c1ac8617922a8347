"""Bugs that other poolers had. Each test says whose: where that bug was reported or repaired."""
import contextlib
import ctypes
import os
import pathlib
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
from test_prepared import SEQUENCES, run_on

from harness import Closed, ServerError, Wire, password_of, wait_until
from harness import wire as w
from harness.meddler import Meddler
from harness.relay import Relay, fatal
from harness.threads import run_threads

PID = "SELECT pg_backend_pid()"


@pytest.fixture
def single(postgres, start_pooler):
    """A pool of one backend: whoever is next is next on this one."""
    return start_pooler(postgres, pool_size=1)


@pytest.fixture
def table(postgres):
    """An empty table t(a int primary key, b text) of the user app."""
    postgres.sql("DROP TABLE IF EXISTS t", "CREATE TABLE t (a int PRIMARY KEY, b text)", user="app")
    yield "t"
    postgres.sql("DROP TABLE IF EXISTS t")


def ask(wire, data, count=1):
    """Sends the bytes and reads this many ReadyForQuery."""
    wire.send_raw(data)
    return [wire.recv_until(b"Z") for _ in range(count)]


def direct_to(postgres):
    return Wire("127.0.0.1", postgres.port).startup().login()


def cancel(pooler, wire):
    with pooler.dial() as other:
        assert other.cancel_request(wire.pid, wire.key)


def is_running(server, mark):
    return server.backends(f"state = 'active' AND query LIKE '%{mark}%'")


def nobody_is_active(pooler):
    return all(row["sv_active"] == "0" and row["cl_waiting"] == "0" for row in pooler.admin("SHOW POOLS"))


def without_news(messages):
    """What run_on() gives without what may come at any time."""
    return [message for message in messages if message[0] not in (b"N", b"S", b"A")]


# ---- order of replies

@pytest.mark.parametrize("seed", range(4))
def test_replies_keep_their_order_while_statements_are_evicted(postgres, start_pooler, seed):
    """pgbouncer PR #1555: replies made by the pooler for Parse and Close of one batch came in another order."""
    pooler = start_pooler(postgres, pool_size=1, max_prepared_statements=2)
    chance = random.Random(seed)
    texts = ["SELECT 1", "SELECT 'two'", "SELECT generate_series(1, 3)", "SELECT 1/0", "SELEC", "SELECT 'six'"]

    def step():
        name = chance.choice("abc")
        return chance.choice([
            w.parse(chance.choice(texts), name), w.parse(chance.choice(texts), name) + w.close("S", name),
            w.close("S", name) + w.parse(chance.choice(texts), name), w.close("S", name), w.describe("S", name),
            w.bind(name=name) + w.execute(), w.bind(name=name) + w.describe() + w.execute(), w.sync(), w.flush(),
            w.query(chance.choice(texts)), w.sync(), w.close("P", name)])

    with contextlib.ExitStack() as stack:
        pairs = [(stack.enter_context(direct_to(postgres)), stack.enter_context(pooler.wire())) for _ in range(3)]
        for _ in range(100):
            direct, pooled = chance.choice(pairs)
            batch = b"".join(step() for _ in range(chance.randrange(1, 12))) + w.sync()
            expected, found = run_on(direct, batch), run_on(pooled, batch)
            assert b"".join(kind for kind, _ in found) == b"".join(kind for kind, _ in expected)
            assert w.rows(found) == w.rows(expected)


@pytest.mark.parametrize("size", [1, 4, None], ids=["1", "4", "random"])
def test_replies_in_pieces_of_any_size_are_those_of_a_whole(postgres, behind, size):
    """pgagroal #973: the first byte of a packet was taken for the type of a message. supavisor #1079: the backend was
    released at the first ReadyForQuery of a read."""
    chance = random.Random(7)

    def chop(data):
        pieces = []
        while data:
            step = size or chance.randrange(1, 40)
            pieces.append(data[:step])
            data = data[step:]
        return pieces

    looks_ready = b"Z\0\0\0\5I" * 30
    with Meddler(postgres.port, chop=chop) as relay:
        pooler = behind(relay)
        with pooler.wire() as wire, pooler.wire() as other:
            wire.send_raw(b"".join(w.extended("SELECT $1::text", [n]) + w.sync() for n in range(10)))
            other.send_raw(w.query("SELECT 'other'"))
            assert [w.rows(wire.recv_until(b"Z")) for _ in range(10)] == [[(str(n),)] for n in range(10)]
            assert w.rows(other.recv_until(b"Z")) == [("other",)]
            data = w.parse("SELECT $1::bytea, pg_sleep(0.01)") + w.bind([looks_ready], formats=[1], results=[1])
            wire.send_raw(data + w.execute() + w.sync())
            other.send_raw(w.query("SELECT 'other'"))
            answer = wire.recv_until(b"Z")
            assert w.kinds(answer) == "12DCZ" and looks_ready in answer[2][1]
            assert w.rows(other.recv_until(b"Z")) == [("other",)]
        if size is None:
            for name, data in SEQUENCES.items():
                with direct_to(postgres) as direct, pooler.wire() as wire:
                    assert run_on(wire, data) == run_on(direct, data), name


def test_many_pipelined_behind_busy_ones_are_all_answered(postgres, start_pooler):
    """porsager/postgres #970, with Supavisor: two and more behind an active one were never answered."""
    pooler = start_pooler(postgres, pool_size=2)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(pooler.wire()) for _ in range(6)]
        for number, wire in enumerate(wires):
            wire.send_raw(w.extended(f"SELECT '{number}/0' FROM pg_sleep(0.03)") + w.sync())
        for n in range(1, 5):
            for number, wire in enumerate(wires):
                wire.send_raw(w.extended("SELECT $1::text", [f"{number}/{n}"]) + w.sync())
        for number, wire in enumerate(wires):
            assert [w.rows(wire.recv_until(b"Z")) for _ in range(5)] == [[(f"{number}/{n}",)] for n in range(5)]


def test_error_of_a_full_pool_is_followed_by_one_ready_after_the_sync(postgres, start_pooler):
    """pgcat PR #137: error and ReadyForQuery came in the midst of an extended request."""
    pooler = start_pooler(postgres, pool_size=1, query_wait_timeout="0.2s")
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("BEGIN")
        waiter.send_raw(w.parse("SELECT 1") + w.bind() + w.describe() + w.execute())
        assert w.kinds(waiter.recv_until(b"E")) == "E"
        assert waiter.is_silent(0.1)
        waiter.send_raw(w.bind() + w.execute() + w.flush())
        assert waiter.is_silent(0.1)
        waiter.send_raw(w.sync())
        assert w.kinds(waiter.recv_until(b"Z")) == "Z"
        holder.query("COMMIT")
        assert waiter.is_silent(0.1)
        assert waiter.value("SELECT 2") == "2"


def test_error_of_our_own_waits_for_the_replies_before_it(postgres, start_pooler):
    """cipherstash/proxy PR #441: an error made by the proxy overtook CloseComplete and ReadyForQuery."""
    pooler = start_pooler(postgres, pool_size=1, prepared_memory="64kB")
    large = "SELECT 1 /* " + "x" * 60_000 + " */"
    with pooler.wire() as wire:
        ask(wire, w.parse(large, "a") + w.sync())
        wire.send_raw(w.query("SELECT 'first' FROM pg_sleep(0.1)") + w.close("S", "none") + w.sync() +
                      w.close("S", "none") + w.parse(large + " ", "b") + w.close("S", "none") + w.sync() +
                      w.query("SELECT 'last'"))
        found = [wire.recv_until(b"Z") for _ in range(4)]
        assert [w.kinds(answer) for answer in found] == ["TDCZ", "3Z", "3EZ", "TDCZ"]
        assert [w.rows(found[0]), w.rows(found[3])] == [[("first",)], [("last",)]]
        assert w.errors(found[2])[0]["C"] == "53200"


def test_query_behind_a_failed_execute_is_skipped_with_it(single):
    """pgdog #1356, pgpool 240c668d (JDBC autosave=always): waited for a ReadyForQuery that never comes."""
    with single.wire() as wire, single.wire() as other:
        wire.query("BEGIN; SAVEPOINT s")
        other.send_raw(w.query("SELECT 'other'"))
        for fails in (w.extended("SELECT 1/0"), w.bind(name="missing") + w.execute()):
            [answer] = ask(wire, fails + w.query("RELEASE SAVEPOINT s") + w.sync())
            assert w.kinds(answer).endswith("EZ") and len(w.errors(answer)) == 1
            assert wire.is_silent(0.05)
            assert w.tags(wire.query("ROLLBACK TO SAVEPOINT s")) == ["ROLLBACK"]
        assert other.is_silent(0.05)
        wire.query("COMMIT")
        assert w.rows(other.recv_until(b"Z")) == [("other",)]


def test_setting_that_a_backend_refuses_is_the_error_of_its_client(postgres, single):
    """pgdog #876, #887, #913: the error of a SET made by the pooler was read by the next client."""
    postgres.sql("DROP TEXT SEARCH CONFIGURATION IF EXISTS public.mine",
                 "CREATE TEXT SEARCH CONFIGURATION public.mine (COPY = simple)")
    with single.wire() as one, single.wire() as two:
        default = two.value("SHOW default_text_search_config")
        one.query("SET default_text_search_config = 'public.mine'")
        pid = two.value(PID)
        assert one.value("SHOW default_text_search_config") == "public.mine"
        assert two.value("SHOW default_text_search_config") == default
        postgres.sql("DROP TEXT SEARCH CONFIGURATION public.mine")
        one.send_raw(w.query("SELECT 1"))
        [refusal] = w.errors(one.recv_until(b"E"))
        assert refusal["C"] == "22023" and "default_text_search_config" in refusal["M"]
        for _ in range(3):
            assert w.kinds(two.query("SELECT 1")) == "TDCZ" and two.status == "I"
        assert two.value("SHOW default_text_search_config") == default
        assert two.value(PID) == pid


def test_texts_with_one_hash_are_two_statements(single):
    """odyssey #1345: these two had one hash of 32 bits, hence one name."""
    texts = {"a": "SELECT 1 /* force_close_72_1104700233803323 */", "b": "SELECT 1 /* force_close_246_1106019706635764 */"}
    with single.wire() as one, single.wire() as two:
        for wire in (one, two):
            for name, text in texts.items():
                assert w.kinds(ask(wire, w.parse(text, name) + w.sync())[0]) == "1Z"
            for name in texts:
                assert w.rows(ask(wire, w.bind(name=name) + w.execute() + w.sync())[0]) == [("1",)]
        found = one.rows("SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%force_close%'")
        assert sorted(found) == sorted((text,) for text in texts.values())


def test_pg_dump_psql_and_pgbench_work_and_leave_nothing(fresh_postgres, start_pooler, tmp_path):
    """pgdog #677: set_config('search_path', '') was not understood, pg_dump failed."""
    postgres = fresh_postgres()
    pooler = start_pooler(postgres, pool_size=1)
    postgres.sql("CREATE TABLE kept (a int PRIMARY KEY, b text)", "INSERT INTO kept VALUES (1, 'x')", user="app")
    tools = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(pooler.port), "PGUSER": "app", "PGDATABASE": "app",
             "PGPASSWORD": password_of("app")}

    def run(*command):
        ended = subprocess.run(command, env=tools, capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    with pooler.wire() as other:
        path = other.value("SHOW search_path")

        def nothing_is_left():
            assert other.value("SHOW search_path") == path
            assert other.value("SELECT count(*) FROM kept") == "1"

        run("pg_dump", "-Fc", "-f", str(tmp_path / "dump"))
        nothing_is_left()
        postgres.sql("DROP TABLE kept", user="app")
        run("pg_restore", "-d", "app", str(tmp_path / "dump"))
        nothing_is_left()
        assert "kept" in run("psql", "-X", "-c", r"\d")
        nothing_is_left()
        run("pgbench", "-i", "-q", "-s", "1")
        for mode in ("simple", "extended", "prepared"):
            run("pgbench", "-n", "-M", mode, "-c", "2", "-j", "2", "-t", "20")
            nothing_is_left()


def test_suspended_portal_keeps_its_backend(single):
    """pgdog #1332, #763: a backend was given away while a portal had rows left."""
    series = w.parse("SELECT generate_series(1, 3)") + w.bind()
    with single.wire() as wire, single.wire() as other:
        wire.send_raw(series + w.execute(limit=1) + w.flush())
        assert w.kinds(wire.recv_until(b"s")) == "12Ds"
        other.send_raw(w.query("SELECT 'other'"))
        assert other.is_silent(0.1)
        wire.send_raw(w.execute(limit=1) + w.flush())
        assert w.rows(wire.recv_until(b"s")) == [("2",)]
        wire.send_raw(w.execute(limit=1) + w.sync())
        assert w.rows(wire.recv_until(b"Z")) == [("3",)]
        assert w.rows(other.recv_until(b"Z")) == [("other",)]
        # Inside a transaction it outlives the Sync.
        wire.query("BEGIN")
        assert w.kinds(ask(wire, series + w.execute(limit=1) + w.sync())[0]) == "12DsZ"
        other.send_raw(w.query("SELECT 'other'"))
        for number in ("2", "3"):
            assert other.is_silent(0.05)
            assert w.rows(ask(wire, w.execute(limit=1) + w.sync())[0]) == [(number,)]
        wire.query("COMMIT")
        assert w.rows(other.recv_until(b"Z")) == [("other",)]


def test_begin_and_its_first_query_in_one_go_are_answered_in_full(postgres, start_pooler):
    """pgdog #1231, odyssey #1402, #564: with JDBC and autoCommit=false the RowDescription of the first query was lost."""
    pooler = start_pooler(postgres, pool_size=2)
    with pooler.wire() as jdbc, pooler.wire() as other:
        known = set()

        def parse(text, name):
            if name in known:
                return b""
            known.update([name] if name else [])
            return w.parse(text, name)

        for number in range(8):
            # From the fifth use on pgjdbc gives its statements names; BEGIN has one from the beginning.
            name = "S_2" if number >= 4 else ""
            ended = number == 4 or not name
            begin = parse("BEGIN", "S_1") + w.bind(name="S_1") + w.execute()
            query = parse("SELECT $1::int AS a, 'x' AS b", name) + w.bind([number], name=name) + w.describe() + w.execute()
            is_first = number == 0
            [answer] = ask(jdbc, begin + query + w.sync())
            assert w.kinds(answer) == ("1" if is_first else "") + "2C" + ("1" if ended else "") + "2TDCZ"
            names = next(w.column_names(body) for kind, body in answer if kind == b"T")
            assert (names, w.rows(answer), jdbc.status) == (["a", "b"], [(str(number), "x")], "T")
            other.query("BEGIN")
            assert w.tags(jdbc.query("COMMIT")) == ["COMMIT"]
            if number % 2:
                other.query("COMMIT")


# ---- COPY

@pytest.mark.parametrize("data, kinds", [(w.copydata(b"1\ta\n"), "CZ"), (w.copydata(b"oops\ta\n"), "EZ")], ids=["good", "bad"])
def test_sync_during_copy_leaves_the_backend_to_others(single, table, data, kinds):
    """pgbouncer PR #1025, pgdog PR #885, rust-postgres #789: one ReadyForQuery too many was waited for."""
    with single.wire() as wire, single.wire() as other:
        for _ in range(3):
            wire.send_raw(w.parse(f"COPY {table} FROM STDIN") + w.bind() + w.execute() + w.sync())
            assert w.kinds(wire.recv_until(b"G")) == "12G"
            wire.send_raw(data + w.copydone() + w.sync())
            assert w.kinds(wire.recv_until(b"Z")) == kinds
            assert w.rows(other.query("SELECT 'other'")) == [("other",)]
            assert w.rows(wire.query("SELECT 'own'")) == [("own",)]
            wire.query("TRUNCATE t")


def test_rest_of_a_failed_copy_leaves_the_backend_to_others(single, table):
    """pgbouncer PR #1470: CopyDone behind the error left the backend active for ever."""
    rows = w.copydata(b"1\tx\n" * 16_000)
    with single.wire(timeout=30) as wire, single.wire() as other:
        wire.send_raw(w.query(f"COPY {table} FROM STDIN") + w.copydata(b"1\tx\n" * 2))
        for _ in range(800):  # 50 MB
            wire.send_raw(rows)
        wire.send_raw(w.copydone())
        answer = wire.recv_until(b"Z")
        assert w.kinds(answer) == "GEZ" and w.errors(answer)[0]["C"] == "23505"
        assert other.value("SELECT 'other'") == "other"
        wait_until(lambda: nobody_is_active(single))
        assert wire.value("SELECT count(*) FROM t") == "0"


# ---- what PostgreSQL says unasked

def message_of(kind, **fields):
    return w.message(kind, b"".join(name.encode() + w.cstring(text) for name, text in fields.items()) + b"\0")


NOTICE = message_of(b"N", S="NOTICE", V="NOTICE", C="00000", M="news")
PARAMETER = w.message(b"S", b"pgk_news\0on\0")
NOTIFICATION = w.message(b"A", struct.pack("!i", 1) + b"news\0hello\0")
NEWS = NOTICE + PARAMETER + NOTIFICATION


def test_news_between_any_two_messages_disturb_nobody(postgres, behind):
    """odyssey #1376, #1377; supavisor #666, #946; pgbouncer 1.6.1: notices and the like where they were not expected."""
    def edit(link, kind, body):
        # Before AuthenticationOk libpq takes nothing else; notifications begin with the first ReadyForQuery.
        if kind == b"R" and struct.unpack_from("!i", body)[0] != 0:
            return w.message(kind, body)
        return w.message(kind, body) + (NEWS if link.is_ready or kind == b"Z" else NOTICE + PARAMETER)

    with Meddler(postgres.port, edit=edit) as relay:
        pooler = behind(relay)
        with pooler.wire() as wire:
            pid = wire.value(PID)
        for name, data in SEQUENCES.items():
            with direct_to(postgres) as direct, pooler.wire() as wire:
                expected, found = run_on(direct, data), run_on(wire, data)
                assert without_news(found) == without_news(expected), name
        with pooler.wire() as wire, pooler.wire() as other:
            with contextlib.suppress(OSError):
                wire.send_raw(w.query("BEGIN; SELECT 1") + w.terminate())
                wire.recv_all()
            assert w.rows(other.query(PID)) == [(pid,)]
            wait_until(lambda: nobody_is_active(pooler))


def test_notices_of_every_step_disturb_nobody(fresh_postgres, start_pooler):
    """The same with what a real server has to say while it lets somebody in."""
    postgres = fresh_postgres(conf="client_min_messages = debug5\nlog_min_messages = fatal")
    pooler = start_pooler(postgres, pool_size=1)
    for name in ("parse_use", "duplicate_later", "portal_limits", "discard_all", "in_failed_transaction"):
        with direct_to(postgres) as direct, pooler.wire() as wire:
            expected, found = run_on(direct, SEQUENCES[name]), run_on(wire, SEQUENCES[name])
            assert without_news(found) == without_news(expected), name
            assert any(notice["V"] == "DEBUG" for notice in wire.notices), name


@pytest.mark.parametrize("fields", [
    {"S": "ERROR", "V": "ERROR", "C": "22012", "M": "division by zero"},
    {"S": "FATAL", "V": "FATAL", "C": "57P01", "M": "terminating connection due to administrator command"},
    {"S": "FEHLER", "C": "57014", "M": "ERROR:  canceling statement"},
    {"S": "PANIC", "V": "PANIC", "C": "58000", "M": ""}], ids=["error", "fatal", "localised", "panic"])
def test_notice_that_reads_like_an_error_ends_nothing(postgres, behind, fields):
    """pgdog #705: the parser of errors was used for notices."""
    notice = message_of(b"N", **fields)
    edit = lambda link, kind, body: notice if kind == b"N" else w.message(kind, body)  # noqa: E731
    with Meddler(postgres.port, edit=edit) as relay, direct_to(postgres) as direct:
        pooler = behind(relay)
        with pooler.wire() as wire, pooler.wire() as other:
            pid = wire.value(PID)
            direct.query("SELECT 1")
            for text in ("DO $$ BEGIN RAISE NOTICE 'x'; END $$; SELECT 1", "BEGIN; BEGIN; SELECT 2; COMMIT; SELECT 3"):
                expected = direct.query(text)
                answer = wire.query(text)
                assert (w.kinds(answer), w.rows(answer)) == (w.kinds(expected), w.rows(expected))
                assert wire.notices[-1].items() >= {k: v for k, v in fields.items() if v}.items()
                assert other.value(PID) == pid
            # Also where the notice is for nobody.
            with pooler.wire() as leaving:
                leaving.send_raw(w.query("BEGIN; DO $$ BEGIN RAISE NOTICE 'x'; PERFORM pg_sleep(0.05); END $$"))
                leaving.send_raw(w.terminate())
            assert other.value(PID) == pid


@pytest.mark.parametrize("said, is_kept", [
    (NOTICE, True), (PARAMETER, True), (NOTIFICATION, True), (NEWS, True), (NOTICE[:9], False),
    (w.message(b"D", b"\0\1\0\0\0\1x"), False), (w.message(b"Z", b"I"), False), (b"\xff" * 5, False),
    (fatal("57P01", "terminating connection due to administrator command"), False),
    (message_of(b"E", S="ERROR", V="ERROR", C="53200", M="out of memory"), False)],
    ids=["notice", "parameter", "notification", "all", "half", "row", "ready", "garbage", "fatal", "error"])
def test_what_an_idle_backend_says_reaches_no_next_client(postgres, behind, said, is_kept):
    """odyssey #1370, #1326; pgdog #1318: a backend with unread bytes was handed out."""
    with Meddler(postgres.port) as relay:
        pooler = behind(relay)
        with pooler.wire() as one, pooler.wire() as two:
            pid = one.value(PID)
            [link] = wait_until(relay.quiet_links)
            wait_until(lambda: nobody_is_active(pooler))
            link.say(said)
            for wire in (one, two):
                answer = wire.query(f"{PID}, 'mine'")
                assert w.kinds(answer) == "TDCZ", answer
                [(found, mine)] = w.rows(answer)
                assert mine == "mine" and (found == pid) == is_kept


# ---- cancel

def test_cancel_in_flight_keeps_its_backend_from_the_next_client(postgres, behind):
    """pgbouncer #38, PR #717; odyssey #186, #1215, #1216; pgcat #297: a late cancel request hit another client."""
    with Meddler(postgres.port) as relay:
        pooler = behind(relay)
        with pooler.wire() as one, pooler.wire() as two, pooler.dial() as other:
            for _ in range(3):
                relay.may_cancel.clear()
                seen = relay.cancels
                one.send_raw(w.query("SELECT 'one' FROM pg_sleep(0.2)"))
                wait_until(lambda: is_running(postgres, "one"))
                with pooler.dial() as other:
                    other.send_raw(struct.pack("!iii", 16, w.CANCEL_REQUEST, one.pid) + one.key)
                    wait_until(lambda: relay.cancels > seen)
                    assert w.rows(one.recv_until(b"Z")) == [("one",)]
                    two.send_raw(w.query("SELECT 'two' FROM pg_sleep(0.1)"))
                    assert two.is_silent(0.1)
                    relay.may_cancel.set()
                    assert w.rows(two.recv_until(b"Z")) == [("two",)]


@pytest.mark.parametrize("first", ["SELECT 1/0", "BEGIN; SELECT 1/0"], ids=["alone", "transaction"])
def test_cancel_behind_an_error_hits_no_later_transaction(single, first):
    """pgbouncer #684, ruby-pg #430."""
    with single.wire() as wire:
        for _ in range(25):
            assert w.errors(wire.query(first))[0]["C"] == "22012"
            cancel(single, wire)
            found = ask(wire, w.query("ROLLBACK") + w.query("BEGIN; SELECT pg_sleep(0.005)") + w.query("COMMIT"), 3)
            assert [w.errors(answer) for answer in found] == [[], [], []]


def test_thousand_cancels_leave_nothing_behind(postgres, start_pooler):
    """pgbouncer #140, #392: cancel requests took the places of clients and kept them."""
    pooler = start_pooler(postgres, pool_size=2, max_client_conn=5)
    wires = [pooler.wire(timeout=30) for _ in range(5)]
    for wire in wires:
        assert wire.value("SELECT 1") == "1"
    for wire in wires[:2]:
        wire.send_raw(w.query("SELECT pg_sleep(20)"))
    wait_until(lambda: len(is_running(postgres, "pg_sleep(20)")) == 2)
    files = pooler.fd_count()

    def storm(part):
        for number in range(250):
            wire = wires[(number + part) % 5]
            with pooler.dial() as other:
                other.send_raw(struct.pack("!iii", 16, w.CANCEL_REQUEST, wire.pid) + wire.key)
                if number % 2:
                    assert other.eof()

    run_threads([lambda part=part: storm(part) for part in range(4)])
    for wire in wires[:2]:
        assert w.errors(wire.recv_until(b"Z"))[0]["C"] == "57014"
    assert [w.errors(wire.query("SELECT 1")) for wire in wires] == [[]] * 5
    for wire in wires:
        wire.terminate()
    wait_until(lambda: [row for row in pooler.admin("SHOW CLIENTS") if row["database"] == "app"] == [], 10)
    wait_until(lambda: pooler.fd_count() <= files - 5, 10, "closed descriptors")
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"


def test_each_result_is_its_own_querys_while_clients_cancel_and_give_up(postgres, behind):
    """pgbouncer #144, #164, #141: results of the query before, a ReadyForQuery too many after a cancel request."""
    with Meddler(postgres.port, latency=0.0003) as relay:
        pooler = behind(relay, pool_size=3)
        cancelled, answered = [], []

        def work(number):
            chance = random.Random(number)
            wire = pooler.wire(timeout=30)
            for n in range(25):
                nonce = f"{number}/{n}"
                text = f"SELECT '{nonce}' FROM pg_sleep({chance.choice([0, 0, 0.002, 0.01])})"
                data = w.query(text) if chance.random() < 0.5 else w.extended(text) + w.sync()
                wire.send_raw(data)
                fate = chance.random()
                if fate < 0.4 and wire.is_silent(chance.choice([0.0005, 0.003, 0.008])):
                    cancel(pooler, wire)
                elif fate < 0.5:
                    wire.reset()
                    wire = pooler.wire(timeout=30)
                    continue
                answer = wire.recv_until(b"Z")
                errors = [fields["C"] for fields in w.errors(answer)]
                assert (errors, w.rows(answer)) in (([], [(nonce,)]), (["57014"], []))
                (cancelled if errors else answered).append(nonce)
            assert wire.is_silent(0.02)
            wire.close()

        run_threads([lambda number=number: work(number) for number in range(8)])
        assert cancelled and answered


class Chaos:
    """Random events of clients, PostgreSQL and cancel requests, one after the other; every answer must be the client's own."""

    EVENTS = ("open", *("send",) * 8, *("read",) * 8, *("cancel",) * 4, "leave", "kill")

    def __init__(self, postgres, pooler, seed):
        self.postgres, self.pooler, self.chance = postgres, pooler, random.Random(seed)
        self.clients = {}
        self.ended, self.answers = [], 0

    def step(self):
        event = self.chance.choice(self.EVENTS)
        if event == "open" or not self.clients:
            self.open()
        else:
            getattr(self, event)(self.chance.choice(list(self.clients)))

    def open(self):
        if len(self.clients) < 6:
            number = len(self.ended) + len(self.clients)
            self.clients[number] = self.pooler.wire()
        else:
            self.leave(self.chance.choice(list(self.clients)))

    def requests(self, number):
        mine = f"SELECT 'client {number}'"
        common = [
            w.query(mine), w.query(f"{mine} FROM pg_sleep(0.005)"), w.query(f"{mine} FROM generate_series(1, 500)"), w.query("COMMIT"),
            w.query("ROLLBACK"), w.parse(mine, "mine"), w.bind(name="mine") + w.execute(), w.extended(mine) + w.sync(), w.sync()]
        rare = [
            w.query("BEGIN"), w.query("SELECT 1/0"), w.query("SELECT pg_sleep(0.3)"), w.close("S", "mine"), w.extended(mine), w.flush(),
            w.query("COPY chaos FROM STDIN"), w.query("COPY chaos FROM STDIN") + w.copydata(b"1\n") + w.copydone(), w.copydata(b"1\n"),
            w.copydone(), w.copyfail(), w.query(mine)[:-4], b"\x10\0\0\0\x04", w.query("SET statement_timeout = 31000"),
            w.query("LISTEN news"), w.query("DISCARD ALL"), w.parse("COPY chaos FROM STDIN") + w.bind() + w.execute() + w.sync(),
            w.functioncall(1)]
        return common * 4 + rare

    def send(self, number):
        data = b"".join(self.chance.choice(self.requests(number)) for _ in range(self.chance.randrange(1, 5)))
        with contextlib.suppress(OSError):
            self.clients[number].send_raw(data)

    def read(self, number):
        try:
            while not self.clients[number].is_silent(0.003):
                self.check(number, self.clients[number].recv())
        except (Closed, OSError):
            self.forget(number)

    def check(self, number, message):
        if message[0] == b"D":
            [row] = w.rows([message])
            assert row[0] in (f"client {number}", ""), row
            self.answers += row[0] != ""

    def cancel(self, number):
        wire = self.clients[number]
        with contextlib.suppress(OSError), self.pooler.dial() as other:
            wrong = self.chance.random() < 0.2
            other.send_raw(struct.pack("!iii", 16, w.CANCEL_REQUEST, wire.pid) + (b"none" if wrong else wire.key))
            if self.chance.random() < 0.7:
                other.eof()

    def kill(self, number):
        how = self.chance.choice(["terminate", "cancel"])
        self.postgres.sql(f"SELECT pg_{how}_backend(pid) FROM pg_stat_activity WHERE usename = 'app' ORDER BY random() LIMIT 1",
                          db="postgres")

    def leave(self, number):
        getattr(self.clients[number], self.chance.choice(["close", "reset", "terminate", "half_close"]))()
        self.forget(number)

    def forget(self, number):
        self.ended.append(self.clients.pop(number))

    def end(self):
        for number in list(self.clients):
            self.clients[number].close()
            self.forget(number)
        for wire in self.ended:
            wire.close()


@pytest.mark.parametrize("seed", range(3))
def test_random_events_of_clients_servers_and_cancels_end_well(postgres, start_pooler, seed):
    """pgbouncer #904, #822, #847, #801, #846, PR #1383: rare states, met by a cancel request, ended the process."""
    postgres.sql("DROP TABLE IF EXISTS chaos", "CREATE TABLE chaos (a int)", user="app")
    pooler = start_pooler(postgres, pool_size=2)
    pooler.admin("SHOW LISTS")
    files = pooler.fd_count()
    chaos = Chaos(postgres, pooler, seed)
    try:
        steps = 0
        while steps < 600 or chaos.answers <= 100:  # where everything is slow, more of them are read too early
            chaos.step()
            steps += 1
            assert steps < 20000
    finally:
        chaos.end()
    with pooler.wire(timeout=20) as one, pooler.wire(timeout=20) as two:
        for wire in (one, two):
            wire.query("BEGIN")
        for wire in (one, two):
            assert w.kinds(wire.query("SELECT 1")) == "TDCZ" and wire.value("SHOW statement_timeout") == "0"
    wait_until(lambda: [row for row in pooler.admin("SHOW CLIENTS") if row["database"] == "app"] == [], 10, "no client")
    wait_until(lambda: nobody_is_active(pooler), 10, "no backend in use")
    wait_until(lambda: pooler.fd_count() <= files + 2 + 3, 10, "descriptors closed")  # backends; the console's own
    postgres.sql("DROP TABLE chaos")


# ---- clients that leave

@pytest.mark.parametrize("ending", ["close", "half_close", "reset"])
@pytest.mark.parametrize("size", [10, 200_000], ids=["small", "large"])
def test_client_that_dies_in_the_midst_of_a_bind_frees_its_backend(postgres, single, table, size, ending):
    """pgdog #803, #805, #762: PostgreSQL was left waiting for the rest of a request, with its locks."""
    with single.wire() as dying, single.wire() as other:
        dying.query(f"BEGIN; LOCK TABLE {table}")
        rest = w.bind(["x" * size]) + w.execute()
        dying.send_raw(w.parse(f"INSERT INTO {table} VALUES (1, $1)") + rest[:size // 2])
        assert dying.is_silent(0.05)
        getattr(dying, ending)()
        began = time.monotonic()
        assert other.value(f"SELECT count(*) FROM {table}") == "0"
        assert time.monotonic() - began < 1
        assert postgres.backends("usename = 'app' AND state <> 'idle'") == []


def test_pooler_sleeps_after_goodbyes_in_every_state(postgres, start_pooler, table):
    """pgdog #848, #175; pgcat #65: Terminate in a transaction was a deadlock, a disconnect a loop at full speed."""
    states = [b"", w.query("BEGIN"), w.query("BEGIN; SELECT 1/0"), w.query("SELECT pg_sleep(0.05)"), w.extended("SELECT 1"),
              w.extended("SELECT 1") + w.flush(), w.query("COPY t FROM STDIN"), w.query("COPY t FROM STDIN") + w.copydata(b"1\tx\n"),
              w.query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 5000)) TO STDOUT"), w.query("LISTEN news"),
              w.query("BEGIN") + w.parse("SELECT generate_series(1, 9)") + w.bind() + w.execute(limit=1) + w.flush()]
    poolers = [start_pooler(postgres, pool_size=1, pool_mode=mode) for mode in ("transaction", "session")]
    for pooler in poolers:
        for state in states:
            for ending in ("terminate", "close", "reset", "half_close"):
                with pooler.wire() as wire:
                    wire.send_raw(state)
                    wire.is_silent(0.002)
                    getattr(wire, ending)()
            with pooler.wire() as other:
                assert other.value("SELECT 1") == "1" and other.status == "I"
        wait_until(lambda pooler=pooler: nobody_is_active(pooler))
    spent = [pooler.cpu_seconds() for pooler in poolers]
    time.sleep(0.6)
    assert all(pooler.cpu_seconds() - before < 0.05 for pooler, before in zip(poolers, spent))


def test_fatal_before_ready_for_query_costs_no_place(behind):
    """pgagroal #746: a connection that was refused behind AuthenticationOk held its slot for ever."""
    said = (w.message(b"R", struct.pack("!i", 0)) + w.message(b"S", b"server_version\x0015.0\0") +
            w.message(b"K", struct.pack("!ii", 7, 7)) + fatal("3D000", 'database "app" does not exist'))
    with Relay(answer=said) as relay:
        pooler = behind(relay)
        for _ in range(3):
            with pytest.raises(ServerError) as refusal:
                pooler.wire()
            assert refusal.value.sqlstate == "3D000"
        wait_until(lambda: all(row["sv_login"] == "0" for row in pooler.admin("SHOW POOLS")))
        assert pooler.admin("SHOW SERVERS") == []


# ---- much data

def test_large_objects_go_through_function_calls(pooler):
    """pgdog #957, odyssey #1444: FunctionCall was not handled; libpq's large objects need it."""
    data = random.Random(1).randbytes(300_000)
    with contextlib.closing(pooler.connect()) as connection:
        large = connection.lobject(0, "wb")
        assert large.write(data) == len(data)
        connection.commit()
        large = connection.lobject(large.oid, "rb")
        assert large.read() == data
        large.unlink()
        connection.commit()


@pytest.mark.parametrize("encryption", ["disable", "require"])
def test_large_data_in_both_directions_at_once_flow(fresh_postgres, start_pooler, encryption):
    """pgbouncer #98, #57; odyssey #1475, #1459, #1499: each side waited until the other would read."""
    postgres = fresh_postgres(start=False)
    if encryption == "require":
        subprocess.run(
            ["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost", "-out",
             postgres.data / "server.crt", "-keyout", postgres.data / "server.key"], check=True, capture_output=True)
        owner = (postgres.data / "postgresql.conf").stat()
        for name in ("server.key", "server.crt"):
            os.chown(postgres.data / name, owner.st_uid, owner.st_gid)
            os.chmod(postgres.data / name, 0o600)
        with open(postgres.data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write("ssl = on\n")
    postgres.start()
    postgres.sql("CREATE TABLE much (a text)", user="app")
    postgres.sql("CREATE FUNCTION tell(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN $1; END $$", user="app")
    pooler = start_pooler(postgres, pool_size=1, server_tls_sslmode=encryption)
    count, value = 4000, "x" * 16_000  # 64 MB each way
    request = w.bind([value], name="insert") + w.execute()
    with pooler.wire(timeout=30) as wire:
        assert wire.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == ("t" if encryption == "require" else "f")
        # Twice a segment of the loopback device: with less TCP itself crawls.
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            wire.socket.setsockopt(socket.SOL_SOCKET, option, 65536)
        ask(wire, w.parse("INSERT INTO much SELECT tell($1)", "insert") + w.sync())
        before, sent = pooler.rss_kb(), [0]

        def write():
            for _ in range(count):
                wire.socket.sendall(request)
                sent[0] += 1
            wire.socket.sendall(w.sync())

        writer = threading.Thread(target=write)
        writer.start()
        # Nobody reads until everything is full.
        seen = -1
        while sent[0] != seen:
            seen = sent[0]
            time.sleep(0.1)
        assert seen < count
        assert pooler.rss_kb() - before < 4000 or pooler.keeps_freed_memory()
        answer = wire.recv_until(b"Z")
        writer.join()
        assert w.kinds(answer) == "2C" * count + "Z"
        assert sum(kind == b"N" for kind, _ in answer) == count
        assert wire.rows("SELECT count(*), sum(length(a)) FROM much") == [(str(count), str(count * len(value)))]


def test_unknown_protocol_options_and_copies_cost_no_memory(postgres, start_pooler):
    """pgbouncer #1299, #1519 and the notes of 1.22.1: memory grew with options _pq_.x and with every COPY."""
    pooler = start_pooler(postgres, pool_size=1, auth_type="trust", log_connections=0, log_disconnections=0)

    def some(count):
        for number in range(count):
            with pooler.dial() as wire:
                wire.startup(**{f"_pq_.{number}": "x" * 200, "_pq_.other": "y"}).login()
        with pooler.wire() as wire:
            for _ in range(count // 2):
                assert w.kinds(wire.query("COPY (SELECT 1) TO STDOUT")) == "HdcCZ"

    some(300)
    before = pooler.rss_kb()
    some(1500)
    assert pooler.rss_kb() - before < 1000 or pooler.keeps_freed_memory()


# ---- names, limits, settings

@pytest.mark.parametrize("name", [
    b"'; drop table x; --", b"", b"it's \"quoted\"", b"back\\slash\\'", b"new\nline", b"x" * 63, b"y" * 64, b"z" * 500,
    "gr\u00fc\u00df".encode(), b"$1 %s {}"],
    ids=["injection", "empty", "quotes", "backslash", "newline", "63", "64", "500", "umlaut", "marks"])
def test_application_name_is_what_postgres_makes_of_it(postgres, single, name):
    """pgdog #698, #678: values in a SET made by the pooler were not quoted."""
    with Wire("127.0.0.1", postgres.port) as direct:
        expected = direct.startup(application_name=name).login().value("SHOW application_name")
        told = direct.parameters["application_name"]
    with single.wire(application_name=name) as wire, single.wire(application_name="other") as other:
        for _ in range(2):
            assert wire.value("SHOW application_name") == expected
            assert other.value("SHOW application_name") == "other"
        assert wire.parameters["application_name"] == told


def test_users_share_a_limit_evenly(postgres, start_pooler):
    """pgbouncer #131: whose name came first in the alphabet was served first, the others never."""
    pooler = start_pooler(postgres, pool_size=20, max_db_connections=4)
    users = ("ann", "app", "bob")
    done, has_all, is_over = dict.fromkeys(users, 0), threading.Event(), threading.Event()

    def watch():
        wait_until(lambda: len(postgres.backends("usename = 'ann'")) == 4, what="ann's backends")
        has_all.set()

    def work(user):
        if user != "ann":  # she has all there are when the others come
            assert has_all.wait(10)
        with pooler.wire(user, timeout=30) as wire:
            while not is_over.is_set():
                wire.query("SELECT pg_sleep(0.004)")
                done[user] += 1
                if sum(done.values()) >= 2700:
                    is_over.set()

    run_threads([watch, *[lambda user=user: work(user) for user in users for _ in range(6)]])
    assert min(done.values()) > 0.6 * max(done.values()), done


def test_dropped_database_is_told_to_every_client_under_load(fresh_postgres, behind):
    """pgbouncer #46, #251, #919: clients waited for ever for a database that was gone; it was asked for for ever."""
    server = fresh_postgres()
    with Relay(server.port) as relay:
        pooler = behind(relay, pool_size=4)
        clients = [pooler.wire(timeout=10) for _ in range(12)]
        is_dropped = threading.Event()
        refusals = []

        def work(client):
            while True:
                was_dropped, began = is_dropped.is_set(), time.monotonic()
                errors = w.errors(client.query("SELECT pg_sleep(0.002)"))
                if was_dropped:
                    assert [fields["C"] for fields in errors] == ["3D000"] and time.monotonic() - began < 1
                    refusals.append(errors)
                    return
                assert {fields["C"] for fields in errors} <= {"3D000"}, errors

        def drop():
            wait_until(lambda: len(server.backends("usename = 'app'")) == 4)
            server.sql("DROP DATABASE app WITH (FORCE)", db="postgres")
            is_dropped.set()

        run_threads([*[lambda client=client: work(client) for client in clients], drop])
        assert len(refusals) == 12
        for client in clients:
            client.close()
        time.sleep(0.3)
        seen = len(relay.logins)
        time.sleep(1.2)
        assert len(relay.logins) == seen


def test_reloads_under_load_with_a_dead_server_disturb_nobody(postgres, start_pooler):
    """pgdog #961; pgcat #254, #330: a reload needed all servers, new clients met an old state."""
    with Relay() as dead:
        dead.refuse()
        line = "host=127.0.0.1 dbname=app port="
        pooler = start_pooler(databases={"app": f"{line}{postgres.port}", "dead": f"{line}{dead.port}"}, pool_size=3,
                              server_down_timeout=1)
        is_over = threading.Event()

        def work():
            while not is_over.is_set():
                with pooler.wire(timeout=20) as wire:
                    for n in range(10):
                        assert wire.value(f"SELECT {n}") == str(n)

        def ask_the_dead():
            while not is_over.is_set():
                with pytest.raises(ServerError):
                    pooler.wire(db="dead")

        def reload():
            try:
                for number in range(40):
                    text = pooler.ini_path.read_text(encoding="utf-8")
                    pooler.set_ini(re.sub(r"(?m)^default_pool_size = .*$", f"default_pool_size = {2 + number % 3}", text))
                    assert pooler.admin("RELOAD") == []
            finally:
                is_over.set()

        run_threads([work] * 4 + [ask_the_dead, reload])


def test_reloads_that_add_and_remove_users_and_databases_while_they_log_in(postgres, start_pooler):
    """pgbouncer #90, #568, #968, #1105, #1120: who or what was gone meanwhile was used all the same."""
    pooler = start_pooler(postgres, pool_size=2)
    line = f"host=127.0.0.1 port={postgres.port} dbname=app"
    base = pooler.ini_path.read_text(encoding="utf-8").replace(f"app = {line}\n", "@databases@")
    chance, is_over, allowed = random.Random(3), threading.Event(), {"28P01", "28000", "3D000", "57P01"}
    logins = []

    def configure(users, databases):
        pooler.set_users(users)
        pooler.set_ini(base.replace("@databases@", "".join(f"{name} = {line}\n" for name in databases)))
        pooler.admin("RELOAD")

    def work(number):
        mine = random.Random(number)
        while not is_over.is_set():
            try:
                with pooler.wire(mine.choice(("ann", "app", "bob")), mine.choice(("app", "other")), timeout=20) as wire:
                    logins.append(number)
                    for _ in range(3):
                        found = wire.query("SELECT 1")
                        assert {fields["C"] for fields in w.errors(found)} <= allowed
            except ServerError as error:
                assert error.sqlstate in allowed, error
            except Closed:
                pass  # told its reason by a FATAL before

    def reload():
        try:
            for number in range(60):
                if number % 20 == 19:
                    seen = len(logins)
                    configure(("ann", "app", "bob"), ("app", "other"))
                    wait_until(lambda seen=seen: len(logins) > seen, 10, "a login")
                configure([user for user in ("ann", "app", "bob") if chance.random() < 0.7],
                          [name for name in ("app", "other") if chance.random() < 0.7] or ["third"])
        finally:
            is_over.set()

    run_threads([*[lambda number=number: work(number) for number in range(4)], reload])
    configure(("ann", "app", "bob"), ("app", "other"))
    for user in ("ann", "app", "bob"):
        for name in ("app", "other"):
            with pooler.wire(user, name) as wire:
                assert wire.value("SELECT current_user") == user


@pytest.mark.parametrize("count", [1, 2, 31, 100])
def test_any_number_of_long_host_names_leads_to_the_right_one(postgres, start_pooler, count):
    """pgbouncer 1.18, #747: a list of hosts that was too long ended at the Unix socket."""
    # No name has a part of 64 characters, so nobody is asked for it.
    hosts = [f"h{number}-".ljust(64, "x") + ".y" * 90 for number in range(count - 1)] + ["127.0.0.1"]
    pooler = start_pooler(databases={"app": f"host={','.join(hosts)} port={postgres.port} dbname=app"}, pool_size=1)
    with pooler.wire() as wire:
        assert wire.value("SELECT host(inet_server_addr())") == "127.0.0.1"


def test_pause_inside_a_transaction_is_not_the_querys_time(postgres, start_pooler):
    """pgbouncer #125, #22: the time of a query was counted from the begin of its transaction."""
    pooler = start_pooler(postgres, pool_size=1, query_timeout="0.4s")
    with pooler.wire() as wire:
        wire.query("BEGIN")
        assert wire.is_silent(0.6)
        assert w.errors(wire.query("SELECT pg_sleep(0.1)")) == []
        assert wire.is_silent(0.5)
        assert w.errors(ask(wire, w.extended("SELECT pg_sleep(0.1)") + w.sync())[0]) == []
        wire.query("COMMIT")


# ---- PostgreSQL and the process end

def test_restart_under_load_is_at_most_one_error_a_request(fresh_postgres, start_pooler):
    """pgdog #841: two errors for one request at a shutdown, and the server was banned for closing first."""
    server = fresh_postgres()
    pooler = start_pooler(server, pool_size=4)
    is_over = threading.Event()
    served_after = []

    def work(number):
        with pooler.wire(timeout=30) as wire:
            n = 0
            while not is_over.is_set():
                n += 1
                text = f"SELECT {n} FROM pg_sleep(0.002)"
                data = [w.query(text), w.extended(text) + w.sync(), w.query("BEGIN") + w.query(text) + w.query("COMMIT")][number % 3]
                for answer in ask(wire, data, 3 if number % 3 == 2 else 1):
                    assert len(w.errors(answer)) <= 1
                    assert {fields["V"] for fields in w.errors(answer)} <= {"ERROR"}
                    assert w.kinds(answer).count("Z") == 1
                assert wire.buffer == b""
            while wire.status != "I":
                wire.query("ROLLBACK")
            assert wire.value("SELECT 'after'") == "after"
            served_after.append(number)

    def restart():
        try:
            for _ in range(2):
                wait_until(lambda: len(server.backends("usename = 'app'")) >= 2, 10)
                server.restart("fast")
        finally:
            is_over.set()

    run_threads([*[lambda number=number: work(number) for number in range(6)], restart])
    assert sorted(served_after) == list(range(6))


def test_abort_of_any_thread_ends_the_process(postgres, start_pooler):
    """pgdog #1160: one worker panicked, the rest lived on by half."""
    if os.uname().machine != "x86_64":
        pytest.skip("knows the number of tgkill on x86-64 only")
    pooler = start_pooler(postgres, pool_size=1, workers=2)

    def threads():
        """The main thread and the workers; helpers block signals (for them: tests/unit/test_state.c)."""
        found = []
        for path in pathlib.Path(f"/proc/{pooler.pid}/task").iterdir():
            blocked = int(re.search(r"SigBlk:\s+(\w+)", (path / "status").read_text(encoding="ascii"))[1], 16)
            found += [] if blocked >> (signal.SIGABRT - 1) & 1 else [int(path.name)]
        return sorted(found)

    count = 3
    wait_until(lambda: len(threads()) == count, what="three threads that have begun")
    for number in range(count):
        if number > 0:
            pooler.process = None
            pooler.start()
        with pooler.wire() as wire:
            wire.query("SELECT 1")
            wait_until(lambda: len(threads()) == count, what="three threads that have begun")
            assert ctypes.CDLL(None).syscall(234, pooler.pid, threads()[number], signal.SIGABRT) == 0
            assert pooler.wait(10 if pooler.keeps_freed_memory() else 2) != 0


class NameServer(threading.Thread):
    """DNS over UDP for one name: `answer` is an address, "nothing" (NXDOMAIN) or None (silence); `ttl` goes with it."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.answer, self.ttl, self.questions = "nothing", 0, 0

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.socket.recvfrom(512)
                self.questions += 1
                reply = self.reply_to(data)
                if reply is not None:
                    self.socket.sendto(reply, peer)

    def reply_to(self, data):
        if self.answer is None:
            return None
        end = data.index(b"\0", 12) + 5
        has_address = self.answer != "nothing" and data[end - 4:end - 2] == b"\0\1"
        code = 3 if self.answer == "nothing" else 0
        head = data[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, int(has_address), 0, 0) + data[12:end]
        record = struct.pack("!HHHIH", 0xC00C, 1, 1, self.ttl, 4) + socket.inet_aton(self.answer) if has_address else b""
        return head + record


def test_addresses_are_asked_for_anew_whatever_dns_says(fresh_postgres, start_pooler, tmp_path):
    """pgbouncer #383, #106, #237: lifetimes of 0 and of more than 31 bits, names that do not exist yet, silence."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.77\noptions timeout:1 attempts:1\n", encoding="ascii")
    (tmp_path / "nsswitch.conf").write_text("hosts: dns\n", encoding="ascii")
    mounts = "".join(f"mount --bind {tmp_path}/{name} /etc/{name} && " for name in ("resolv.conf", "nsswitch.conf"))
    own_dns = ["unshare", "-m", "sh", "-c", mounts + 'exec "$@"', "sh"]
    try:
        names = NameServer("127.0.0.77")
    except OSError:
        pytest.skip("needs port 53 of an address of its own")
    with contextlib.closing(names.socket):
        names.start()
        if subprocess.run([*own_dns, "true"], capture_output=True, check=False).returncode != 0:
            pytest.skip("needs a mount namespace for a resolver of its own")
        server = fresh_postgres(conf="listen_addresses = '127.0.0.1,127.0.0.2'")
        pooler = start_pooler(databases={"app": f"host=db.test port={server.port} dbname=app"}, pool_size=1, start=False)
        pooler.wrap = own_dns + pooler.wrap
        pooler.start()
        addresses = ["127.0.0.1", "127.0.0.2"]
        for number, (trouble, ttl) in enumerate([("nothing", 0), (None, 1), ("nothing", 2**31), (None, 2**32 - 1)]):
            server.terminate_backends()
            names.answer, asked, found = trouble, names.questions, []

            def early(found=found):
                with pooler.wire(timeout=30) as wire:
                    found.append(wire.value("SELECT host(inet_server_addr())"))

            client = threading.Thread(target=early)
            client.start()
            wait_until(lambda asked=asked: names.questions >= asked + 2, 10, "questions")
            assert found == []
            names.ttl, names.answer = ttl, addresses[number % 2]
            client.join()
            assert found == [addresses[number % 2]]
