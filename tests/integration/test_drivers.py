"""Drivers as they are: one contract for all, by a program each (tests/drivers/contract*), directly and through a pool of two.

A program prints a line `step result` for each step. Every step is a test: a direct connection gives what the table
says, and the pool gives the same, except where two results stand there. A driver that is not installed is skipped.
"""
import contextlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

import psycopg2
import pytest

from harness import Pooler, password_of, wait_until
from harness.pooler import USERS, ini_text

PROGRAMS = pathlib.Path(__file__).resolve().parents[1] / "drivers"
PATIENCE = 40

pytestmark = pytest.mark.timeout(150)  # the first test of a driver builds its program and runs it twice


# ---- how a program comes to run: its command and environment

def python(module, program):
    def build(_):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no module {module}")
        return [sys.executable, str(PROGRAMS / program)], {}
    return build


def interpreter(program, *question):
    """For a language whose interpreter, the system's own, can be asked whether the package is there."""
    def build(_):
        if not os.path.exists(question[0]) or subprocess.run(question, capture_output=True, check=False).returncode:
            pytest.skip(f"not here: {' '.join(question)}")
        return [question[0], str(PROGRAMS / program)], {}
    return build


def node(program):
    def build(tmp):
        if shutil.which("node") is None or shutil.which("npm") is None:
            pytest.skip("no node or no npm")
        place = tmp / "node"
        if not place.exists():
            place.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(PROGRAMS / name, place)
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"],
                               cwd=place, capture_output=True, timeout=30, check=False)
        if not (place / "node_modules" / "postgres").exists():
            pytest.skip("npm cannot install the packages")
        return ["node", str(PROGRAMS / program)], {"NODE_PATH": str(place / "node_modules")}
    return build


def java(program):
    def build(tmp):
        jar = "/usr/share/java/postgresql.jar"
        if shutil.which("javac") is None or not os.path.exists(jar):
            pytest.skip("no javac, or no libpostgresql-jdbc-java")
        classes = tmp / "java"
        if not classes.exists():
            subprocess.run(["javac", "-cp", jar, "-d", str(classes), str(PROGRAMS / f"{program}.java")], check=True)
        # What a short run gains most from.
        return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{jar}:{classes}", program], {}
    return build


def golang(package, program):
    def build(tmp):
        if shutil.which("go") is None or not os.path.exists(f"/usr/share/gocode/src/{package}"):
            pytest.skip(f"no go, or no Debian package of {package}")
        binary = tmp / pathlib.Path(program).stem
        if not binary.exists():
            # Only what Debian has: no module is fetched.
            env = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "", "CGO_ENABLED": "0"}
            subprocess.run(["go", "build", "-o", str(binary), str(PROGRAMS / program)], check=True, env=env)
        return [str(binary)], {}
    return build


# ---- what it prints

BIG = "20000 200010000 2000000"

# What every driver is asked for. A pair: the result of a direct connection, and that through the pool.
CONTRACT = {
    "commit": "1",
    "rollback": "0",
    "values": "0 3 6 9 12",
    "moves": ("0", "4"),  # the same statement five times, each time on the other backend
    "prepared": "1",  # how many statements of that text the backend has
    "big": BIG,
    "copy": "1000 true",
    "copy_error": "22P02 1000",
    "error": "22012 1",
    "error_in_transaction": "22012 25P02 1",
    "cancel": "57014 1",
    "notify": "contract told",
    "status": "0",
}

# Columns of SELECT * twice before and twice after a column was added. A direct connection refuses its outdated plan for
# ever; pgkeel prepares anew for a client that asks for the columns each time.
OUTDATED = ("2 2 0A000 0A000", "2 2 3 3")

# For drivers that see to it themselves; also when the next backend never ran the statement before: how many columns there
# are once one was added, and the value once it has another type.
HEALED = {"changed": "2 2 3 3", "widened_elsewhere": "3 4 4", "retyped_elsewhere": "1 1 1"}


@dataclass
class Driver:
    """`build` makes the program; `steps` is what it has beyond the contract, or otherwise, or (None) not at all."""

    build: object
    steps: dict = field(default_factory=dict)

    def table(self):
        return {step: result for step, result in {**CONTRACT, **self.steps}.items() if result is not None}


