"""query_timeout, transaction_timeout, idle_transaction_timeout, client_idle_timeout: PostgreSQL's own SQLSTATE, the
server stops working, the backend is kept, and the client too."""
import contextlib
import time

import pytest

from harness import ServerError, wait_until
from harness import wire as w
from harness.pooler import USERS, ini_text


def only_error(answer):
    errors = w.errors(answer)
    assert len(errors) == 1, answer
    return errors[0]


def is_quiet(server):
    """Nobody runs anything or is inside a transaction."""
    return not server.backends("usename = 'app' AND state <> 'idle'")


def test_query_that_takes_too_long_is_cancelled_on_the_server(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, query_timeout="0.5s")
    with pooler.wire() as wire:
        pid = wire.backend_pid()
        began = time.monotonic()
        error = only_error(wire.query("SELECT pg_sleep(30)"))
        assert error["C"] == "57014" and "query_timeout" in error["M"] and 0.4 < time.monotonic() - began < 5
        assert wire.status == "I" and wire.backend_pid() == pid
        assert is_quiet(postgres)
    assert pooler.log_contains(r"query_timeout is over: running for 0\.\ds, .*server process")


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_many_short_queries_never_trip_the_limit_of_one(postgres, start_pooler, protocol):
    pooler = start_pooler(postgres, pool_size=1, query_timeout="0.4s")
    with pooler.wire() as wire:
        wire.query("BEGIN")
        for _ in range(12):
            sql = "SELECT pg_sleep(0.1)"
            wire.send_raw(w.query(sql) if protocol == "simple" else w.extended(sql) + w.sync())
            assert w.errors(wire.recv_until(b"Z")) == []
        wire.send_raw(w.query("SELECT pg_sleep(0.1)") * 8)
        for _ in range(8):
            assert w.errors(wire.recv_until(b"Z")) == []
        wire.query("COMMIT")


def test_wait_for_a_busy_pool_is_not_the_querys_time(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, query_timeout="0.4s")
    with pooler.wire() as one, pooler.wire() as two:
        one.query("BEGIN")
        two.send_raw(w.query("SELECT 2"))
        assert only_error(one.query("SELECT pg_sleep(30)"))["C"] == "57014"
        one.query("ROLLBACK")
        assert w.rows(two.recv_until(b"Z")) == [("2",)]


def test_query_in_a_transaction_fails_it_and_no_more(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, query_timeout="0.3s")
    with pooler.wire() as wire:
        wire.query("BEGIN")
        wire.query("SAVEPOINT s")
        assert only_error(wire.query("SELECT pg_sleep(30)"))["C"] == "57014"
        assert wire.status == "E"
        wire.query("ROLLBACK TO s")
        assert wire.value("SELECT 1") == "1"
        wire.query("COMMIT")


def test_query_behind_a_cancelled_one_runs(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, query_timeout="0.3s")
    with pooler.wire() as wire:
        wire.send_raw(w.query("SELECT pg_sleep(30)") + w.extended("SELECT 5") + w.sync())
        assert only_error(wire.recv_until(b"Z"))["C"] == "57014"
        assert w.rows(wire.recv_until(b"Z")) == [("5",)]


def test_silent_transaction_is_rolled_back_and_its_backend_serves_others(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, idle_transaction_timeout="0.4s")
    postgres.sql("DROP TABLE IF EXISTS lim", "CREATE TABLE lim (n int)", "GRANT ALL ON lim TO PUBLIC")
    with pooler.wire(application_name="leaky") as one, pooler.wire() as two:
        pid = one.backend_pid()
        one.query("BEGIN")
        one.query("INSERT INTO lim VALUES (1)")
        assert two.value("SELECT count(*) FROM lim") == "0"
        assert two.backend_pid() == pid
        error = only_error(one.query("INSERT INTO lim VALUES (2)"))
        assert error["C"] == "25P03" and "idle_transaction_timeout" in error["D"]
        assert only_error(one.query("SELECT 1"))["C"] == "25P02"
        assert w.tags(one.query("ROLLBACK")) == ["ROLLBACK"]
        assert one.value("SELECT count(*) FROM lim") == "0"
    assert pooler.log_contains(
        r'client \d+ app/app@127.0.0.1:\d+: idle_transaction_timeout is over: silent for 0\.\ds, transaction open for'
        r' .*application_name "leaky"')


def test_settings_of_a_transaction_that_a_limit_ended_are_taken_back(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, idle_transaction_timeout="0.4s")
    with pooler.wire(application_name="before") as wire:
        wire.query("BEGIN")
        wire.query("SET application_name = 'inside'")
        wait_until(lambda: is_quiet(postgres), what="rollback")
        wire.query("ROLLBACK")
        assert wire.parameters["application_name"] == "before"
        assert wire.value("SHOW application_name") == "before"


def test_work_inside_a_transaction_is_not_silence(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, idle_transaction_timeout="0.4s")
    with pooler.wire() as wire:
        wire.query("BEGIN")
        for _ in range(3):
            assert w.errors(wire.query("SELECT pg_sleep(0.6)")) == []
        assert w.tags(wire.query("COMMIT")) == ["COMMIT"]


def test_transaction_that_is_too_long_ends_while_it_is_silent(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, transaction_timeout="0.5s")
    with pooler.wire() as wire:
        wire.query("BEGIN ISOLATION LEVEL SERIALIZABLE")
        wire.value("SELECT 1")
        wait_until(lambda: is_quiet(postgres), what="rollback")
        error = only_error(wire.query("COMMIT"))
        assert error["C"] == "25P04" and wire.status == "I"
        assert wire.value("SELECT 1") == "1"


