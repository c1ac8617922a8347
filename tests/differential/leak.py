#!/usr/bin/env python3
"""Many clients on few backends, each asking for what is its own; connections are cut at random bytes.

    leak.py [--seconds 600] [--seed N] [--clients 200] [--pool 3] [pgkeel]

Every client has a number. It selects it in both protocols and by a prepared statement, reads back its own settings, keeps
its own temporary table and lock for a while, and is cut off in the midst of requests and replies. Exit status 0: nobody
ever saw a row or a setting that was not its own.
"""
import argparse
import asyncio
import os
import pathlib
import random
import socket
import struct
import sys
import time

INTEGRATION = pathlib.Path(__file__).resolve().parents[1] / "integration"
if str(INTEGRATION) not in sys.path:
    sys.path.insert(0, str(INTEGRATION))

from harness import Pooler, Postgres  # noqa: E402
from harness import wire as w  # noqa: E402
from harness.pooler import USERS, ini_text  # noqa: E402

ZONES = ["UTC", "Asia/Tokyo", "America/Lima", "Europe/Oslo"]
STYLES = ["ISO, MDY", "ISO, DMY", "SQL, DMY", "German"]


class Wrong(Exception):
    """Something that belongs to another client."""


class Session:
    """One connection of a client, over asyncio."""

    def __init__(self, client):
        self.client = client

    async def open(self):
        number, choices = self.client.number, self.client.random
        self.zone, self.style = choices.choice(ZONES), choices.choice(STYLES)
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.client.stage.pooler.port)
        self.writer.write(w.startup_packet("app", "app", application_name=f"client {number}", TimeZone=self.zone, DateStyle=self.style,
                                           options=f"-c search_path=schema_{number}"))
        await self.replies()
        self.is_prepared = False
        return self

    async def replies(self, count=1):
        found = []
        while count > 0:
            head = await asyncio.wait_for(self.reader.readexactly(5), 60)
            body = await self.reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
            found.append((head[:1], body))
            count -= head[:1] == b"Z"
        return found

    def cut(self):
        if self.client.random.random() < 0.5:
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()


