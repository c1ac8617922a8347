"""The console as those who were made for PgBouncer find it: its own columns and types, exporters, psql, drivers."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

import psycopg
import psycopg2
import pytest

from harness import free_port, password_of, wait_until
from harness.pooler import ROOT
from test_console import COLUMNS

PGBOUNCER = "/usr/sbin/pgbouncer"

# Columns that newer releases call by another name.
RENAMED = {"reserve_pool": "reserve_pool_size"}
SHOWS = ("ACTIVE_SOCKETS", "CLIENTS", "CONFIG", "DATABASES", "DNS_HOSTS", "DNS_ZONES", "FDS", "LISTS", "MEM", "POOLS",
         "SERVERS", "SOCKETS", "STATS", "STATS_AVERAGES", "STATS_TOTALS", "TOTALS", "USERS", "VERSION")
OURS = ("worker", "pinned", "pinned_s", "origin")


@pytest.fixture(scope="module")
def pgbouncer():
    """A connection to the console of the real one."""
    if not os.path.exists(PGBOUNCER):
        pytest.skip("no pgbouncer here")
    directory, port = pathlib.Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp")), free_port()
    (directory / "ini").write_text(
        "[databases]\napp = host=127.0.0.1 port=1\n[pgbouncer]\nlisten_addr = 127.0.0.1\nunix_socket_dir =\n"
        f"listen_port = {port}\nauth_type = any\nadmin_users = app\n")
    directory.chmod(0o755)
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    process = subprocess.Popen([*user, PGBOUNCER, str(directory / "ini")], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def connect():
        with contextlib.suppress(psycopg2.OperationalError):
            return psycopg2.connect(host="127.0.0.1", port=port, user="app", dbname="pgbouncer")
        return None

    connection = wait_until(connect, 10, "a pgbouncer")
    connection.autocommit = True
    yield connection
    connection.close()
    process.terminate()
    process.wait(10)
    shutil.rmtree(directory)


def columns(connection, show):
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {show}")
        return [(column.name, column.type_code) for column in cursor.description]


@pytest.fixture
def plain(pooler):
    """The console under PgBouncer's name."""
    with contextlib.closing(pooler.connect(db="pgbouncer", autocommit=True)) as connection:
        yield connection


def test_columns_and_types_are_those_of_the_real_pgbouncer(pgbouncer, plain):
    for show in SHOWS:
        theirs = [(RENAMED.get(name, name), kind) for name, kind in columns(pgbouncer, show)]
        ours = columns(plain, show)
        assert [column for column in ours if column in theirs] == theirs, show
        # What newer ones have more stands between; nothing of ours does.
        assert not {name for name, _ in ours} & set(OURS), show
    with pgbouncer.cursor() as one, plain.cursor() as other:
        for show in ("LISTS", "TOTALS"):
            one.execute(f"SHOW {show}")
            other.execute(f"SHOW {show}")
            theirs = [row[0] for row in one.fetchall()]
            assert [row[0] for row in other.fetchall() if row[0] in theirs] == theirs, show


def test_under_pgbouncers_name_there_are_its_columns_and_no_others(pooler, plain):
    with psycopg.connect(pooler.url(db="pgbouncer"), autocommit=True) as connection:
        for show, names in COLUMNS.items():
            expected = [name for name in names.split() if name not in OURS or show == "LISTENERS"]
            assert [name for name, _ in columns(plain, show)] == expected, show
            for binary in (False, True):
                cursor = connection.execute(f"SHOW {show}", prepare=True, binary=binary)
                assert [column.name for column in cursor.description] == expected
                assert all(len(row) == len(expected) for row in cursor.fetchall())


# What prometheus-community/pgbouncer_exporter makes metrics of, by their columns.
EXPORTED = {
    "databases": ("name host port database force_user pool_mode", "pool_size max_connections current_connections paused"
                  " disabled"),
    "stats_totals": ("database", "query_count query_time bytes_received bytes_sent wait_time xact_count xact_time"
                     " client_parse_count server_parse_count bind_count"),
    "pools": ("database user", "cl_active cl_active_cancel_req cl_waiting cl_waiting_cancel_req sv_active"
              " sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait"),
}
LISTS = ("databases users pools free_clients used_clients login_clients free_servers used_servers dns_names dns_zones"
         " dns_queries").split()


