#!/usr/bin/python3
"""The units in a real systemd: tests/systemd/run.py [--root DIR] [--program build/pgkeel]

Makes a Debian root with debootstrap (once: the directory is used again), installs what `make install` installs, boots it with
systemd-nspawn and looks at start, reload, online restart, watchdog, socket activation, stop and the template. Needs root,
debootstrap and systemd-container; PostgreSQL runs outside, the network is shared, everything stays on loopback.
"""
import argparse
import contextlib
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "integration"))

from harness import Closed, Postgres, ServerError, Wire, free_port, wait_until  # noqa: E402
from harness import wire as w  # noqa: E402

PACKAGES = "systemd,systemd-sysv,dbus,libevent-core-2.1-7,libevent-extra-2.1-7,libpq5,libinih1,libssl3"
PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000


class Machine:
    """A booted root; commands run inside of it."""

    def __init__(self, root):
        self.root = root
        self.log = tempfile.TemporaryFile("w+")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "-q", "-D", root, "--register=no", "--keep-unit", "--link-journal=no", "-b"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until(self._init, 30, what="init")
        self.pid = self._init()
        wait_until(lambda: self.run("systemctl", "is-system-running", check=False) in ("running", "degraded"), 90,
                   what="the booted system")

    def _init(self):
        with contextlib.suppress(OSError):
            children = pathlib.Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
            for child in children:
                if os.readlink(f"/proc/{child}/exe").endswith("/systemd"):
                    return int(child)
        assert self.nspawn.poll() is None, "systemd-nspawn ended"
        return None

    def run(self, *command, check=True, timeout=120):
        ended = subprocess.run(["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-p", "-r", "-w", *command],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False)
        if check and ended.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: status {ended.returncode}\n{ended.stdout}\n{self.journal()}")
        return ended.stdout.strip()

    def journal(self):
        return self.run("journalctl", "--no-pager", "-n", "60", check=False)

    def shows(self, unit, name):
        return self.run("systemctl", "show", "-P", name, unit)

    def main_pid(self, unit="pgkeel.service"):
        return int(self.shows(unit, "MainPID"))

    def outside(self, pid):
        """The number that a process inside has outside."""
        for status in pathlib.Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                text = status.read_text()
                if f"\nNSpid:\t{status.parent.name}\t{pid}\n" in text and "Name:\tpgkeel" in text:
                    return int(status.parent.name)
        raise AssertionError(f"no process {pid} inside")

    def off(self):
        self.nspawn.terminate()
        try:
            self.nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self.nspawn.kill()


class Site:
    """What the checks share."""

    def __init__(self, machine, server, port):
        self.machine, self.server, self.port = machine, server, port
        self.etc = pathlib.Path(machine.root, "etc/pgkeel")

    def configure(self, name="pgkeel", port=None, **more):
        settings = {"listen_port": port or self.port, "unix_socket_dir": f"/run/{self._runtime(name)}",
                    "pidfile": f"/run/{self._runtime(name)}/pid", "auth_type": "trust", "workers": 2,
                    "auth_file": "/etc/pgkeel/userlist.txt", **more}
        (self.etc / "userlist.txt").write_text('"app" "app-secret"\n')
        (self.etc / f"{name}.ini").write_text(
            f"[databases]\napp = host=127.0.0.1 port={self.server.port} dbname=app password=app-secret\n[pgkeel]\n"
            + "".join(f"{key} = {value}\n" for key, value in settings.items()))

    @staticmethod
    def _runtime(name):
        return name if name == "pgkeel" else f"pgkeel-{name}"

    def wire(self, port=None):
        return Wire("127.0.0.1", port or self.port, 20).startup("app", "app").login()

    def works(self):
        with contextlib.suppress(OSError, Closed, ServerError), self.wire() as client:
            return client.value("SELECT 1") == "1"
        return False

    def console(self, sql):
        return self.machine.run("pgkeel", "ctl", "--csv", "/etc/pgkeel/pgkeel.ini", sql)


