"""Online restart: a new process takes the sockets over, the old one lets its clients go at a boundary."""
import array
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time

import psycopg2
import pytest

from harness import Closed, free_port, wait_until
from harness import wire as w
from harness.web import Web

RESTARTS = int(os.environ.get("PGKEEL_RESTARTS", "3"))


@pytest.fixture
def pool(postgres, start_pooler):
    return start_pooler(
        postgres, pool_size=5, admin_users="app", workers=2, pidfile="@dir@/pid", shutdown_timeout=20)


def pid_file(pool):
    return int((pool.dir / "pid").read_text())


def unix_socket(pool):
    return pool.dir / f".s.PGSQL.{pool.port}"


def control(pool):
    """A talk with the control socket."""
    talk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    talk.settimeout(10)
    talk.connect(str(pool.dir / "pid.control"))
    return talk


def fatal_of(wire):
    return [fields["C"] for fields in w.errors(wire.recv_all())]


# ---- under load

class Load:
    """Clients that run transactions without a pause, open new connections all the time, and know one excuse:
    57P01 before the first answer of a transaction."""

    def __init__(self, pool, clients=6):
        self.pool = pool
        self.is_over = False
        self.complaints, self.done, self.sent_away = [], 0, 0
        self.threads = [threading.Thread(target=self._live, args=(number,)) for number in range(clients)]
        for thread in self.threads:
            thread.start()

    def _connect(self):
        unix = {"host": str(self.pool.dir)} if self.done % 2 else {}
        return self.pool.connect(**unix)

    def _transaction(self, connection):
        """False: told to go before it began."""
        with connection.cursor() as cursor:
            try:
                cursor.execute("SELECT 1")  # psycopg2 sends BEGIN apart, before it
            except psycopg2.errors.AdminShutdown:
                self.sent_away += 1
                return False
            cursor.execute("SELECT count(*) FROM generate_series(1, 100)")
            assert cursor.fetchone() == (100,)
        connection.commit()
        self.done += 1
        return True

    def _live(self, number):
        try:
            while not self.is_over:
                connection = self._connect()
                for _ in range(number * 10 + 1):
                    if self.is_over or not self._transaction(connection):
                        break
                connection.close()
        except Exception as problem:  # pylint: disable=broad-except
            self.complaints.append(f"client {number}: {type(problem).__name__} {problem}")

    def end(self):
        self.is_over = True
        for thread in self.threads:
            thread.join(30)
        return self.complaints


def test_clients_that_reconnect_at_a_boundary_see_no_error(pool):
    load = Load(pool)
    for _ in range(RESTARTS):
        before = load.done
        wait_until(lambda: load.complaints or load.done > before + 20, 20, what="transactions")
        assert load.complaints == []
        assert pool.hand_over().wait(20) == 0
    assert load.end() == []
    assert load.sent_away > 0
    print(f"{RESTARTS} restarts, {load.done} transactions, {load.sent_away} times 57P01 at a boundary")


def test_transaction_is_finished_on_the_old_process(pool):
    with pool.wire() as busy, pool.wire() as idle:
        busy.query("BEGIN")
        old = pool.hand_over()
        assert pid_file(pool) == pool.pid != old.pid
        assert fatal_of(idle) == ["57P01"]
        with pool.wire() as new, pool.dial(unix=True) as local:
            assert new.value("SELECT 1") == "1"
            local.startup("app", "app").login()
            assert w.tags(busy.query("SELECT 1")) == ["SELECT 1"]
            assert old.poll() is None
            assert w.tags(busy.query("COMMIT")) == ["COMMIT"]
            assert fatal_of(busy) == ["57P01"]
            assert old.wait(10) == 0
            assert new.value("SELECT 2") == "2"
    assert pid_file(pool) == pool.pid and unix_socket(pool).exists()
    assert pool.stop() == 0
    assert not any((pool.dir / name).exists() for name in ("pid", "pid.control")) and not unix_socket(pool).exists()


