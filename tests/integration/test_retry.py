"""What becomes of a request whose backend dies: sent again only with a proof that it was not done, else the truth.

A request is caught in the midst of its work by an advisory lock that the test holds (`Gate`).
"""
import contextlib
import os
import signal
import threading
import time

import pytest

from harness import Wire, wait_until
from harness import wire as w

GATE = 4711


class Gate:
    """While it is shut, statements that call pg_advisory_xact_lock(4711) wait at PostgreSQL."""

    def __init__(self, server):
        self.server = server
        self.connection = server.connect("app")
        self.connection.cursor().execute(f"SELECT pg_advisory_lock({GATE})")

    def waiting(self, count=1):
        """The pids of those who wait, as soon as there are so many."""
        def look():
            pids = [b["pid"] for b in self.server.backends("wait_event = 'advisory'")]
            return pids if len(pids) == count else None
        return wait_until(look, what=f"{count} at the gate")

    def terminate(self):
        for pid in self.waiting():
            self.server.sql(f"SELECT pg_terminate_backend({pid}, 5000)", db="postgres")

    def open(self):
        self.connection.close()


@pytest.fixture
def server(postgres):
    postgres.sql("DROP TABLE IF EXISTS log", "CREATE TABLE log (n int)", "GRANT ALL ON log TO PUBLIC")
    return postgres


@pytest.fixture
def gate(server):
    gate = Gate(server)
    yield gate
    with contextlib.suppress(Exception):
        gate.open()


def gated(sql):
    return sql.replace("@", f"pg_advisory_xact_lock({GATE})")


def entries(server):
    return sorted(row[0] for row in server.sql("SELECT n FROM log"))


def only_error(answer):
    errors = w.errors(answer)
    assert len(errors) == 1, answer
    return errors[0]["C"]


# ---- R4: aborted by FATAL 57P01

@pytest.mark.parametrize("sql", [
    "INSERT INTO log SELECT 1 FROM @",
    "WITH x AS (SELECT 1 AS n FROM @) INSERT INTO log SELECT n FROM x",
    "INSERT INTO log SELECT 1 FROM (SELECT @) x RETURNING n",
    "/* a comment */ INSERT INTO log SELECT 1 FROM @; -- and another",
    "INSERT INTO log VALUES (0); UPDATE log SET n = 1; SELECT @",
])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_aborted_request_is_done_once_and_the_client_sees_nothing(server, gate, pooler, sql, protocol):
    if protocol == "extended" and ";" in sql.rstrip("; -andother"):
        sql = "INSERT INTO log SELECT 1 FROM @"
    with pooler.wire() as wire:
        text = gated(sql)
        wire.send_raw(w.query(text) if protocol == "simple" else w.extended(text) + w.sync())
        gate.terminate()
        gate.open()
        answer = wire.recv_until(b"Z")
        assert w.errors(answer) == [] and wire.status == "I"
        assert w.kinds(answer).count("Z") == 1
        if protocol == "extended":
            assert w.kinds(answer) in ("12nCZ", "12TDCZ")
    assert entries(server) == [1]
    assert pooler.log_contains("request moved to another server connection .R4: terminating connection")


def test_all_that_was_pipelined_behind_follows_in_order(server, gate, pooler):
    with pooler.wire() as wire:
        wire.send_raw(b"".join([
            w.query(gated("INSERT INTO log SELECT 1 FROM @")),
            w.extended("INSERT INTO log VALUES ($1) RETURNING n", [2]) + w.sync(),
            w.query("CREATE TABLE IF NOT EXISTS made (n int)"),
            w.query("BEGIN"), w.query("INSERT INTO log VALUES (3)"), w.query("COMMIT"),
            w.query("SELECT sum(n) FROM log"),
        ]))
        gate.terminate()
        gate.open()
        answers = [wire.recv_until(b"Z") for _ in range(7)]
        assert [w.errors(answer) for answer in answers] == [[]] * 7
        assert w.rows(answers[1]) == [("2",)] and w.rows(answers[6]) == [("6",)]
    assert entries(server) == [1, 2, 3]


def test_do_that_commits_inside_is_never_sent_again(server, gate, pooler):
    """Its first half is committed when the FATAL comes; the Query behind it was not begun and runs."""
    body = gated("DO $$ BEGIN INSERT INTO log VALUES (1); COMMIT; PERFORM @; INSERT INTO log VALUES (2); END $$")
    with pooler.wire() as wire:
        wire.send_raw(w.query(body) + w.query("INSERT INTO log VALUES (3)"))
        gate.terminate()
        gate.open()
        assert only_error(wire.recv_until(b"Z")) == "08007"
        assert w.errors(wire.recv_until(b"Z")) == []
    assert entries(server) == [1, 3]