def freeze_thread(pid):
    """Stops the first thread behind the main one, a worker; returns it."""
    libc = ctypes.CDLL(None, use_errno=True)
    thread = min(int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
    assert libc.ptrace(PTRACE_SEIZE, thread, 0, 0) == 0, os.strerror(ctypes.get_errno())
    assert libc.ptrace(PTRACE_INTERRUPT, thread, 0, 0) == 0
    return thread


# ---- the checks, in this order

def check_start(site):
    """start: active only when it serves, as its own user"""
    site.configure()
    site.machine.run("systemctl", "start", "pgkeel.service")
    assert site.works()
    assert site.machine.shows("pgkeel.service", "StatusText") == "serving"
    assert site.machine.run("ps", "-o", "user=", "-p", str(site.machine.main_pid())) == "pgkeel"


def check_wrong_settings(site):
    """start: wrong settings fail it with the reason"""
    site.machine.run("systemctl", "stop", "pgkeel.service")
    site.configure(nonsense=1)
    site.machine.run("systemctl", "start", "pgkeel.service", check=False)
    assert site.machine.shows("pgkeel.service", "ActiveState") != "active"
    assert "nonsense: unknown key" in site.machine.journal()
    site.machine.run("systemctl", "stop", "pgkeel.service", check=False)
    site.configure()
    site.machine.run("systemctl", "reset-failed", "pgkeel.service", check=False)
    site.machine.run("systemctl", "start", "pgkeel.service")


def check_reload(site):
    """reload: new settings, the same process, clients stay"""
    pid = site.machine.main_pid()
    with site.wire() as client:
        site.configure(default_pool_size=7)
        site.machine.run("systemctl", "reload", "pgkeel.service")
        wait_until(lambda: "settings reloaded" in site.machine.journal(), 10)
        assert client.value("SELECT 1") == "1"
    assert "default_pool_size,7," in site.console("SHOW CONFIG")
    wait_until(lambda: site.machine.shows("pgkeel.service", "StatusText") == "serving", 10)
    assert site.machine.main_pid() == pid and site.machine.shows("pgkeel.service", "ActiveState") == "active"


def check_restart(site):
    """online restart: another main process, nobody refused, a transaction is finished"""
    for _ in range(3):
        pid, refused = site.machine.main_pid(), []
        over = threading.Event()

        def knock():
            while not over.is_set():
                try:
                    with site.wire():
                        pass
                except (OSError, ServerError, Closed) as problem:  # 57P01 comes after the login
                    refused.append(repr(problem))

        thread = threading.Thread(target=knock)
        thread.start()
        try:
            with site.wire() as busy:
                busy.query("BEGIN")
                said = site.machine.run("pgkeel", "restart", "/etc/pgkeel/pgkeel.ini")
                wait_until(lambda: site.machine.main_pid() not in (0, pid), 10, what="another main process")
                assert str(site.machine.main_pid()) in said, said
                assert w.tags(busy.query("COMMIT")) == ["COMMIT"]
                assert [fields["C"] for fields in w.errors(busy.recv_all())] == ["57P01"]
        finally:
            over.set()
            thread.join()
        assert refused == [], refused
        wait_until(lambda: not os.path.exists(f"{site.machine.root}/proc/{pid}"), 10)
        assert site.machine.shows("pgkeel.service", "ActiveState") == "active"
        assert site.machine.shows("pgkeel.service", "NRestarts") == "0"
        assert site.works()
    time.sleep(8)  # longer than the watchdog waits: the new process feeds it
    assert site.machine.shows("pgkeel.service", "NRestarts") == "0" and site.works()


def check_watchdog_of_a_process(site):
    """watchdog: a process that hangs is killed and started anew"""
    os.kill(site.machine.outside(site.machine.main_pid()), 19)
    wait_until(lambda: site.machine.shows("pgkeel.service", "NRestarts") == "1", 40, what="a restart")
    assert "Watchdog timeout" in site.machine.journal()
    wait_until(site.works, 20)


def check_watchdog_of_a_thread(site):
    """watchdog: one thread that hangs is enough"""
    thread = freeze_thread(site.machine.outside(site.machine.main_pid()))

    def is_restarted():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(thread, os.WNOHANG | WALL)  # a dead thread stays until its tracer has seen it
        return site.machine.shows("pgkeel.service", "NRestarts") == "2"

    wait_until(is_restarted, 40, what="a restart")
    wait_until(site.works, 20)


def check_stop(site):
    """stop: a transaction is finished first"""
    with site.wire() as busy:
        busy.query("BEGIN")
        site.machine.run("systemctl", "stop", "--no-block", "pgkeel.service")
        wait_until(lambda: site.machine.shows("pgkeel.service", "ActiveState") == "deactivating", 10)
        assert w.tags(busy.query("COMMIT")) == ["COMMIT"]
        assert [fields["C"] for fields in w.errors(busy.recv_all())] == ["57P01"]
    wait_until(lambda: site.machine.shows("pgkeel.service", "ActiveState") == "inactive", 20)
    assert site.machine.shows("pgkeel.service", "Result") == "success"


def check_sockets(site):
    """socket activation: the first connection starts it, TCP and unix; none is refused while it restarts"""
    dropin = pathlib.Path(site.machine.root, "etc/systemd/system/pgkeel.socket.d")
    dropin.mkdir(parents=True, exist_ok=True)
    (dropin / "port.conf").write_text(
        f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{site.port}\nListenStream=/run/pgkeel/.s.PGSQL.{site.port}\n")
    site.machine.run("systemctl", "daemon-reload")
    site.machine.run("systemctl", "start", "pgkeel.socket")
    assert site.machine.shows("pgkeel.service", "ActiveState") == "inactive"
    assert site.works()
    assert "the service manager's sockets are used" in site.machine.journal()
    for _ in range(3):
        thread = threading.Thread(target=lambda: site.machine.run("systemctl", "restart", "pgkeel.service"))
        thread.start()
        while thread.is_alive():
            with site.wire():  # 57P01 may come behind the login
                pass
    assert "pgkeel" in site.machine.run("pgkeel", "ctl", "/etc/pgkeel/pgkeel.ini", "SHOW VERSION").lower()
    site.machine.run("pgkeel", "restart", "/etc/pgkeel/pgkeel.ini")
    assert site.works()
    site.machine.run("systemctl", "stop", "pgkeel.socket", "pgkeel.service")


def check_template(site):
    """template: a second instance beside the first, with its own file"""
    port = free_port()
    site.configure("second", port)
    site.machine.run("systemctl", "start", "pgkeel@second.service")
    with site.wire(port) as client:
        assert client.value("SELECT 1") == "1"
    site.machine.run("systemctl", "stop", "pgkeel@second.service")


CHECKS = [check_start, check_wrong_settings, check_reload, check_restart, check_watchdog_of_a_process,
          check_watchdog_of_a_thread, check_stop, check_sockets, check_template]


def prepare(root, program):
    if not os.path.exists(f"{root}/usr/lib/systemd/systemd"):
        print("making the root with debootstrap", flush=True)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES},procps", "bookworm", root], check=True,
                       stdout=subprocess.DEVNULL, timeout=1800)
    subprocess.run(["make", "-s", "-C", SOURCE, "install", "PREFIX=/usr", f"DESTDIR={root}"], check=True, timeout=600)
    if program:
        shutil.copy(program, f"{root}/usr/bin/pgkeel")
    for left in ("etc/systemd/system/pgkeel.socket.d", "etc/systemd/system/pgkeel.service.d", "run/pgkeel"):
        shutil.rmtree(f"{root}/{left}", ignore_errors=True)
    quick = pathlib.Path(root, "etc/systemd/system/pgkeel.service.d")
    quick.mkdir(parents=True)
    (quick / "quick.conf").write_text("[Service]\nWatchdogSec=4s\n[Unit]\nStartLimitIntervalSec=0\n")
    pathlib.Path(root, "etc/pgkeel").mkdir(exist_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="/var/tmp/pgkeel-systemd")
    parser.add_argument("--program", help="instead of the one that make install installs")
    arguments = parser.parse_args()
    needed = ("debootstrap", "systemd-nspawn", "nsenter")
    if os.geteuid() != 0 or not all(map(shutil.which, needed)):
        sys.exit(f"needs root and {', '.join(needed)}")
    prepare(os.path.abspath(arguments.root), arguments.program)
    server = Postgres().start()
    machine = Machine(os.path.abspath(arguments.root))
    failed = 0
    try:
        site = Site(machine, server, free_port())
        for check in CHECKS:
            began = time.monotonic()
            try:
                check(site)
                print(f"ok      {check.__doc__} ({time.monotonic() - began:.1f} s)", flush=True)
            except Exception as problem:  # pylint: disable=broad-except
                failed += 1
                where = traceback.extract_tb(problem.__traceback__)[1]
                print(f"FAILED  {check.__doc__}: line {where.lineno}: {type(problem).__name__} {problem}\n"
                      f"{machine.journal()}", flush=True)
    finally:
        machine.off()
        server.remove()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
