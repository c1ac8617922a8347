"""A process with a few clients, each a thread: the load of an outage. Started by crowd.py, not by hand.

The first line on standard input says what to do (JSON), the next ones are commands: `resume` and `pause` (answered when
all clients are between two requests), `mark` (answered when each client had a good answer to a request begun since)
and `stop` (answered with all counts). The end of the input ends the process.

A client has no retry code. One whose connection is lost opens a new one, because an application's framework would, and
because there would be nothing left to measure otherwise; each such loss is counted.
"""
import collections
import json
import os
import select
import sys
import threading
import time

from drivers import DRIVERS

LOGIN_PAUSE = 0.01  # after a login that failed
POLL = 0.005
STOP_PATIENCE = 2.0


class Shared:
    """What all clients of this process look at. The gate is shut until everybody is logged in."""

    def __init__(self, spec):
        self.spec = spec
        self.gate = threading.Event()
        self.is_over = False


class Counts:
    """What happened to one client."""

    def __init__(self):
        self.ok = self.refused = self.wrong = self.interrupted = 0
        self.bad_rollbacks = self.bad_begins = 0
        self.acked = collections.Counter()  # increments by kind
        self.unknown = collections.Counter()  # increments nobody knows about: 08007 or a lost connection
        self.last_number, self.unacked = 0, {}  # INSERTs are numbered; those without an answer, and why
        self.errors, self.lost = collections.Counter(), collections.Counter()  # by SQLSTATE
        self.stall = self.dark = 0.0  # longest request; longest time from a request to the next good answer
        self.examples = {}

    def report(self, client, now):
        is_hung = client.begun is not None
        if is_hung:
            self.stall = max(self.stall, now - client.begun)
            self.unknown["update"] += client.driver.batch
        if client.dark_since is not None or is_hung:
            self.dark = max(self.dark, now - (client.dark_since or client.begun))
        return {**self.__dict__, "hung": int(is_hung), "number": client.number}


class Client(threading.Thread):
    def __init__(self, shared, number):
        super().__init__(daemon=True)
        self.shared, self.number, self.counts = shared, number, Counts()
        self.driver = self.make_driver()
        self.begun = None  # since when a request is in flight
        self.dark_since = None  # begin of the first request since the last good answer
        self.last_good = 0.0  # begin of the last request with a good answer
        self.failure = None  # SQLSTATE (or EOF) of the last request, if it failed
        self.is_lost = False  # whether that cost the connection
        self.is_ready = self.is_idle = False
        self.value = number * 10_000_000
        self.trouble = None

    def make_driver(self):
        spec = self.shared.spec
        protocols = spec["protocols"]
        return DRIVERS[spec["driver"]](spec["login"], protocols[self.number % len(protocols)])

    def run(self):
        try:
            self.driver.open()
            self.is_ready = True
            work, pace = WORKS[self.shared.spec["work"]], self.shared.spec["pace"]
            while not self.shared.is_over:
                if not self.shared.gate.is_set():
                    self.is_idle = True
                    self.shared.gate.wait()
                    self.is_idle = False
                    continue
                work(self)
                if pace:
                    time.sleep(pace)
        except BaseException as error:  # a bug of this program must not look like an outage
            self.trouble = f"client {self.number}: {error!r}"

    # ---- one request

    def request(self, statements, where=""):
        """The values, or None: then `failure` says why, and a lost connection has been opened again."""
        begun = self.begun = time.monotonic()
        try:
            values = self.driver.run(statements)
        except self.driver.failures as error:
            self.answered(begun)
            self.failed(error, where, begun)
            return None
        self.answered(begun)
        self.counts.ok += len(statements)
        if self.dark_since is not None:
            self.counts.dark = max(self.counts.dark, time.monotonic() - self.dark_since)
            self.dark_since = None
        self.last_good, self.failure = begun, None
        return values

    def answered(self, begun):
        self.begun = None
        took = time.monotonic() - begun
        self.counts.stall = max(self.counts.stall, took)
        self.counts.dark = max(self.counts.dark, took)

    def failed(self, error, where, begun):
        if self.dark_since is None:
            self.dark_since = begun
        code = self.driver.code(error)
        self.is_lost = self.driver.is_fatal(error) or not self.driver.is_open()
        self.failure = (code or ("EOF" if self.is_lost else type(error).__name__)) + where
        (self.counts.lost if self.is_lost else self.counts.errors)[self.failure] += 1
        self.counts.examples.setdefault(self.failure, str(error).strip())
        if self.is_lost:
            self.reconnect()

    def reconnect(self):
        self.renew_driver()
        while not self.shared.is_over:
            begun = self.begun = time.monotonic()
            try:
                self.driver.open()
            except self.driver.failures as error:
                self.counts.refused += 1
                self.counts.examples.setdefault("login", str(error).strip())
                self.answered(begun)
                time.sleep(LOGIN_PAUSE)
                continue
            self.answered(begun)
            return

    def renew_driver(self):
        self.driver.close()
        self.driver = self.make_driver()

    def next_values(self, count):
        self.value += count
        return range(self.value - count, self.value)

    def is_unknown(self):
        """Whether nobody can know if the request that failed was done."""
        return self.is_lost or self.failure.startswith("08007")


