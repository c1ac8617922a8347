"""Replication connections: each passes through to a connection of its own, whatever the pool does."""
import os
import pathlib
import re
import signal
import subprocess

import psycopg2
import pytest

from harness import password_of, wait_until
from harness import wire as w
from harness.postgres import bindir

CONF = "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10\nsynchronous_commit = on\n"
HBA = "host replication all all scram-sha-256\n"


@pytest.fixture
def server(fresh_postgres):
    server = fresh_postgres(CONF, HBA)
    server.sql("ALTER ROLE app REPLICATION")
    return server


@pytest.fixture
def pool(server, start_pooler):
    """Of one backend, so that whatever used it would be in the way."""
    return start_pooler(server, default_pool_size="1")


def tool(name, port, *args, check=True, **kw):
    command = [f"{bindir()}/{name}", "-h", "127.0.0.1", "-p", str(port), "-U", "app", "-w", *args]
    ended = subprocess.run(command, env={**os.environ, "PGPASSWORD": password_of("app")}, capture_output=True, text=True, timeout=60,
                           check=False, **kw)
    assert not check or ended.returncode == 0, ended.stderr
    return ended


def make_slot(port, name):
    return tool("pg_recvlogical", port, "-d", "app", "--slot", name, "--create-slot", "-P", "test_decoding", check=False)


def test_pg_recvlogical_streams_changes(pool, server, tmp_path):
    assert make_slot(pool.port, "s").returncode == 0
    server.sql("CREATE TABLE t (a int, b text)", "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 3000) n")
    end = server.sql("SELECT pg_current_wal_lsn()")[0][0]
    out = tmp_path / "out"
    tool("pg_recvlogical", pool.port, "-d", "app", "--slot", "s", "--start", "--endpos", end, "-f", str(out))
    text = out.read_text(encoding="utf-8")
    assert len(re.findall(r"table public.t: INSERT: a\[integer\]:\d+ b\[text\]:'x{1000}'", text)) == 3000
    assert text.rstrip().splitlines()[-1].startswith("COMMIT")


def test_pg_basebackup_copies_the_server(pool, server, tmp_path):
    """It names the database "replication", which nobody configures."""
    server.sql("CREATE TABLE t AS SELECT n, repeat('y', 500) FROM generate_series(1, 20000) n")
    copy = pathlib.Path(tmp_path) / "copy"
    tool("pg_basebackup", pool.port, "-D", str(copy), "-X", "stream", "-c", "fast", "--no-slot")
    subprocess.run([f"{bindir()}/pg_verifybackup", str(copy)], check=True, capture_output=True, timeout=60)


def test_missing_slot_is_told_verbatim_and_logged(pool, server):
    def start(port):
        return tool("pg_recvlogical", port, "-d", "app", "--slot", "nowhere", "--start", "-f", "-", "--no-loop", check=False).stderr
    directly, through = start(server.port), start(pool.port)
    assert 'replication slot "nowhere" does not exist' in directly
    assert through == directly
    pool.wait_for_log(r'app/app@.*replication: ERROR 42704: replication slot "nowhere" does not exist')


def test_replication_needs_no_backend_of_the_pool(pool, server):
    with pool.wire() as busy, pool.wire(replication="database", application_name="cdc") as wire:
        busy.query("BEGIN")
        for _ in range(3):
            assert w.kinds(wire.query("IDENTIFY_SYSTEM")) == "TDCZ"
        assert wire.value("SHOW application_name") == "cdc"
        kinds = {row["replication"]: row["state"] for row in pool.admin("SHOW CLIENTS") if row["user"] == "app"}
        assert kinds == {"none": "active", "logical": "active"}
        with pool.wire(replication="true", db="replication") as physical:
            assert w.kinds(physical.query("IDENTIFY_SYSTEM")) == "TDCZ"
            assert "physical" in [row["replication"] for row in pool.admin("SHOW CLIENTS")]
        busy.query("COMMIT")
    wait_until(lambda: len(server.backends("backend_type = 'walsender'")) == 0, what="end of the walsenders")


@pytest.mark.parametrize("mode", ["session", "statement"])
def test_replication_works_in_every_pool_mode(server, start_pooler, mode):
    with start_pooler(server, pool_mode=mode).wire(replication="database") as wire:
        assert w.kinds(wire.query("IDENTIFY_SYSTEM")) == "TDCZ"


