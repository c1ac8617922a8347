#!/usr/bin/python3
"""CPU of pgkeel for each transaction, of several builds or settings before the same PostgreSQL in interleaved runs.

    cost.py [--seconds 3] [--rounds 7] NAME=PROGRAM[,key=value ...] NAME=PROGRAM ...

Prints medians and the ratio to the first. What the contract costs without an outage: the build before it against the
one with it, or `on=build/pgkeel off=build/pgkeel,transparent_retry=off,retry_buffer=0`.
"""
import argparse
import re
import statistics
import subprocess

from stage import USER, Pgkeel, conninfo, make_server


def variant(text):
    name, _, rest = text.partition("=")
    program, *pairs = rest.split(",")
    return name, program, dict(pair.split("=", 1) for pair in pairs)


def one_run(proxy, protocol, seconds, clients):
    """Microseconds of CPU for each transaction."""
    pooler = proxy.pooler
    before = pooler.cpu_seconds()
    ended = subprocess.run(
        ["pgbench", "-n", "-S", "-M", protocol, "-c", str(clients), "-j", "1", "-T", str(seconds), "-h", "127.0.0.1",
         "-p", str(pooler.port), "-U", USER, "app"],
        env={**pooler.env, "PGPASSWORD": proxy.login["password"], "PGSSLMODE": "disable"}, check=True,
        capture_output=True, text=True)
    done = int(re.search(r"actually processed: (\d+)", ended.stdout).group(1))
    return (pooler.cpu_seconds() - before) / done * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("variants", nargs="+", type=variant)
    options = parser.parse_args()
    server = make_server()
    proxies = {}
    try:
        subprocess.run(["pgbench", "-i", "-q", "-h", str(server.dir), "-p", str(server.port), "-U", USER, "app"],
                       check=True, capture_output=True)
        for name, program, settings in options.variants:
            proxies[name] = Pgkeel(conninfo(server), 20, server_tls_sslmode="disable", log_connections=0,
                                   log_disconnections=0, **settings)
            proxies[name].pooler.binary = program
            proxies[name].start()
        for protocol in ("simple", "extended"):
            figures = {name: [] for name in proxies}
            for _ in range(options.rounds):
                for name, proxy in proxies.items():
                    figures[name].append(one_run(proxy, protocol, options.seconds, options.clients))
            medians = {name: statistics.median(values) for name, values in figures.items()}
            first = next(iter(medians.values()))
            for name, median in medians.items():
                print(f"{protocol:<10}{name:<12}{median:7.2f} us  {median / first:6.3f}", flush=True)
    finally:
        for proxy in proxies.values():
            proxy.stop()
        server.remove()


if __name__ == "__main__":
    main()
