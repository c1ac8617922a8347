"""How dead, frozen and demoted server connections are found before a client gets one, and who is left in peace."""
import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import wait_until
from harness import wire as w
from harness.postgres import stopped

CHECK = "SELECT 4711"
LOGGED = "log_statement = 'all'"


def open_backends(pooler, count):
    """As many idle backends; their process numbers in the order of their last use."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(pooler.wire()) for _ in range(count)]
        pids = []
        for wire in wires:
            wire.query("BEGIN")
            pids.append(wire.backend_pid())
        for wire in wires:
            wire.query("COMMIT")
    assert len(set(pids)) == count
    wait_until(lambda: len(servers(pooler, "idle")) == count, what="idle backends")
    return pids


def servers(pooler, state=None):
    return [row for row in pooler.admin("SHOW SERVERS") if state in (None, row["state"])]


def pids_of(pooler):
    return {int(row["remote_pid"]) for row in servers(pooler)}


def can_filter():
    """Whether the kernel drops packets for us; iptables alone may be there without it."""
    return os.geteuid() == 0 and shutil.which("iptables") is not None and subprocess.run(
        ["iptables", "-w", "-nL", "INPUT"], capture_output=True, check=False).returncode == 0


needs_filter = pytest.mark.skipif(not can_filter(), reason="dropping packets needs root and iptables")


@contextlib.contextmanager
def black_hole(pooler, pid):
    """What pgkeel and this backend send to each other is lost from now on; nobody is told."""
    row = next(row for row in servers(pooler) if int(row["remote_pid"]) == pid)
    ports = str(row["local_port"]), str(row["port"])
    rules = [["INPUT", "-i", "lo", "-p", "tcp", "--sport", sport, "--dport", dport, "-j", "DROP"]
             for sport, dport in (ports, ports[::-1])]
    added = []
    try:
        for rule in rules:
            subprocess.run(["iptables", "-w", "-I", *rule], check=True)
            added.append(rule)
        yield
    finally:
        for rule in added:
            subprocess.run(["iptables", "-w", "-D", *rule], check=True)


def took(work):
    began = time.monotonic()
    work()
    return time.monotonic() - began


def statements_of(server, pid):
    """What the backend was asked, from the server's log (log_statement = 'all')."""
    return re.findall(rf"\[{pid}\] app@app LOG:  (?:statement|execute \S+): (.*)", server.log())


# ---- silent deaths of idle backends

@pytest.mark.parametrize("workers", [1, 2])
def test_stopped_idle_backend_is_found_by_the_ping(postgres, start_pooler, workers):
    pooler = start_pooler(
        postgres, pool_size=3, workers=workers, server_ping_interval=1, server_check_timeout=0.5)
    pids = open_backends(pooler, 2)
    with stopped(pids[1]), pooler.wire() as wire:
        began = time.monotonic()
        pooler.wait_for_log(r"dead connection removed from pool \(no answer to a check within 0.5s\)", 5)
        # Half a second for the ticks and for reading the log.
        assert time.monotonic() - began < 1 + 0.5 + 0.5
        assert pids[1] not in pids_of(pooler)
        assert took(lambda: wire.query("SELECT 1")) < 0.4
        assert pids[0] in pids_of(pooler)


def test_stopped_backend_that_is_being_checked_disturbs_nobody(postgres, start_pooler):
    pooler = start_pooler(
        postgres, pool_size=2, workers=1, server_ping_interval=1, server_check_timeout=3)
    pids = open_backends(pooler, 2)
    with stopped(pids[1]), pooler.wire() as wire:
        wait_until(lambda: servers(pooler, "tested"), 3, "the check")
        tested = servers(pooler, "tested")
        assert [int(row["remote_pid"]) for row in tested] == [pids[1]]
        pool = next(row for row in pooler.admin("SHOW POOLS") if row["database"] == "app")
        assert pool["sv_tested"] == "1"
        for _ in range(20):
            assert took(lambda: wire.query("SELECT 1")) < 0.4
            assert wire.backend_pid() == pids[0]