@pytest.mark.parametrize("sql", [
    "CALL work()", "COPY (SELECT 1 FROM @) TO STDOUT", "CREATE TABLE t_r4 AS SELECT 1 FROM @",
    "SELECT @; CREATE TABLE t_r4 (n int)", "SELECT @; COMMIT", "EXECUTE nothing; SELECT @",
])
def test_what_is_not_on_the_list_is_never_sent_again(server, gate, pooler, sql):
    server.sql("DROP TABLE IF EXISTS t_r4",
               gated("CREATE OR REPLACE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (1);"
                     " COMMIT; PERFORM @; END $$"))
    with pooler.wire() as wire:
        wire.send_raw(w.query(gated(sql)))
        if sql.startswith("EXECUTE"):
            assert only_error(wire.recv_until(b"Z")) == "26000"
            return
        gate.terminate()
        gate.open()
        assert only_error(wire.recv_until(b"Z")) == "08007"
        assert wire.value("SELECT 1") == "1"
    assert entries(server) == ([1] if sql.startswith("CALL") else [])


def test_backend_that_terminates_itself_is_given_up_after_some_tries(server, pooler):
    with pooler.wire() as wire:
        assert only_error(wire.query("SELECT pg_terminate_backend(pg_backend_pid())")) == "40001"
        assert wire.value("SELECT 1") == "1"
    assert len(wire.notices) == 0


def test_rows_that_the_client_saw_are_not_shown_twice(server, gate, pooler):
    with pooler.wire() as wire:
        wire.send_raw(w.query(gated("SELECT repeat('x', 1000) FROM generate_series(1, 1000); SELECT @")))
        first = [wire.recv() for _ in range(200)]
        assert w.rows(first)
        gate.terminate()
        gate.open()
        rest = wire.recv_until(b"Z")
        assert only_error(rest) == "40001"
        assert len(w.rows(first + rest)) <= 1000
        assert wire.value("SELECT 1") == "1"


def test_large_request_is_refused_with_the_truth_when_it_was_not_kept(server, gate, pooler):
    with pooler.wire() as wire:
        wire.send_raw(w.query(gated("INSERT INTO log SELECT 1 FROM @ -- ") + "x" * 70000))
        gate.terminate()
        gate.open()
        assert only_error(wire.recv_until(b"Z")) == "08007"
    assert entries(server) == []


@pytest.mark.parametrize("level, sqlstate", [("off", "40001"), ("unread", "40001"), ("aborted", None),
                                             ("reads", None)])
def test_level_of_transparent_retry_decides(server, gate, start_pooler, level, sqlstate):
    pooler = start_pooler(server, pool_size=5, transparent_retry=level)
    with pooler.wire() as wire:
        wire.send_raw(w.query(gated("INSERT INTO log SELECT 1 FROM @")))
        gate.terminate()
        gate.open()
        answer = wire.recv_until(b"Z")
        assert [e["C"] for e in w.errors(answer)] == ([sqlstate] if sqlstate else [])
    assert entries(server) == ([] if sqlstate else [1])


def test_setting_of_an_aborted_request_is_told_once_more(server, gate, pooler):
    with pooler.wire() as wire:
        wire.send_raw(w.query(gated("SET application_name = 'moved'; SELECT @")))
        gate.terminate()
        gate.open()
        assert w.errors(wire.recv_until(b"Z")) == []
        assert wire.parameters["application_name"] == "moved"
        assert wire.value("SHOW application_name") == "moved"


# ---- R3 and Flush

def test_parse_describe_flush_of_asyncpg_moves_with_its_request(server, pooler):
    with pooler.wire() as wire:
        wire.send_raw(w.parse("INSERT INTO log VALUES ($1) RETURNING n") + w.describe("S") + w.flush())
        assert w.kinds(wire.recv_until(b"T")) == "1tT"
        server.terminate_backends("usename = 'app'")
        wire.send_raw(w.bind([5]) + w.execute() + w.sync())
        answer = wire.recv_until(b"Z")
        assert w.kinds(answer) == "2DCZ" and w.rows(answer) == [("5",)]
    assert entries(server) == [5]