def test_busy_client_is_told_between_two_transactions(pool):
    """One that never pauses is never idle when a clock ticks."""
    ends = []

    def hurry(wire):
        with contextlib.suppress(Closed):
            while True:
                answer = wire.query("SELECT 1")
                if w.errors(answer):
                    break
        ends.append([fields["C"] for fields in w.errors(answer)])

    with pool.wire() as one, pool.wire() as two:
        threads = [threading.Thread(target=hurry, args=(wire,)) for wire in (one, two)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        os.kill(pool.pid, signal.SIGTERM)
        assert pool.wait(15) == 0
        assert time.monotonic() - began < 10
        for thread in threads:
            thread.join()
    assert [end for end in ends if end != ["57P01"]] == []


def test_who_is_logging_in_is_let_in_first(pool):
    with pool.dial() as client, pool.wire() as busy:
        busy.query("BEGIN")
        old = pool.hand_over()
        client.startup("app", "app").login()
        assert fatal_of(client) == ["57P01"]
        busy.query("COMMIT")
        assert old.wait(10) == 0


def test_successors_may_be_many(pool):
    """Each transaction is finished where it was begun, whatever number of processes came after."""
    with contextlib.ExitStack() as stack:
        wires, olds = [], []
        for _ in range(3):
            wires.append(stack.enter_context(pool.wire()))
            wires[-1].query("BEGIN")
            olds.append(pool.hand_over())
        for wire in wires:
            assert w.tags(wire.query("COMMIT")) == ["COMMIT"]
            assert fatal_of(wire) == ["57P01"]
        assert [old.wait(10) for old in olds] == [0, 0, 0]


# ---- cancel requests

@pytest.mark.parametrize("handovers", [1, 2])
def test_cancel_request_finds_the_process_of_its_client(postgres, pool, handovers):
    with pool.wire() as busy:
        busy.query("BEGIN")
        for _ in range(handovers):
            pool.hand_over()
        busy.send_raw(w.query("SELECT pg_sleep(30)"))
        wait_until(lambda: postgres.backends("query LIKE '%pg_sleep(30)%' AND state = 'active'"))
        with pool.dial() as cancel:
            cancel.cancel_request(busy.pid, busy.key)
        assert [fields["C"] for fields in w.errors(busy.recv_until(b"Z"))] == ["57014"]
        busy.query("ROLLBACK")


# ---- what can go wrong

@pytest.mark.parametrize("line", ["nonsense = 1", "logfile = /nowhere/log", "client_tls_sslmode = require",
                                  "listen_addr = 192.0.2.1"],
                         ids=["setting", "log", "certificate", "address"])
def test_successor_that_fails_leaves_everything_as_it_was(pool, line):
    usual = pool.ini_path.read_text()
    key = line.split(" ")[0]
    pool.set_ini("\n".join(text for text in usual.splitlines() if not text.startswith(key)) + f"\n{line}\n")
    with pool.wire() as client:
        old = pool.hand_over()
        assert pool.process.wait(10) == 1
        pool.process = old
        pool.former.remove(old)
        assert client.value("SELECT 1") == "1"
        with pool.dial(unix=True) as other:
            other.startup("app", "app").login()
    assert pid_file(pool) == pool.pid
    pool.set_ini(usual)
    assert pool.hand_over().wait(10) == 0


def test_successor_that_dies_in_the_midst_leaves_everything_as_it_was(pool):
    with pool.wire() as client, control(pool) as talk:
        talk.sendall(b"takeover")
        text, fds, _, _ = socket.recv_fds(talk, 512, 128)
        assert text == b"sockets llcp" and len(fds) == 4
        with control(pool) as second:
            second.sendall(b"takeover")
            assert second.recv(512).startswith(b"failed another restart")
        os.pwrite(fds[3], b"1\n", 0)  # the last thing that it does
        for fd in fds:
            os.close(fd)
        talk.close()
        pool.wait_for_log("the new process ended before it was ready")
        wait_until(lambda: pid_file(pool) == pool.pid, what="the own number")
        assert client.value("SELECT 1") == "1"
    assert pool.hand_over().wait(10) == 0


def test_nobody_takes_over_from_a_process_that_ends(pool):
    with pool.wire() as busy, control(pool) as talk:
        busy.query("BEGIN")
        talk.sendall(b"takeover")
        _, fds, _, _ = socket.recv_fds(talk, 512, 128)
        os.kill(pool.pid, signal.SIGTERM)
        assert talk.recv(512) == b"failed it is about to end"
        talk.sendall(b"ready 1 yyyy")
        for fd in fds:
            os.close(fd)
        busy.query("COMMIT")
        assert pool.wait() == 0
    assert not (pool.dir / "pid").exists()


def test_nonsense_on_the_control_socket_harms_nobody(pool):
    for text in (b"", b"ready 1 yyyy", b"go", b"cancel 1 2", b"takeovers", b"\xff" * 500, b"x" * 4000):
        with control(pool) as talk:
            talk.sendall(text)
    with control(pool) as talk:
        array_of_fds = array.array("i", [0, 1, 2])
        talk.sendmsg([b"hello"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array_of_fds)])
        pool.wait_for_log("makes no sense here")
    assert pool.hand_over().wait(10) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_other_users_get_no_sockets(pool):
    path = pool.dir / "pid.control"
    path.chmod(0o666)
    pool.dir.chmod(0o755)
    script = ("import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
              "s.connect(sys.argv[1]); s.settimeout(5)\n"
              "try:\n  s.sendall(b'takeover'); print(s.recv(100))\nexcept OSError: print(b'')\n")
    said = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", script, str(path)],
        capture_output=True, text=True, timeout=20, check=False)
    assert said.stdout.strip() == "b''", said.stderr
    pool.wait_for_log("user 65534 is not let onto the control socket")


