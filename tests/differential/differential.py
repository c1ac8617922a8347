#!/usr/bin/env python3
"""The same random messages, sent to PostgreSQL directly and through pgkeel: the replies must be the same.

    differential.py [--seconds 600] [--seed N] [--clients 4] [--pool 2] [--once] [pgkeel]

Each client has a table of its own in two databases of one server, one reached directly, the other through a pool of 1 to
3 backends in transaction pooling. It sends batches of messages (both protocols, pipelines, COPY, errors, named
statements, settings, temporary objects), cut into pieces at random bytes, and now and then goes away in the midst of one.
A batch that is answered differently is made as short as it gets and printed. Exit status 0: no difference.
"""
import argparse
import contextlib
import os
import pathlib
import random
import re
import sys
import threading
import time
import traceback

INTEGRATION = pathlib.Path(__file__).resolve().parents[1] / "integration"
if str(INTEGRATION) not in sys.path:
    sys.path.insert(0, str(INTEGRATION))

from harness import Pooler, Postgres  # noqa: E402
from harness import wire as w  # noqa: E402
from harness.pooler import USERS, ini_text  # noqa: E402

END = "the_end"
END_TYPES = (23,) * 7
TIMEOUT = 60.0

# Texts with a weight; {t} is the client's table.
SINGLE = [
    (6, "SELECT 1"), (6, "SELECT $1::int + 1"), (4, "SELECT generate_series(1, 5) AS n"), (3, "SELECT 1/0"), (2, "SELEC"),
    (4, "INSERT INTO {t} VALUES ($1::int) RETURNING a"), (3, "INSERT INTO {t} VALUES (1)"), (4, "SELECT count(*), sum(a) FROM {t}"),
    (3, "BEGIN"), (3, "COMMIT"), (3, "ROLLBACK"), (2, "SAVEPOINT s"), (2, "ROLLBACK TO s"), (1, "RELEASE s"), (2, ""),
    (2, "DO $$ BEGIN RAISE NOTICE 'hello'; END $$"), (1, "SELECT * FROM nowhere"), 
    (2, "COPY (SELECT generate_series(1, 3)) TO STDOUT"), (1, "DECLARE c CURSOR FOR SELECT generate_series(1, 9)"), (1, "FETCH 2 FROM c"),
    (2, "SHOW DateStyle"), (1, "SET DateStyle = 'SQL, DMY'"), (1, "SET LOCAL DateStyle = 'German'"), (1, "RESET DateStyle"),
    (2, "SELECT '2000-02-01'::date"), (1, "SET statement_timeout = 71000"), (1, "SHOW statement_timeout"), (1, "RESET statement_timeout"),
    (1, "SET app.mine = 'x y'"), (1, "SELECT coalesce(nullif(current_setting('app.mine', true), ''), '-')"), (1, "SELECT repeat('x', 100000)"),
    (1, "CREATE TEMP TABLE mine (a int)"), (1, "INSERT INTO mine VALUES (1)"), (1, "SELECT count(*) FROM mine"), (1, "DROP TABLE mine"),
    (1, "SELECT pg_try_advisory_lock({k})"), (1, "SELECT pg_advisory_unlock({k})"), (1, "LISTEN news_{k}"), (1, "UNLISTEN *"),
    (1, "PREPARE sql AS SELECT 5"), (1, "EXECUTE sql"), (1, "DEALLOCATE sql"), (1, "DEALLOCATE ALL"), (1, "DISCARD ALL"),
    (1, "SELECT set_config('app.mine', 'z', false)"), (1, "SELECT set_config('app.mine', 'local', true)"),
]
MULTIPLE = [
    (2, "SELECT 1; SELECT 2"), (1, "SELECT 1; SELECT 1/0; SELECT 3"), (1, "BEGIN; INSERT INTO {t} VALUES (7); COMMIT"),
    (1, "INSERT INTO {t} VALUES (8); SELECT 1/0"), (1, "SELECT 1;; ;"), (1, "SET statement_timeout = 72000; SHOW statement_timeout"),
    (1, "BEGIN; SELECT 1/0"), (1, "COMMIT; BEGIN; SELECT 1"),
]
NAMES = ["", "", "a", "a", "b", "c"]
PORTALS = ["", "", "", "p", "q"]


def pick(choices, texts):
    return choices.choices([text for _, text in texts], [weight for weight, _ in texts])[0]