class Client:
    def __init__(self, stage, number, seed):
        self.stage, self.number = stage, number
        self.random = random.Random(f"{seed}/{number}")
        self.session = None
        self.answers = self.cuts = 0

    # Each gives the messages, how many ReadyForQuery answer them, and the rows that must come.

    def simple(self):
        return w.query(f"SELECT {self.number}"), 1, [(str(self.number),)]

    def extended(self):
        return w.extended("SELECT $1::int", [b"%d" % self.number]) + w.sync(), 1, [(str(self.number),)]

    def named(self):
        parse = b"" if self.session.is_prepared else w.parse(f"SELECT {self.number} + $1::int", "mine")
        self.session.is_prepared = True
        return parse + w.bind([b"0"], name="mine") + w.execute() + w.sync(), 1, [(str(self.number),)]

    def shared(self):
        """A text that all clients have, with a value that is this one's."""
        return (w.parse("SELECT $1::text, $1::text", "shared") + w.bind([b"%d" % self.number], name="shared") + w.execute() + w.close("S", "shared")
                + w.sync(), 1, [(str(self.number), str(self.number))])

    def settings(self):
        data = w.query("SHOW application_name") + w.query("SHOW TimeZone") + w.query("SHOW DateStyle") + w.query("SHOW search_path")
        style = {"German": "German, DMY"}.get(self.session.style, self.session.style)
        return data, 4, [(f"client {self.number}",), (self.session.zone,), (style,), (f"schema_{self.number}",)]

    def custom(self):
        data = w.query(f"SET app.owner = 'owner {self.number}'") + w.query("SHOW app.owner")
        return data, 2, [(f"owner {self.number}",)]

    def big(self):
        return w.query(f"SELECT repeat('{self.number:05d}', 4000)"), 1, [(f"{self.number:05d}" * 4000,)]

    def rows(self):
        return w.query(f"SELECT {self.number} FROM generate_series(1, 300)"), 1, [(str(self.number),)] * 300

    def transaction(self):
        data = w.query("BEGIN") + w.query(f"SET LOCAL app.scoped = '{self.number}'") + w.query("SHOW app.scoped") + w.query("ROLLBACK")
        return data, 4, [(str(self.number),)]

    def temporary(self):
        data = (w.query("BEGIN") + w.query(f"CREATE TEMP TABLE mine ON COMMIT DROP AS SELECT {self.number} AS a") + w.query("SELECT a FROM mine")
                + w.query("COMMIT"))
        return data, 4, [(str(self.number),)]

    def pipeline(self):
        return b"".join(w.extended(f"SELECT {self.number}") + w.sync() for _ in range(10)), 10, [(str(self.number),)] * 10

    KINDS = [simple, extended, named, shared, settings, custom, big, rows, transaction, temporary, pipeline]

    async def step(self):
        if self.session is None:
            self.session = await Session(self).open()
        data, count, expected = self.random.choice(self.KINDS)(self)
        fate = self.random.random()
        if fate < 0.1:  # in the midst of the request
            self.session.writer.write(data[:self.random.randrange(len(data) + 1)])
            await self.leave()
            return
        self.session.writer.write(data)
        if fate < 0.25:  # in the midst of the reply
            await asyncio.wait_for(self.session.reader.read(self.random.randrange(1, 3000)), 60)
            await self.leave()
            return
        found = await self.session.replies(count)
        errors = [w.error_fields(body) for kind, body in found if kind == b"E"]
        if errors or w.rows(found) != expected:
            raise Wrong(f"client {self.number} sent {bytes(data[:200])!r}, expected {str(expected)[:200]}, got {str(w.rows(found))[:200]} {errors}")
        self.answers += 1

    async def leave(self):
        self.session.cut()
        self.session = None
        self.cuts += 1

    async def run(self, ends):
        while time.monotonic() < ends and not self.stage.is_over:
            try:
                await self.step()
            except Exception as error:
                self.stage.is_over = True
                if self.session is not None:
                    self.session.cut()
                raise Wrong(f"client {self.number}: {type(error).__name__} {error}") from error


class Stage:
    def __init__(self, args):
        self.is_over = False
        self.server = Postgres("max_connections = 100\nlog_min_messages = fatal\n").start()
        self.pooler = Pooler(ini_text(
            {"app": f"host=127.0.0.1 port={self.server.port} dbname=app"},
            {"listen_addr": "127.0.0.1", "listen_port": "@port@", "unix_socket_dir": "@dir@", "auth_type": "trust", "auth_file": "@userlist@",
             "pool_mode": "transaction", "default_pool_size": str(args.pool), "log_connections": "0", "log_disconnections": "0"}), USERS)
        if args.pgkeel:
            self.pooler.binary = os.path.abspath(args.pgkeel)
        self.pooler.start()


async def play(args, stage):
    clients = [Client(stage, number, args.seed) for number in range(args.clients)]
    ends = time.monotonic() + args.seconds
    found = await asyncio.gather(*(client.run(ends) for client in clients), return_exceptions=True)
    wrong = [str(error) for error in found if error is not None]
    print(f"seed {args.seed}: {args.clients} clients on {args.pool} backends, {sum(c.answers for c in clients)} answers were their own, "
          f"{sum(c.cuts for c in clients)} connections cut, {len(wrong)} wrong", flush=True)
    return wrong


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--pool", type=int, default=3)
    parser.add_argument("pgkeel", nargs="?")
    args = parser.parse_args(argv)
    stage = Stage(args)
    try:
        wrong = asyncio.run(play(args, stage))
        if wrong:
            wrong.append(stage.pooler.log_tail(20))
    finally:
        complaints = stage.pooler.finish()
        stage.server.remove()
    for text in wrong + complaints:
        print(text)
    return 1 if wrong or complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
