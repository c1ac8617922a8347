#!/usr/bin/env python3
"""The contract with asyncpg, which prepares everything by name, keeps a cache of it, and reads results in binary.

Variants: asyncpg with its cache, asyncpg-uncached without (every statement then has no name).
"""
import asyncio
import contextlib
import io

import asyncpg

from contract import BIG, DRIVER, PREPARED, SLEEP, SLEEPS, STATEMENT, TABLE, big, moves, say


async def connect():
    return await asyncpg.connect(statement_cache_size=0 if "uncached" in DRIVER else 100)


async def sqlstate(work):
    try:
        await work
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return getattr(error, "sqlstate", None) or type(error).__name__
    return "00000"


async def transactions():
    one, other = await connect(), await connect()
    await other.execute(TABLE)
    async with one.transaction():
        await one.execute("INSERT INTO contract VALUES ($1, $2)", 1, "kept")
    say("commit", await other.fetchval("SELECT count(*) FROM contract"))
    transaction = one.transaction()
    await transaction.start()
    await one.execute("INSERT INTO contract VALUES ($1, $2)", 2, "gone")
    await transaction.rollback()
    say("rollback", await other.fetchval("SELECT count(*) FROM contract WHERE id = 2"))
    async with one.transaction():
        try:
            async with one.transaction():
                await one.execute("INSERT INTO contract VALUES ($1, $2)", 3, "gone")
                await one.execute("SELECT 1 / $1::int", 0)
        except asyncpg.DivisionByZeroError:
            await one.execute("INSERT INTO contract VALUES ($1, $2)", 4, "kept")
    say("savepoint", *[row[0] for row in await other.fetch("SELECT id FROM contract ORDER BY id")])


@contextlib.asynccontextmanager
async def taken(held, unwanted):
    """While the backend `unwanted` is taken, so that whoever had it gets the other of two."""
    owners = {}
    for holder in held:
        await holder.execute("BEGIN")
        owners[await holder.fetchval("SELECT pg_backend_pid()")] = holder
    await next(holder for pid, holder in owners.items() if pid != unwanted).execute("ROLLBACK")
    yield
    for holder in held:
        await holder.execute("ROLLBACK")


async def statement_moves():
    one, held = await connect(), [await connect(), await connect()]
    found = [await one.fetchrow(STATEMENT, 0)]
    for number in range(1, 5):
        async with taken(held, found[-1][1]):
            found.append(await one.fetchrow(STATEMENT, number))
    say("values", *[row[0] for row in found])
    say("moves", moves([row[1] for row in found]))
    async with one.transaction():
        await one.fetchrow(STATEMENT, 5)
        say("prepared", await one.fetchval(PREPARED))


async def explicit_statement():
    """A statement object, prepared once; it outlives the connection's reset (asyncpg's pool sends one on release)."""
    one = await connect()
    statement = await one.prepare("SELECT $1::text || '!', $2::numeric")
    found = [await statement.fetchrow("a", 1), *await statement.fetch("b", 2)]
    await one.execute("SET search_path TO pg_catalog; SET statement_timeout TO 12345")
    await one.reset()
    found.append(await statement.fetchrow("c", 3))
    say("statement", *[field for row in found for field in row], statement.get_attributes()[1].type.name)
    say("reset", await one.fetchval("SHOW search_path"), await one.fetchval("SHOW statement_timeout"))
    pool = await asyncpg.create_pool(min_size=1, max_size=2)
    found = [await pool.fetchval("SELECT $1::int + 1", number) for number in range(4)]
    await pool.close()
    say("own_pool", *found)


async def big_results():
    one = await connect()
    say("big", *big(await one.fetch(BIG)))
    async with one.transaction():
        say("cursor", *big([row async for row in one.cursor(BIG, prefetch=1000)]))