class Maker:
    """Random batches of whole messages, for one client."""

    def __init__(self, seed, number):
        self.random = random.Random(f"{seed}/{number}")
        self.fill = {"t": None, "k": number}
        self.makers = [
            (10, self.parse), (12, self.bind), (5, self.describe), (3, self.close), (9, self.sync),
            (2, self.flush), (8, self.query), (8, self.whole), (1, self.call), (2, self.copy), (1, self.deallocate),
        ]

    def text(self, texts):
        return pick(self.random, texts).format(**self.fill) if texts else ""

    def parse(self):
        return self.parse_as(self.random.choice(NAMES))

    def bind(self):
        """With its executions: PostgreSQL 15 crashes when a portal is executed again in a transaction that failed since."""
        values = [b"%d" % self.random.randrange(100)] * self.random.choice([0, 0, 1, 1, 1, 2])
        name, portal = self.random.choice(NAMES), self.random.choice(PORTALS)
        parts = [self.unnamed(name), w.bind(values, portal=portal, name=name)]
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 3])):
            parts.append(w.execute(portal, self.random.choice([0, 0, 0, 1, 2])))
            parts.append(self.random.choice([b"", b"", w.flush()]))
        return [b"".join(parts)]

    def unnamed(self, name):
        """Whether the unnamed statement outlives an error is known only to the backend that had it."""
        return b"" if name else self.parse_as("")[0]

    def parse_as(self, name):
        return [w.parse(self.statement(name), name)]

    def statement(self, name):
        """What EXECUTE is described as was settled when it was parsed: a named one outlives that on another backend."""
        text = self.text(SINGLE)
        while name and text.startswith("EXECUTE"):
            text = self.text(SINGLE)
        return text

    def describe(self):
        kind = self.random.choice("SP")
        name = self.random.choice(NAMES if kind == "S" else PORTALS)
        return [(self.unnamed(name) if kind == "S" else b"") + w.describe(kind, name)]

    def close(self):
        kind = self.random.choice("SP")
        return [w.close(kind, self.random.choice(NAMES if kind == "S" else PORTALS))]

    def sync(self):
        return [w.sync()]

    def flush(self):
        return [w.flush()]

    def query(self):
        return [w.query(self.text(self.random.choice([SINGLE, SINGLE, MULTIPLE])))]

    def deallocate(self):
        text = f"DEALLOCATE {self.random.choice(NAMES[2:])}"
        return [w.query(text) if self.random.random() < 0.5 else w.parse(text) + w.bind() + w.execute() + w.sync()]

    def whole(self):
        """What most drivers do: parse, bind, execute of one statement."""
        name = self.random.choice(NAMES)
        text = self.statement(name)
        values = [b"%d" % self.random.randrange(100)] if "$1" in text else []
        return [w.parse(text, name), w.bind(values, name=name), w.describe("P"), w.execute(), w.sync()]

    def call(self):
        return [w.functioncall(77, b"%d" % self.random.randrange(100))]  # int4 to text: "char" input differs never

    def copy(self):
        """Always to its end, and one message for whoever shortens: PostgreSQL gives up on a client that says anything
        else meanwhile. A Sync among the data of a COPY that fails is answered or not, as it happens to be read."""
        text = self.text([(1, "COPY {t} FROM STDIN")])
        rows = [w.copydata(b"%d\n" % self.random.randrange(100)) for _ in range(self.random.randrange(4))]
        is_bad, is_extended = self.random.random() < 0.2, self.random.random() < 0.4
        bad = [w.copydata(b"nonsense\n")] if is_bad else []
        early = [w.sync()] if self.random.random() < 0.2 else []
        late = [w.sync()] if self.random.random() < 0.2 and not is_bad else []
        end = w.copydone() if self.random.random() < 0.7 or late else w.copyfail()
        start = [w.parse(text), w.bind(), w.execute()] if is_extended else [w.query(text)]
        return [b"".join([*start, *early, *rows, *bad, *late, end, *([w.sync()] if is_extended else [])])]

    def batch(self):
        messages = []
        for _ in range(self.random.randrange(1, 9)):
            maker = self.random.choices([maker for _, maker in self.makers], [weight for weight, _ in self.makers])[0]
            messages += maker()
        return messages

    def pieces(self, data):
        """Cut at random bytes, or not at all."""
        if self.random.random() < 0.5:
            return [data]
        cuts = sorted({self.random.randrange(1, len(data)) for _ in range(self.random.randrange(1, 6))})
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])]


def closing():
    """Ends whatever the batch has left open, and is seen in the replies, in a failed transaction too: an empty statement
    with seven parameters."""
    return w.copyfail("end") + w.sync() + w.close("S", END) + w.parse("", END, END_TYPES) + w.describe("S", END) + w.sync()


