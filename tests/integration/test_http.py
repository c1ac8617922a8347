"""HTTP: metrics that Prometheus accepts and of which each one counts something, health, tokens, and hostile visitors."""
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import psycopg2
import pytest

from harness import free_port, wait_until
from harness import wire as w
from harness.relay import Relay, fatal
from harness.web import Web

PROMTOOL = shutil.which("promtool")


def parse_name(text):
    """'a_total{b="c"}' as a name and its labels."""
    name, _, labels = text.partition("{")
    return name, dict(re.findall(r'(\w+)="([^"]*)"', labels))


class Stage:
    """Starts things for one test and looks at their metrics."""

    def __init__(self, start_pooler, postgres, fresh_postgres, stack):
        self.start_pooler, self.postgres, self.fresh_postgres, self.stack = start_pooler, postgres, fresh_postgres, stack
        self.pooler = self.web = None

    def start(self, server=None, databases=None, **settings):
        port = free_port()
        settings = {"workers": 2, "pool_size": 2, "server_tls_sslmode": "disable", **settings}
        server = None if databases else server or self.postgres
        self.pooler = self.start_pooler(server, databases=databases, http_listen=f"127.0.0.1:{port}", **settings)
        self.web = Web(port, settings.get("http_token"))
        return self.pooler

    def wire(self, *args, **kw):
        return self.stack.enter_context(self.pooler.wire(*args, **kw))

    def relay(self, *args, **kw):
        relay = self.stack.enter_context(Relay(*args, **kw))
        return relay, f"host=127.0.0.1 port={relay.port} dbname=app"

    def gate(self, server, user="app"):
        """While the returned connection is open, statements that lock 4711 wait at PostgreSQL."""
        connection = server.connect("app")
        self.stack.callback(connection.close)
        connection.cursor().execute("SELECT pg_advisory_lock(4711)")
        return connection

    def at_the_gate(self, server):
        return wait_until(lambda: [b["pid"] for b in server.backends("wait_event = 'advisory'")], what="at the gate")[0]

    def see(self, names, timeout=10.0):
        """Waits until each of these metrics is above zero."""
        def missing():
            return [name for name in names if self.web.sample(parse_name(name)[0], **parse_name(name)[1]) <= 0]
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not missing(), timeout=timeout)
        assert missing() == []


@pytest.fixture
def stage(start_pooler, postgres, fresh_postgres):
    with contextlib.ExitStack() as stack:
        yield Stage(start_pooler, postgres, fresh_postgres, stack)


# ---- every metric counts something

CAUSES = {}


def causes(*names):
    def note(function):
        CAUSES[function.__name__] = (function, names)
        return function
    return note


GATED = "pg_advisory_xact_lock(4711)"


def locked_out(stage):
    """One client has the only backend, another waits for it."""
    stage.start(pool_size=1)
    one, two = stage.wire(), stage.wire()
    one.query("BEGIN")
    two.send_raw(w.query("SELECT 1"))
    return one, two


@causes("info", "uptime_seconds", "ready", "clients_max", "loop_tick_age_seconds", "clients", "survey_age_seconds",
        "client_connects_total", "client_logins_total", "client_closes_total{reason=\"left\"}", "server_connects_total",
        "leases_total", "queries_total", "transactions_total", "bytes_received_total", "bytes_sent_total",
        "client_login_seconds_count", "server_connect_seconds_count", "client_login_seconds_sum",
        "server_connect_seconds_sum", "http_requests_total", "endpoint_up", "endpoint_backends", "pool_limit",
        "pool_servers", "pool_idle", "pool_clients", "pool_leases_total", "pool_transactions_total",
        "pool_queries_total", "pool_received_bytes_total", "pool_sent_bytes_total", "pool_logins_total",
        "pool_client_parses_total", "pool_server_parses_total", "pool_wait_seconds_count", "pool_query_seconds_count",
        "pool_query_seconds_sum", "pool_transaction_seconds_count", "pool_transaction_seconds_sum")
def ordinary_life(stage):
    stage.start()
    stage.wire().terminate()
    wire = stage.wire()
    wire.query("SELECT pg_sleep(0.01)")
    wire.send_raw(w.extended("SELECT 1") + w.sync())
    wire.recv_until()