def test_client_in_step_is_told_of_a_lost_transaction_only_when_it_asks(server, pooler):
    """asyncpg between Parse-Describe-Flush, answered, and Bind: an error now would answer nothing."""
    with pooler.wire() as wire:
        wire.query("BEGIN")
        wire.send_raw(w.parse("INSERT INTO log VALUES ($1)") + w.describe("S") + w.flush())
        assert w.kinds(wire.recv_until(b"n")) == "1tn"
        lose(server)
        pooler.wait_for_log("transaction lost")
        assert wire.is_silent()
        wire.send_raw(w.bind([5]) + w.execute() + w.sync())
        answer = wire.recv_until(b"Z")
        assert w.kinds(answer) == "EZ" and only_error(answer) == "40001" and wire.status == "E"
        assert w.tags(wire.query("ROLLBACK")) == ["ROLLBACK"]
    assert entries(server) == []


def test_client_in_step_is_told_of_a_lost_request_only_when_it_goes_on(server, pooler):
    """An Execute was answered after a Flush; what it did is gone, because its Sync never came."""
    with pooler.wire() as wire:
        wire.send_raw(w.extended("INSERT INTO log VALUES (6)") + w.flush())
        assert w.kinds(wire.recv_until(b"C")) == "12nC"
        lose(server)
        pooler.wait_for_log("request ended with ERROR 40001")
        assert wire.is_silent()
        wire.send_raw(w.sync())
        answer = wire.recv_until(b"Z")
        assert w.kinds(answer) == "EZ" and only_error(answer) == "40001" and wire.status == "I"
        assert wire.value("SELECT 1") == "1"
    assert entries(server) == []


def test_description_that_changed_meanwhile_is_no_answer(server, pooler):
    with pooler.wire() as wire:
        wire.send_raw(w.parse("SELECT * FROM log") + w.describe("S") + w.flush())
        assert w.kinds(wire.recv_until(b"T")) == "1tT"
        # It waits for the lock of the Parse, and comes before the one that is sent again.
        change = threading.Thread(target=server.sql, args=("ALTER TABLE log ADD COLUMN more text",))
        change.start()
        wait_until(lambda: server.sql("SELECT 1 FROM pg_locks WHERE NOT granted", db="postgres"), what="the change")
        server.terminate_backends("usename = 'app'")
        change.join()
        wire.send_raw(w.bind() + w.execute() + w.sync())
        answer = wire.recv_until(b"Z")
        # 08007 when its Execute reached the new backend before the other description came back.
        assert w.kinds(answer) == "EZ" and only_error(answer) in ("40001", "08007")
        assert wire.value("SELECT 1") == "1"


def test_statement_of_asyncpg_in_flight_moves(server, gate, pooler):
    with pooler.wire() as wire:
        wire.send_raw(w.parse(gated("INSERT INTO log SELECT $1::int FROM @")) + w.describe("S") + w.flush())
        assert w.kinds(wire.recv_until(b"n")) == "1tn"
        wire.send_raw(w.bind([6]) + w.execute() + w.sync())
        gate.terminate()
        gate.open()
        assert w.kinds(wire.recv_until(b"Z")) == "2CZ"
    assert entries(server) == [6]


# ---- R1: never read

def test_half_a_query_is_done_once(server, pooler):
    """The client is slow: half of its message is here when all backends die."""
    with pooler.wire() as wire:
        wire.value("SELECT 1")
        whole = w.query("INSERT INTO log VALUES (7)" + " " * 30000)
        wire.send_raw(whole[:20000])
        server.terminate_backends("usename = 'app'")
        wire.send_raw(whole[20000:])
        assert w.errors(wire.recv_until(b"Z")) == []
    assert entries(server) == [7]


def test_half_of_an_oversized_query_is_not_done_and_the_client_stays(server, pooler):
    """It is being streamed, so what was forwarded is not kept; but half a message was never run."""
    with pooler.wire(timeout=20) as wire:
        wire.value("SELECT 1")
        whole = w.query("INSERT INTO log VALUES (8)" + " " * 1000000)
        wire.send_raw(whole[:500000])
        wait_until(lambda: server.terminate_backends("usename = 'app'"), what="the backend that reads it")
        wire.send_raw(whole[500000:])
        assert only_error(wire.recv_until(b"Z")) == "40001"
        assert wire.value("SELECT 1") == "1"
    assert entries(server) == []