# What differs on purpose, ours for PostgreSQL's SQLSTATE: in a failed transaction a statement that the backend lacks is
# refused before its parameters are counted.
ALLOWED = {("08P01", "25P02")}


def is_alike(direct, pooled):
    if direct == pooled or not direct[0] == pooled[0] == b"E":
        return direct == pooled
    fields = [dict(message[1]) for message in (direct, pooled)]
    codes = tuple(field["C"] for field in fields)
    if codes == ("08P01", "08P01"):  # two names of one text: the other one may be blamed
        texts = [re.sub('prepared statement "[abc]"', "a statement", field["M"]) for field in fields]
        return texts[0] == texts[1]
    return codes in ALLOWED or codes == ("25P02", "25P02")  # refused by another line of PostgreSQL's


def same(direct, pooled):
    return len(direct) == len(pooled) and all(map(is_alike, direct, pooled))


def is_excused(direct, pooled):
    """In a failed transaction nothing can be prepared: a statement that the backend lacks cannot even be described. From
    there on the two sessions differ."""
    for theirs, ours in zip(direct, pooled):
        if not is_alike(theirs, ours):
            return ours[0] == b"E" and dict(ours[1])["C"] == "25P02" and dict(ours[1])["R"] == "exec_parse_message"
    return False


def plain(message):
    kind, body = message
    if kind == b"E" or kind == b"N":
        return kind, tuple(sorted(w.error_fields(body).items()))
    if kind == b"T":
        return kind, without_table_oids(bytes(body))
    return kind, bytes(body)


def without_table_oids(body):
    """The tables of the two databases have different ones."""
    parts, at = [body[:2]], 2
    while at < len(body):
        end = body.index(b"\0", at) + 1
        parts += [body[at:end], b"oid.", body[end + 4:end + 18]]
        at = end + 18
    return b"".join(parts)


def replies(wire, pieces):
    """All replies to a batch but ParameterStatus (their sum is compared), which may come at other times."""
    found, is_end = [], False
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for piece in pieces:
            wire.send_raw(piece)
    while True:
        try:
            message = wire.recv(getattr(wire, "patience", TIMEOUT))
        except (w.Closed, ConnectionResetError):
            return [*found, (b"closed", b"")]
        except TimeoutError:
            return [*found, (b"hangs", b"")]
        is_end = is_end or (message[0] == b"t" and message[1][:2] == b"\0\x07")
        if message[0] != b"S":
            found.append(plain(message))
        if is_end and message[0] == b"Z":
            return found


class Side:
    """One of the two ways; a session that is opened anew after it was cut off."""

    def __init__(self, dial, database):
        self.dial, self.database, self.wire = dial, database, None

    def open(self):
        if self.wire is None:
            self.wire = self.dial()
            self.wire.startup("app", self.database).login()
        return self.wire

    def drop(self):
        if self.wire is not None:
            self.wire.reset()
            self.wire = None


class Client(threading.Thread):
    def __init__(self, stage, number, seed):
        super().__init__(daemon=True)
        self.stage, self.number = stage, number
        self.maker = Maker(seed, number)
        self.maker.fill = stage.make_names(number)
        self.sides = [Side(stage.dial_direct, "app"), Side(stage.dial_pool, "pooled")]
        self.history = []  # batches since both sessions began
        self.batches = self.messages = self.drops = 0
        self.difference = None

    def run(self):
        try:
            while not self.stage.is_over():
                self.step()
        except Exception:  # noqa: BLE001
            self.difference = f"client {self.number}: {traceback.format_exc()}\nbatches so far: {self.describe(self.history[-3:])}"
            self.stage.stop.set()
        finally:
            self.drop()  # the others may wait for a backend that this session keeps

    def drop(self):
        for side in self.sides:
            side.drop()

    def restart(self):
        self.drop()
        self.maker.fill = self.stage.make_names(self.number)
        self.history = []

    def step(self):
        if len(self.history) >= 30:
            self.restart()
        batch = self.maker.batch()
        self.batches += 1
        self.messages += len(batch)
        data = b"".join(batch)
        if self.maker.random.random() < 0.05:
            cut = self.maker.random.randrange(len(data))
            for side in self.sides:
                side.open().send_raw(data[:cut])
            self.drops += 1
            self.restart()
            return
        self.history.append(batch)
        pieces = self.maker.pieces(data + closing())
        found = [replies(side.open(), pieces) for side in self.sides]
        if (found[0][-1][0] == found[1][-1][0] == b"closed") or is_excused(*found):
            self.restart()
        elif not same(*found):
            self.stage.stop.set()
            self.report(found)

    def differs(self, history):
        """Whether these batches, from the beginning, end in a difference; the replies."""
        self.drop()
        self.stage.clean(self.maker.fill["t"])
        for side in self.sides:
            side.open().patience = 3.0
        for batch in history:
            found = [replies(side.open(), [b"".join(batch) + closing()]) for side in self.sides]
            if is_excused(*found):
                return None
            if not same(*found):
                return found
        return None

    def report(self, found):
        history, again = self.history, None
        try:
            again = self.differs(history)
            if again is not None:
                history, again = self.shorten(history, again)
        except Exception as error:  # noqa: BLE001
            again = again or [[("failed", str(error))], []]
        note = "" if again is not None else " (not again when it was repeated)"
        direct, pooled = again or found
        self.difference = (f"client {self.number}: difference{note}\nsent: {self.describe(history)}\n"
                           f"PostgreSQL: {show(direct)}\npgkeel:     {show(pooled)}")

    def shorten(self, history, found):
        """Without every batch and message that is not needed for it."""
        i = len(history) - 2
        while i >= 0:
            shorter = history[:i] + history[i + 1:]
            again = self.differs(shorter)
            if again is not None:
                history, found = shorter, again
            i -= 1
        for i in range(len(history) - 1, -1, -1):
            for k in range(len(history[i]) - 1, -1, -1):
                shorter = history[:i] + [history[i][:k] + history[i][k + 1:]] + history[i + 1:]
                again = self.differs([batch for batch in shorter if batch])
                if again is not None:
                    history, found = shorter, again
        return [batch for batch in history if batch], found

    @staticmethod
    def describe(history):
        return "\n      ".join(" ".join(f"{message[:1].decode()}{bytes(message[5:])!r}" for message in batch) for batch in history)