# ---- what the clients do

def select_work(client):
    """Selects of a number that nobody else asked for, so that an answer to another request is noticed."""
    values = list(client.next_values(client.driver.batch))
    answers = client.request([("SELECT %s::int8", (value,)) for value in values])
    if answers is not None:
        client.counts.wrong += sum(got not in (value, None) for got, value in zip(answers, values))


def update_row(client, row):
    batch = client.driver.batch
    if client.request([("UPDATE hits SET n = n + 1 WHERE id = %s::int", (row,))] * batch) is not None:
        client.counts.acked["update"] += batch
    elif client.is_unknown():
        client.counts.unknown["update"] += batch


def update_work(client):
    """All clients increment the same row."""
    update_row(client, 0)


def transaction_work(client):
    """An explicit transaction on a row of the client's own; after an error ROLLBACK, and on it goes."""
    row = client.number + 1
    steps = [("BEGIN", ()), ("UPDATE hits SET n = n + 1 WHERE id = %s::int", (row,)),
             ("SELECT n FROM hits WHERE id = %s::int", (row,)), ("COMMIT", ())]
    was_rolled_back, counts = client.failure is not None, client.counts
    requests = [steps] if client.driver.batch > 1 else [[step] for step in steps]
    for request in requests:
        is_commit = request[-1][0] == "COMMIT"
        if client.request(request, "@commit" if is_commit else "") is None:
            break
    else:
        counts.acked["update"] += 1
        return
    failure = client.failure
    counts.interrupted += 1
    counts.bad_begins += was_rolled_back and request[-1][0] == "BEGIN"
    counts.unknown["update"] += is_commit and client.is_unknown()
    if not client.is_lost:
        counts.bad_rollbacks += client.request([("ROLLBACK", ())], "@rollback") is None
        client.failure = failure


def increment_work(client):
    """By turns an UPDATE of a row and an INSERT with a number, each committing by itself."""
    counts = client.counts
    if client.value % 2:
        update_row(client, client.number + 1)
    else:
        counts.last_number += 1
        counts.unacked[counts.last_number] = "in flight"
        statement = ("INSERT INTO increments (client, number) VALUES (%s::int, %s::int)",
                     (client.number, counts.last_number))
        if client.request([statement]) is None:
            counts.unacked[counts.last_number] = "lost" if client.is_lost else client.failure
        else:
            counts.acked["insert"] += 1
            del counts.unacked[counts.last_number]
    client.value += 1


WORKS = {"select": select_work, "update": update_work, "transaction": transaction_work, "increment": increment_work}


# ---- commands

class Commands:
    """Lines of standard input, and answers."""

    def __init__(self):
        self.rest, self.is_at_end = b"", False

    def next(self, timeout=None):
        """The next line; None if none came in time, "stop" at the end of the input."""
        while b"\n" not in self.rest:
            if self.is_at_end:
                return "stop"
            if not select.select([0], [], [], timeout)[0]:
                return None
            data = os.read(0, 65536)
            self.is_at_end = not data
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()

    @staticmethod
    def answer(what, **more):
        os.write(1, json.dumps({"what": what, **more}).encode() + b"\n")


class Process:
    def __init__(self):
        self.commands = Commands()
        self.shared = Shared(json.loads(self.commands.next()))
        self.clients = [Client(self.shared, number) for number in self.shared.spec["numbers"]]
        self.marked_at = None

    def run(self):
        for client in self.clients:
            client.start()
        waiting = self.expect("ready", lambda: all(client.is_ready for client in self.clients))
        while True:
            command = self.commands.next(POLL if waiting else None)
            if command == "stop":
                break
            if command is not None:
                waiting = self.obey(command)
            if waiting and waiting():
                waiting = None
        self.stop()

    def expect(self, what, condition):
        """A function that answers `what` as soon as the condition holds, and then says so."""
        def check():
            if self.troubles():
                self.commands.answer("trouble", text="; ".join(self.troubles()))
                os._exit(1)
            if not condition():
                return False
            self.commands.answer(what)
            return True
        return None if check() else check

    def obey(self, command):
        if command == "resume":
            self.shared.gate.set()
            return None
        if command == "pause":
            self.shared.gate.clear()
            return self.expect("pause", lambda: all(client.is_idle for client in self.clients))
        marked_at = time.monotonic()
        return self.expect("mark", lambda: all(client.last_good >= marked_at for client in self.clients))

    def troubles(self):
        return [client.trouble for client in self.clients if client.trouble]

    def stop(self):
        self.shared.is_over = True
        self.shared.gate.set()
        deadline = time.monotonic() + STOP_PATIENCE
        for client in self.clients:
            client.join(max(0.0, deadline - time.monotonic()))
        now = time.monotonic()
        if self.troubles():
            self.commands.answer("trouble", text="; ".join(self.troubles()))
        else:
            self.commands.answer("stop", counts=[client.counts.report(client, now) for client in self.clients])
        # Who still waits for an answer, waits inside the driver.
        os._exit(0)


if __name__ == "__main__":
    sys.setswitchinterval(0.001)
    Process().run()