def test_restart_without_a_process_is_one_sentence(postgres, start_pooler):
    status, said = start_pooler(postgres, args=["-R"], start=False).run()
    assert status == 1 and "no process answers at" in said


def test_in_the_background_the_parent_leaves_when_the_successor_serves(postgres, start_pooler, tmp_path):
    pidfile, log = tmp_path / "pid", tmp_path / "log"
    pooler = start_pooler(postgres, pidfile=str(pidfile), logfile=str(log), args=["-d"], start=False)
    assert pooler.run() == (0, "")
    first = int(pidfile.read_text())
    pooler.args = ["-d", "-R"]
    assert pooler.run() == (0, "")
    second = int(pidfile.read_text())
    try:
        assert first != second
        with pooler.wire() as client:
            assert client.value("SELECT 1") == "1"
        wait_until(lambda: not os.path.exists(f"/proc/{first}") or "zombie" in
                   open(f"/proc/{first}/status", encoding="ascii").read(), 10, what="the end of the first")
    finally:
        os.kill(second, signal.SIGTERM)
        wait_until(lambda: not pidfile.exists(), 10)


# ---- several processes on one port

def test_processes_may_share_a_port(postgres, start_pooler):
    """so_reuseport: a second one comes, the first one goes, nobody is refused."""
    first = start_pooler(postgres, so_reuseport=1, shutdown_timeout=20)
    load = Load(first)
    load._connect = first.connect  # the unix socket belongs to the first one alone
    second = start_pooler(postgres, so_reuseport=1, port=first.port, start=False)
    second.start()
    second.wait_for_log(" ready: ")
    wait_until(lambda: load.done > 50, 20, what="transactions")
    assert first.stop() == 0
    before = load.done
    wait_until(lambda: load.done > before + 50, 20, what="transactions")
    assert load.end() == []


def test_abstract_unix_socket(postgres, start_pooler):
    pool = start_pooler(postgres, unix_socket_dir=f"@pgkeel-{os.getpid()}", listen_addr="127.0.0.1")
    def value():
        with contextlib.closing(pool.connect(host=f"@pgkeel-{os.getpid()}")) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                return cursor.fetchone()
    assert value() == (1,)
    assert pool.hand_over().wait(10) == 0
    assert value() == (1,)


def test_pooler_behind_a_pooler_restarts_unnoticed(postgres, pool, start_pooler):
    """What the inner one sends away was not begun: the outer one sends it again."""
    outer = start_pooler(databases={"app": f"host=127.0.0.1 port={pool.port} dbname=app user=app password=app-secret"},
                         pool_size=3)
    load = Load(outer, clients=4)
    for _ in range(2):
        before = load.done
        wait_until(lambda: load.complaints or load.done > before + 20, 20, what="transactions")
        assert pool.hand_over().wait(20) == 0
    assert load.end() == [] and load.sent_away == 0


def test_http_goes_to_the_successor_without_a_refused_request(postgres, start_pooler):
    web = Web(free_port())
    pool = start_pooler(postgres, pool_size=2, pidfile="@dir@/pid", shutdown_timeout=20, http_listen=f"127.0.0.1:{web.port}")
    answers, is_over = [], threading.Event()

    def ask():
        while not is_over.is_set():
            answers.append(web.ask("/livez").status)

    asking = threading.Thread(target=ask)
    with pool.wire() as wire:
        wire.query("BEGIN")  # keeps the old process
        asking.start()
        old = pool.hand_over()
        wait_until(lambda: web.ask("/readyz").status == 200, 5, "the new process answers alone")
        assert [web.ask("/readyz").status for _ in range(20)] == [200] * 20
        wire.query("COMMIT")
    assert old.wait(20) == 0
    is_over.set()
    asking.join()
    assert set(answers) == {200}