def show(messages):
    return " ".join(f"{kind.decode() if isinstance(kind, bytes) else kind}{str(body)[:160]}" for kind, body in messages)


class Stage:
    def __init__(self, args):
        self.server = Postgres("max_connections = 100\nlog_min_messages = fatal\n").start()
        self.server.sql("CREATE DATABASE pooled OWNER app", db="postgres")
        self.pooler = Pooler(ini_text(
            {"pooled": f"host=127.0.0.1 port={self.server.port} dbname=pooled"},
            {"listen_addr": "127.0.0.1", "listen_port": "@port@", "unix_socket_dir": "@dir@", "auth_type": "trust",
             "auth_file": "@userlist@", "pool_mode": "transaction", "default_pool_size": str(args.pool), "log_connections": "0",
             "log_disconnections": "0", "query_wait_timeout": "0",
             "query_wait_notify": "0"}), USERS)
        if args.pgkeel:
            self.pooler.binary = os.path.abspath(args.pgkeel)
        self.pooler.start()
        self.stop = threading.Event()
        self.ends = time.monotonic() + args.seconds
        self.tables, self.lock = 0, threading.Lock()

    def is_over(self):
        return self.stop.is_set() or time.monotonic() > self.ends

    def dial_direct(self):
        return w.Wire("127.0.0.1", self.server.port, TIMEOUT)

    def dial_pool(self):
        return w.Wire("127.0.0.1", self.pooler.port, TIMEOUT)

    def make_names(self, number):
        """A new table, and key of a lock, for each pair of sessions: what one that was cut off still does, it does to others."""
        with self.lock:
            self.tables += 1
            name, key = f"t{number}_{self.tables}", self.tables
        for database in ("app", "pooled"):
            self.server.sql(f"CREATE TABLE {name} (a int)", db=database, user="app")
        return {"t": name, "k": key}

    def clean(self, table):
        for database in ("app", "pooled"):
            self.server.sql(f"TRUNCATE {table}", db=database, user="app")

    def close(self):
        complaints = self.pooler.finish()
        self.server.remove()
        return complaints


def run(args):
    stage = Stage(args)
    try:
        clients = [Client(stage, number, args.seed) for number in range(args.clients)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(args.seconds + 300)
        found = [client.difference for client in clients if client.difference]
        found += [f"client {client.number} hangs" for client in clients if client.is_alive()]
        if found:
            found.append(stage.pooler.log_tail(20))
        print(f"seed {args.seed}, pool {args.pool}: {sum(c.batches for c in clients)} batches, {sum(c.messages for c in clients)} messages, "
              f"{sum(c.drops for c in clients)} cut off, {len(found)} differences", flush=True)
    finally:
        complaints = stage.close()
    for text in found + complaints:
        print(text)
    return 1 if found or complaints else 0


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pool", type=int, default=2)
    parser.add_argument("pgkeel", nargs="?")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run(parse_args(sys.argv[1:])))