DRIVERS = {
    "psycopg2": Driver(python("psycopg2", "contract_psycopg2.py"), {
        "prepared": "0", "sql_prepare": "5 10 42P05 26000", "cursor": BIG}),
    "psycopg": Driver(python("psycopg", "contract_psycopg.py"), {
        "savepoint": "1 4", "big_binary": BIG, "big_stream": BIG, "cursor": BIG, "pipeline_error": "22012 IDLE 1",
        "pipeline": "0 3 6 9 12 3 6 9 12 15 6 9 12 15 18", "changed": ("2 2 2 0A000 0A000", "2 2 2 3 3"),
        "newcomer": "3"}),
    "asyncpg": Driver(python("asyncpg", "contract_asyncpg.py"), {
        "savepoint": "1 4", "statement": "a! 1 b! 2 c! 3 numeric", "reset": '"$user", public 0', "own_pool": "1 2 3 4",
        "cursor": BIG, "many": "500", "cancel": "cancelled 1 0", **HEALED, "changed": "2 2 2 3 3"}),
    "node-postgres": Driver(node("contract_node_postgres.js"), {
        "own_pool": " ".join(str(3 * n) for n in range(30)), "cursor": BIG, "changed": OUTDATED}),
    "postgres.js": Driver(node("contract_postgres_js.js"), {
        "savepoint": "1 4", "pipeline": "1225", "pipeline_error": "6 22012 3 1", "cursor": BIG, "copy_error": None,
        **HEALED}),
    "pgjdbc": Driver(java("Contract"), {
        "savepoint": "1 5", "many": "500", "cursor": BIG, "metadata": "id:int4 text:text 3 2 public", **HEALED,
        "widened_elsewhere": "3 3 4 4", "retyped_elsewhere": "1 1 1 1"}),
    "dbd-pg": Driver(interpreter("contract_dbd_pg.pl", "/usr/bin/perl", "-MDBD::Pg", "-e1"), {
        "savepoint": "1 4", "changed": ("2 2 2 0A000 0A000", "2 2 2 2 2"), "widened": "2 2 2 0A000 0A000"}),
    "ruby-pg": Driver(interpreter("contract_ruby_pg.rb", "/usr/bin/ruby", "-rpg", "-e1"), {
        "described": "2 42P05 26000", "pipeline": "0 3 6 9 12", "big_stream": BIG, "changed": OUTDATED,
        "pipeline_error": "PGRES_TUPLES_OK PGRES_FATAL_ERROR PGRES_PIPELINE_ABORTED 1"}),
    "pdo": Driver(interpreter("contract_pdo.php", "/usr/bin/php", "-r", "exit((int) !extension_loaded('pdo_pgsql'));"), {
        "changed": ("2 2 0A000 0A000", "2 2 2 2"), "widened": "2 2 0A000 0A000"}),
    "lib-pq": Driver(golang("github.com/lib/pq", "contract_lib_pq.go"), {
        "unnamed": "0 5 10 15 20", "unnamed_moves": ("0", "4"), "copy": "1000 500500", "cancel": "57014 0",
        "changed": "2 2 0A000 0A000", "widened_elsewhere": "3 0A000 0A000", "retyped_elsewhere": "1 0A000 0A000"}),
    "pgx": Driver(golang("github.com/jackc/pgx", "contract_pgx.go"), {
        "savepoint": "22012 14", "batch": "0 3 6 9 12", "batch_error": "00000 22012 22012 1",
        "changed": "2 2 0A000 3", "widened_elsewhere": "3 0A000 4", "retyped_elsewhere": "1 0A000 1"}),
}


def variant(name, of, **steps):
    DRIVERS[name] = Driver(DRIVERS[of].build, {**DRIVERS[of].steps, **steps})


variant("asyncpg-uncached", "asyncpg", prepared="0")
variant("postgres.js-unprepared", "postgres.js", prepared="0")
# It goes back to a savepoint in front of what failed.
variant("pgjdbc-autosave", "pgjdbc", error_in_transaction="22012 00000 1")
variant("pgjdbc-simple", "pgjdbc", prepared="0")
variant("dbd-pg-unprepared", "dbd-pg", prepared="0", changed="2 2 2 2 2", widened=None)
variant("pdo-emulated", "pdo", prepared="0", changed="2 2 2 2", widened=None)
variant("pdo-unprepared", "pdo", prepared="0", changed="2 2 2 2", widened=None)
variant("lib-pq-binary", "lib-pq")
variant("pgx-uncached", "pgx", prepared="0", **HEALED)
variant("pgx-simple", "pgx", prepared="0", **HEALED)
# A cache of descriptions that nobody ever tells of a change.
variant("pgx-describe", "pgx", prepared="0", changed="2 2 08P01 08P01", widened_elsewhere="3 08P01 08P01",
        retyped_elsewhere="1 1 1")