def test_stopped_backend_that_never_read_the_request(server, start_pooler):
    """SIGSTOP, request, SIGKILL-like end is not seen as FATAL: unknown, unless only reads may be lost."""
    for level, sqlstate in (("aborted", "08007"), ("reads", None)):
        pooler = start_pooler(server, pool_size=1, transparent_retry=level, server_check_delay=0)
        with pooler.wire() as wire:
            wire.query("BEGIN")
            pid = wire.backend_pid()
            wire.query("COMMIT")
            os.kill(pid, signal.SIGSTOP)
            try:
                server.sql(f"SELECT pg_terminate_backend({pid})", db="postgres")
                wire.send_raw(w.query("SELECT 1"))
            finally:
                os.kill(pid, signal.SIGCONT)
            answer = wire.recv_until(b"Z")
            # Once it goes on it dies with FATAL 57P01 before it reads: proven, at every level.
            assert w.errors(answer) == [], (level, sqlstate)


# ---- R6: unknown

@pytest.fixture
def crash(fresh_postgres):
    server = fresh_postgres()
    server.sql("CREATE TABLE log (n int)", "GRANT ALL ON log TO PUBLIC")
    return server


@pytest.mark.parametrize("level, sql, sqlstate", [
    ("aborted", "INSERT INTO log SELECT 1 FROM @", "08007"),
    ("aborted", "SELECT 5 FROM @", "08007"),
    ("reads", "INSERT INTO log SELECT 1 FROM @", "08007"),
    ("reads", "SELECT 5 FROM @", None),
    ("reads", "SELECT 5 FROM @; SELECT 6", "08007"),
    ("reads", "WITH x AS (INSERT INTO log VALUES (1) RETURNING n) SELECT n FROM x, @", "08007"),
])
def test_crash_of_the_server_leaves_the_outcome_unknown(crash, start_pooler, level, sql, sqlstate):
    pooler = start_pooler(crash, pool_size=3, transparent_retry=level)
    gate = Gate(crash)
    with pooler.wire(timeout=30) as wire:
        wire.send_raw(w.query(gated(sql)))
        os.kill(gate.waiting()[0], signal.SIGKILL)
        answer = wire.recv_until(b"Z")
        assert [e["C"] for e in w.errors(answer)] == ([sqlstate] if sqlstate else [])
        assert w.rows(answer) == ([] if sqlstate else [("5",)])
        assert wire.value("SELECT 1") == "1"
    with contextlib.suppress(Exception):
        gate.open()


def test_commit_that_waits_for_its_standby_is_not_taken_for_rolled_back(crash, start_pooler):
    """WARNING 57P01: the commit is done here, only the standby's answer is missing. Sent again it would be done twice."""
    crash.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "ALTER SYSTEM SET synchronous_commit = on",
              "SELECT pg_reload_conf()")
    pooler = start_pooler(crash, pool_size=3)
    with pooler.wire() as wire:
        wire.send_raw(w.query("INSERT INTO log VALUES (1)"))
        pid = wait_until(lambda: [b["pid"] for b in crash.backends("wait_event = 'SyncRep'")], what="SyncRep")[0]
        crash.sql("SET synchronous_commit = off", f"SELECT pg_terminate_backend({pid})", db="postgres")
        answer = wire.recv_until(b"Z")
        assert only_error(answer) == "08007"
        crash.sql("SET synchronous_commit = off", "ALTER SYSTEM RESET synchronous_standby_names",
                  "SELECT pg_reload_conf()")
        assert wire.value("SELECT 1") == "1"
    assert [row[0] for row in crash.sql("SELECT n FROM log")] == [1]


# ---- T1 to T3

def lose(server):
    assert server.terminate_backends("usename = 'app'")


def test_lost_transaction_is_one_40001_and_then_a_failed_one(server, pooler):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        wire.query("INSERT INTO log VALUES (1)")
        lose(server)
        answer = wire.query("INSERT INTO log VALUES (2)")
        assert only_error(answer) == "40001" and wire.status == "E"
        assert "terminating connection due to administrator command" in w.errors(answer)[0]["D"]
        assert only_error(wire.query("SELECT 1")) == "25P02" and wire.status == "E"
        assert w.tags(wire.query("ROLLBACK")) == ["ROLLBACK"] and wire.status == "I"
        assert w.errors(wire.query("INSERT INTO log VALUES (3)")) == []
    assert entries(server) == [3]
    assert pooler.log_contains("client .*: transaction lost with its server connection .terminating connection")


