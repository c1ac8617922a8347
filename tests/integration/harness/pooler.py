"""The daemon under test: its own directory, port and log; teardown proves that it ended well."""
import atexit
import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import psycopg2

from harness.postgres import free_port, password_of, wait_until
from harness.wire import Wire

ROOT = pathlib.Path(__file__).resolve().parents[3]
USERS = ("app", "ann", "bob", "old")

TROUBLE = re.compile(
    r"AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|ThreadSanitizer|runtime error:|broken invariant")


def userlist(users):
    """Text of an auth_file from names (their usual passwords) or a dictionary {name: secret}."""
    if not isinstance(users, dict):
        users = {user: password_of(user) for user in users}
    return "".join(f'"{name}" "{secret}"\n' for name, secret in users.items())


def ini_text(databases, settings):
    """Text of an ini file; a value of None leaves the key out."""
    lines = ["[databases]", *(f"{name} = {value}" for name, value in databases.items()), "", "[pgkeel]"]
    lines += [f"{key} = {value}" for key, value in settings.items() if value is not None]
    return "\n".join(lines) + "\n"


def sanitizer_environment():
    base = "halt_on_error=1:print_stacktrace=1"
    supp = ROOT / "tests" / "tsan.supp"
    return {
        "ASAN_OPTIONS": f"{base}:detect_leaks=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": base,
        "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1" + (f":suppressions={supp}" if supp.exists() else ""),
    }