def test_transaction_that_is_too_long_ends_while_it_works(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, transaction_timeout="0.5s")
    with pooler.wire() as wire:
        wire.query("BEGIN")
        error = only_error(wire.query("SELECT pg_sleep(30)"))
        assert error["C"] == "25P04" and wire.status == "E"
        wait_until(lambda: is_quiet(postgres), what="rollback")
        assert only_error(wire.query("SELECT 1"))["C"] == "25P02"
        assert w.tags(wire.query("ROLLBACK")) == ["ROLLBACK"]
        # One statement is a transaction too.
        assert only_error(wire.query("SELECT pg_sleep(30)"))["C"] == "25P04"
        assert wire.status == "I" and wire.value("SELECT 1") == "1"


def test_many_short_transactions_never_trip_the_limit_of_one(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, transaction_timeout="0.4s", pool_mode="session")
    with pooler.wire() as wire:
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            wire.query("BEGIN")
            assert w.errors(wire.query("SELECT pg_sleep(0.1)")) == []
            wire.query("COMMIT")


def test_silent_client_is_told_and_closed(postgres, start_pooler):
    for mode in ("transaction", "session"):
        pooler = start_pooler(postgres, client_idle_timeout="0.4s", pool_mode=mode)
        with pooler.wire() as wire:
            assert wire.value("SELECT 1") == "1"
            error = only_error(wire.recv_all())
            assert (error["V"], error["C"]) == ("FATAL", "57P05"), mode


def test_session_that_is_silent_in_a_transaction_is_closed(postgres, start_pooler):
    pooler = start_pooler(postgres, idle_transaction_timeout="0.4s", pool_mode="session", pool_size=1)
    with pooler.wire() as one:
        one.query("BEGIN")
        error = only_error(one.recv_all())
        assert (error["V"], error["C"]) == ("FATAL", "25P03")
    with pooler.wire() as two:
        assert two.value("SELECT 1") == "1"


def test_limit_of_a_user_wins(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app"
    ini = (f"[databases]\napp = {entry}\n[users]\nann = query_timeout=0.3s\n[pgkeel]\nlisten_port = @port@\n"
           "unix_socket_dir = @dir@\nauth_file = @userlist@\nauth_type = scram-sha-256\nquery_timeout = 0\n")
    pooler = start_pooler(ini=ini)
    with pooler.wire("ann") as ann, pooler.wire("bob") as bob:
        assert w.errors(bob.query("SELECT pg_sleep(0.8)")) == []
        assert only_error(ann.query("SELECT pg_sleep(30)"))["C"] == "57014"


def test_limits_changed_by_reload_hold_for_the_next_lease(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire() as wire:
        assert w.errors(wire.query("SELECT pg_sleep(0.5)")) == []
        pooler.ini_path.write_text(pooler.ini_path.read_text() + "query_timeout = 0.3s\n")
        pooler.reload()
        pooler.wait_for_log("reload")
        assert only_error(wire.query("SELECT pg_sleep(30)"))["C"] == "57014"


# ---- how many clients

def refusal(pooler, user, db="app"):
    with pytest.raises(ServerError) as info:
        pooler.wire(user, db).close()
    return info.value


def test_clients_of_a_database_are_limited(postgres, start_pooler):
    databases = {"app": f"host=127.0.0.1 port={postgres.port} dbname=app max_db_client_connections=3",
                 "free": f"host=127.0.0.1 port={postgres.port} dbname=app"}
    pooler = start_pooler(postgres, databases, pool_size=1, workers=2, admin_users="app")
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(pooler.wire(user)) for user in ("ann", "app", "app")]
        error = refusal(pooler, "bob")
        assert error.sqlstate == "53300" and "max_db_client_connections" in str(error)
        with pooler.wire("bob", "free") as wire:
            assert wire.value("SELECT 1") == "1"
        pooler.admin("SHOW CLIENTS")
        wires[0].close()
        wait_until(lambda: len([row for row in pooler.admin("SHOW CLIENTS") if row["database"] == "app"]) == 2, what="the end of one")
        stack.enter_context(pooler.wire("bob"))
        assert refusal(pooler, "ann").sqlstate == "53300"


def test_clients_of_a_user_are_limited(postgres, start_pooler):
    text = ini_text({"app": f"host=127.0.0.1 port={postgres.port} dbname=app", "other": f"host=127.0.0.1 port={postgres.port} dbname=app"},
                    {"listen_addr": "127.0.0.1", "listen_port": "@port@", "unix_socket_dir": "@dir@", "auth_file": "@userlist@",
                     "auth_type": "scram-sha-256", "max_user_client_connections": 2, "pool_mode": "transaction"})
    pooler = start_pooler(ini=text + "\n[users]\nann = max_user_client_connections=1\n", users=USERS)
    with pooler.wire("app"), pooler.wire("app", "other"), pooler.wire("ann"):
        for user in ("app", "ann"):
            error = refusal(pooler, user)
            assert error.sqlstate == "53300" and "max_user_client_connections" in str(error)
        with pytest.raises(ServerError) as info:  # only who has proved who he is learns of it
            pooler.wire("app", password="wrong").close()
        assert info.value.sqlstate == "28P01"
        with pooler.wire("bob") as wire:
            assert wire.value("SELECT 1") == "1"