@pytest.mark.parametrize("sql", ["ROLLBACK", "rollback work;", "ABORT", "/* x */ Rollback -- y"])
def test_rollback_of_a_lost_transaction_is_simply_answered(server, pooler, sql):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        wire.query("INSERT INTO log VALUES (1)")
        lose(server)
        answer = wire.query(sql)
        assert w.kinds(answer) == "CZ" and w.tags(answer) == ["ROLLBACK"] and wire.status == "I"
    assert entries(server) == []


@pytest.mark.parametrize("sql", ["COMMIT", "END", "PREPARE TRANSACTION 'x'"])
def test_commit_of_a_transaction_that_was_lost_before_fails(server, pooler, sql):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        wire.query("INSERT INTO log VALUES (1)")
        lose(server)
        assert only_error(wire.query(sql)) == "40001" and wire.status == "I"
        assert wire.value("SELECT 1") == "1"
    assert entries(server) == []


@pytest.fixture
def slow_commit(server):
    """Inserts into `late` make their COMMIT wait at the gate."""
    server.sql("DROP TABLE IF EXISTS late", "CREATE TABLE late (n int)", "GRANT ALL ON late TO PUBLIC",
               gated("CREATE OR REPLACE FUNCTION wait_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM @;"
                     " RETURN NULL; END $$"),
               "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
               " EXECUTE FUNCTION wait_late()")
    return server


@pytest.mark.parametrize("level, sqlstate", [("aborted", "40001"), ("unread", "08007")])
def test_commit_that_is_aborted_fails_and_ends_the_transaction(slow_commit, gate, start_pooler, level, sqlstate):
    """FATAL 57P01 comes before the commit or after its CommandComplete, never between: it was rolled back."""
    pooler = start_pooler(slow_commit, pool_size=5, transparent_retry=level)
    with pooler.wire() as wire:
        wire.query("BEGIN")
        wire.query("INSERT INTO late VALUES (1)")
        wire.send_raw(w.query("COMMIT") + w.query("SELECT 5"))
        gate.terminate()
        gate.open()
        assert only_error(wire.recv_until(b"Z")) == sqlstate and wire.status == "I"
        assert w.rows(wire.recv_until(b"Z")) == [("5",)]
    assert slow_commit.sql("SELECT * FROM late") == []


def test_commit_that_was_in_flight_when_the_server_crashed_is_unknown(crash, start_pooler):
    crash.sql("CREATE TABLE late (n int)", "GRANT ALL ON late TO PUBLIC",
              gated("CREATE FUNCTION wait_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM @; RETURN NULL;"
                    " END $$"),
              "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
              " EXECUTE FUNCTION wait_late()")
    pooler = start_pooler(crash, pool_size=3)
    gate = Gate(crash)
    with pooler.wire(timeout=30) as wire:
        wire.query("BEGIN")
        wire.query("INSERT INTO late VALUES (1)")
        wire.send_raw(w.query("COMMIT"))
        os.kill(gate.waiting()[0], signal.SIGKILL)
        assert only_error(wire.recv_until(b"Z")) == "08007" and wire.status == "I"
        assert wire.value("SELECT 1") == "1"


def test_rollback_outside_of_a_transaction_moves(server, pooler):
    """Drivers send it to be sure; it does nothing, so it can be sent again whatever happened."""
    with pooler.wire() as wire:
        wire.value("SELECT 1")
        pid = wire.backend_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            wire.send_raw(w.query("ROLLBACK"))
            server.sql(f"SELECT pg_terminate_backend({pid})", db="postgres")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert w.tags(wire.recv_until(b"Z")) == ["ROLLBACK"]


@pytest.mark.parametrize("text, sqlstate, status", [
    ("SELECT @", "40001", "E"),
    ("SELECT @; COMMIT", "08007", "I"),
    ("SELECT @; ROLLBACK; INSERT INTO log VALUES (9)", "08007", "I"),
    ("SELECT @; ROLLBACK TO s", "40001", "E"),
])
def test_what_in_flight_may_have_ended_the_transaction(server, gate, pooler, text, sqlstate, status):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        wire.query("SAVEPOINT s")
        wire.send_raw(w.query(gated(text)))
        gate.terminate()
        gate.open()
        assert only_error(wire.recv_until(b"Z")) == sqlstate and wire.status == status