@causes("pool_busy", "pool_waiting", "pool_oldest_wait_seconds", "pool_oldest_transaction_seconds", "lease_waits_total")
def waiting(stage):
    locked_out(stage)


@causes("lease_handovers_total", "pool_wait_seconds_sum")
def handing_over(stage):
    stage.start(pool_size=1)
    clients = [stage.wire() for _ in range(4)]  # of both workers
    for client in clients * 2:
        client.value("SELECT 1")
    clients[0].query("BEGIN")
    for client in clients[1:]:
        client.send_raw(w.query("SELECT 1"))
    stage.see(["pool_waiting"])
    clients[0].query("COMMIT")


@causes("lease_wait_timeouts_total", "client_errors_total{sqlstate=\"53300\"}", "pool_errors_total")
def giving_up(stage):
    stage.start(pool_size=1, query_wait_timeout="0.3")
    one, two = stage.wire(), stage.wire()
    one.query("BEGIN")
    assert w.errors(two.query("SELECT 1"))[0]["C"] == "53300"


@causes("clients_logging_in")
def logging_in(stage):
    stage.start()
    stage.stack.enter_context(stage.pooler.dial())


@causes("client_login_failures_total", "client_closes_total{reason=\"authentication\"}",
        "client_closes_total{reason=\"refused\"}", "client_closes_total{reason=\"protocol\"}", "protocol_errors_total",
        "client_closes_total{reason=\"other\"}")
def refusals(stage):
    pooler = stage.start()
    for settings in ({"password": "wrong"}, {"db": "nowhere"}):
        with pytest.raises(psycopg2.OperationalError):
            pooler.connect(**settings)
    for first in (b"\0\0\0\x04", w.startup_packet("app", "app", protocol=9 << 16)):
        with pooler.dial() as wire:
            wire.send_raw(first)
            wire.recv_all()


@causes("clients_refused_by_address_total")
def guessing(stage):
    pooler = stage.start(max_login_failures=1)
    for _ in range(3):
        with pytest.raises(psycopg2.OperationalError):
            pooler.connect(password="wrong")


@causes("client_closes_total{reason=\"limit\"}")
def too_many(stage):
    pooler = stage.start(max_client_conn=1)
    stage.wire()
    with pytest.raises(psycopg2.OperationalError):
        pooler.connect()


@causes("client_limits_total", "client_closes_total{reason=\"timeout\"}")
def idling(stage):
    stage.start(client_idle_timeout="0.2", idle_transaction_timeout="0.2")
    stage.wire().query("SELECT 1")
    stage.wire().query("BEGIN")


@causes("client_closes_total{reason=\"terminated\"}")
def shutting_down(stage):
    pooler = stage.start()
    stage.wire(), stage.wire().query("BEGIN")
    pooler.process.send_signal(signal.SIGTERM)


@causes("client_closes_total{reason=\"unreachable\"}", "pool_down", "endpoint_attempts", "endpoint_failures_total",
        "endpoint_down_total", "server_connect_failures_total", "connect_failures_total{reason=\"network\"}")
def nobody_there(stage):
    stage.start(databases={"app": f"host=127.0.0.1 port={free_port()} dbname=app"}, server_down_timeout="0.5",
                server_retry_attempts=1)
    with pytest.raises(psycopg2.OperationalError):
        stage.pooler.connect()


@causes("endpoint_back_total")
def coming_back(stage):
    relay, entry = stage.relay(stage.postgres.port, drop=lambda n: n <= 2)
    stage.start(databases={"app": entry})
    assert stage.wire().value("SELECT 1") == "1"


REFUSALS = {"starting": "57P03", "full": "53300", "authentication": "28P01", "database": "3D000", "permission": "42501",
            "other": "XX000"}


@causes(*(f'connect_failures_total{{reason="{reason}"}}' for reason in [*REFUSALS, "tls"]))
def refused_by_postgresql(stage):
    databases = {reason: stage.relay(answer=fatal(code, "no"))[1] for reason, code in REFUSALS.items()}
    databases["tls"] = f"host=127.0.0.1 port={stage.postgres.port} dbname=app sslmode=require"
    pooler = stage.start(databases=databases)
    for name in databases:
        threading.Thread(target=try_to_connect, args=(pooler, name), daemon=True).start()


