#!/usr/bin/env python3
"""Drivers that prepare statements, for a while: 64 clients on a pool of 5 in transaction pooling, without an error.

    minute.py [--seconds 60] [--clients 64] [--pool 5] [--driver asyncpg|psycopg|pgbench|jdbc ...] [pgkeel]

asyncpg with its statement cache, psycopg 3 with prepared statements and in pipeline mode, pgbench -S -M prepared, pgjdbc
with server-side statements, also with autosave.
"""
import argparse
import asyncio
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

INTEGRATION = pathlib.Path(__file__).resolve().parents[1] / "integration"
if str(INTEGRATION) not in sys.path:
    sys.path.insert(0, str(INTEGRATION))

from harness import Pooler, Postgres, password_of  # noqa: E402
from harness.pooler import USERS, ini_text  # noqa: E402

# Every client has texts of its own and such that all have.
TEXTS = ["SELECT $1::int", "SELECT $1::int + 1", "SELECT count(*) FROM pgbench_branches WHERE bid > $1::int - 1000000",
         "SELECT abalance FROM pgbench_accounts WHERE aid = $1::int"]


async def asyncpg_client(stage, number, ends):
    import asyncpg
    connection = await asyncpg.connect(host="127.0.0.1", port=stage.port, user="app", password=password_of("app"), database="app")
    choices, count = random.Random(number), 0
    while time.monotonic() < ends:
        value = choices.randrange(1, 1000)
        assert await connection.fetchval(f"SELECT $1::int * {number}", value) == value * number
        await connection.fetchval(choices.choice(TEXTS), value)
        if choices.random() < 0.1:
            async with connection.transaction():
                assert await connection.fetchval("SELECT $1::int", number) == number
                rows = await connection.fetch("SELECT generate_series(1, $1::int) AS n", 50)
                assert [row["n"] for row in rows] == list(range(1, 51))
        count += 1
    await connection.close()
    return count


async def psycopg_client(stage, number, ends):
    import psycopg
    connection = await psycopg.AsyncConnection.connect(
        f"host=127.0.0.1 port={stage.port} user=app password={password_of('app')} dbname=app", autocommit=True, prepare_threshold=1)
    choices, count = random.Random(number), 0
    while time.monotonic() < ends:
        value = choices.randrange(1, 1000)
        async with connection.pipeline():
            cursors = [await connection.execute(f"SELECT %s::int * {number}", (value,)) for _ in range(5)]
            cursors.append(await connection.execute("SELECT %s::int", (number,)))
        found = [(await cursor.fetchone())[0] for cursor in cursors]
        assert found == [value * number] * 5 + [number], found
        cursor = await connection.execute(choices.choice(TEXTS).replace("$1", "%s"), (value,))
        await cursor.fetchall()
        count += 1
    await connection.close()
    return count


def pgbench(stage, seconds, clients):
    ended = subprocess.run(
        ["pgbench", "-S", "-M", "prepared", "-n", "-c", str(clients), "-j", "2", "-T", str(int(seconds)), "-h", "127.0.0.1", "-p", str(stage.port), "-U", "app",
         "app"], env={**os.environ, "PGPASSWORD": password_of("app")}, capture_output=True, text=True, check=False)
    line = next((line for line in ended.stdout.splitlines() if "actually processed" in line), "nothing processed")
    return f"{line}, status {ended.returncode}", ended.returncode != 0 or "ERROR" in ended.stderr


def jdbc(stage, seconds, clients):
    jars = sorted(pathlib.Path("/usr/share/java").glob("postgresql.jar"))
    if not jars or shutil.which("java") is None:
        return "skipped: no java, or no libpostgresql-jdbc-java", False
    ended = subprocess.run(
        ["java", "-cp", str(jars[0]), str(pathlib.Path(__file__).with_name("Minute.java")), f"jdbc:postgresql://127.0.0.1:{stage.port}/app", "app",
         password_of("app"), str(clients), str(seconds)], capture_output=True, text=True, check=False)
    return (ended.stdout + ended.stderr).strip(), ended.returncode != 0


async def gather(client, stage, seconds, clients):
    ends = time.monotonic() + seconds
    found = await asyncio.gather(*(client(stage, number, ends) for number in range(1, clients + 1)), return_exceptions=True)
    wrong = [repr(error) for error in found if isinstance(error, BaseException)]
    done = sum(count for count in found if isinstance(count, int))
    return f"{done} rounds, {len(wrong)} errors {wrong[:3]}", bool(wrong)


DRIVERS = {
    "asyncpg": lambda *args: asyncio.run(gather(asyncpg_client, *args)),
    "psycopg": lambda *args: asyncio.run(gather(psycopg_client, *args)),
    "pgbench": pgbench,
    "jdbc": jdbc,
}


class Stage:
    def __init__(self, args):
        self.server = Postgres("max_connections = 50\nlog_min_messages = fatal\n").start()
        subprocess.run(["pgbench", "-i", "-q", "-h", "127.0.0.1", "-p", str(self.server.port), "-U", "app", "app"], check=True, capture_output=True,
                       env={**os.environ, "PGPASSWORD": password_of("app")})
        self.pooler = Pooler(ini_text(
            {"app": f"host=127.0.0.1 port={self.server.port} dbname=app"},
            {"listen_addr": "127.0.0.1", "listen_port": "@port@", "unix_socket_dir": "@dir@", "auth_type": "scram-sha-256", "auth_file": "@userlist@",
             "pool_mode": "transaction", "default_pool_size": str(args.pool), "log_connections": "0", "log_disconnections": "0"}), USERS)
        if args.pgkeel:
            self.pooler.binary = os.path.abspath(args.pgkeel)
        self.pooler.start()
        self.port = self.pooler.port


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--pool", type=int, default=5)
    parser.add_argument("--driver", nargs="+", default=list(DRIVERS), choices=list(DRIVERS))
    parser.add_argument("pgkeel", nargs="?")
    args = parser.parse_args(argv)
    stage, has_failed = Stage(args), False
    try:
        for driver in args.driver:
            text, is_wrong = DRIVERS[driver](stage, args.seconds, args.clients)
            print(f"{driver}: {text}", flush=True)
            has_failed = has_failed or is_wrong
    finally:
        complaints = stage.pooler.finish()
        stage.server.remove()
    for text in complaints:
        print(text)
    return 1 if has_failed or complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