async def copy():
    one = await connect()
    await one.execute(TABLE)
    await one.copy_records_to_table("contract", records=[(number, "x") for number in range(1, 1001)])
    out = io.BytesIO()
    await one.copy_from_query("SELECT * FROM contract ORDER BY id", output=out)
    expected = "".join(f"{number}\tx\n" for number in range(1, 1001)).encode()
    say("copy", await one.fetchval("SELECT count(*) FROM contract"), out.getvalue() == expected)
    wrong = one.copy_to_table("contract", source=io.BytesIO(b"1\tx\nnone\tx\n"))
    say("copy_error", await sqlstate(wrong), await one.fetchval("SELECT count(*) FROM contract"))
    await one.executemany("INSERT INTO contract VALUES ($1, $2)", [(number, "many") for number in range(500)])
    say("many", await one.fetchval("SELECT count(*) FROM contract WHERE text = 'many'"))


async def errors():
    one = await connect()
    say("error", await sqlstate(one.fetch("SELECT 1 / $1::int", 0)), await one.fetchval("SELECT 1"))
    transaction = one.transaction()
    await transaction.start()
    found = [await sqlstate(one.fetch("SELECT 1 / $1::int", 0)), await sqlstate(one.fetch("SELECT 1"))]
    await transaction.rollback()
    say("error_in_transaction", *found, await one.fetchval("SELECT 1"))


async def cancel():
    """asyncpg has no call for it: it cancels what its caller gives up."""
    one, other = await connect(), await connect()
    sleeper = asyncio.ensure_future(one.execute(SLEEP))
    while await other.fetchval(SLEEPS) == 0:
        await asyncio.sleep(0.01)
    sleeper.cancel()
    try:
        await sleeper
    except asyncio.CancelledError:
        # It waits for the end of the cancelled query before the next.
        say("cancel", "cancelled", await one.fetchval("SELECT 1"), await other.fetchval(SLEEPS))


async def notify():
    one, other = await connect(), await connect()
    told = asyncio.get_running_loop().create_future()
    await one.add_listener("contract", lambda _c, _pid, *heard: told.set_result(heard))
    await other.execute("NOTIFY contract, 'told'")
    say("notify", *await asyncio.wait_for(told, 10))
    await one.close()


async def attempt(connection, text, of=len):
    """What comes of the row, or why there is none."""
    try:
        return of(await connection.fetchrow(text, "x"))
    except asyncpg.PostgresError as error:
        return error.sqlstate
    except Exception as error:
        return type(error).__name__


async def changed():
    one, other, holder = await connect(), await connect(), await connect()
    await holder.execute("BEGIN")  # so that a pool of two has one backend left for the two others
    await other.execute(TABLE)
    await other.execute("INSERT INTO contract VALUES (1, 'x')")
    text = f"SELECT * FROM contract WHERE text = $1 -- {DRIVER}"
    found = [await attempt(one, text) for _ in range(3)]
    await other.execute("ALTER TABLE contract ADD added int")
    say("changed", *found, await attempt(one, text), await attempt(one, text))


async def changed_elsewhere():
    """The same where the backend that first runs it afterwards has not seen it before."""
    one, held = await connect(), [await connect(), await connect()]
    for step, change, of in (("widened_elsewhere", "ADD added int", len),
                             ("retyped_elsewhere", "ALTER id TYPE bigint", lambda row: row[0])):
        await held[0].execute(TABLE)
        await held[0].execute("INSERT INTO contract VALUES (1, 'x')")
        text = f"SELECT *, pg_backend_pid() FROM contract WHERE text = $1 -- {DRIVER} {step}"
        pid = (await one.fetchrow(text, "x"))[2]
        found = [await attempt(one, text, of)]
        await held[0].execute(f"ALTER TABLE contract {change}")
        async with taken(held, pid):
            found += [await attempt(one, text, of), await attempt(one, text, of)]
        say(step, *found)


async def main():
    for step in (transactions, statement_moves, explicit_statement, big_results, copy, errors, cancel, notify, changed,
                 changed_elsewhere):
        try:
            await step()
        except Exception as error:
            say(step.__name__, "failed:", repr(error))


asyncio.run(main())