def test_stopped_backend_that_answers_late_but_in_time_is_kept(postgres, start_pooler):
    pooler = start_pooler(
        postgres, pool_size=1, workers=1, server_ping_interval=1, server_check_timeout=5)
    pids = open_backends(pooler, 1)
    with pooler.wire() as wire:
        with stopped(pids[0]):
            wait_until(lambda: servers(pooler, "tested"), 3, "the check")
            wire.send_raw(w.query("SELECT pg_backend_pid()"))
            assert wire.is_silent(0.5)
        assert w.rows(wire.recv_until(b"Z")) == [(str(pids[0]),)]
    assert not pooler.log_contains("dead connection")


@pytest.mark.parametrize("workers", [1, 2])
def test_check_before_use_never_hangs_a_client(postgres, start_pooler, workers):
    """Every idle backend needs a check, and the one that is next does not answer."""
    pooler = start_pooler(postgres, pool_size=2, workers=workers, server_check_delay=0, server_ping_interval=0,
                          server_check_timeout=3)
    pids = open_backends(pooler, 2)
    with stopped(pids[1]), pooler.wire(timeout=2) as one, pooler.wire(timeout=2) as two:
        for _ in range(3):
            assert one.backend_pid() == pids[0]
            assert two.backend_pid() == pids[0]
        pooler.wait_for_log("no answer to a check within 3s", 5)
        # Its place is free at once, although PostgreSQL's process still exists.
        one.query("BEGIN")
        two.query("BEGIN")
        assert {one.backend_pid(), two.backend_pid()} == pids_of(pooler)
        assert pids[1] not in pids_of(pooler)


def test_place_of_the_only_backend_is_free_when_its_check_fails(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, server_check_delay=0, server_check_timeout=0.5)
    pids = open_backends(pooler, 1)
    with stopped(pids[0]), pooler.wire() as wire:
        assert took(lambda: wire.query("SELECT 1")) < 0.5 + 0.6
        assert wire.backend_pid() not in pids


def test_several_backends_are_checked_at_a_time_for_several_clients(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=6, workers=1, server_check_delay=0, server_ping_interval=0)
    pids = open_backends(pooler, 3)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(pooler.wire()) for _ in range(3)]
        for _ in range(10):
            for wire in wires:
                wire.send_raw(w.query("BEGIN; SELECT pg_backend_pid()"))
            found = {int(w.rows(wire.recv_until(b"Z"))[0][0]) for wire in wires}
            assert found == set(pids)
            for wire in wires:
                wire.query("COMMIT")
    assert pids_of(pooler) == set(pids)


@needs_filter
def test_idle_backend_in_a_black_hole_is_found_by_the_ping(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=3, server_ping_interval=1, server_check_timeout=0.5)
    pids = open_backends(pooler, 2)
    with black_hole(pooler, pids[1]), pooler.wire() as wire:
        pooler.wait_for_log(r"dead connection removed from pool \(no answer to a check within 0.5s\)", 2.2)
        assert pids[1] not in pids_of(pooler)
        assert took(lambda: wire.query("SELECT 1")) < 0.4


# ---- the check itself