@pytest.mark.parametrize("value", ["false", "off", "0", "no"])
def test_value_that_means_no_is_an_ordinary_session(pool, value):
    with pool.wire(replication=value) as wire:
        assert wire.value("SELECT 1") == "1"
        assert w.errors(wire.query("IDENTIFY_SYSTEM"))[0]["C"] == "42601"


def test_settings_of_the_client_reach_its_connection(pool):
    with pool.wire(replication="database", options="-c statement_timeout=71s", search_path='"a b", "c\\d"') as wire:
        assert wire.value("SHOW statement_timeout") == "71s"
        assert wire.value("SHOW search_path") == '"a b", "c\\d"'


def test_refusals_of_postgres_reach_the_client(pool, server):
    server.sql("ALTER ROLE app NOREPLICATION")
    for params in ({"replication": "database"}, {"replication": "true"}, {"replication": "maybe"}):
        found = []
        for port in (server.port, pool.port):
            with w.Wire("127.0.0.1", port) as wire:
                with pytest.raises(w.ServerError) as raised:
                    wire.startup("app", "app", **params).login()
                found.append((raised.value.fields["C"], raised.value.fields["S"], raised.value.fields["M"]))
        assert found[0] == found[1]


def test_unknown_database_is_refused(pool):
    with w.Wire("127.0.0.1", pool.port) as wire, pytest.raises(w.ServerError) as raised:
        wire.startup("app", "nowhere", replication="database").login()
    assert raised.value.fields["C"] == "3D000"


def test_end_of_the_server_process_is_told_once(pool, server):
    with pool.wire(replication="database") as wire:
        pid = wire.value("SELECT pg_backend_pid()")
        server.sql(f"SELECT pg_terminate_backend({pid})")
        kind, body = wire.recv()
        assert (kind, w.error_fields(body)["C"]) == (b"E", "57P01")
        assert wire.eof()


def test_killed_server_process_is_told(pool, server):
    with pool.wire(replication="database") as wire:
        os.kill(int(wire.value("SELECT pg_backend_pid()")), signal.SIGKILL)
        kind, body = wire.recv()
        assert (kind, w.error_fields(body)["C"]) == (b"E", "08006")
        assert wire.eof()


@pytest.mark.parametrize("how", ["close", "reset", "terminate"])
def test_client_that_leaves_frees_its_server_process(pool, server, how):
    wire = pool.wire(replication="database")
    assert len(server.backends("backend_type = 'walsender'") or server.sql("SELECT 1 FROM pg_stat_replication UNION ALL SELECT 1"))
    pid = wire.value("SELECT pg_backend_pid()")
    getattr(wire, how)()
    wait_until(lambda: not server.sql(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"), what="end of the server process")


def test_cancel_reaches_the_query_of_a_replication_connection(pool, server):
    connection = psycopg2.connect(host="127.0.0.1", port=pool.port, user="app", password=password_of("app"), dbname="app",
                                  options="", replication="database")
    connection.autocommit = True
    cursor = connection.cursor()
    import threading
    canceller = threading.Thread(target=lambda: (
        wait_until(lambda: server.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND backend_type = 'walsender'")),
        connection.cancel()))
    canceller.start()
    with pytest.raises(psycopg2.errors.QueryCanceled):
        cursor.execute("SELECT pg_sleep(30)")
    canceller.join()
    connection.close()


def test_shutdown_does_not_wait_for_replication(pool):
    with pool.wire(replication="database") as wire:
        pool.stop(timeout=5)
        kind, body = wire.recv()
        assert (kind, w.error_fields(body)["C"]) == (b"E", "57P01")


def test_much_data_to_a_client_that_reads_slowly_is_whole(pool, server):
    with pool.wire(replication="database", timeout=30) as wire:
        wire.send_raw(w.query("SELECT n, repeat('z', 9000) FROM generate_series(1, 3000) n"))
        pool.wait_for_log("logical replication")
        messages = wire.recv_until(b"Z", timeout=30)
        assert [int(row[0]) for row in w.rows(messages)] == list(range(1, 3001))
        assert all(row[1] == "z" * 9000 for row in w.rows(messages))