ANEW = "pgkeel prepares anew where this driver needs the 0A000: "

# Where the pool differs and should not: why, and what comes of it.
DIFFERENCES = {
    ("dbd-pg", "widened"): ANEW + "it crashes when a row has a column more than the one before",
    ("dbd-pg", "status"): "the crash in `widened`",
    ("pdo", "widened"): ANEW + "it crashes when a row has a column more than the one before",
    ("pdo", "status"): "the crash in `widened`",
}


# ---- the runs

@pytest.fixture(scope="module")
def pool(_shared_postgres):
    """Of two backends, for the whole file, as drivers would share it."""
    pooler = Pooler(ini_text(
        {"app": f"host=127.0.0.1 port={_shared_postgres.port} dbname=app"},
        {"listen_addr": "127.0.0.1", "listen_port": "@port@", "unix_socket_dir": "@dir@", "auth_type": "scram-sha-256",
         "auth_file": "@userlist@", "pool_mode": "transaction", "default_pool_size": 2}), USERS).start()
    yield pooler
    complaints = pooler.finish()
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


def environment(port, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # No driver shall find the password of whoever runs this, nor a psqlrc.
    return {**kept, "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "app", "PGPASSWORD": password_of("app"),
            "PGDATABASE": "app", "PGSSLMODE": "disable", "PGCONNECT_TIMEOUT": "10", "PYTHONDONTWRITEBYTECODE": "1", **more}


def found_by_newcomers(port):
    """What two new clients at a time see of the settings, prepared statements and temporary tables of their sessions."""
    found = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = psycopg2.connect(host="127.0.0.1", port=port, user="app", password=password_of("app"), dbname="app")
            cursor = stack.enter_context(contextlib.closing(connection)).cursor()
            cursor.execute("SELECT name, setting FROM pg_settings UNION SELECT name, statement FROM pg_prepared_statements"
                           " WHERE from_sql UNION SELECT relname, 'temporary' FROM pg_class WHERE relpersistence = 't'")
            found.append(sorted(cursor.fetchall()))
    return found


@dataclass
class Run:
    results: dict
    said: str


def run(command, port, more):
    """The steps of a program that ends in time, or those until then."""
    process = subprocess.Popen(command, env=environment(port, **more), stdin=subprocess.DEVNULL, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        err += f"killed after {PATIENCE} s"
    lines = [line.partition(" ") for line in out.splitlines()]
    return Run({**{step: result for step, _, result in lines}, "status": str(process.returncode)}, out + err)


@pytest.fixture(scope="module")
def outcome(_shared_postgres, pool, tmp_path_factory):
    """outcome(driver): its two runs, made when they are asked for first."""
    tmp, made = tmp_path_factory.mktemp("drivers"), {}

    def runs(driver):
        if driver not in made:
            command, more = DRIVERS[driver].build(tmp)
            made[driver] = [run([*command, driver], port, more) for port in (_shared_postgres.port, pool.port)]
        return made[driver]

    return runs


def cases():
    for driver, described in DRIVERS.items():
        for step, result in described.table().items():
            reason = DIFFERENCES.get((driver, step))
            marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
            direct, pooled = result if isinstance(result, tuple) else (result, result)
            yield pytest.param(driver, step, direct, pooled, id=f"{driver}-{step}", marks=marks)


@pytest.mark.parametrize("driver, step, direct, pooled", cases())
def test_step(outcome, pool, driver, step, direct, pooled):
    directly, through = outcome(driver)
    assert directly.results.get(step) == direct, directly.said
    assert through.results.get(step) == pooled, f"{through.said}\n{pool.log_tail()}"


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_step_is_in_the_table_and_nothing_stays_behind(outcome, pool, _shared_postgres, driver):
    directly, through = outcome(driver)
    assert set(directly.results) == set(DRIVERS[driver].table()) >= set(through.results)
    wait_until(lambda: len(_shared_postgres.backends("usename = 'app' AND state <> 'idle'")) == 0, what="idle backends")
    assert found_by_newcomers(pool.port) == found_by_newcomers(_shared_postgres.port)
