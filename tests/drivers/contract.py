"""What the contract's programs in Python share: contract_psycopg2.py, contract_psycopg.py, contract_asyncpg.py.

Every program connects by PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE, takes the name of its variant as its only
argument, and prints a line `step result` for each step, so that two runs can be compared.
"""
import sys

DRIVER = sys.argv[1]

# The number of the backend tells whether the statement moved.
STATEMENT = f"SELECT $1::int * 3, pg_backend_pid() /* {DRIVER} */"
PREPARED = f"SELECT count(*)::int FROM pg_prepared_statements WHERE statement LIKE '%/* {DRIVER} */'"
BIG = "SELECT n::int, repeat(chr(97 + (n % 26)::int), 100) AS text FROM generate_series(1, 20000) n"
SLEEP = f"SELECT pg_sleep(30) /* {DRIVER} */"
SLEEPS = f"SELECT count(*)::int FROM pg_stat_activity WHERE state = 'active' AND query = '{SLEEP}'"
TABLE = "DROP TABLE IF EXISTS contract; CREATE TABLE contract (id int, text text)"


def say(step, *results):
    texts = [str(result).lower() if isinstance(result, bool) else str(result) for result in results]
    print(step, " ".join(texts).replace("\n", " "), flush=True)


def big(rows):
    """Number of rows, sum of the numbers, sum of the lengths; a text that belongs to another number counts nothing."""
    return len(rows), sum(n for n, _ in rows), sum(len(text) for n, text in rows if text == chr(97 + n % 26) * 100)


def moves(pids):
    return sum(before != after for before, after in zip(pids, pids[1:]))