def try_to_connect(pooler, name):
    with contextlib.suppress(psycopg2.Error):
        pooler.connect(db=name, connect_timeout=2).close()


@causes("endpoint_logins", "pool_connecting")
def connecting(stage):
    listener = stage.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    pooler = stage.start(databases={"app": f"host=127.0.0.1 port={listener.getsockname()[1]} dbname=app"},
                         server_connect_timeout=3)
    threading.Thread(target=try_to_connect, args=(pooler, "app"), daemon=True).start()


@causes("server_closes_total{reason=\"idle\"}")
def idle_connections(stage):
    stage.start(server_idle_timeout="0.2")
    stage.wire().value("SELECT 1")


@causes("server_closes_total{reason=\"age\"}")
def old_connections(stage):
    stage.start(server_lifetime="0.2")
    stage.wire().value("SELECT 1")


@causes("server_closes_total{reason=\"retired\"}")
def reconnecting(stage):
    pooler = stage.start(admin_users="app")
    stage.wire().value("SELECT 1")
    pooler.admin("RECONNECT")


@causes("server_closes_total{reason=\"limit\"}")
def sharing_a_limit(stage):
    stage.start(max_db_connections=1)
    assert stage.wire().value("SELECT 1") == stage.wire("ann").value("SELECT 1")


@causes("server_closes_total{reason=\"lost\"}", "server_dead_total", "server_suspicions_total", "pool_lost_total")
def dying_while_idle(stage):
    stage.start()
    stage.wire().value("SELECT 1")
    stage.postgres.terminate_backends("usename = 'app'")


@causes("server_checks_total", "server_check_failures_total")
def not_answering_a_check(stage):
    stage.start(server_check_delay="0", server_check_timeout="0.2", pool_size=1)
    wire = stage.wire()
    wire.value("SELECT 1")
    pid = wire.backend_pid()
    os.kill(pid, signal.SIGSTOP)
    stage.stack.callback(os.kill, pid, signal.SIGCONT)
    wire.send_raw(w.query("SELECT 1"))


@causes("cancel_requests_total", "cancel_forwarded_total")
def cancelling(stage):
    connection = stage.start().connect(autocommit=True)
    stage.stack.callback(connection.close)
    timer = threading.Timer(0.3, connection.cancel)
    timer.start()
    with pytest.raises(psycopg2.errors.QueryCanceled):
        connection.cursor().execute("SELECT pg_sleep(20)")


@causes("retries_total{row=\"R1\"}", "pool_retries_total")
def moved_unread(stage):
    """Its settings were still being put on the connection when that was lost."""
    stage.start(pool_size=1)
    assert w.errors(die_with_a_request(stage, w.query("SELECT 1"), IntervalStyle="iso_8601")) == []


def die_with_a_request(stage, request, **parameters):
    """PostgreSQL's process is stopped, then the request comes, then it is terminated."""
    wire, other = stage.wire(**parameters), stage.wire()
    pid = other.backend_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        wire.send_raw(request)
        stage.see(["pool_busy"])
        stage.postgres.sql(f"SELECT pg_terminate_backend({pid})", db="postgres")
    finally:
        os.kill(pid, signal.SIGCONT)
    return wire.recv_until()


@causes("retries_total{row=\"R3\"}")
def moved_before_it_began(stage):
    stage.start(pool_size=1)
    assert w.errors(die_with_a_request(stage, w.extended("SELECT 1") + w.sync())) == []


@causes("retries_total{row=\"R4\"}")
def moved_after_it_was_aborted(stage):
    stage.start(pool_size=1)
    gate = stage.gate(stage.postgres)
    wire = stage.wire()
    wire.send_raw(w.query(f"SELECT 1 FROM {GATED}"))
    stage.postgres.sql(f"SELECT pg_terminate_backend({stage.at_the_gate(stage.postgres)}, 5000)", db="postgres")
    gate.close()
    assert w.errors(wire.recv_until()) == []