def test_prometheus_exporter_finds_what_it_maps(pooler, plain):
    with pooler.wire() as client, plain.cursor() as cursor:
        client.query("SELECT 1")
        cursor.execute("SHOW STATS")  # its ping
        for show, (labels, numbers) in EXPORTED.items():
            cursor.execute(f"SHOW {show};")
            names = [column.name for column in cursor.description]
            assert set(labels.split()) | set(numbers.split()) <= set(names)
            rows = [dict(zip(names, row)) for row in cursor.fetchall()]
            assert rows
            for row in rows:
                assert all(float(row[name]) >= 0 for name in numbers.split())
                assert all(row[name] is None or isinstance(row[name], (str, int)) for name in labels.split())
        cursor.execute("SHOW LISTS;")
        rows = cursor.fetchall()
        assert all(len(row) == 2 and float(row[1]) >= 0 for row in rows) and set(LISTS) <= {row[0] for row in rows}
        cursor.execute("SHOW CONFIG;")  # it counts: with neither 3 nor 4 columns it gives up
        config = {key: value for key, value, _, _ in cursor.fetchall()}
        assert float(config["max_client_conn"]) >= 0 and float(config["max_user_connections"]) >= 0
        cursor.execute("SHOW VERSION;")
        assert [column.name for column in cursor.description] == ["version"] and len(cursor.fetchall()) == 1


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")
def test_psql_runs_a_maintenance(pooler):
    def psql(*commands):
        ended = subprocess.run(
            ["psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", pooler.url(db="pgbouncer"),
             *[word for command in commands for word in ("-c", command)]],
            capture_output=True, text=True, timeout=20, check=False)
        return ended.returncode, ended.stdout, ended.stderr

    with pooler.wire() as client:
        client.query("SELECT 1")
        status, out, err = psql("PAUSE;", "SHOW STATE", "SHOW SERVERS", "RESUME", "RELOAD;", "SHOW HELP", "\\conninfo")
        assert status == 0, err
        assert out.splitlines()[:6] == ["PAUSE", "active|no", "paused|yes", "suspended|no", "RESUME", "RELOAD"]
        assert "KILL_CLIENT <id>" in err
        assert client.value("SELECT 1") == "1"
    status, _, err = psql("PAUSE nowhere")
    assert status != 0 and "no such database: nowhere" in err


def test_commands_work_in_the_extended_protocol_of_psycopg(pooler):
    with psycopg.connect(pooler.url(db="pgkeel"), autocommit=True) as connection:
        for sql in ("PAUSE app", "RESUME app", "SET query_timeout = 4", "RECONNECT", "WAIT_CLOSE", "DISABLE app",
                    "ENABLE app", "KILL app", "RESUME app", "SUSPEND", "RESUME"):
            assert connection.execute(sql, prepare=True).statusmessage == sql.split()[0]
        with pytest.raises(psycopg.errors.InvalidCatalogName):
            connection.execute("PAUSE nowhere", prepare=True)
        with connection.transaction():  # BEGIN and COMMIT mean nothing here, but are not refused
            assert connection.execute("SHOW STATE").fetchall()


@pytest.mark.parametrize("mode", ["extended", "simple"])
def test_pgjdbc_looks_and_commands(pooler, tmp_path_factory, mode):
    jar = "/usr/share/java/postgresql.jar"
    if shutil.which("javac") is None or not os.path.exists(jar):
        pytest.skip("no javac, or no libpostgresql-jdbc-java")
    classes = tmp_path_factory.getbasetemp() / "console-java"
    if not classes.exists():
        subprocess.run(["javac", "-cp", jar, "-d", str(classes), str(ROOT / "tests/drivers/Console.java")], check=True)
    with pooler.wire() as client:
        client.query("SELECT 1")
        ended = subprocess.run(
            ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{jar}:{classes}", "Console",
             str(pooler.port), "app", password_of("app"), mode],
            capture_output=True, text=True, timeout=50, check=False)
    count = {name: len([c for c in COLUMNS[name].split() if c not in OURS]) for name in COLUMNS}
    assert ended.stdout.splitlines() == [
        *[f"{name} {count[name]} true" for name in ("POOLS", "STATS", "LISTS", "DATABASES", "CONFIG", "CLIENTS")],
        "queries 1 true", "PAUSE app false", "RESUME app false", "SET query_timeout = 7 false", "RELOAD false", "3D000",
        "true"], ended.stderr
