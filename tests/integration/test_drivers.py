"""Drivers as they are: one contract for all, by a program each (tests/drivers/contract*), directly and through a pool of two.

A program prints a line `step result` for each step. Every step is a test: what a direct connection answers is what the
contract says, and the pool answers the same, except where two results stand in the table. A driver that is not
installed is skipped.
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

BIG = "20000 200010000 2000000"

# What every driver is asked for. A pair: the result of a direct connection, and through the pool.
CONTRACT = {
    "commit": "1",
    "rollback": "0",
    "values": "0 3 6 9 12",
    # The same statement five times, each time on the other backend.
    "moves": ("0", "4"),
    # How many statements of that text the backend has.
    "prepared": "1",
    "big": BIG,
    "copy": "1000 true",
    "copy_error": "22P02 1000",
    "error": "22012 1",
    "error_in_transaction": "22012 25P02 1",
    "cancel": "57014 1",
    "notify": "contract told",
}

# Columns of SELECT * twice before and twice after a column was added. A direct connection keeps its outdated plan for
# ever; pgkeel prepares anew for a client that asks for the columns each time.
OUTDATED = ("2 2 0A000 0A000", "2 2 3 3")


def python(module, program):
    def build(_):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no module {module}")
        return [sys.executable, str(PROGRAMS / program)], {}
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
                subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"], cwd=place,
                               capture_output=True, timeout=30, check=False)
        if not (place / "node_modules" / "postgres").exists():
            pytest.skip("npm cannot install the packages")
        return ["node", str(PROGRAMS / program)], {"NODE_PATH": str(place / "node_modules")}
    return build


@dataclass
class Driver:
    """`build` makes the program and returns its command and environment; `steps` is what differs from the contract."""

    build: object
    steps: dict = field(default_factory=dict)

    def contract(self):
        return {step: result for step, result in {**CONTRACT, **self.steps}.items() if result is not None}


DRIVERS = {
    "psycopg2": Driver(python("psycopg2", "contract_psycopg2.py"), {
        "prepared": "0", "sql_prepare": "5 10 42P05 26000", "cursor": BIG}),
    "psycopg": Driver(python("psycopg", "contract_psycopg.py"), {
        "savepoint": "1 4", "big_binary": BIG, "big_stream": BIG, "cursor": BIG, "pipeline_error": "22012 IDLE 1",
        "pipeline": "0 3 6 9 12 3 6 9 12 15 6 9 12 15 18", "changed": ("2 2 2 0A000 0A000", "2 2 2 3 3")}),
    "asyncpg": Driver(python("asyncpg", "contract_asyncpg.py"), {
        "savepoint": "1 4", "statement": "a! 1 b! 2 c! 3 numeric", "reset": '"$user", public 0', "own_pool": "1 2 3 4",
        "cursor": BIG, "many": "500", "cancel": "cancelled 1 0", "changed": "2 2 2 3 3"}),
    "node-postgres": Driver(node("contract_node_postgres.js"), {
        "own_pool": " ".join(str(3 * n) for n in range(30)), "cursor": BIG, "changed": OUTDATED}),
    "postgres.js": Driver(node("contract_postgres_js.js"), {
        "savepoint": "1 4", "pipeline": "1225", "pipeline_error": "6 22012 3 1", "cursor": BIG, "copy_error": None,
        "changed": "2 2 3 3"}),
}
DRIVERS["asyncpg-uncached"] = Driver(DRIVERS["asyncpg"].build, {**DRIVERS["asyncpg"].steps, "prepared": "0"})
DRIVERS["postgres.js-unprepared"] = Driver(
    DRIVERS["postgres.js"].build, {**DRIVERS["postgres.js"].steps, "prepared": "0"})

# Where the pool differs and should not.
DIFFERENCES = {}


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
    return Run({step: result for step, _, result in lines}, out + err)


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
        for step, result in described.contract().items():
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
    assert set(directly.results) == set(through.results) == set(DRIVERS[driver].contract())
    wait_until(lambda: len(_shared_postgres.backends("usename = 'app' AND state <> 'idle'")) == 0, what="idle backends")
    assert found_by_newcomers(pool.port) == found_by_newcomers(_shared_postgres.port)