@causes("retries_total{row=\"R5\"}")
def moved_from_a_standby(stage):
    first, second = stage.fresh_postgres(), stage.fresh_postgres()
    for server in (first, second):
        server.sql("CREATE TABLE t (n int)", "GRANT ALL ON t TO PUBLIC")
    stage.start(databases={"app": f"host=127.0.0.1,127.0.0.1 port={first.port},{second.port} dbname=app"
                                  " target_session_attrs=read-write"}, server_ping_interval=0)
    wire = stage.wire()
    wire.query("INSERT INTO t VALUES (1)")
    first.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    wait_until(lambda: first.sql("SHOW default_transaction_read_only", user="app")[0][0] == "on")
    assert w.errors(wire.query("INSERT INTO t VALUES (2)")) == []


@causes("retries_total{row=\"reads\"}", "requests_unknown_total", "client_errors_total{sqlstate=\"08007\"}")
def crash(stage):
    server = stage.fresh_postgres()
    stage.start(server, transparent_retry="reads", pool_size=2)
    gate = stage.gate(server)
    reader, writer = stage.wire(timeout=30), stage.wire(timeout=30)
    reader.send_raw(w.query(f"SELECT 1 FROM {GATED}"))
    pid = stage.at_the_gate(server)
    writer.send_raw(w.query(f"DO $$ BEGIN PERFORM {GATED}; END $$"))
    wait_until(lambda: len(server.backends("wait_event = 'advisory'")) == 2)
    os.kill(pid, signal.SIGKILL)
    assert w.errors(writer.recv_until())[0]["C"] == "08007"
    with contextlib.suppress(psycopg2.Error):
        gate.close()
    assert w.errors(reader.recv_until()) == []


@causes("requests_lost_total", "client_errors_total{sqlstate=\"40001\"}")
def losing_a_transaction(stage):
    stage.start()
    wire = stage.wire()
    wire.query("BEGIN")
    stage.postgres.terminate_backends("usename = 'app'")
    assert w.errors(wire.query("SELECT 1"))[0]["C"] == "40001"


@causes("client_closes_total{reason=\"lost\"}")
def losing_a_session(stage):
    stage.start(pool_size=1)
    gate = stage.gate(stage.postgres)
    wire = stage.wire()
    wire.query("CREATE TEMPORARY TABLE t (n int)")
    wire.send_raw(w.query(f"DO $$ BEGIN PERFORM {GATED}; END $$"))
    pid = stage.at_the_gate(stage.postgres)
    stage.postgres.sql(f"SELECT pg_terminate_backend({pid}, 5000)", db="postgres")
    wire.recv_all()
    gate.close()


@causes("session_looks_total", "pins_total", "pool_pinned", "pool_pins{reason=\"temporary table\"}",
        "pool_pins{reason=\"advisory lock\"}", "pool_pins{reason=\"prepare\"}", "pool_pins{reason=\"cursor with hold\"}")
def pinning(stage):
    stage.start()
    wire = stage.wire()
    wire.query("CREATE TEMPORARY TABLE t (n int)")
    wire.query("SELECT pg_advisory_lock(99)")
    wire.query("PREPARE p AS SELECT 1")
    wire.query("DECLARE c CURSOR WITH HOLD FOR SELECT 1")


@causes("notifications_total", "listener_losses_total")
def listening(stage):
    stage.start()
    wire = stage.wire()
    other = stage.wire()
    wire.query("LISTEN news")

    def is_told():
        other.query("NOTIFY news")
        return stage.web.sample("notifications_total") > 0
    wait_until(is_told)
    stage.postgres.terminate_backends("application_name LIKE 'pgkeel: listens%'")


@causes("http_refused_total")
def refusing_a_visitor(stage):
    stage.start()
    assert stage.web.ask("/nowhere").status == 404


@pytest.mark.parametrize("cause", CAUSES)
def test_metric_is_above_zero_when_what_it_counts_happened(stage, cause):
    function, names = CAUSES[cause]
    function(stage)
    stage.see(names)


# Two workers must want the same lock within nanoseconds: tests/unit/test_ledger.c lets them.
ELSEWHERE = {("ledger_contended_total", ())}
NAMES_OF_THINGS = {"database", "user", "endpoint", "loop", "version", "sqlstate"}


