#!/usr/bin/python3
"""Exactly once: clients increment counters while PostgreSQL terminates their backends at random moments.

Each client by turns updates a row of its own and inserts a row with a number, every statement committing by itself; half
of the clients speak the simple protocol, half the extended one (--prepared: with named statements). At the end:

  every increment that was acknowledged is in the tables exactly once,
  every one that was not had an ERROR 08007 (then it may be there) or 40001 (then it may not),
  and no termination, which says FATAL 57P01 before it goes, led to any error at all.

Exit status: 0 if all of this held, 1 if an increment was lost, done twice or unexplained, 2 if it only were errors,
3 if the run itself was not what was asked for.
"""
import argparse
import contextlib
import json
import signal
import sys
import threading
import time

from crowd import Crowd, Work
from stage import USER, Direct, PgBouncer, Pgkeel, conninfo, make_server, make_tables, raise_file_limit

EXPLAINED = {"08007", "40001"}
SETTLE = 20.0

VICTIM = """
SELECT pid, pg_terminate_backend(pid) FROM (
    SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND usename = %s AND pid <> ALL (%s) ORDER BY random() LIMIT 1) AS victim
"""


class Terminator(threading.Thread):
    """Terminates a random backend of the pool so many times a second, over a connection of its own to the server."""

    def __init__(self, server, per_second):
        super().__init__(daemon=True)
        self.server, self.interval = server, 1.0 / per_second
        self.is_over, self.terminated, self.trouble = threading.Event(), 0, None

    def run(self):
        recent, due = [], time.monotonic()
        try:
            with contextlib.closing(self.server.connect("postgres")) as connection, connection.cursor() as cursor:
                while not self.is_over.wait(max(0.0, due - time.monotonic())):
                    # Late kills are made up for, but not a long stop of this machine.
                    due = max(due + self.interval, time.monotonic() - 1.0)
                    cursor.execute(VICTIM, (USER, recent))
                    for pid, is_sent in cursor.fetchall():
                        self.terminated += is_sent
                        recent = [*recent[-20:], pid]
        except Exception as error:  # reported by stop()
            self.trouble = error

    def stop(self):
        self.is_over.set()
        self.join()
        if self.trouble:
            raise self.trouble


class Findings:
    """What the tables hold against what the clients were told."""

    def __init__(self, server, tally):
        self.acked = sum(tally.acked.values())
        self.unacked = 0
        self.complaints = []
        updates = dict(server.sql("SELECT id, n FROM hits"))
        inserts = {}
        for client, number, times in server.sql(
                "SELECT client, number, count(*) FROM increments GROUP BY client, number"):
            inserts.setdefault(client, {})[number] = times
        self.found = sum(updates.values()) + sum(sum(numbers.values()) for numbers in inserts.values())
        for counts in tally.clients:
            self.check_updates(counts, updates[counts["number"] + 1])
            self.check_inserts(counts, inserts.get(counts["number"], {}))
        unexplained = {code: number for code, number in tally.errors.items() if code not in EXPLAINED}
        self.must(not unexplained, f"unacknowledged without 08007 or 40001: {unexplained}")
        self.must(not tally.lost, f"unacknowledged because the connection was lost: {dict(tally.lost)}")
        self.must(not tally.hung, f"{tally.hung} clients without an answer")

    def must(self, condition, text):
        if not condition:
            self.complaints.append(text)

    def check_updates(self, counts, found):
        acked, unknown = counts["acked"].get("update", 0), counts["unknown"].get("update", 0)
        self.must(acked <= found <= acked + unknown,
                  f"client {counts['number']}: {found} updates found, {acked} acknowledged, {unknown} unknown")

    def check_inserts(self, counts, found):
        unacked = {int(number): code for number, code in counts["unacked"].items()}
        acked = set(range(1, counts["last_number"] + 1)) - set(unacked)
        who = f"client {counts['number']}"
        twice = [number for number, times in found.items() if times != 1]
        self.must(not twice, f"{who}: inserts {twice[:5]} are there more than once")
        missing = acked - set(found)
        self.must(not missing, f"{who}: inserts {sorted(missing)[:5]} were acknowledged and are not there")
        undone = [number for number, code in unacked.items() if code not in ("08007", "lost", "in flight") and number in found]
        self.must(not undone, f"{who}: inserts {undone[:5]} are there although their error said rolled back")


class Wish:
    """What run() needs to know."""

    def __init__(self, seconds=300.0, kills_per_second=25.0, clients=32, prepared=False):
        self.seconds, self.kills_per_second, self.clients, self.prepared = seconds, kills_per_second, clients, prepared


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--kills-per-second", type=float, default=25)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--pool-size", type=int, default=20)
    parser.add_argument("--prepared", action="store_true", help="named statements in the extended protocol")
    parser.add_argument("--proxy", default="pgkeel", choices=["pgkeel", "pgbouncer", "none"])
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def make_proxy(options, server):
    if options.proxy == "none":
        return Direct(server)
    kind = Pgkeel if options.proxy == "pgkeel" else PgBouncer
    return kind(conninfo(server), options.pool_size)


def run(server, proxy, options):
    """(tally, terminations, seconds) of one run; the tables hold the rest."""
    make_tables(server, options.clients)
    # Neighbours in number speak different protocols.
    work = Work("increment", 0.0, "psycopg3", ("simple", "prepared" if options.prepared else "extended"))
    with Crowd(proxy.login, work, options.clients) as crowd:
        crowd.start()
        terminator, begun = Terminator(server, options.kills_per_second), time.monotonic()
        terminator.start()
        terminator.is_over.wait(options.seconds)
        terminator.stop()
        seconds = time.monotonic() - begun
        # A statement still on its way would be an increment of which nobody knows.
        crowd.pause(SETTLE)
        return crowd.stop(), terminator.terminated, seconds


def report(findings, tally, terminated, seconds):
    print(f"acknowledged {findings.acked}, found {findings.found}, terminations {terminated} "
          f"({terminated / seconds:.1f} a second), longest stall {tally.stall:.2f} s")
    print(f"errors by SQLSTATE: {dict(tally.errors) or 'none'}; lost connections: {dict(tally.lost) or 'none'}")
    for complaint in findings.complaints[:20]:
        print(f"  - {complaint}")
    for code, text in sorted(tally.examples.items()):
        print(f"  {code}: {' / '.join(text.splitlines())[:200]}")


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    server = make_server()
    try:
        proxy = make_proxy(options, server).start()
        try:
            tally, terminated, seconds = run(server, proxy, options)
            findings = Findings(server, tally)
        finally:
            ends = proxy.stop()
    finally:
        server.remove()
    findings.complaints.extend(ends)
    report(findings, tally, terminated, seconds)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**tally.figures(), "found": findings.found, "acknowledged": findings.acked, "seconds": seconds,
                       "terminated": terminated, "complaints": findings.complaints}, file, indent=1)
    if findings.complaints:
        print("NOT exactly once")
        return 1
    if tally.errors:
        print("exactly once, but terminations led to errors")
        return 2
    if terminated < 0.8 * options.kills_per_second * seconds or not findings.acked:
        print("exactly once, but there were fewer terminations than asked for")
        return 3
    print("exactly once, without any error")
    return 0


if __name__ == "__main__":
    sys.exit(main())
