"""Prepared statements of clients whose requests run on ever other backends."""
import contextlib
import threading

import pytest

from harness import wait_until
from harness import wire as w
from harness.meddler import Meddler


@pytest.fixture
def pool(postgres, start_pooler):
    """A pool of two backends."""
    return start_pooler(postgres, default_pool_size="2")


@pytest.fixture
def wire(pool):
    with pool.wire() as wire:
        yield wire


def answers(wire, *data, count=1):
    """Sends all of it at once and reads this many ReadyForQuery; kinds and bodies of the rest."""
    wire.send_raw(b"".join(data))
    return [wire.recv_until(b"Z") for _ in range(count)]


def use(name, *values, limit=0):
    return w.bind(values, name=name) + w.execute(limit=limit) + w.sync()


def prepare(wire, name, sql, types=()):
    answer, = answers(wire, w.parse(sql, name, types), w.sync())
    assert w.kinds(answer) == "1Z", answer


PID = "SELECT pg_backend_pid()"


def on_both_backends(pool, run):
    """Calls run(pid) while one, then the other backend is the only free one; returns the pids."""
    pids = []
    with pool.wire() as a, pool.wire() as b:
        a.query("BEGIN")
        b.query("BEGIN")
        a_pid, b_pid = a.value(PID), b.value(PID)
        for holder, pid in ((a, a_pid), (b, b_pid)):
            holder.query("COMMIT")
            run(pid)
            pids.append(pid)
            holder.query("BEGIN")
            assert holder.value(PID) == pid
        a.query("COMMIT")
        b.query("COMMIT")
    return pids


def test_statement_runs_on_every_backend(pool, wire):
    prepare(wire, "s", "SELECT $1::text || pg_backend_pid()::text")

    def run(pid):
        answer, = answers(wire, use("s", b"x"))
        assert w.kinds(answer) == "2DCZ"
        assert w.rows(answer) == [("x" + pid,)]
    first, second = on_both_backends(pool, run)
    assert first != second
    on_both_backends(pool, run)


def test_two_clients_may_use_one_name_for_different_texts(pool):
    with pool.wire() as one, pool.wire() as two:
        prepare(one, "s", "SELECT 1")
        prepare(two, "s", "SELECT 2")
        for _ in range(5):
            assert w.rows(answers(one, use("s"))[0]) == [("1",)]
            assert w.rows(answers(two, use("s"))[0]) == [("2",)]


def test_one_text_is_prepared_once_on_a_backend(pool, postgres):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(pool.wire()) for _ in range(5)]
        for number, client in enumerate(clients):
            prepare(client, f"name{number}", "SELECT 'shared'")
        for number, client in enumerate(clients):
            assert w.rows(answers(client, use(f"name{number}"))[0]) == [("shared",)]
        found = clients[0].rows("SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT ''shared'''")
        assert len(found) == 1


@pytest.mark.parametrize("types", [(), (23,), (25,)])
def test_types_are_part_of_the_identity(pool, types):
    with pool.wire() as other, pool.wire() as wire:
        prepare(other, "s", "SELECT pg_typeof($1)", (20,))
        prepare(wire, "s", "SELECT pg_typeof($1)", types or (1043,))
        expected = {(): "character varying", (23,): "integer", (25,): "text"}[types]
        assert w.rows(answers(wire, use("s", b"1"))[0]) == [(expected,)]
        assert w.rows(answers(other, use("s", b"1"))[0]) == [("bigint",)]


def test_settings_are_part_of_the_identity(pool):
    with pool.wire(DateStyle="ISO, DMY") as dmy, pool.wire(DateStyle="ISO, MDY") as mdy:
        for wire in (dmy, mdy):
            prepare(wire, "s", "SELECT '01/02/2000'::date")
        for _ in range(3):
            assert w.rows(answers(dmy, use("s"))[0]) == [("2000-02-01",)]
            assert w.rows(answers(mdy, use("s"))[0]) == [("2000-01-02",)]