def test_every_metric_has_a_test_that_causes_it(stage):
    stage.start()
    stage.wire().value("SELECT 1")
    wait_until(lambda: stage.web.sample("pool_clients") > 0)
    there = set()
    for name, labels in stage.web.samples():
        labels = {key: value for key, value in labels if key not in NAMES_OF_THINGS}
        if name.endswith("_bucket") or name == "pgkeel_pool_pins":
            continue
        there.add((name.removeprefix("pgkeel_"), tuple(labels.items())))
    caused = {(name, tuple(labels.items())) for _, names in CAUSES.values() for name, labels in map(parse_name, names)}
    assert there - caused - ELSEWHERE == set()


# ---- the format

@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_prometheus_likes_the_metrics(stage):
    stage.start()
    stage.wire().value("SELECT 1")
    wait_until(lambda: stage.web.sample("pool_clients") > 0)
    answer = stage.web.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    ended = subprocess.run([PROMTOOL, "check", "metrics"], input=answer.body, text=True, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_histogram_counts_each_query_in_its_bucket(stage):
    stage.start()
    wire = stage.wire()
    for seconds in (0, 0, 0.3):
        wire.query(f"SELECT pg_sleep({seconds})")
    wait_until(lambda: stage.web.sample("pool_query_seconds_count") == 3)
    buckets = sorted((float(dict(labels)["le"]), value) for (name, labels), value in stage.web.samples().items()
                     if name == "pgkeel_pool_query_seconds_bucket")
    values = [value for _, value in buckets]
    assert values == sorted(values) and buckets[-1] == (float("inf"), 3)
    assert dict(buckets)[0.262144] == 2 and dict(buckets)[2.097152] == 3
    assert 0.3 <= stage.web.sample("pool_query_seconds_sum") < 5


STRANGE = '<script>"\\', "naïve ☃", "a'b"


def test_names_cannot_break_out_of_labels_or_json(stage):
    databases = {'"' + name.replace('"', '""') + '"': f"host=127.0.0.1 port={stage.postgres.port} dbname=app"
                 for name in STRANGE}
    stage.start(databases=databases)
    for name in STRANGE:
        stage.wire(db=name).value("SELECT 1")
    status = stage.web.wait_for(lambda s: len(s["pools"]) == len(STRANGE))
    assert {pool["database"] for pool in status["pools"]} == set(STRANGE)
    body = stage.web.ask("/status.json").body
    assert "<" not in body and "'" not in body
    labels = {dict(labels).get("database") for _, labels in stage.web.samples()}
    assert {name.replace("\\", "\\\\").replace('"', '\\"') for name in STRANGE} <= labels


def test_number_of_labelled_pools_is_bounded_and_nothing_is_left_out(stage):
    """The first hundred have labels, the rest is counted together."""
    stage.start(databases={"*": f"host=127.0.0.1 port={free_port()} dbname=app"}, auth_type="trust")
    for i in range(103):  # each waits for the server, in a pool of its own
        stage.stack.enter_context(stage.pooler.dial()).startup("app", f"db{i}")
    wait_until(lambda: stage.web.sample("pool_waiting") == 103)
    pools = [dict(labels) for name, labels in stage.web.samples() if name == "pgkeel_pool_waiting"]
    assert len(pools) == 101
    assert stage.web.sample("pool_waiting", database="", user="") == 3
    assert stage.web.status()["pools_total"] == 103


# ---- health

def test_health_of_a_process_that_is_well(stage):
    stage.start()
    assert stage.web.ask("/livez")[::2] == (200, "ok\n")
    assert stage.web.ask("/readyz")[::2] == (200, "ok\n")
    assert stage.web.ask("/livez", method="HEAD").body == ""


def test_hanging_worker_is_not_alive_and_everything_else_is_still_told(stage):
    """Its thread is stopped by a debugger's means."""
    pooler = stage.start(workers=2)
    stage.web.wait_for(lambda s: s["surveyed_ms"])
    tracer = subprocess.Popen(["/usr/bin/python3", "-c", HANG, str(pooler.pid)], stdout=subprocess.PIPE, text=True)
    stage.stack.callback(tracer.wait)
    stage.stack.callback(tracer.kill)
    if tracer.stdout.readline() != "hangs\n":
        pytest.skip("no ptrace here")
    answer = wait_until(lambda: a if (a := stage.web.ask("/livez")).status == 503 else None, timeout=12)
    assert re.fullmatch(r"the loop of worker [01] hangs\n", answer.body)
    assert stage.web.sample("loop_tick_age_seconds") > 5 and stage.web.sample("survey_age_seconds") > 3


# PTRACE_SEIZE and PTRACE_INTERRUPT stop one thread, not the process.
HANG = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
threads = sorted(int(t) for t in os.listdir(f"/proc/{sys.argv[1]}/task") if t != sys.argv[1])
names = [t for t in threads if open(f"/proc/{sys.argv[1]}/task/{t}/comm").read().startswith("worker")]
libc.ptrace.argtypes = [ctypes.c_long] * 4
done = names and libc.ptrace(0x4206, names[0], 0, 0) == 0 and libc.ptrace(0x4207, names[0], 0, 0) == 0
print("hangs" if done else "no", flush=True)
time.sleep(30)
"""


def test_not_ready_from_the_beginning_of_the_end(stage):
    pooler = stage.start(shutdown_timeout=20)
    wire = stage.wire()
    wire.query("BEGIN")
    pooler.process.send_signal(signal.SIGTERM)
    answer = wait_until(lambda: a if (a := stage.web.ask("/readyz")).status == 503 else None)
    assert answer.body == "shutting down\n" and stage.web.ask("/livez").status == 200
    wire.query("COMMIT")
    assert pooler.wait() == 0


def test_readiness_of_a_database(stage):
    relay, entry = stage.relay(stage.postgres.port)
    stage.start(databases={"app": entry}, server_idle_timeout="0.2", server_retry_max_delay="0.1")
    assert stage.web.ask("/readyz?db=app").status == 200  # nobody asked for anything that is not there
    wait_until(lambda: stage.web.ask("/readyz?db=nope").status == 404)
    stage.wire().value("SELECT 1")
    assert stage.web.ask("/readyz?db=app")[::2] == (200, "ok\n")
    wait_until(lambda: stage.web.sample("pool_servers") == 0)
    relay.close()
    # Nobody but the one who asks needs a connection: the question itself finds out.
    answer = wait_until(lambda: a if (a := stage.web.ask("/readyz?db=app")).body.startswith("down") else None)
    assert answer.status == 503
    relay.listen()
    wait_until(lambda: stage.web.ask("/readyz?db=app").status == 200)
    for query in ("db=", "db=%zz", "other=1", "db=%00"):
        assert stage.web.ask(f"/readyz?{query}").status == 400, query


# ---- what is kept

def test_outage_is_told_with_what_clients_saw(stage):
    server = stage.fresh_postgres()
    stage.start(server, pool_size=3)
    wire = stage.wire(timeout=30)
    wire.value("SELECT 1")
    server.stop("fast")
    wire.send_raw(w.query("SELECT 2"))
    status = stage.web.wait_for(lambda s: s["incidents"] and s["pools"][0]["waiting"] == 1)
    assert status["endpoints"][0]["state"] in ("failing", "down") and status["incidents"][0]["ended_ms"] is None
    server.start()
    assert w.errors(wire.recv_until()) == []
    incident = stage.web.wait_for(lambda s: s["incidents"][0]["ended_ms"])["incidents"][0]
    assert incident["subject"] == f"127.0.0.1:{server.port}" and incident["errors"] == 0
    assert incident["lost"] == 1 and incident["waiting"] == 1 and incident["reason"]
    assert 100000 < incident["longest_wait_us"] <= (incident["ended_ms"] - incident["began_ms"] + 1500) * 1000


def test_lost_connections_are_an_incident_however_short(stage):
    stage.start()
    wire = stage.wire()
    wire.query("BEGIN")
    stage.web.wait_for(lambda s: s["pools"] and s["pools"][0]["busy"] == 1)
    stage.postgres.terminate_backends("usename = 'app'")
    assert w.errors(wire.query("SELECT 1"))[0]["C"] == "40001"
    incident = stage.web.wait_for(lambda s: s["incidents"] and s["incidents"][0]["ended_ms"])["incidents"][0]
    assert (incident["errors"], incident["lost"]) == (1, 1)


def test_slots_tell_what_happened_in_five_seconds(stage):
    stage.start(pool_size=1)
    one, two = stage.wire(), stage.wire()
    one.query("BEGIN")
    two.send_raw(w.query("SELECT 1"))
    stage.web.wait_for(lambda s: s["pools"] and s["pools"][0]["waiting"] == s["pools"][0]["busy"] == 1)
    one.query("SELECT pg_sleep(0.3)")
    one.query("COMMIT")
    two.recv_until()
    status = stage.web.wait_for(lambda s: sum(slot[3] for slot in s["pools"][0]["slots"]) == 4)
    slots = status["pools"][0]["slots"]
    assert max(slot[0] for slot in slots) == 1 and max(slot[2] for slot in slots) == 1
    assert max(slot[6] for slot in slots) > 300000 and max(slot[9] for slot in slots) > 250000
    later = stage.web.status(since=status["slot"] + 1000)
    assert later["pools"][0]["slots"] == []


def test_long_transactions_and_pins_are_listed_with_their_owners(stage):
    stage.start(pool_size=3)
    one, two = stage.wire(), stage.wire("ann")
    one.query("BEGIN")
    two.query("SELECT pg_advisory_lock(4712)")
    status = stage.web.wait_for(lambda s: s["longest"] and s["pinned"])
    assert [(t["user"], t["is_running"]) for t in status["longest"]] == [("app", 0)]
    assert [(t["user"], t["pins"]) for t in status["pinned"]] == [("ann", "advisory lock")]
    assert status["longest"][0]["pid"] == one.backend_pid()
    one.query("COMMIT")
    stage.web.wait_for(lambda s: not s["longest"])


# ---- who may ask

def test_token_is_asked_for_where_there_is_something_to_see(stage):
    stage.start(http_token="sesame")
    stranger = Web(stage.web.port)
    for path, status in {"/": 200, "/livez": 200, "/readyz": 200, "/metrics": 401, "/status.json": 401,
                         "/readyz?db=app": 401}.items():
        assert stranger.ask(path).status == status, path
        assert stage.web.ask(path).status == 200, path
    for wrong in ("sesam", "sesame2", "Sesame", ""):
        assert Web(stage.web.port, wrong or None).ask("/metrics").status == 401, wrong
    assert stranger.ask("/metrics").headers["www-authenticate"] == "Bearer"
    assert "sesame" not in "".join(map(str, stage.pooler.admin("SHOW CONFIG")))


def test_token_from_a_file(stage, tmp_path):
    path = tmp_path / "token"
    path.write_text("from a file\nand more\n")
    stage.start(http_token_file=path)
    assert stage.web.ask("/metrics").status == 401
    assert Web(stage.web.port, "from a file").ask("/metrics").status == 200


@pytest.mark.parametrize("address, token, warns", [("0.0.0.0", "", True), ("0.0.0.0", "x", False), ("localhost", "", False)])
def test_listener_that_is_open_to_all_is_warned_about(stage, address, token, warns):
    pooler = stage.start(start=False)
    pooler.set_ini(pooler.ini_path.read_text().replace("http_listen = 127.0.0.1", f"http_listen = {address}") +
                   (f"http_token = {token}\n" if token else ""))
    pooler.start()
    pooler.wait_for_log("pgkeel .* ready")
    assert pooler.log_contains("open to the network, and there is no http_token") == warns


@pytest.mark.parametrize("settings, words", [
    ({"http_listen": "127.0.0.1:no"}, "http_listen is an address and a port"),
    ({"http_listen": "127.0.0.1:0"}, "http_listen is an address and a port"),
    ({"http_listen": "nowhere.invalid:9127"}, "could not listen on"),
    ({"http_listen": "127.0.0.1:{taken}"}, "Address already in use"),
    ({"http_listen": "127.0.0.1:9127", "http_token_file": "/nonexistent"}, "could not read a token"),
])
def test_start_fails_with_a_reason(postgres, start_pooler, settings, words):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {key: value.replace("{taken}", str(taken.getsockname()[1])) for key, value in settings.items()}
        status, output = start_pooler(postgres, start=False, **settings).run()
    assert status == 1 and words in output


def test_no_listener_unless_it_is_set(postgres, start_pooler):
    assert not start_pooler(postgres).log_contains("http://")


def test_page_of_another_site_cannot_read_the_numbers_through_a_browser(stage):
    """DNS rebinding: its name leads to the loopback, so the browser thinks that we are that site."""
    stage.start()
    for host, status in {"evil.example": 403, "evil.example:80": 403, "localhost:1": 200, "127.0.0.1": 200,
                         "[::1]:9127": 200, "127.0.0.1.evil.example": 403, "LOCALHOST": 200}.items():
        assert stage.web.ask("/status.json", Host=host).status == status, host


# ---- hostile visitors

def raw(stage, data, timeout=5.0):
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", stage.web.port), timeout) as sock:
        sock.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                answer += piece
    return answer


REQUESTS = [
    (b"GET / HTTP/1.1\r\n\r\n", 200),
    (b"GET / HTTP/1.0\n\n", 200),
    (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
    (b"DELETE / HTTP/1.1\r\n\r\n", 405),
    (b"get / HTTP/1.1\r\n\r\n", 405),
    (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
    (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n\r\n", 404),
    (b"GET //metrics HTTP/1.1\r\n\r\n", 404),
    (b"GET http://x/metrics HTTP/1.1\r\n\r\n", 400),
    (b"GET /metrics HTTP/2.0\r\n\r\n", 505),
    (b"GET /metrics\r\n\r\n", 400),
    (b"GET / x HTTP/1.1\r\n\r\n", 400),
    (b"GET /\x00 HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
    (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET /?" + b"a" * 1000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET /" + b"a" * 9000, 414),
    (b"GET / HTTP/1.1\r\nx: " + b"a" * 9000, 431),
    (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 2000 + b"\r\n", 431),
    (b"\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),
    (w.startup_packet("app", "app") + b"\n", 400),
]


def test_request_is_answered_as_it_deserves(stage):
    stage.start()
    for data, status in REQUESTS:
        answer = raw(stage, data)
        assert answer.startswith(b"HTTP/1.1 %d " % status), (data[:60], answer[:200])
        assert b"\r\nConnection: close\r\n" in answer, data[:60]
    assert stage.web.ask("/livez").status == 200


def test_request_in_pieces_and_what_follows_it(stage):
    stage.start()
    with socket.create_connection(("127.0.0.1", stage.web.port), 5) as sock:
        for byte in b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n":
            sock.sendall(bytes([byte]))
        sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 100)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                answer += piece
    assert answer.count(b"HTTP/1.1 200 OK") == 1 and answer.endswith(b"ok\n")


def test_visitors_who_hold_connections_keep_nobody_out(stage):
    """As many as are allowed and more, silent, slow or not reading, while clients and probes are served."""
    pooler = stage.start()
    wire = stage.wire()
    before = pooler.fd_count()
    held = []
    for i in range(300):
        sock = socket.create_connection(("127.0.0.1", stage.web.port), 5)
        stage.stack.callback(sock.close)
        held.append(sock)
        with contextlib.suppress(OSError):
            sock.sendall((b"", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\n\r\n")[i % 3])
        if i % 30 == 0:
            assert stage.web.ask("/livez").status == 200
            assert wire.value("SELECT 1") == "1"
    assert stage.web.ask("/readyz").status == 200
    assert pooler.fd_count() <= before + 70
    assert stage.web.sample("http_refused_total") > 200


def test_slow_request_is_cut_off(stage):
    """A byte now and then does not buy more time."""
    stage.start()
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", stage.web.port), 30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nx: ")
        sock.settimeout(0.5)
        while time.monotonic() - began < 25:
            try:
                sock.sendall(b"a")
                if sock.recv(1) == b"":
                    break
            except socket.timeout:
                continue
            except OSError:
                break
    assert time.monotonic() - began < 12
    assert stage.web.sample("http_refused_total") == 1


def test_reader_that_stops_reading_costs_a_bounded_time_and_nobody_else_waits(stage):
    stage.start()
    clients = [stage.wire() for _ in range(3)]
    for client in clients:
        client.value("SELECT 1")
    lazy = []
    for _ in range(20):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(("127.0.0.1", stage.web.port))
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        lazy.append(sock)
        stage.stack.callback(sock.close)
    assert all(client.value("SELECT 2") == "2" for client in clients)
    assert stage.web.ask("/").status == 200
