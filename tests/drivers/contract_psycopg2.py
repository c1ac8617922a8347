#!/usr/bin/env python3
"""The contract with psycopg2, which sends every query by the simple protocol."""
import io
import select
import threading
import time

import psycopg2

from contract import BIG, PREPARED, SLEEP, SLEEPS, STATEMENT, TABLE, big, moves, say


def connect(autocommit=True):
    connection = psycopg2.connect("")
    connection.autocommit = autocommit
    return connection


def run(connection, sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return cursor.fetchall() if cursor.description else []


def value(connection, sql, *values):
    return run(connection, sql, *values)[0][0]


def sqlstate(connection, sql, *values):
    try:
        run(connection, sql, *values)
    except psycopg2.Error as error:
        return error.pgcode
    return "00000"


def transactions():
    one, other = connect(False), connect()
    run(other, TABLE)
    run(one, "INSERT INTO contract VALUES (%s, %s)", 1, "kept")
    one.commit()
    say("commit", value(other, "SELECT count(*) FROM contract"))
    run(one, "INSERT INTO contract VALUES (%s, %s)", 2, "gone")
    one.rollback()
    say("rollback", value(other, "SELECT count(*) FROM contract WHERE id = 2"))


def statement_moves():
    one, held = connect(), [connect(False), connect(False)]
    text = STATEMENT.replace("$1", "%s")
    found = run(one, text, 0)
    for number in range(1, 5):
        owners = {value(holder, "SELECT pg_backend_pid()"): holder for holder in held}
        # The backend it had stays taken, so the next must be the other.
        next(holder for pid, holder in owners.items() if pid != found[-1][1]).rollback()
        found += run(one, text, number)
        for holder in held:
            holder.rollback()
    say("values", *[row[0] for row in found])
    say("moves", moves([row[1] for row in found]))
    one.autocommit = False
    run(one, text, 5)
    say("prepared", value(one, PREPARED))


def sql_prepare():
    """PREPARE as a statement: the session keeps its backend from then on."""
    one = connect()
    run(one, "PREPARE own (int) AS SELECT $1 * 5")
    found = [value(one, f"EXECUTE own ({number})") for number in (1, 2)]
    say("sql_prepare", *found, sqlstate(one, "PREPARE own AS SELECT 1"), sqlstate(connect(), "EXECUTE own (1)"))
    one.close()


def big_results():
    one = connect(False)
    say("big", *big(run(one, BIG)))
    with one.cursor("own") as cursor:
        cursor.itersize = 1000
        cursor.execute(BIG)
        say("cursor", *big(list(cursor)))


def copy():
    one = connect()
    run(one, TABLE)
    lines = "".join(f"{number}\tx\n" for number in range(1, 1001))
    with one.cursor() as cursor:
        cursor.copy_expert("COPY contract FROM STDIN", io.StringIO(lines))
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT * FROM contract ORDER BY id) TO STDOUT", out)
        say("copy", value(one, "SELECT count(*) FROM contract"), out.getvalue() == lines)
        try:
            cursor.copy_expert("COPY contract FROM STDIN", io.StringIO("1\tx\nnone\tx\n"))
        except psycopg2.Error as error:
            say("copy_error", error.pgcode, value(one, "SELECT count(*) FROM contract"))


def errors():
    one = connect()
    say("error", sqlstate(one, "SELECT 1 / %s", 0), value(one, "SELECT 1"))
    one.autocommit = False
    found = [sqlstate(one, "SELECT 1 / %s", 0), sqlstate(one, "SELECT 1")]
    one.rollback()
    say("error_in_transaction", *found, value(one, "SELECT 1"))


def cancel():
    one, other, found = connect(), connect(), []
    sleeper = threading.Thread(target=lambda: found.append(sqlstate(one, SLEEP)))
    sleeper.start()
    while value(other, SLEEPS) == 0:
        time.sleep(0.01)
    one.cancel()
    sleeper.join()
    say("cancel", *found, value(one, "SELECT 1"))


def notify():
    one, other = connect(), connect()
    run(one, "LISTEN contract")
    run(other, "NOTIFY contract, 'told'")
    while not one.notifies:
        assert select.select([one], [], [], 10)[0], "nobody told"
        one.poll()
    say("notify", one.notifies[0].channel, one.notifies[0].payload)
    one.close()


for step in (transactions, statement_moves, sql_prepare, big_results, copy, errors, cancel, notify):
    try:
        step()
    except Exception as error:
        say(step.__name__, "failed:", repr(error))