def test_pipelined_transaction_that_is_lost_goes_on_as_a_failed_one(server, gate, pooler):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        wire.send_raw(w.query(gated("SELECT @")) + w.query("INSERT INTO log VALUES (1)") + w.query("COMMIT") +
                      w.query("INSERT INTO log VALUES (2)"))
        gate.terminate()
        gate.open()
        answers = [wire.recv_until(b"Z") for _ in range(4)]
        assert [[e["C"] for e in w.errors(a)] for a in answers] == [["40001"], ["25P02"], [], []]
        assert w.tags(answers[2]) == ["ROLLBACK"] and w.tags(answers[3]) == ["INSERT 0 1"]
    assert entries(server) == [2]


def failed(wire, server):
    """Brings a client into the failed state of a lost transaction, told once."""
    wire.query("BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE")
    wire.query("SAVEPOINT s")
    lose(server)
    assert only_error(wire.query("SELECT 1")) == "40001"


def test_failed_state_answers_as_postgresql_does(server, pooler):
    """The same words to a client of ours and, after an error of its own, to one of PostgreSQL."""
    conversations = [
        "SELECT 1", "", ";", "BEGIN", "SAVEPOINT x", "RELEASE s", "ROLLBACK PREPARED 'x'", "COMMIT PREPARED 'x'",
        "SET x = 1", "SELECT 1; ROLLBACK", "ROLLBACK; SELECT 7", "COMMIT", "END", "ABORT", "ROLLBACK WORK",
        "PREPARE TRANSACTION 'x'", "COMMIT; BEGIN; SELECT 1", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN",
        "ROLLBACK AND CHAIN; SELECT 8", "ROLLBACK AND NO CHAIN", "commit /* ; */ ; ; ",
    ]
    for sql in conversations:
        with pooler.wire() as ours, Wire("127.0.0.1", server.port) as theirs:
            theirs.startup("ann").login()
            failed(ours, server)
            theirs.query("BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE")
            theirs.query("SAVEPOINT s")
            theirs.query("SELECT 1/0")
            for text in (sql, "SHOW transaction_isolation"):
                answers = [wire.query(text) for wire in (ours, theirs)]
                seen = [(w.kinds(a), w.tags(a), w.rows(a), [e["C"] for e in w.errors(a)], wire.status)
                        for a, wire in zip(answers, (ours, theirs))]
                assert seen[0] == seen[1], (sql, text)


@pytest.mark.parametrize("request_", [
    w.extended("SELECT 1") + w.sync(),
    w.extended("ROLLBACK") + w.sync(),
    w.extended("COMMIT") + w.sync(),
    w.parse("ROLLBACK", "mine") + w.describe("S", "mine") + w.bind(name="mine") + w.execute() + w.sync(),
    w.parse("SELECT 1") + w.query("SELECT 2") + w.sync(),
    w.extended("ROLLBACK") + w.extended("SELECT 1") + w.sync(),
    w.extended("") + w.sync(),
    w.sync(),
    w.close("S", "x") + w.sync(),
    w.extended("ROLLBACK AND CHAIN") + w.sync(),
    w.parse("ROLLBACK") + w.flush() + w.bind() + w.execute() + w.flush() + w.sync(),
], ids=["select", "rollback", "commit", "named", "mixed", "and_more", "empty", "sync", "close", "chain", "flush"])
def test_failed_state_in_the_extended_protocol(server, pooler, request_):
    with pooler.wire() as ours, Wire("127.0.0.1", server.port) as theirs:
        theirs.startup("ann").login()
        failed(ours, server)
        theirs.query("BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE")
        theirs.query("SAVEPOINT s")
        theirs.query("SELECT 1/0")
        for data in (request_, w.query("SHOW transaction_isolation")):
            seen = []
            for wire in (ours, theirs):
                wire.send_raw(data)
                answer = wire.recv_until(b"Z")
                seen.append((w.kinds(answer), w.tags(answer), w.rows(answer), [e["C"] for e in w.errors(answer)],
                             wire.status))
            assert seen[0] == seen[1]


def test_rollback_to_a_savepoint_of_a_lost_transaction_fails(server, pooler):
    with pooler.wire() as wire:
        failed(wire, server)
        assert only_error(wire.query("ROLLBACK TO s")) == "40001" and wire.status == "E"
        assert only_error(wire.query("ROLLBACK TO SAVEPOINT s")) == "40001" and wire.status == "E"
        assert w.tags(wire.query("ROLLBACK")) == ["ROLLBACK"]