# Each is sent to PostgreSQL directly and through the pool: the answers must be the same.
SEQUENCES = {
    "parse_use": w.parse("SELECT 1", "a") + use("a"),
    "describe_statement": w.parse("SELECT $1::int AS x", "a") + w.describe("S", "a") + use("a", b"1"),
    "unknown": use("nobody"),
    "unknown_described": w.describe("S", "nobody") + w.sync(),
    "unknown_closed": w.close("S", "nobody") + w.sync(),
    "reserved_unknown": w.close("S", "pgkeel_1") + w.sync(),
    "duplicate": w.parse("SELECT 1", "a") + w.parse("SELECT 2", "a") + w.sync() + use("a"),
    "duplicate_later": w.parse("SELECT 1", "a") + w.sync() + w.parse("SELECT 2", "a") + w.sync() + use("a"),
    "duplicate_wrong": w.parse("SELECT 1", "a") + w.sync() + w.parse("SELEC 2", "a") + w.sync() + use("a"),
    "closed": w.parse("SELECT 1", "a") + w.close("S", "a") + use("a"),
    "closed_later": w.parse("SELECT 1", "a") + w.sync() + w.close("S", "a") + w.sync() + use("a"),
    "closed_and_parsed": w.parse("SELECT 1", "a") + w.close("S", "a") + w.parse("SELECT 2", "a") + use("a"),
    "parse_fails": w.parse("SELEC", "a") + w.sync() + use("a"),
    "parse_fails_then_not": w.parse("SELEC", "a") + w.sync() + w.parse("SELECT 1", "a") + w.sync() + use("a"),
    "parse_is_skipped": w.parse("SELECT 1/0", "z") + w.bind(name="z") + w.execute() + w.parse("SELECT 1", "a") + w.sync() + use("a"),
    "parse_is_skipped_then_not": w.parse("SELECT 1/0") + w.bind() + w.execute() + w.parse("SELECT 1", "a") + w.sync()
    + w.parse("SELECT 2", "a") + w.sync() + use("a"),
    "close_is_skipped": w.parse("SELECT 1", "a") + w.sync() + w.parse("SELECT 1/0") + w.bind() + w.execute() + w.close("S", "a") + w.sync()
    + use("a"),
    "parsed_before_the_error": w.parse("SELECT 1", "a") + w.parse("SELECT 1/0") + w.bind() + w.execute() + w.sync() + use("a"),
    "statement_and_portal_of_one_name": w.query("BEGIN") + w.parse("SELECT 1", "x") + w.bind(portal="x", name="x") + w.close("P", "x")
    + w.bind(portal="x", name="x") + w.execute("x") + w.sync() + w.query("COMMIT"),
    "parse_and_close": w.parse("SELECT 1", "a") + w.close("S", "a") + w.sync() + use("a"),
    "portal_limits": w.query("BEGIN") + w.parse("SELECT generate_series(1, 5)", "a") + w.bind(name="a", portal="p") + w.execute("p", 2) + w.flush()
    + w.execute("p", 2) + w.sync() + w.execute("p", 2) + w.sync() + w.query("COMMIT"),
    "unnamed_kept": w.parse("SELECT 7") + w.sync() + use("") + use(""),
    "unnamed_gone_after_query": w.parse("SELECT 7") + w.sync() + w.query("SELECT 8") + use(""),
    "unnamed_never": use(""),
    "unnamed_closed": w.parse("SELECT 7") + w.sync() + w.close("S", "") + w.sync() + use(""),
    "parsed_again_where_it_fails": w.parse("DEALLOCATE ALL", "b") + w.query("BEGIN") + w.query("SELECT 1/0") + w.parse("DEALLOCATE ALL", "a") + w.sync()
    + use("b") + w.query("ROLLBACK") + use("b"),
    "in_failed_transaction": w.parse("SELECT 1", "a") + w.sync() + w.query("BEGIN") + w.query("SELECT 1/0") + use("a") + w.query("ROLLBACK")
    + use("a"),
    "rollback_named": w.parse("ROLLBACK", "r") + w.sync() + w.query("BEGIN") + w.query("SELECT 1/0") + use("r") + use("r"),
    "query_behind_extended": w.parse("SELECT 1/0", "a") + w.bind(name="a") + w.execute() + w.query("SELECT 5") + w.parse("SELECT 2", "b") + w.sync()
    + use("b") + use("a"),
    "many_syncs": b"".join(w.parse(f"SELECT {n}", f"n{n}") + w.sync() for n in range(20)) + b"".join(use(f"n{n}") for n in range(20)),
    "unnamed_after_failed_parse": w.parse("SELECT * FROM nowhere") + w.sync() + use(""),
    "unnamed_skipped": w.describe("P", "q") + w.parse("SELECT 'skipped'") + w.sync() + use(""),
    "unnamed_kept_while_a_later_one_is_skipped": w.parse("SELECT 'old'") + use("") + w.describe("S", "none") + w.parse("SELECT 'skipped'")
    + w.sync() + use(""),
    "unnamed_made_anew_behind_a_skipped_one": w.describe("S", "none") + w.parse("SELECT 'skipped'") + w.sync() + w.parse("SELECT 'new'") + use(""),
    "deallocate": w.parse("SELECT 1", "a") + w.sync() + w.query("DEALLOCATE a") + use("a"),
    "deallocate_prepare_quoted": w.parse("SELECT 1", "A b") + w.sync() + w.query('DEALLOCATE PREPARE "A b"') + use("A b"),
    "deallocate_unknown": w.query("DEALLOCATE nobody") + w.query("SELECT 1"),
    "deallocate_extended": w.parse("SELECT 1", "a") + w.sync() + w.parse("DEALLOCATE a") + w.bind() + w.execute() + w.sync() + use("a"),
    "deallocate_all_and_parse": w.parse("SELECT 0", "a") + w.sync() + w.query("DEALLOCATE ALL") + w.parse("SELECT 1", "a") + w.sync() + use("a"),
    "deallocate_all_extended": w.parse("SELECT 0", "a") + w.parse("DEALLOCATE ALL", "d") + w.bind(name="d") + w.execute() + w.sync() + use("a"),
    "deallocate_in_failed_transaction": w.parse("SELECT 1", "a") + w.sync() + w.query("BEGIN; SELECT 1/0") + w.query("DEALLOCATE a")
    + w.query("ROLLBACK") + use("a"),
    "discard_all": w.parse("SELECT 1", "a") + w.sync() + w.query("DISCARD ALL") + use("a"),
    "discard_all_inside_a_transaction": w.parse("SELECT 1", "a") + w.sync() + w.query("BEGIN") + w.query("DISCARD ALL") + w.query("ROLLBACK") + use("a"),
    "discard_all_bound_but_not_run": w.parse("SELECT 1", "a") + w.parse("DISCARD ALL", "d") + w.bind(name="d") + w.bind(name="a") + w.execute() + w.sync()
    + use("a"),
    "wrong_parameters": w.parse("SELECT $1::int", "a") + w.sync() + use("a") + use("a", b"x") + use("a", b"1"),
}