def test_error_of_the_check_query_means_dead(fresh_postgres, start_pooler):
    server = fresh_postgres()
    server.sql("CREATE FUNCTION am_i_well() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    pooler = start_pooler(server, pool_size=2, server_check_query="SELECT am_i_well()", server_ping_interval=1)
    pids = open_backends(pooler, 2)
    time.sleep(2)
    assert pids_of(pooler) == set(pids), "healthy ones stay"
    server.sql("DROP FUNCTION am_i_well()")
    pooler.wait_for_log(r"dead connection removed from pool \(server_check_query failed: .*does not exist\)", 4)
    wait_until(lambda: not pids_of(pooler) & set(pids), 4, "end of both")
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"


def test_only_what_was_idle_for_long_is_checked_before_use(fresh_postgres, start_pooler):
    server = fresh_postgres(LOGGED)
    pooler = start_pooler(
        server, pool_size=1, server_check_query=CHECK, server_check_delay=1, server_ping_interval=0)
    with pooler.wire() as wire:
        pid = wire.backend_pid()
        for n in range(3):
            wire.query(f"SELECT {n}")
        time.sleep(1.3)
        wire.query("SELECT 3")
        asked = statements_of(server, pid)
    assert asked == ["SELECT pg_backend_pid()", "SELECT 0", "SELECT 1", "SELECT 2", CHECK, "SELECT 3"]


def test_checks_keep_the_order_of_use_and_the_idle_timeout(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=3, workers=1, server_ping_interval=0.3, server_idle_timeout=4,
                          server_check_query=CHECK)
    pids = open_backends(pooler, 3)

    def are_checked():
        return len(postgres.backends(f"usename = 'app' AND query = '{CHECK}'")) == 3

    wait_until(are_checked, 3, "checks of all three")
    with pooler.wire() as wire:
        assert wire.backend_pid() == pids[2], "the most recently used one"
        for _ in range(8):
            wire.query("SELECT 1")
            time.sleep(0.5)
        wait_until(lambda: pids_of(pooler) == {pids[2]}, 4, "end of those that nobody used")


def test_ping_interval_of_a_reload_concerns_idle_backends(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, server_ping_interval=0, server_check_timeout=0.5)
    pids = open_backends(pooler, 1)
    with stopped(pids[0]):
        time.sleep(1)
        assert not pooler.log_contains("dead connection")
        pooler.set_ini(pooler.ini_path.read_text().replace("server_ping_interval = 0", "server_ping_interval = 0.2"))
        pooler.reload()
        pooler.wait_for_log("no answer to a check within 0.5s", 3)


# ---- suspicion

def test_first_death_makes_the_other_idle_backends_suspect(fresh_postgres, start_pooler):
    server = fresh_postgres(LOGGED)
    entry = f"host=127.0.0.1 port={server.port} dbname=app"
    pooler = start_pooler(server, {"app": entry, "twin": entry}, pool_size=3, workers=1, server_check_query=CHECK,
                          server_ping_interval=0)
    pids = open_backends(pooler, 3)
    with pooler.wire(db="twin") as twin, pooler.wire() as wire:
        twin_pid = twin.backend_pid()
        server.sql(f"SELECT pg_terminate_backend({pids[0]})")
        pooler.wait_for_log("dead connection removed from pool")
        assert wire.backend_pid() == pids[2]
        assert statements_of(server, pids[2])[-2:] == [CHECK, "SELECT pg_backend_pid()"]
        # Another pool of the same server, and only once.
        assert twin.backend_pid() == twin_pid
        assert twin.backend_pid() == twin_pid
        assert statements_of(server, twin_pid) == ["SELECT pg_backend_pid()", CHECK] + ["SELECT pg_backend_pid()"] * 2


def test_suspicion_has_a_cooldown(fresh_postgres, start_pooler):
    server = fresh_postgres(LOGGED)
    pooler = start_pooler(server, pool_size=3, workers=1, server_check_query=CHECK, server_ping_interval=0,
                          pool_recreate_cooldown=60)
    pids = open_backends(pooler, 3)
    with pooler.wire() as wire:
        for number, victim in enumerate(pids[:2], 1):
            server.sql(f"SELECT pg_terminate_backend({victim})")
            wait_until(lambda: pooler.log().count("dead connection removed") == number, what="the death")
            assert wire.backend_pid() == pids[2]
    assert statements_of(server, pids[2]).count(CHECK) == 1


def test_frozen_pooler_suspects_its_idle_backends(fresh_postgres, start_pooler):
    server = fresh_postgres(LOGGED)
    pooler = start_pooler(server, pool_size=1, workers=1, server_check_query=CHECK, server_ping_interval=0)
    with pooler.wire(timeout=20) as wire:
        pid = wire.backend_pid()
        with stopped(pooler.pid):
            time.sleep(4)
            # It waits in the socket when the process wakes up.
            wire.send_raw(w.query("SELECT 1"))
        wire.recv_until(b"Z")
        assert statements_of(server, pid) == ["SELECT pg_backend_pid()", CHECK, "SELECT 1"]
    assert len(re.findall(r"worker 0 stood still for [34]\.\ds", pooler.log())) == 1


def test_nobody_is_forgotten_while_backends_die(postgres, start_pooler):
    """Also those die that are being checked, or on their way to a client of another worker."""
    pooler = start_pooler(postgres, pool_size=4, workers=4, server_check_delay=0, server_ping_interval=0.1,
                          server_check_timeout=0.3, pool_recreate_cooldown=0)
    over = time.monotonic() + 10
    forgotten, answers = [], []

    def work():
        wire = pooler.wire(timeout=8)
        while time.monotonic() < over:
            try:
                answers.append(wire.value("SELECT 1"))
                # Some begin to wait while backends are idle.
                time.sleep(0.002)
            except TimeoutError as error:
                forgotten.append(error)
                break
            except (w.Closed, w.ServerError):  # it was the one that died under it
                wire.close()
                wire = pooler.wire(timeout=8)
        wire.close()

    clients = [threading.Thread(target=work) for _ in range(12)]
    for client in clients:
        client.start()
    with contextlib.closing(postgres.connect("postgres")) as connection, connection.cursor() as cursor:
        while time.monotonic() < over:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
            time.sleep(0.05)
    for client in clients:
        client.join()
    assert not forgotten
    assert len(answers) > 100
    with contextlib.ExitStack() as stack:
        for wire in [stack.enter_context(pooler.wire()) for _ in range(4)]:
            wire.query("BEGIN")


# ---- busy backends

@needs_filter
def test_busy_backend_in_a_black_hole_is_given_up(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=2, server_dead_timeout=3)
    with pooler.wire() as wire:
        wire.query("BEGIN")
        pid = wire.backend_pid()
        with black_hole(pooler, pid):
            # Silence before there is anything to say proves nothing.
            time.sleep(4)
            assert not pooler.log_contains("no acknowledgement")
            began = time.monotonic()
            wire.send_raw(w.query("SELECT 1"))
            fields = w.errors(wire.recv_until(b"E"))[0]
            assert 2.9 < time.monotonic() - began < 3 + 1.5
            assert "no acknowledgement for 3s" in fields["M"] + fields.get("D", "")
            pooler.wait_for_log("no acknowledgement for 3s", 1)
            assert pid not in pids_of(pooler)
            with pooler.wire() as other:
                assert other.value("SELECT 1") == "1"


def test_copy_that_waits_for_a_lock_outlives_the_dead_timeout(postgres, start_pooler):
    """PostgreSQL reads nothing meanwhile: its window is zero, but its kernel answers the probes."""
    pooler = start_pooler(postgres, pool_size=2, server_dead_timeout=1)
    postgres.sql("DROP TABLE IF EXISTS copied", "CREATE TABLE copied (a int PRIMARY KEY, b text)", user="app")
    lines = "".join(f"{n}\t{'x' * 1000}\n" for n in range(16000)).encode()
    with pooler.wire(timeout=60) as wire, contextlib.closing(postgres.connect()) as locker:
        locker.autocommit = False
        locker.cursor().execute("INSERT INTO copied VALUES (1)")
        wire.send_raw(w.query("COPY copied FROM STDIN"))
        wire.recv_until(b"G")
        chunks = [w.copydata(lines[at:at + 60000]) for at in range(0, len(lines), 60000)]
        sender = threading.Thread(target=lambda: wire.send_raw(b"".join(chunks) + w.copydone()))
        sender.start()
        time.sleep(8)
        assert sender.is_alive(), "all of it fitted into buffers: the test proves nothing"
        locker.rollback()
        assert w.tags(wire.recv_until(b"Z")) == ["COPY 16000"]
        sender.join()
    assert not pooler.log_contains("no acknowledgement")
    postgres.sql("DROP TABLE copied")


def test_client_that_pauses_keeps_its_backend(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, server_dead_timeout=1)
    with pooler.wire(timeout=60) as wire:
        wire.send_raw(w.query("SELECT repeat('x', 1000) FROM generate_series(1, 30000)"))
        time.sleep(6)
        assert len(w.rows(wire.recv_until(b"Z"))) == 30000
    assert not pooler.log_contains("no acknowledgement")


def test_long_query_is_no_dead_backend(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, server_dead_timeout=1)
    with pooler.wire() as wire:
        assert w.tags(wire.query("SELECT pg_sleep(4)")) == ["SELECT 1"]


# ---- read-only

def test_backends_of_a_demoted_primary_are_retired(fresh_postgres, start_pooler):
    server = fresh_postgres()
    entry = f"host=127.0.0.1 port={server.port} dbname=app"
    pooler = start_pooler(server, {"app": f"{entry} target_session_attrs=read-write", "any": entry}, pool_size=4,
                          server_ping_interval=1)
    pids = open_backends(pooler, 3)
    with pooler.wire() as wire, pooler.wire(db="any") as other:
        other_pid = other.backend_pid()
        wire.query("BEGIN")
        busy = wire.backend_pid()
        server.sql("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        line = f'primary "127.0.0.1:{server.port}" became read-only \\(default_transaction_read_only=on\\)'
        pooler.wait_for_log(line)
        wait_until(lambda: pids_of(pooler) == {busy, other_pid}, 5, "end of the idle ones")
        wire.query("COMMIT")
        wait_until(lambda: busy not in pids_of(pooler), 5, "end of the busy one")
        assert len(re.findall(line, pooler.log())) == 1
        server.sql("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
        assert wire.backend_pid() not in pids
        assert other.backend_pid() == other_pid


def test_client_that_wants_to_read_only_is_no_demotion(fresh_postgres, start_pooler):
    server = fresh_postgres()
    pooler = start_pooler(
        server, {"app": f"host=127.0.0.1 port={server.port} dbname=app target_session_attrs=read-write"}, pool_size=2)
    with pooler.wire() as wire:
        pid = wire.backend_pid()
        wire.query("SET default_transaction_read_only = on")
        assert wire.backend_pid() != pid
    assert not pooler.log_contains("became read-only")


# ---- the kernel's part

SOL_SOCKET, SO_KEEPALIVE, TCP_USER_TIMEOUT = socket.SOL_SOCKET, socket.SO_KEEPALIVE, 18
PIDFD_OPEN, PIDFD_GETFD = 434, 438


def sockets_of(pid):
    """Copies of the TCP sockets of a process, which its options can be read from."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = libc.syscall(PIDFD_OPEN, pid, 0)
    assert process >= 0, os.strerror(ctypes.get_errno())
    found = []
    for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if not os.readlink(path).startswith("socket:"):
                continue
            copy = libc.syscall(PIDFD_GETFD, process, int(path.name), 0)
            assert copy >= 0, os.strerror(ctypes.get_errno())
            found.append(socket.socket(fileno=copy))
    os.close(process)
    return [one for one in found if one.family == socket.AF_INET]


def test_keepalive_and_user_timeout_on_both_sides(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, tcp_keepidle=31, tcp_keepintvl=11, tcp_keepcnt=6,
                          tcp_user_timeout=45000)
    with pooler.wire() as wire:
        wire.query("BEGIN")
        seen = set()
        for one in sockets_of(pooler.pid):
            with one:
                side = "listener"
                with contextlib.suppress(OSError):
                    side = "server" if one.getpeername()[1] == postgres.port else "client"
                if side != "listener":
                    seen.add(side)
                    tcp = [one.getsockopt(socket.IPPROTO_TCP, name) for name in (
                        socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, TCP_USER_TIMEOUT)]
                    assert one.getsockopt(SOL_SOCKET, SO_KEEPALIVE) == 1, side
                    assert tcp == [31, 11, 6, 45000], side
        assert seen == {"server", "client"}


def test_siblings_of_a_crashed_backend_are_doubted_for_a_moment(fresh_postgres, start_pooler):
    """A backend that dies without FATAL is seldom alone: who lost it must not get one that dies milliseconds later."""
    server = fresh_postgres()
    pooler = start_pooler(server, pool_size=3)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("BEGIN")
        two.query("BEGIN")
        victim, sibling = one.backend_pid(), two.backend_pid()
        one.query("COMMIT")
        two.query("COMMIT")
        # Nobody ends the sibling now, and nobody makes a new one.
        server.process.send_signal(signal.SIGSTOP)
        try:
            one.send_raw(w.query("SELECT pg_backend_pid(), pg_sleep(20)"))
            wait_until(lambda: pooler.admin("SHOW POOLS")[0]["sv_active"] == "1", what="the request")
            busy = next(int(row["remote_pid"]) for row in pooler.admin("SHOW SERVERS") if row["state"] == "active")
            os.kill(busy, signal.SIGKILL)
            assert [error["C"] for error in w.errors(one.recv_until(b"Z"))] == ["08007"]
            began = time.monotonic()
            assert one.backend_pid() == ({victim, sibling} - {busy}).pop()
            assert time.monotonic() - began > 0.05
        finally:
            server.process.send_signal(signal.SIGCONT)