def test_chained_transaction_has_the_modes_of_the_lost_one(server, pooler):
    with pooler.wire() as wire:
        failed(wire, server)
        assert w.tags(wire.query("ROLLBACK AND CHAIN")) == ["ROLLBACK"] and wire.status == "T"
        assert wire.value("SHOW transaction_isolation") == "serializable"
        wire.query("INSERT INTO log VALUES (4)")
        wire.query("COMMIT")
    assert entries(server) == [4]


def test_settings_of_a_lost_transaction_are_taken_back(server, pooler):
    with pooler.wire(application_name="before") as wire:
        wire.query("BEGIN")
        wire.query("SET application_name = 'inside'")
        assert wire.parameters["application_name"] == "inside"
        lose(server)
        wire.query("ROLLBACK")
        assert wire.parameters["application_name"] == "before"
        assert wire.value("SHOW application_name") == "before"


def test_client_in_a_failed_transaction_holds_no_backend(server, start_pooler):
    pooler = start_pooler(server, pool_size=1)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("BEGIN")
        lose(server)
        assert only_error(one.query("SELECT 1")) == "40001"
        assert two.value("SELECT 2") == "2"
        assert only_error(one.query("SELECT 1")) == "25P02"
        one.terminate()
        assert two.value("SELECT 3") == "3"


# ---- T4

def test_session_that_is_lost_while_idle_is_told_at_once(server, start_pooler):
    pooler = start_pooler(server, pool_mode="session")
    with pooler.wire() as wire:
        wire.query("SET work_mem = '5MB'")
        lose(server)
        answer = wire.recv_all()
        assert [e["C"] for e in w.errors(answer)] == ["57P01"]
        assert w.errors(answer)[0]["V"] == "FATAL" and "session" in w.errors(answer)[0]["D"]


def test_session_that_is_lost_with_a_request_in_flight_is_unknown(server, gate, start_pooler):
    pooler = start_pooler(server, pool_mode="session")
    with pooler.wire() as wire:
        wire.value("SELECT 1")
        wire.send_raw(w.query(gated("INSERT INTO log SELECT 1 FROM @")))
        gate.terminate()
        gate.open()
        answer = wire.recv_all()
        assert [(e["V"], e["C"]) for e in w.errors(answer)] == [("FATAL", "08007")]
    assert entries(server) == []


def test_first_request_of_a_session_still_moves(server, gate, start_pooler):
    pooler = start_pooler(server, pool_mode="session")
    with pooler.wire() as wire:
        wire.send_raw(w.query(gated("INSERT INTO log SELECT 1 FROM @")))
        gate.terminate()
        gate.open()
        assert w.errors(wire.recv_until(b"Z")) == []
    assert entries(server) == [1]


# ---- COPY

def test_copy_in_that_is_lost_ends_with_one_error(server, pooler):
    with pooler.wire() as wire:
        wire.send_raw(w.query("COPY log FROM STDIN"))
        wire.recv_until(b"G")
        wire.send_raw(w.copydata(b"1\n"))
        lose(server)
        wire.send_raw(w.copydata(b"2\n") + w.copydone())
        assert only_error(wire.recv_until(b"Z")) == "08007" and wire.status == "I"
        assert wire.value("SELECT 1") == "1"
    assert entries(server) == []


def test_copy_in_inside_a_transaction_is_rolled_back_for_sure(server, pooler):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        wire.send_raw(w.query("COPY log FROM STDIN"))
        wire.recv_until(b"G")
        wire.send_raw(w.copydata(b"1\n"))
        lose(server)
        wire.send_raw(w.copydata(b"2\n") + w.copydone())
        assert only_error(wire.recv_until(b"Z")) == "40001" and wire.status == "E"
        assert w.tags(wire.query("ROLLBACK")) == ["ROLLBACK"]
    assert entries(server) == []


def test_extended_copy_in_that_is_lost_is_answered_at_its_sync(server, pooler):
    with pooler.wire() as wire:
        wire.send_raw(w.parse("COPY log FROM STDIN") + w.bind() + w.execute() + w.sync())
        wire.recv_until(b"G")
        wire.send_raw(w.copydata(b"1\n"))
        lose(server)
        wire.send_raw(w.copydata(b"2\n") + w.copydone() + w.sync())
        assert only_error(wire.recv_until(b"Z")) == "08007"
        assert wire.value("SELECT 1") == "1"
    assert entries(server) == []