def run_on(wire, data):
    wire.send_raw(data + w.query("SELECT 'the end'"))
    found = []
    while not found or w.rows([found[-1]]) != [("the end",)]:
        found.append(wire.recv())
    return [(kind, what_it_says(body) if kind == b"E" else body) for kind, body in found]


def what_it_says(error):
    """In a failed transaction one line of PostgreSQL's refuses as well as another."""
    fields = w.error_fields(error)
    return {key: value for key, value in fields.items() if fields["C"] != "25P02" or key not in "FLR"}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_answers_are_those_of_postgres(pool, postgres, name, warm):
    data = SEQUENCES[name]
    with w.Wire(str(postgres.dir), postgres.port) as direct:
        direct.startup().login()
        expected = run_on(direct, data)
    for _ in range(2 if warm else 1):
        with pool.wire() as wire:
            assert run_on(wire, data) == expected


def test_unnamed_statement_of_another_client_is_never_run(postgres, start_pooler):
    """Sent at once: whether the client's own was made is not known yet when the second request comes."""
    single = start_pooler(postgres, default_pool_size="1")
    for first in (w.parse("SELEC 1", "a"), w.describe("P", "none"), w.parse("SELEC 1")):
        with single.wire() as one, single.wire() as two:
            answers(one, w.parse("SELECT 'secret'") + use(""))
            found = answers(two, first + use("") + use("") + w.query("SELECT 'end'"), count=3)
            assert "secret" not in str(found)
            assert w.errors(found[1])[0]["C"] == "26000" and w.rows(found[2]) == [("end",)]


