#!/usr/bin/python3
"""The table of the outage contract (`make outage`): what an application without retry code sees of each fault.

Prints fault x (ok, errors, lost, refused, stall, dark, SQLSTATEs) for pgkeel and, where it is installed, PgBouncer,
before the same PostgreSQL in the same run:

  ok       statements that were answered as they should be
  errors   ERRORs that a client saw on a connection that lived on
  lost     connections that clients lost; each then opened a new one
  refused  logins that failed while they tried to
  stall    longest time between sending a request and its answer
  dark     longest time a client had to wait for a good answer, however many bad ones it had meanwhile

pgkeel's rows are judged by the contract; the exit status is 1 if one of them fails.
"""
import argparse
import json
import signal
import sys

from rows import ROWS, Times
from stage import PgBouncer, Pgkeel, conninfo, make_server, raise_file_limit

FORMAT = "{:<52}{:<11}{:>8}{:>8}{:>7}{:>9}{:>9}{:>9}  {}"


class Options:
    """What Row.run() needs to know."""

    def __init__(self, clients=8, client="psycopg2", protocol="simple", retry="aborted", times=None):
        self.clients, self.client, self.protocol, self.retry = clients, client, protocol, retry
        self.times = times or Times()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only these, as in 1,2,6")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pool-size", type=int, default=20)
    parser.add_argument("--client", default="psycopg2", choices=["psycopg2", "psycopg3", "pipeline", "asyncpg", "pgbench"])
    parser.add_argument("--protocol", choices=["simple", "extended"],
                        help="default: what the client speaks of itself (psycopg2 only speaks simple)")
    parser.add_argument("--retry", default="aborted", choices=["off", "unread", "aborted", "reads"],
                        help="pgkeel's transparent_retry")
    parser.add_argument("--unix", action="store_true", help="Unix socket to PostgreSQL instead of TCP")
    parser.add_argument("--tls", action="store_true", help="TLS to PostgreSQL")
    parser.add_argument("--no-pgbouncer", action="store_true")
    parser.add_argument("--patience", type=float, default=130,
                        help="seconds the clients may take until they are served again (PgBouncer's clients of a dead"
                             " server may take its query_wait_timeout, 120 s)")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    parser.add_argument("--verbose", action="store_true", help="what the errors said")
    options = parser.parse_args()
    if options.protocol is None:
        options.protocol = "extended" if options.client in ("asyncpg", "pipeline") else "simple"
    if options.client == "psycopg2" and options.protocol == "extended":
        parser.error("psycopg2 only speaks the simple protocol: take --client psycopg3")
    if options.client == "pipeline" and options.protocol == "simple":
        parser.error("there is no pipeline in the simple protocol")
    if options.unix and options.tls:
        parser.error("PostgreSQL has no TLS on Unix sockets")
    wanted = {int(number) for number in options.rows.split(",") if number}
    if wanted - {row.number for row in ROWS}:
        parser.error(f"rows are numbered 1 to {len(ROWS)}")
    options.rows = [row for row in ROWS if not wanted or row.number in wanted]
    return options


def states(tally):
    """SQLSTATEs of errors, then of lost connections."""
    parts = [" ".join(f"{code}*{count}" for code, count in sorted(codes.items()))
             for codes in (tally.errors, tally.lost)]
    return "; lost: ".join(parts) if parts[1] else parts[0]


def print_row(row, name, outcome, options):
    tally, facts, complaints = outcome
    judged = "" if name != "pgkeel" else "PASS " if not complaints else "FAIL "
    title = f"{row.number}  {row.title}" if name == "pgkeel" else ""
    if facts.downtime:
        title = f"{title or '  '} ({facts.downtime:.2f} s)"
    print(FORMAT.format(title, name, tally.ok, sum(tally.errors.values()), sum(tally.lost.values()), tally.refused,
                        f"{tally.stall:.2f} s", f"{tally.dark:.2f} s", judged + states(tally)), flush=True)
    if name == "pgkeel":
        for complaint in complaints:
            print(f"     - {complaint}")
    if options.verbose:
        for code, text in sorted(tally.examples.items()):
            print(f"     {code}: {' / '.join(text.splitlines())[:200]}")
    sys.stdout.flush()


def record(row, name, outcome):
    tally, facts, complaints = outcome
    return {"row": row.number, "title": row.title, "proxy": name, **tally.figures(), "terminated": facts.terminated,
            "downtime": facts.downtime, "found": facts.found,
            **({"complaints": complaints} if name == "pgkeel" else {})}


def run_rows(server, proxies, options):
    """Each row with each proxy, which is started anew so that no row has another's luck."""
    settings = Options(options.clients, options.client, options.protocol, options.retry,
                       Times(patience=options.patience))
    records = []
    for row in options.rows:
        for make in proxies:
            proxy = make().start()
            try:
                outcome = row.run(server, proxy, settings)
            except BaseException:
                print(f"---- log of {proxy.name}\n" + "\n".join(proxy.log().splitlines()[-40:]), file=sys.stderr)
                raise
            finally:
                ends = proxy.stop()
            outcome[2].extend(ends)
            print_row(row, proxy.name, outcome, options)
            records.append(record(row, proxy.name, outcome))
    return records


def main():
    options = arguments()
    # So that servers are not left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    server = make_server(options.tls)
    try:
        target = conninfo(server, options.unix, options.tls)
        proxies = [lambda: Pgkeel(target, options.pool_size, transparent_retry=options.retry)]
        versions = {"pgkeel": "this build"}
        if not options.no_pgbouncer and PgBouncer.program():
            proxies.append(lambda: PgBouncer(target, options.pool_size))
            versions["pgbouncer"] = PgBouncer.version()
        about = {
            "postgresql": server.sql("SHOW server_version")[0][0].split()[0], "versions": versions,
            "way": "unix" if options.unix else "tls" if options.tls else "tcp", "clients": options.clients,
            "pool_size": options.pool_size, "client": options.client, "protocol": options.protocol,
            "retry": options.retry}
        print(f"PostgreSQL {about['postgresql']} over {about['way']}, {options.clients} clients ({options.client}, "
              f"{options.protocol} protocol), pool of {options.pool_size}, transparent_retry = {options.retry}"
              + (f", PgBouncer {versions['pgbouncer']}" if "pgbouncer" in versions else ""))
        print(FORMAT.format("fault (time without server)", "proxy", "ok", "errors", "lost", "refused", "stall", "dark",
                            "SQLSTATEs"))
        records = run_rows(server, proxies, options)
    finally:
        server.remove()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**about, "rows": records}, file, indent=1)
            file.write("\n")
    failed = [entry["row"] for entry in records if entry.get("complaints")]
    print(f"pgkeel fails rows {', '.join(map(str, failed))}" if failed else "pgkeel keeps the contract")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
