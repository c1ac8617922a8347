#!/usr/bin/env python3
"""The contract with psycopg 3, which prepares what it executes for the second time (prepare_threshold=1)."""
import threading
import time

import psycopg

from contract import BIG, DRIVER, PREPARED, SLEEP, SLEEPS, STATEMENT, TABLE, big, moves, say

TEXT = STATEMENT.replace("$1", "%s")


def connect(autocommit=True):
    return psycopg.connect("", autocommit=autocommit, prepare_threshold=1)


def value(connection, sql, values=None):
    return connection.execute(sql, values).fetchone()[0]


def sqlstate(connection, sql, values=None):
    try:
        connection.execute(sql, values)
    except psycopg.Error as error:
        return error.sqlstate
    return "00000"


def transactions():
    one, other = connect(False), connect()
    other.execute(TABLE)
    one.execute("INSERT INTO contract VALUES (%s, %s)", (1, "kept"))
    one.commit()
    say("commit", value(other, "SELECT count(*) FROM contract"))
    one.execute("INSERT INTO contract VALUES (%s, %s)", (2, "gone"))
    one.rollback()
    say("rollback", value(other, "SELECT count(*) FROM contract WHERE id = 2"))
    with one.transaction():
        try:
            with one.transaction():
                one.execute("INSERT INTO contract VALUES (%s, %s)", (3, "gone"))
                one.execute("SELECT 1 / %s", (0,))
        except psycopg.errors.DivisionByZero:
            one.execute("INSERT INTO contract VALUES (%s, %s)", (4, "kept"))
    say("savepoint", *[row[0] for row in other.execute("SELECT id FROM contract ORDER BY id")])


def statement_moves():
    one, held = connect(), [connect(False), connect(False)]
    found = [one.execute(TEXT, (0,)).fetchone()]
    for number in range(1, 5):
        owners = {value(holder, "SELECT pg_backend_pid()"): holder for holder in held}
        # The backend it had stays taken, so the next must be the other.
        next(holder for pid, holder in owners.items() if pid != found[-1][1]).rollback()
        found.append(one.execute(TEXT, (number,)).fetchone())
        for holder in held:
            holder.rollback()
    say("values", *[row[0] for row in found])
    say("moves", moves([row[1] for row in found]))
    with one.transaction():
        one.execute(TEXT, (5,))
        say("prepared", value(one, PREPARED))


def pipeline():
    one, held = connect(), [connect(False), connect(False)]
    found, pids = [], []
    for number in range(3):
        for holder in held:
            holder.rollback()
        owners = {value(holder, "SELECT pg_backend_pid()"): holder for holder in held}
        next(holder for pid, holder in owners.items() if not pids or pid != pids[-1]).rollback()
        with one.pipeline():
            answers = [one.execute(TEXT, (number + each,)) for each in range(5)]
            rows = [answer.fetchone() for answer in answers]
        found += [row[0] for row in rows]
        pids.append(rows[-1][1])
    say("pipeline", *found)
    try:
        with one.pipeline():
            for divisor in (1, 0, 2):
                one.execute("SELECT 1 / %s", (divisor,))
    except psycopg.Error as error:
        say("pipeline_error", error.sqlstate, one.info.transaction_status.name, value(one, "SELECT 1"))


def big_results():
    one = connect()
    say("big", *big(one.execute(BIG).fetchall()))
    say("big_binary", *big(one.cursor(binary=True).execute(BIG).fetchall()))
    with one.cursor() as cursor:
        say("big_stream", *big(list(cursor.stream(BIG))))
    with one.transaction(), one.cursor("own") as cursor:
        cursor.itersize = 1000
        say("cursor", *big(list(cursor.execute(BIG))))


def copy():
    one = connect()
    one.execute(TABLE)
    lines = "".join(f"{number}\tx\n" for number in range(1, 1001))
    with one.cursor() as cursor:
        with cursor.copy("COPY contract FROM STDIN") as channel:
            channel.write(lines)
        with cursor.copy("COPY (SELECT * FROM contract ORDER BY id) TO STDOUT") as channel:
            out = b"".join(channel).decode()
        say("copy", value(one, "SELECT count(*) FROM contract"), out == lines)
        try:
            with cursor.copy("COPY contract FROM STDIN") as channel:
                channel.write("1\tx\nnone\tx\n")
        except psycopg.Error as error:
            say("copy_error", error.sqlstate, value(one, "SELECT count(*) FROM contract"))


def errors():
    one = connect()
    say("error", sqlstate(one, "SELECT 1 / %s", (0,)), value(one, "SELECT 1"))
    one.autocommit = False
    found = [sqlstate(one, "SELECT 1 / %s", (0,)), sqlstate(one, "SELECT 1")]
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
    one.execute("LISTEN contract")
    other.execute("NOTIFY contract, 'told'")
    told = next(one.notifies())
    say("notify", told.channel, told.payload)
    one.close()


def width(connection, text):
    """How many columns it has now, or why not."""
    try:
        return len(connection.execute(text, (1,)).fetchone())
    except psycopg.Error as error:
        return error.sqlstate


def changed():
    one, other, holder = connect(), connect(), connect(False)
    holder.execute("SELECT 1")  # so that a pool of two has one backend left for the two others
    other.execute(TABLE)
    other.execute("INSERT INTO contract VALUES (1, 'x')")
    text = f"SELECT * FROM contract WHERE id = %s -- {DRIVER}"
    before = [width(one, text) for _ in range(3)]
    other.execute("ALTER TABLE contract ADD added int")
    say("changed", *before, width(one, text), width(one, text))


def newcomer():
    """Who comes after the change and prepares for the first time knows nothing of older plans."""
    one, other, holder, late = connect(), connect(), connect(False), connect(False)
    holder.execute("SELECT 1")
    other.execute(TABLE)
    other.execute("INSERT INTO contract VALUES (1, 'x')")
    text = f"SELECT * FROM contract WHERE id = %s -- {DRIVER} newcomer"
    one.execute(text, (1,), prepare=True)
    other.execute("ALTER TABLE contract ADD added int")
    try:
        say("newcomer", len(late.execute(text, (1,), prepare=True).fetchone()))
    except psycopg.Error as error:
        say("newcomer", error.sqlstate)


for step in (transactions, statement_moves, pipeline, big_results, copy, errors, cancel, notify, changed, newcomer):
    try:
        step()
    except Exception as error:
        say(step.__name__, "failed:", repr(error))