# ---- texts, memory, eviction

def test_texts_larger_than_the_read_buffer_are_prepared_everywhere(pool, wire):
    text = "SELECT pg_backend_pid() AS a /* " + "x" * 300_000 + " */"
    prepare(wire, "big", text)

    def run(pid):
        assert w.rows(answers(wire, use("big"))[0]) == [(pid,)]
    on_both_backends(pool, run)


def test_texts_of_unreasonable_size_are_refused(pool, wire):
    wire.send_raw(w.parse("SELECT 1 /* " + "x" * (17 << 20) + " */", "big") + w.sync())
    kind, body = wire.recv_until(b"E")[-1]
    assert (kind, w.error_fields(body)["C"]) == (b"E", "54000")


def test_least_recently_used_statements_are_closed(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size="1", max_prepared_statements="5")
    count = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'pgkeel%'"
    with pool.wire() as wire:
        for number in range(20):
            prepare(wire, f"s{number}", f"SELECT {number}")
            assert int(wire.value(count)) <= 5
        for number in range(20):
            assert w.rows(answers(wire, use(f"s{number}"))[0]) == [(str(number),)]
            assert int(wire.value(count)) <= 5
        # All of one request are there together, however many.
        data = b"".join(w.bind(name=f"s{n}") + w.execute() for n in range(20)) + w.sync()
        assert w.rows(answers(wire, data)[0]) == [(str(n),) for n in range(20)]
        assert w.rows(answers(wire, use("s3"))[0]) == [("3",)]


def test_memory_for_statements_is_bounded(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size="1", prepared_memory="64kB")
    with pool.wire() as wire:
        for number in range(10):
            answer, = answers(wire, w.parse(f"SELECT {number} /* {'x' * 10000} */", f"s{number}"), w.sync())
            if w.kinds(answer) != "1Z":
                break
        assert 4 < number < 8
        assert w.errors(answer)[0]["C"] == "53200"
        for known in range(number):
            assert w.rows(answers(wire, use(f"s{known}"))[0]) == [(str(known),)]
        # Room is made by closing.
        for known in range(number):
            answers(wire, w.close("S", f"s{known}"), w.sync())
    with pool.wire() as wire:
        # Others are in the backend's set still.
        assert w.rows(answers(wire, w.parse("SELECT 1", "a"), use("a"))[0]) == [("1",)]


def test_nothing_is_followed_when_switched_off(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size="1", max_prepared_statements="0")
    with pool.wire() as wire:
        prepare(wire, "mine", "SELECT 1")
        assert wire.value("SELECT name FROM pg_prepared_statements") == "mine"


def test_session_pooling_leaves_names_alone(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size="1", pool_mode="session")
    with pool.wire() as wire:
        prepare(wire, "mine", "SELECT 1")
        assert wire.value("SELECT name FROM pg_prepared_statements") == "mine"


# ---- changes of the schema

@pytest.fixture
def table(postgres):
    postgres.sql("DROP TABLE IF EXISTS t", "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)", user="app")
    yield "t"
    postgres.sql("DROP TABLE IF EXISTS t")


STALE = {"S": "ERROR", "V": "ERROR", "C": "0A000", "M": "cached plan must not change result type", "F": "plancache.c",
         "R": "RevalidateCachedQuery"}