# ---- R5

def test_request_moves_away_from_a_server_that_became_read_only(fresh_postgres, start_pooler):
    """Two servers, the first turns read-only: what it refuses is done by the other."""
    first, second = fresh_postgres(), fresh_postgres()
    for server in (first, second):
        server.sql("CREATE TABLE log (n int)", "GRANT ALL ON log TO PUBLIC")
    database = (f"host=127.0.0.1,127.0.0.1 port={first.port},{second.port} dbname=app"
                " target_session_attrs=read-write")
    pooler = start_pooler(databases={"app": database}, pool_size=2, server_ping_interval=0)
    with pooler.wire() as wire:
        wire.query("INSERT INTO log VALUES (1)")
        first.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        wait_until(lambda: first.sql("SHOW default_transaction_read_only", user="app")[0][0] == "on")
        assert w.errors(wire.query("INSERT INTO log VALUES (2)")) == []
    assert entries(first) == [1] and entries(second) == [2]


# ---- cancel

def test_cancelled_request_is_not_sent_again(server, gate, start_pooler):
    """The database goes away with the request; while it waits for another backend the client cancels."""
    pooler = start_pooler(server, pool_size=1)
    with pooler.wire() as wire, pooler.wire() as other:
        wire.send_raw(w.query(gated("INSERT INTO log SELECT 1 FROM @")))
        gate.waiting()
        other.send_raw(w.query("SELECT pg_sleep(0.5)"))
        gate.terminate()
        # The other one, who waited, is served first: now this request waits.
        wait_until(lambda: server.backends("query LIKE '%pg_sleep(0.5)%' AND state = 'active'"), what="the other")
        pooler.dial().cancel_request(wire.pid, wire.key)
        assert only_error(wire.recv_until(b"Z")) == "57014"
        gate.open()
        other.recv_until(b"Z")
    assert entries(server) == []


# ---- under load

def test_nothing_is_lost_or_doubled_while_backends_die(server, start_pooler):
    pooler = start_pooler(server, pool_size=4)
    server.sql("DROP TABLE IF EXISTS counters", "CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL)",
               "INSERT INTO counters SELECT g, 0 FROM generate_series(0, 7) g", "GRANT ALL ON counters TO PUBLIC")
    acknowledged, errors, is_over = [0] * 8, [], threading.Event()

    def work(number):
        with pooler.wire(timeout=30) as wire:
            while not is_over.is_set():
                sql = f"UPDATE counters SET n = n + 1 WHERE id = {number}"
                wire.send_raw(w.query(sql) if number % 2 else w.extended(sql) + w.sync())
                found = w.errors(wire.recv_until(b"Z"))
                errors.extend(found)
                acknowledged[number] += not found

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 4
    with contextlib.closing(server.connect("postgres")) as killer, killer.cursor() as cursor:
        while time.monotonic() < until:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
                           " ORDER BY random() LIMIT 1")
            is_over.wait(0.03)
    is_over.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [row[0] for row in server.sql("SELECT n FROM counters ORDER BY id")] == acknowledged


# ---- what is left of a refused request

def test_rest_of_a_refused_request_is_dropped_however_large_it_is(server, start_pooler):
    """Refused while it waited: its messages, some larger than the read buffer, go nowhere; the next request runs."""
    pooler = start_pooler(server, pool_size=1, query_wait_timeout="2s")
    with pooler.wire() as holder, pooler.wire() as wire:
        holder.query("BEGIN")
        wire.send_raw(w.parse("INSERT INTO log SELECT 1 WHERE $1::text <> ''") + w.flush())
        assert only_error([wire.recv()]) == "53300"
        wire.send_raw(w.bind(["x" * 300000]) + w.execute() + w.query("INSERT INTO log VALUES (2)") + w.sync())
        assert w.kinds(wire.recv_until(b"Z")) == "Z" and wire.status == "I"
        holder.query("COMMIT")
        assert wire.value("SELECT 1") == "1"
    assert entries(server) == []


def test_client_that_says_goodbye_behind_a_refused_request_is_let_go(server, start_pooler):
    pooler = start_pooler(server, pool_size=1, query_wait_timeout="2s")
    with pooler.wire() as holder, pooler.wire() as wire:
        holder.query("BEGIN")
        wire.send_raw(w.parse("SELECT 1"))
        assert only_error([wire.recv()]) == "53300"
        wire.send_raw(w.terminate())
        assert wire.eof()
