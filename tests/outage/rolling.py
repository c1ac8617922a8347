#!/usr/bin/env python3
"""Everything that operations does to a pool, under load, at once: reloads, online restarts, restarts of PostgreSQL.

    rolling.py [--seconds 300] [--reloads 200] [--restarts 20] [--postgres 5] [--clients 24] [pgkeel]

Each client counts in a row of its own, in transactions that read what it wrote before, and opens a new connection now and
then. It knows three excuses: 57P01 before the first answer of a transaction (an announced drain: it connects again), 40001
(PostgreSQL was restarted in the midst of a transaction) and 08007 (in the midst of a COMMIT: then it looks). Anything else is
a lost client, any other number a wrong row. At the end nothing may be left: processes, descriptors, backends. Exit status 0:
all of this holds.
"""
import argparse
import os
import random
import sys
import threading
import time

import psycopg2
import psycopg2.errors

from stage import Pgkeel, conninfo, make_server, make_tables, wait_until

SENT_AWAY, ABORTED, UNKNOWN = "57P01 at a boundary", "40001", "08007"


class Client(threading.Thread):
    def __init__(self, number, login):
        super().__init__()
        self.number, self.login = number, {**login, "application_name": f"client {number}"}
        self.random = random.Random(number)
        self.possible = {0}  # what its row may hold
        self.done, self.longest, self.excuses = 0, 0.0, dict.fromkeys((SENT_AWAY, ABORTED, UNKNOWN), 0)
        self.complaint, self.is_over = None, threading.Event()

    def count_up(self, connection):
        """One transaction; False when the connection is at its end."""
        stage = "first"
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT n, current_setting('application_name') FROM hits WHERE id = %s", (self.number,))
                stage = "later"
                number, name = cursor.fetchone()
                assert number in self.possible and name == self.login["application_name"], f"wrong row: {number}, {name}, not {self.possible}"
                self.possible = {number}
                cursor.execute("UPDATE hits SET n = n + 1 WHERE id = %s", (self.number,))
            connection.commit()
            self.possible = {number + 1}
        except psycopg2.errors.AdminShutdown:
            assert stage == "first", "57P01 in the midst of a transaction"
            self.excuses[SENT_AWAY] += 1
            return False
        except psycopg2.errors.SerializationFailure:
            self.excuses[ABORTED] += 1
            connection.rollback()
        except psycopg2.errors.TransactionResolutionUnknown:
            self.excuses[UNKNOWN] += 1
            self.possible = {number, number + 1}
            connection.rollback()
        else:
            self.done += 1
        return True

    def run(self):
        try:
            while not self.is_over.is_set():
                connection = psycopg2.connect(**self.login)
                for _ in range(self.random.randint(1, 200)):
                    began = time.monotonic()
                    is_open = self.count_up(connection)
                    self.longest = max(self.longest, time.monotonic() - began)
                    if not is_open or self.is_over.wait(0.01):
                        break
                connection.close()
        except Exception as problem:  # pylint: disable=broad-except
            self.complaint = f"{time.strftime('%T')} {self.login['application_name']}: {type(problem).__name__}: {problem}"


class Operations:
    """What is done to the pool, one after the other, each to its end."""

    def __init__(self, server, pgkeel):
        self.server, self.pooler = server, pgkeel.pooler
        self.ini, self.former, self.count = self.pooler.ini_path.read_text(), [], dict.fromkeys(("reload", "restart", "postgres"), 0)

    def reload(self):
        before = self.pooler.log().count("settings reloaded")
        self.pooler.set_ini(self.ini.replace("default_pool_size = 10", f"default_pool_size = {random.randint(6, 10)}")
                            .replace("[pgkeel]", f"other{self.count['reload']} = host=127.0.0.1 port=1\n[pgkeel]"))
        self.pooler.reload()
        wait_until(lambda: self.pooler.log().count("settings reloaded") > before, 10, "the reload")

    def restart(self):
        self.former.append(self.pooler.hand_over())
        assert self.pooler.is_running(), "the successor did not start"

    def postgres(self):
        self.server.restart()

    def run(self, seconds, wanted):
        """Spreads them evenly; the clients are looked after between them."""
        plan = sorted(((number + 0.5) / count * seconds, what) for what, count in wanted.items() for number in range(count))
        began = time.monotonic()
        for due, what in plan:
            yield max(0, began + due - time.monotonic())
            getattr(self, what)()
            self.count[what] += 1
        yield max(0, began + seconds - time.monotonic())


def left_behind(pooler, server):
    return len(os.listdir(f"/proc/{pooler.pid}/fd")) - len(server.backends("usename = 'app'"))


def check_end(operations, clients, descriptors):
    server, pooler = operations.server, operations.pooler
    complaints = [client.complaint for client in clients if client.complaint]
    for process in operations.former:
        if process.wait(60) != 0:
            complaints.append(f"process {process.pid} ended with {process.returncode}")
    found = dict(server.sql("SELECT id, n FROM hits"))
    complaints += [f"client {c.number}: its row holds {found[c.number]}, not {c.possible}" for c in clients if found[c.number] not in c.possible]
    wait_until(lambda: left_behind(pooler, server) <= descriptors, 10, "as many descriptors as at the beginning")
    backends = len(server.backends("usename = 'app'"))
    if backends > 10:
        complaints.append(f"{backends} backends for a pool of 10")
    return complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--postgres", type=int, default=5)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("pgkeel", nargs="?")
    options = parser.parse_args()
    server = make_server()
    make_tables(server, options.clients)
    pgkeel = Pgkeel(conninfo(server), 10, pidfile="@dir@/pid", shutdown_timeout=30, log_connections=0, log_disconnections=0)
    if options.pgkeel:
        pgkeel.pooler.binary = os.path.abspath(options.pgkeel)
    pgkeel.start()
    descriptors = left_behind(pgkeel.pooler, server)
    operations = Operations(server, pgkeel)
    clients = [Client(number, pgkeel.login) for number in range(options.clients)]
    for client in clients:
        client.start()
    memory = []
    for pause in operations.run(options.seconds, {"reload": options.reloads, "restart": options.restarts, "postgres": options.postgres}):
        time.sleep(pause)
        memory.append(pgkeel.pooler.rss_kb())
        if any(client.complaint for client in clients):
            break
    for client in clients:
        client.is_over.set()
    for client in clients:
        client.join(60)
    complaints = check_end(operations, clients, descriptors) + pgkeel.stop()
    server.remove()
    excuses = {excuse: sum(client.excuses[excuse] for client in clients) for excuse in (SENT_AWAY, ABORTED, UNKNOWN)}
    print(f"{operations.count['reload']} reloads, {operations.count['restart']} online restarts, {operations.count['postgres']} restarts of PostgreSQL "
          f"in {options.seconds:.0f} s: {sum(client.done for client in clients)} transactions, {excuses}, longest {max(client.longest for client in clients):.2f} s, "
          f"memory at most {max(memory)} kB, {len(complaints)} complaints", *complaints, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