def check_stale(wire, *before):
    answer, = answers(wire, *before, use("s"))
    error, = w.errors(answer)
    assert {key: error[key] for key in STALE} == STALE
    assert w.kinds(answer)[-2:] == "EZ"


def check_new(wire):
    assert w.rows(answers(wire, use("s"))[0]) == [("1", "new")]


def test_client_that_knows_the_old_columns_never_gets_others(pool, wire, postgres, table):
    """As on a direct connection: an error, wherever it runs, until the client prepares it anew."""
    prepare(wire, "s", "SELECT * FROM t")
    on_both_backends(pool, lambda pid: answers(wire, use("s")))
    postgres.sql("ALTER TABLE t ADD b text DEFAULT 'new'", user="app")
    on_both_backends(pool, lambda pid: check_stale(wire))
    answers(wire, w.close("S", "s") + w.sync())
    prepare(wire, "s", "SELECT * FROM t")
    on_both_backends(pool, lambda pid: check_new(wire))


@pytest.mark.parametrize("first", ["alone", "behind_a_pipeline", "in_a_transaction"])
@pytest.mark.parametrize("ends", ["syncs", "flushes"])
def test_columns_are_compared_where_a_statement_is_prepared_later(pool, wire, postgres, table, first, ends):
    """The other backend never had a plan for the old columns, so PostgreSQL has nothing to complain about."""
    before = {"alone": b"", "behind_a_pipeline": w.query("SELECT 1") + w.parse("SELECT 2") + w.bind() + w.execute() + w.sync(),
              "in_a_transaction": w.query("BEGIN")}[first]
    count = {"alone": 0, "behind_a_pipeline": 2, "in_a_transaction": 1}[first]
    with pool.wire() as holder:
        holder.query("BEGIN")
        prepare(wire, "s", "SELECT * FROM t")
        with pool.wire() as other:
            other.query("BEGIN")  # the backend that has it
            holder.query("COMMIT")
            postgres.sql("ALTER TABLE t ALTER a TYPE bigint", user="app")
            wire.send_raw(before + w.bind(name="s") + w.execute() + (w.flush() if ends == "flushes" else w.sync()))
            for _ in range(count):
                wire.recv_until(b"Z")
            answer = wire.recv_until(b"E")
            assert w.errors(answer)[0]["C"] == "0A000"
            if ends == "flushes":
                wire.send_raw(w.sync())
            assert wire.recv_until(b"Z")[-1][1] == (b"E" if first == "in_a_transaction" else b"I")
            wire.query("ROLLBACK")
            other.query("COMMIT")
    assert wire.value("SELECT 1") == "1"


def test_unchanged_columns_are_no_error_where_a_statement_is_prepared_later(pool, wire, postgres, table):
    with pool.wire() as holder:
        holder.query("BEGIN")
        prepare(wire, "s", "SELECT * FROM t")
        with pool.wire() as other:
            other.query("BEGIN")
            holder.query("COMMIT")
            for _ in range(3):
                answer, = answers(wire, use("s"))
                assert (w.kinds(answer), w.rows(answer)) == ("2DCZ", [("1",)])
            other.query("COMMIT")


def test_statement_prepared_by_another_client_after_the_change_is_not_used(pool, wire, postgres, table):
    """The newcomer's Parse renews the copy of the backend: who knows the old columns must not read from it."""
    prepare(wire, "s", "SELECT * FROM t")
    on_both_backends(pool, lambda pid: answers(wire, use("s")))
    postgres.sql("ALTER TABLE t ADD b text DEFAULT 'new'", user="app")
    with pool.wire() as newcomer:
        def come(pid):
            answer, = answers(newcomer, w.parse("SELECT * FROM t", "n") + w.describe("S", "n") + w.bind(name="n") + w.execute()
                              + w.close("S", "n") + w.sync())
            assert w.kinds(answer) == "1tT2DC3Z"
            assert w.rows(answer) == [("1", "new")]
        on_both_backends(pool, come)
    on_both_backends(pool, lambda pid: check_stale(wire))


