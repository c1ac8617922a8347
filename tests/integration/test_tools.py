"""PostgreSQL's own programs, directly and through a pool of two: psql, pgbench, pg_dump, pg_restore."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

import psycopg2
import pytest

from harness import password_of, wait_until
from harness.postgres import bindir

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "drivers" / "contract.psql"

OBJECTS = """
CREATE SCHEMA "Dumped one";
SET search_path TO "Dumped one";
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN small AS int CHECK (VALUE < 1000000);
CREATE FUNCTION doubled(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1 * 2; END $$;
CREATE TABLE parent (id small PRIMARY KEY, feeling mood, text text, twice int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO parent SELECT n, CASE WHEN n % 2 = 0 THEN 'good' ELSE 'bad' END::mood, repeat(E'\\\\\t', n % 20)
    FROM generate_series(1, 5000) n;
CREATE INDEX ON parent (doubled(id));
CREATE TABLE child (id serial, parent int REFERENCES parent, at timestamptz DEFAULT now()) PARTITION BY RANGE (id);
CREATE TABLE child_1 PARTITION OF child FOR VALUES FROM (1) TO (100);
INSERT INTO child (parent, at) SELECT n, '2020-02-20' FROM generate_series(1, 50) n;
CREATE VIEW feelings AS SELECT feeling, count(*) FROM parent GROUP BY 1;
CREATE MATERIALIZED VIEW kept AS SELECT * FROM feelings;
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER noted BEFORE INSERT ON parent FOR EACH ROW EXECUTE FUNCTION noted();
COMMENT ON TABLE parent IS 'has a ''comment''';
SELECT lo_from_bytea(4711, 'large');
"""

DATABASES = ("dumped", "restored", "restored_too")


def program(name):
    """The one that belongs to the server; others may be older."""
    own = f"{bindir()}/{name}"
    return own if os.access(own, os.X_OK) else shutil.which(name) or pytest.skip(f"no {name}")


def environment(port, database="app"):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PSQL"))}
    return {**kept, "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "app", "PGPASSWORD": password_of("app"),
            "PGDATABASE": database, "PGCONNECT_TIMEOUT": "10", "LC_ALL": "C.UTF-8", "PAGER": "cat"}


def run(port, name, *args, database="app", stdin="", status=0):
    """Its output, errors included, after an end with this status."""
    ended = subprocess.run([program(name), *args], env=environment(port, database), input=stdin, text=True, timeout=40,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert ended.returncode == status, ended.stdout[-3000:]
    return ended.stdout


@pytest.fixture
def pool(postgres, start_pooler):
    return start_pooler(postgres, {"*": f"host=127.0.0.1 port={postgres.port}"}, pool_mode="transaction", pool_size=2)


@pytest.fixture
def databases(postgres):
    """A database with something to dump, and empty ones."""
    drops = [f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in DATABASES]
    postgres.sql(*drops, *[f"CREATE DATABASE {name} OWNER app TEMPLATE template0" for name in DATABASES], db="postgres")
    postgres.sql(OBJECTS, db="dumped", user="app")
    yield
    postgres.sql(*drops, db="postgres")


# ---- psql

def shown(port):
    output = run(port, "psql", "-X", "-a", "-f", str(SCRIPT))
    output = re.sub(r"(PID|psql:[^ ]*/contract\.psql:\d+:|at port) ?\"?\d*\"?", r"\1", output)
    return re.sub(r"pg_temp_\d+", "pg_temp", re.sub(r"\b\d+ (bytes|kB)\b", "size", output)).splitlines()


def test_psql_shows_the_same(postgres, pool):
    directly, through = shown(postgres.port), shown(pool.port)
    assert through == directly
    text = "\n".join(directly)
    for proof in ("has a comment", "FOREIGN KEY (id) REFERENCES parent(id)", "P1DT2H", "told", "22012", "25P02", "23505", "42601",
                  "23514", "large", "2022-01-01", 'relation "own" does not exist', "label  | text"):
        assert proof in text, f"the script does not show {proof!r}"


def test_psql_binds_values(postgres, pool):
    version = re.search(r"\d+", run(postgres.port, "psql", "--version")).group()
    if int(version) < 16:
        pytest.skip(f"psql {version} has no \\bind")
    said = [run(port, "psql", "-X", "-A", "-t", stdin="SELECT $1::int + $2::int \\bind 1 2 \\g\nSELECT 1 / $1::int \\bind 0 \\g\n")
            for port in (postgres.port, pool.port)]
    assert said[0] == said[1] and said[0].startswith("3\n") and "division by zero" in said[0]


def test_psql_cancels_by_ctrl_c_and_goes_on(postgres, pool):
    sleep = "SELECT pg_sleep(30), 'interrupted'"
    for port in (postgres.port, pool.port):
        process = subprocess.Popen(
            [program("psql"), "-X", "-c", sleep, "-c", r"\echo :LAST_ERROR_SQLSTATE", "-c", r"SELECT 'goes on' AS words \gset",
             "-c", r"\echo :words"],
            env=environment(port), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: postgres.backends("state = 'active' AND query LIKE '%interrupted%'"), what="the query")
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=20)[0]
        finally:
            process.kill()
        assert "canceling statement due to user request" in output
        assert "57014" in output and "goes on" in output and process.returncode == 0
        assert postgres.backends("state = 'active'") == []


# ---- pgbench

@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_moves_money_without_losing_any(postgres, pool, tmp_path, mode):
    run(pool.port, "pgbench", "-i", "-I", "dtGp", "-q")
    script = tmp_path / "pipelined"
    script.write_text("\\set n random(1, 1000)\n\\startpipeline\nSELECT :n;\nSELECT :n + 1;\n\\endpipeline\n"
                      if mode != "simple" else "\\set n random(1, 1000)\nSELECT :n \\; SELECT :n + 1;\n")
    for port in (postgres.port, pool.port):
        # A thread each: pgbench waits in PQprepare(), and its thread's other clients would wait with it in transactions.
        for more in (("-b", "tpcb-like"), ("-b", "select-only"), ("-f", str(script))):
            output = run(port, "pgbench", "-n", "-M", mode, "-c", "4", "-j", "4", "-t", "30", *more)
            assert "actually processed: 120/120" in output and "ERROR" not in output
    found = postgres.sql("SELECT (SELECT count(*) FROM pgbench_history), (SELECT sum(delta) FROM pgbench_history),"
                         " (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches)")
    count, *sums = found[0]
    assert count == 240 and len(set(sums)) == 1
    assert len(postgres.backends("usename = 'app'")) <= 2


# ---- pg_dump and pg_restore

def dump(port, database):
    """The text, without the lines that are random (\\restrict)."""
    lines = run(port, "pg_dump", database=database).splitlines()
    return [line for line in lines if not line.startswith(("\\restrict", "\\unrestrict"))]


def search_paths(pool, database):
    """Of two clients at a time, so that both backends are asked."""
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = psycopg2.connect(pool.url(db=database))
            cursor = stack.enter_context(contextlib.closing(connection)).cursor()
            cursor.execute("SHOW search_path")
            yield cursor.fetchone()[0]


def test_dump_is_the_same_and_is_restored_by_psql_through_the_pool(postgres, pool, databases):
    through = dump(pool.port, "dumped")
    assert through == dump(postgres.port, "dumped") and len(through) > 5000
    text = run(pool.port, "pg_dump", database="dumped")
    run(pool.port, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database="restored", stdin=text)
    assert dump(postgres.port, "restored") == through
    for database in ("dumped", "restored"):
        assert list(search_paths(pool, database)) == ['"$user", public'] * 2


def test_archive_is_restored_by_pg_restore_through_the_pool(postgres, pool, databases, tmp_path):
    archive = str(tmp_path / "archive")
    run(pool.port, "pg_dump", "-Fc", "-f", archive, database="dumped")
    expected = dump(postgres.port, "dumped")
    run(pool.port, "pg_restore", "-e", "-d", "restored", archive)
    run(pool.port, "pg_restore", "-e", "-1", "-d", "restored_too", archive)
    for database in ("restored", "restored_too"):
        assert dump(postgres.port, database) == expected
        assert list(search_paths(pool, database)) == ['"$user", public'] * 2
    # Once more, over what is there already.
    run(pool.port, "pg_restore", "-e", "-c", "-d", "restored", archive)
    assert dump(postgres.port, "restored") == expected