class Pooler:
    """`ini` is the text of its file, None for a start by environment only. In `ini`, @dir@ is its own directory,
    @port@ its port and @userlist@ the file with the text of `users`."""

    running = set()

    def __init__(self, ini=None, users="", env=None, args=(), port=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pgk-", dir="/tmp"))
        self.port = port or free_port()
        self.args = list(args)
        self.process = None
        self.former = []  # processes that handed over to this one
        self.is_stopped_by_test = False
        self.ini_path = self.dir / "pgkeel.ini" if ini is not None else None
        self.userlist_path = self.dir / "userlist.txt"
        self.log_path = self.dir / "log"
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith(("PG", "DATABASE_URL"))}
        self.env.update(sanitizer_environment())
        self.binary = os.environ.get("PGKEEL_BIN") or str(ROOT / "build" / "pgkeel")
        self.wrap = shlex.split(os.environ.get("PGKEEL_WRAP", ""))
        self.set_users(users)
        if ini is not None:
            self.set_ini(ini)
        if ini is None or not re.search(r"(?m)^\s*listen_port\s*=", ini):
            self.env["PGKEEL_LISTEN_PORT"] = str(self.port)
        if ini is None or not re.search(r"(?m)^\s*unix_socket_dir\s*=", ini):
            self.env["PGKEEL_UNIX_SOCKET_DIR"] = str(self.dir)
        self.env.update({name: self._fill_in(str(value)) for name, value in (env or {}).items()})

    def _fill_in(self, text):
        for mark, value in (("@dir@", self.dir), ("@port@", self.port), ("@userlist@", self.userlist_path)):
            text = text.replace(mark, str(value))
        return text

    def set_ini(self, text):
        self.ini_path.write_text(self._fill_in(text), encoding="utf-8")

    def set_users(self, users):
        self.userlist_path.write_text(users if isinstance(users, str) else userlist(users), encoding="utf-8")

    # ---- life

    def command(self):
        return [*self.wrap, self.binary, *self.args, *([str(self.ini_path)] if self.ini_path else [])]

    def start(self, wait=True):
        assert self.process is None, "already running"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd=self.dir)
        Pooler.running.add(self)
        self.is_stopped_by_test = False
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout=10.0):
        deadline = time.monotonic() + timeout
        while True:
            status = self.process.poll()
            assert status is None, f"pgkeel ended at its start with status {status}:\n{self.log()}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < deadline, f"pgkeel does not listen after {timeout} s:\n{self.log()}"
            time.sleep(0.01)

    def run(self, timeout=10.0):
        """Runs it to its end, for starts that must fail and for flags; (status, output)."""
        ended = subprocess.run(
            self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.env,
            cwd=self.dir, timeout=timeout, text=True, check=False)
        return ended.returncode, ended.stdout

    def stop(self, sig=signal.SIGTERM, timeout=15.0):
        """Sends the signal and waits; the exit status."""
        self.is_stopped_by_test = True
        self.process.send_signal(sig)
        return self.wait(timeout)

    def wait(self, timeout=15.0):
        """Waits for an end that something else caused; the exit status."""
        self.is_stopped_by_test = True
        status = self.process.wait(timeout)
        Pooler.running.discard(self)
        return status

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def restart(self):
        """Ends it and starts it anew, on the same port with the same files."""
        status = self.stop()
        assert status == 0, f"exit status {status}:\n{self.log_tail()}"
        self.process = None
        return self.start()

    def hand_over(self, *args, wait=True):
        """Starts its successor (-R); the old process, which is leaving now unless the successor failed."""
        old, self.process = self.process, None
        begun = len(self.log())
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.command(), "-R", *args], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
                cwd=self.dir)
        self.former.append(old)
        if wait:
            wait_until(lambda: " ready: " in self.log()[begun:] or not self.is_running(), 10, what="the successor")
        return old

    def finish(self):
        """Teardown: everything that must be true of every pgkeel after every test. Complaints as texts."""
        complaints = []
        if self.process is not None and not self.is_stopped_by_test:
            complaints += self._end()
        for old in self.former:
            try:
                if old.wait(5) != 0:
                    complaints.append(f"a process that handed over ended with status {old.returncode}")
            except subprocess.TimeoutExpired:
                old.kill()
                complaints.append("a process that handed over does not end")
        trouble = TROUBLE.search(self.log())
        if trouble:
            complaints.append(f"its output says {trouble.group()!r}")
        if not complaints:
            shutil.rmtree(self.dir, ignore_errors=True)
        return [f"pgkeel: {complaint}\n{self.log_tail()}" for complaint in complaints]

    def _end(self):
        status = self.process.poll()
        if status is not None:
            Pooler.running.discard(self)
            return [f"died during the test with status {status}"]
        complaints = []
        for sig, patience in ((signal.SIGTERM, 3), (signal.SIGQUIT, 7)):
            self.process.send_signal(sig)
            try:
                status = self.process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                # Clients that a test left open inside a transaction may keep a graceful end waiting.
                continue
        if status is None:
            self.process.send_signal(signal.SIGABRT)
            status = self.process.wait(10)
            complaints.append("did not end on SIGTERM nor SIGQUIT")
        elif status != 0:
            complaints.append(f"exit status {status} after {sig.name}")
        Pooler.running.discard(self)
        return complaints

    # ---- talking to it

    def url(self, user="app", db="app"):
        return f"postgresql://{user}:{password_of(user)}@127.0.0.1:{self.port}/{db}"

    def connect(self, user="app", db="app", autocommit=False, **kw):
        """A psycopg2 connection over TCP."""
        settings = {"host": "127.0.0.1", "password": password_of(user), "connect_timeout": 15, **kw}
        connection = psycopg2.connect(port=self.port, user=user, dbname=db, **settings)
        connection.autocommit = autocommit
        return connection

    def dial(self, timeout=10.0, unix=False):
        """A Wire that has said nothing yet."""
        return Wire(str(self.dir) if unix else "127.0.0.1", self.port, timeout)

    def wire(self, user="app", db="app", password=None, timeout=10.0, **params):
        """A Wire that is logged in."""
        wire = self.dial(timeout)
        try:
            return wire.startup(user, db, **params).login(password)
        except BaseException:
            wire.close()
            raise

    def admin(self, sql):
        """Rows of the console as dictionaries."""
        with self.dial(unix=True) as wire:
            return wire.startup("pgkeel", "pgkeel").login("").dicts(sql)

    # ---- looking at it

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        return ""

    def log_tail(self, lines=60):
        return "\n".join(self.log().splitlines()[-lines:])

    def log_contains(self, regex):
        return re.search(regex, self.log()) is not None

    def wait_for_log(self, regex, timeout=5.0):
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(regex, self.log())
            if found:
                return found
            assert time.monotonic() < deadline, f"no {regex!r} in the log after {timeout} s:\n{self.log_tail()}"
            time.sleep(0.02)

    def _status_kb(self, name):
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.search(rf"(?m)^{name}:\s+(\d+) kB", text).group(1))

    def keeps_freed_memory(self):
        """Sanitizers hold back what was freed, so growth says nothing there; LeakSanitizer looks for leaks instead."""
        program = pathlib.Path(self.binary).read_bytes()
        return b"__asan_init" in program or b"__tsan_init" in program

    def rss_kb(self):
        return self._status_kb("VmRSS")

    def peak_kb(self):
        return self._status_kb("VmHWM")

    def pss_kb(self):
        text = pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii")
        return int(re.search(r"(?m)^Pss:\s+(\d+) kB", text).group(1))

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_seconds_of_threads(self):
        """By the names of threads without their numbers: {"worker": 0.3, "helper": 1.2, ...}"""
        sums = {}
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                name = (task / "comm").read_text(encoding="ascii").split()[0]
                fields = (task / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
                sums[name] = sums.get(name, 0) + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return sums

    def fd_count(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@atexit.register
def _kill_the_rest():
    for pooler in list(Pooler.running):
        with contextlib.suppress(OSError):
            pooler.process.kill()