@pytest.mark.parametrize("begins", ["outside", "inside"])
def test_newcomer_never_meets_the_old_plan_of_another(pool, wire, postgres, table, begins):
    prepare(wire, "s", "SELECT * FROM t")
    on_both_backends(pool, lambda pid: answers(wire, use("s")))
    postgres.sql("ALTER TABLE t ADD b text DEFAULT 'new'", user="app")
    with pool.wire() as newcomer:
        if begins == "inside":
            newcomer.query("BEGIN")
        prepare(newcomer, "n", "SELECT * FROM t")
        answer, = answers(newcomer, use("n"))
        assert w.rows(answer) == [("1", "new")], answer
        if begins == "inside":
            newcomer.query("COMMIT")


def test_statement_of_another_database_has_columns_of_its_own(postgres, start_pooler):
    target = f"host=127.0.0.1 port={postgres.port}"
    pool = start_pooler(postgres, databases={"app": f"{target} dbname=app", "postgres": f"{target} dbname=postgres"}, default_pool_size="1")
    with pool.wire() as one, pool.wire(db="postgres") as two:
        sides = ((one, "SELECT 1 AS n", "1"), (two, "SELECT 'x'::text AS t", "x"))
        for wire, query, value in sides:
            wire.query("CREATE OR REPLACE TEMP VIEW own AS " + query)
            prepare(wire, "s", "SELECT * FROM own")
        for _ in range(3):
            for wire, query, value in sides:
                assert w.rows(answers(wire, use("s"))[0]) == [(value,)]


def test_bind_for_the_old_columns_is_not_run_with_others(pool, wire, postgres, table):
    """A format for each of them, of which there are more now."""
    postgres.sql("ALTER TABLE t ADD c int DEFAULT 3", user="app")
    prepare(wire, "s", "SELECT * FROM t")
    run = w.bind(name="s", results=(0, 0)) + w.describe() + w.execute() + w.sync()
    on_both_backends(pool, lambda pid: answers(wire, run))
    postgres.sql("ALTER TABLE t ADD b text DEFAULT 'new'", user="app")

    def check(pid):
        assert w.errors(answers(wire, run)[0])[0]["C"] == "0A000"
    on_both_backends(pool, check)


def test_client_that_asks_for_the_columns_never_meets_a_changed_plan(pool, wire, postgres, table):
    prepare(wire, "s", "SELECT * FROM t")

    def run(pid):
        wire.send_raw(w.bind(name="s") + w.describe() + w.execute() + w.sync())
        answer = wire.recv_until(b"Z")
        assert w.kinds(answer) == "2TDCZ"
        return w.rows(answer)
    pids = on_both_backends(pool, run)
    postgres.sql("ALTER TABLE t ADD b text DEFAULT 'new'", user="app")
    assert run(None) == [("1", "new")]
    assert set(on_both_backends(pool, run)) == set(pids)


def test_changed_plan_inside_a_transaction_is_an_error(pool, wire, postgres, table):
    prepare(wire, "s", "SELECT * FROM t")
    on_both_backends(pool, lambda pid: answers(wire, use("s")))
    postgres.sql("ALTER TABLE t ADD b text DEFAULT 'new'", user="app")
    wire.query("BEGIN")
    wire.send_raw(w.bind(name="s") + w.describe() + w.execute() + w.sync())
    assert w.errors(wire.recv_until(b"Z"))[0]["C"] == "0A000"
    wire.query("ROLLBACK")
    wire.send_raw(w.bind(name="s") + w.describe() + w.execute() + w.sync())
    assert w.rows(wire.recv_until(b"Z")) == [("1", "new")]


def test_dropped_table_is_an_error_until_it_is_back(pool, wire, postgres, table):
    prepare(wire, "s", "SELECT a FROM t")
    on_both_backends(pool, lambda pid: answers(wire, use("s")))
    postgres.sql("DROP TABLE t", user="app")
    for _ in range(3):
        assert w.errors(answers(wire, use("s"))[0])[0]["C"] == "42P01"
    postgres.sql("CREATE TABLE t (a int)", "INSERT INTO t VALUES (5)", user="app")
    on_both_backends(pool, lambda pid: check_five(wire))


