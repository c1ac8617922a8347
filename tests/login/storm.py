#!/usr/bin/env python3
"""Logins over TLS with SCRAM, so many a second, while others work: how long their queries take, and what a login costs.

    storm.py [--seconds 30] [--rate 300] [--clients 4] [--no-pgbouncer] [pgkeel]

Clients that are logged in ask at a steady pace, first alone, then during the storm: 99 of 100 queries must take less than
twice as long as before. The generator (generator.c) derives its key once, as drivers with a cache do, so that it does not
eat the machine. Nothing may be left afterwards: connections, descriptors, memory. PgBouncer, where
it is installed, goes through the same. Exit status 0: the bounds hold.
"""
import argparse
import os
import pathlib
import pwd
import shutil
import ssl
import subprocess
import struct
import sys
import tempfile
import time

OUTAGE = pathlib.Path(__file__).resolve().parents[1] / "outage"
sys.path.insert(0, str(OUTAGE))

from stage import USER, PgBouncer, Pgkeel, conninfo, make_server  # noqa: E402

from harness import password_of, wait_until  # noqa: E402
from harness import wire as w  # noqa: E402
from harness.certificates import Authority  # noqa: E402

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def build_generator(folder):
    """The storm comes from a program in C, so that it does not eat the machine."""
    source, program = pathlib.Path(__file__).with_name("generator.c"), folder / "generator"
    subprocess.run(["cc", "-std=gnu11", "-O2", "-D_GNU_SOURCE", "-o", program, source, "-lssl", "-lcrypto", "-lpthread"], check=True)
    return program


def open_wire(port, context):
    wire = w.Wire("127.0.0.1", port, 20)
    wire.socket.sendall(SSL_REQUEST)
    assert wire.socket.recv(1) == b"S"
    wire.socket = context.wrap_socket(wire.socket)
    return wire.startup(USER, "app").login()


def make_context():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def measure(port, clients, seconds):
    """Seconds that each query took; each client asks 50 times a second."""
    context, taken = make_context(), []
    wires = [open_wire(port, context) for _ in range(clients)]
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        wire = wires[count % clients]
        time.sleep(max(0, began + count / (50 * clients) - time.monotonic()))
        before = time.perf_counter()
        assert wire.value("SELECT 1") == "1"
        taken.append(time.perf_counter() - before)
        count += 1
    for wire in wires:
        wire.close()
    return taken


def percentile(values, share):
    return sorted(values)[int(len(values) * share)]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def left_behind(pid, server):
    """Descriptors, but for the connections to PostgreSQL, and kB of memory."""
    memory = next(int(line.split()[1]) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return len(os.listdir(f"/proc/{pid}/fd")) - len(server.backends("usename = 'app'")), memory


def run(name, port, pid, options):
    server = options.server
    quiet = measure(port, options.clients, 10)
    measure(port, options.clients, 1)
    idle_before = cpu_seconds(pid)
    measure(port, options.clients, 5)
    idle = (cpu_seconds(pid) - idle_before) / 5
    files, memory = left_behind(pid, server)
    before, began = cpu_seconds(pid), time.monotonic()
    storm = subprocess.Popen([options.generator, str(port), USER, password_of(USER), str(options.rate), str(options.seconds)],
                             stdout=subprocess.PIPE, text=True)
    busy = measure(port, options.clients, options.seconds - 1)
    done = int(storm.communicate()[0])
    took = time.monotonic() - began
    cost = (cpu_seconds(pid) - before - idle * took) / max(done, 1) * 1000
    wait_until(lambda: left_behind(pid, server)[0] <= files, 5, f"{name} closes what is left")
    after = left_behind(pid, server)
    p99, quiet_p99 = percentile(busy, 0.99) * 1000, percentile(quiet, 0.99) * 1000
    print(f"{name}: {done} logins in {took:.1f} s ({done / took:.0f} a second), {cost:.2f} ms of CPU each; p99 of a query "
          f"{quiet_p99:.2f} ms quiet, {p99:.2f} ms in the storm (p50 {percentile(quiet, 0.5) * 1000:.2f}, {percentile(busy, 0.5) * 1000:.2f}); "
          f"descriptors {files} -> {after[0]}, memory {memory} -> {after[1]} kB", flush=True)
    return p99 < 2 * quiet_p99 and done >= 0.95 * options.rate * options.seconds


def make_files():
    """Certificate and key that the user of PostgreSQL, who runs PgBouncer, can read."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="storm-", dir="/tmp"))
    folder.chmod(0o755)
    certificate, key = Authority(folder).issue("localhost")
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(key, owner.pw_uid, owner.pw_gid)
    return folder, {"client_tls_sslmode": "require", "client_tls_cert_file": certificate, "client_tls_key_file": key}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--no-pgbouncer", action="store_true")
    parser.add_argument("pgkeel", nargs="?")
    options = parser.parse_args()
    server, (folder, tls) = make_server(), make_files()
    options.generator, options.server = build_generator(folder), server
    quiet = {"auth_type": "scram-sha-256", "log_connections": 0, "log_disconnections": 0}
    complaints, holds = [], True
    try:
        pgkeel = Pgkeel(conninfo(server), 20, **tls, **quiet)
        if options.pgkeel:
            pgkeel.pooler.binary = os.path.abspath(options.pgkeel)
        holds = run("pgkeel", pgkeel.start().pooler.port, pgkeel.pooler.pid, options)
        complaints = pgkeel.stop()
        if PgBouncer.program() and not options.no_pgbouncer:
            pgbouncer = PgBouncer(f"{conninfo(server)} user={USER} password={password_of(USER)}", 20, **tls, **quiet).start()
            run(f"PgBouncer {PgBouncer.version()}", pgbouncer.port, pgbouncer.process.pid, options)
            pgbouncer.stop()
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(complaints))
    return 0 if holds and not complaints else 1


if __name__ == "__main__":
    sys.exit(main())
