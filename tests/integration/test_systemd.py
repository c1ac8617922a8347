"""What a service manager sees: readiness, reloads, the watchdog, sockets that it opened."""
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from harness import wait_until
from harness import wire as w

ROOT = pathlib.Path(__file__).resolve().parents[2]
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


class Manager:
    """Its end of NOTIFY_SOCKET."""

    def __init__(self, directory):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = str(directory / "notify")
        self.socket.bind(self.path)
        self.said = []

    def hears(self, text, timeout=5.0):
        """The message with this in it, among those that come from now on."""
        deadline = time.monotonic() + timeout
        while True:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                message = self.socket.recv(4096).decode()
            except TimeoutError:
                return None
            self.said.append(message)
            if text in message:
                return message


@pytest.fixture
def manager(postgres, start_pooler):
    """manager(**environment) starts a pgkeel that has one."""
    made = []

    def make(**environment):
        pool = start_pooler(postgres, workers=2, pidfile="@dir@/pid", start=False)
        made.append(Manager(pool.dir))
        pool.env.update(environment, NOTIFY_SOCKET=made[0].path)
        pool.start()
        return pool, made[0]

    yield make
    for one in made:
        one.socket.close()


def test_manager_hears_of_readiness_reload_and_end(manager):
    pool, heard = manager()
    assert heard.hears("READY=1")
    pool.reload()
    reloading = heard.hears("RELOADING=1")
    stamp = int(re.search(r"MONOTONIC_USEC=(\d+)", reloading)[1])
    assert 0 <= time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6 - stamp < 5e6
    assert heard.hears("READY=1")
    pool.set_ini(pool.ini_path.read_text() + "nonsense = 1\n")
    pool.reload()
    assert heard.hears("RELOADING=1") and heard.hears("READY=1")
    with pool.wire() as busy:
        busy.query("BEGIN")
        os.kill(pool.pid, signal.SIGTERM)
        assert "EXTEND_TIMEOUT_USEC=40000000" in heard.hears("STOPPING=1")
        busy.query("COMMIT")
    assert pool.wait() == 0


def test_manager_hears_of_the_successor_before_it_is_ready(manager):
    pool, heard = manager()
    assert heard.hears("READY=1")
    assert pool.hand_over().wait(10) == 0
    assert f"MAINPID={pool.pid}" in heard.hears("MAINPID=")
    assert heard.hears("READY=1")
    assert not any("STOPPING" in message for message in heard.said)
    os.kill(pool.pid, signal.SIGTERM)
    assert heard.hears("STOPPING=1")
    assert pool.wait() == 0


def test_watchdog_is_fed_while_every_thread_turns(manager):
    pool, heard = manager(WATCHDOG_USEC="1000000")
    assert heard.hears("WATCHDOG=1") and heard.hears("WATCHDOG=1")
    libc = ctypes.CDLL(None, use_errno=True)
    worker = min(int(name) for name in os.listdir(f"/proc/{pool.pid}/task") if int(name) != pool.pid)
    if libc.ptrace(PTRACE_SEIZE, worker, 0, 0) != 0:
        pytest.skip("threads cannot be traced here")
    assert libc.ptrace(PTRACE_INTERRUPT, worker, 0, 0) == 0
    os.waitpid(worker, WALL)
    while heard.hears("WATCHDOG=1", 1.5):  # what it said before the thread was missed
        pass
    assert libc.ptrace(PTRACE_DETACH, worker, 0, 0) == 0
    assert heard.hears("WATCHDOG=1", 5)


def test_watchdog_of_another_process_is_not_fed(manager):
    _, heard = manager(WATCHDOG_USEC="200000", WATCHDOG_PID="1")
    assert heard.hears("READY=1")
    assert not heard.hears("WATCHDOG=1", 0.5)


def listening(family, address):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(16)
    return listener


class Activated:
    """Starts a pooler with sockets as the descriptors 3 and above."""

    def __init__(self, pool, *sockets):
        def place():
            copies = [os.dup(one.fileno()) for one in sockets]
            for number, copy in enumerate(copies):
                os.dup2(copy, 3 + number)

        script = f'export LISTEN_PID=$$ LISTEN_FDS={len(sockets)} LISTEN_FDNAMES=a:b; exec "$@"'
        with open(pool.log_path, "ab") as log:
            pool.process = subprocess.Popen(
                ["sh", "-c", script, "sh", *pool.command()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=pool.env, cwd=pool.dir, close_fds=False, preexec_fn=place)
        pool.wait_for_log(" ready: ", 10)


def test_sockets_of_the_manager_are_used_and_left_alone(postgres, start_pooler):
    """Those of the configuration are not opened; a restart keeps them, the end leaves them."""
    pool = start_pooler(postgres, pidfile="@dir@/pid", start=False)
    path = pool.dir / "theirs"
    path.mkdir()
    path = path / f".s.PGSQL.{pool.port}"
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as tcp, listening(socket.AF_UNIX, str(path)) as unix:
        Activated(pool, tcp, unix)
        configured, pool.port = pool.port, tcp.getsockname()[1]
        for _ in range(2):
            with pool.wire() as client, w.Wire(str(path.parent), configured) as local:
                assert client.value("SELECT 1") == "1"
                assert local.startup("app", "app").login().value("SELECT 1") == "1"
            assert socket.socket().connect_ex(("127.0.0.1", configured)) != 0
            old = pool.hand_over()
            assert old.wait(10) == 0
        assert pool.stop() == 0
        assert path.exists()
        socket.create_connection(tcp.getsockname()).close()  # still listening: it waits for the next process


def test_wrong_sockets_of_a_manager_are_one_sentence(postgres, start_pooler):
    pool = start_pooler(postgres, start=False)
    ended = subprocess.run(
        ["sh", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3</dev/null', "sh", *pool.command()],
        env=pool.env, cwd=pool.dir, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1 and "descriptor 3 is no socket that listens" in ended.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", ["pgkeel.service", "pgkeel@.service"])
def test_units_are_sandboxed(unit, tmp_path):
    name = unit.replace("@", "@one")
    (tmp_path / name).write_text((ROOT / "systemd" / unit).read_text())
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(tmp_path / name)],
        capture_output=True, text=True, timeout=60, check=False)
    level = re.search(r"exposure level for \S+: ([0-9.]+)", said.stdout)
    if level is None:
        pytest.skip("this systemd-analyze cannot read files")
    assert float(level[1]) <= 2.0


@pytest.mark.parametrize("form, line", [("text", r"(?m)^<6>pgkeel \S+ ready"), ("json", r'(?m)^<6>\{"time":.*"msg":"pgkeel \S+ ready')])
def test_journal_is_told_priorities(postgres, start_pooler, form, line):
    pool = start_pooler(postgres, log_format=form, start=False)
    pool.log_path.touch()  # where its standard error goes
    info = pool.log_path.stat()
    pool.env["JOURNAL_STREAM"] = f"{info.st_dev}:{info.st_ino}"
    pool.start()
    pool.wait_for_log(line)
    with pytest.raises(w.ServerError), pool.wire("app", password="wrong"):
        pass
    pool.wait_for_log(r'(?m)^<4>.*password authentication failed')


def test_stream_that_is_not_the_journals_gets_whole_lines(postgres, start_pooler):
    pool = start_pooler(postgres, start=False)
    pool.env["JOURNAL_STREAM"] = "1:1"  # of whoever started our parent
    pool.start()
    pool.wait_for_log(r"(?m)^\d{4}-\d\d-\d\d .* INFO  pgkeel \S+ ready")