def check_five(wire):
    assert w.rows(answers(wire, use("s"))[0]) == [("5",)]


# ---- backends die

def test_statement_survives_its_backends(pool, wire, postgres):
    prepare(wire, "s", "SELECT 'alive'")
    for _ in range(3):
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND pid <> pg_backend_pid()")
        assert w.rows(answers(wire, use("s"))[0]) == [("alive",)]


def test_parse_that_moves_is_no_duplicate(pool, wire, postgres):
    """Parse-Flush was answered, the backend dies, and the whole request moves."""
    wire.send_raw(w.parse("SELECT pg_backend_pid()", "s") + w.describe("S", "s") + w.flush())
    assert w.kinds(wire.recv_until(b"T")) == "1tT"
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND pid <> pg_backend_pid()")
    wire.send_raw(w.bind(name="s") + w.execute() + w.sync())
    assert w.kinds(wire.recv_until(b"Z")) == "2DCZ"
    assert w.kinds(answers(wire, use("s"))[0]) == "2DCZ"


def test_named_rollback_leaves_a_lost_transaction(pool, wire, postgres):
    prepare(wire, "r", "ROLLBACK")
    prepare(wire, "s", "SELECT 1")
    wire.query("BEGIN")
    pid = wire.value(PID)
    postgres.sql(f"SELECT pg_terminate_backend({pid})")
    wait_until(lambda: postgres.sql(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}") == [], what="the end")
    assert w.errors(answers(wire, use("s"))[0])[0]["C"] == "40001"
    assert wire.status == "E"
    assert w.kinds(answers(wire, use("r"))[0]) == "2CZ"
    assert wire.status == "I"
    assert w.rows(answers(wire, use("s"))[0]) == [("1",)]


@pytest.mark.parametrize("garbage", [b"\x01\0\0\0\x04", b"S\0\0\0\x01", w.parse("SELECT 1 /* " + "x" * (17 << 20) + " */", "big")],
                         ids=["type", "length", "size"])
def test_rewritten_bytes_of_a_refused_client_reach_nobody(postgres, start_pooler, garbage):
    """What was rewritten of its last read waited for the next client of that worker."""
    pool = start_pooler(postgres, default_pool_size="2", workers="1")
    with pool.wire() as bad, pool.wire() as good:
        answers(good, w.query("SELECT 1"))
        bad.send_raw(w.parse("INSERT INTO nowhere VALUES (1)", "mine") + w.bind(name="mine") + w.execute() + w.sync() + garbage)
        assert w.errors(bad.recv_all())
        for number in range(3):
            answer, = answers(good, w.query(f"SELECT {number}"))
            assert w.kinds(answer) == "TDCZ" and w.rows(answer) == [(str(number),)]


def test_error_names_the_statement_though_settings_changed_meanwhile(postgres, behind):
    """The client's setting changes while a Bind of it is on its way; a Describe then stands for another copy of the same text.
    The error of the Bind spoke of pgkeel's name for the first copy."""
    may_fail = threading.Event()

    def chop(data):
        at = data.find(b"bind message supplies")
        start = data.rfind(b"E\0\0", 0, at) if at > 0 else len(data)
        yield data[:start]
        if at > 0:
            may_fail.wait(10)
            yield data[start:]

    with Meddler(postgres.port, chop=chop) as relay, behind(relay).wire() as wire:
        prepare(wire, "mine", "SELECT 1")
        wire.send_raw(w.query("SET DateStyle = 'SQL, DMY'") + w.bind([b"1"], name="mine") + w.flush())
        wire.recv_until(b"Z")
        wire.send_raw(w.describe("S", "mine") + w.sync())
        assert wire.is_silent(0.2)
        may_fail.set()
        error = w.errors(wire.recv_until(b"Z"))[0]
        assert error["M"] == 'bind message supplies 1 parameters, but prepared statement "mine" requires 0'
