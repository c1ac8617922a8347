"""A real PostgreSQL, started for the run: every instance has its own data directory, port and socket directory.

initdb runs once; every server is a copy of that template, with the roles app, ann, bob (password: name + "-secret"),
old (the same, stored as md5) and the database app.
"""
import atexit
import contextlib
import glob
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import psycopg2

ROLES = ("app", "ann", "bob")
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

CONF = """
listen_addresses = '127.0.0.1'
max_connections = 300
shared_buffers = 32MB
max_prepared_transactions = 10
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
log_line_prefix = '%m [%p] %u@%d '
lc_messages = 'C'
"""

HBA = """
local all all trust
host all old all md5
host all all all scram-sha-256
"""


def password_of(user):
    return f"{user}-secret"


def wait_until(condition, timeout=5.0, what="condition"):
    """Returns the first true answer of `condition`; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)


def free_port():
    """A port nobody uses, below the range from which the kernel takes ports for outgoing connections."""
    while True:
        port = random.randint(15000, 31000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def bindir():
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        found = subprocess.run(
            ["pg_config", "--bindir"], check=True, capture_output=True, text=True).stdout.strip()
        if os.access(f"{found}/postgres", os.X_OK):
            return found
    found = [path for path in glob.glob("/usr/lib/postgresql/*/bin") if os.access(f"{path}/postgres", os.X_OK)]
    assert found, "no PostgreSQL server on this machine"
    return max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path)])


def as_postgres(*command):
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *command]


def make_dir():
    """A short path (socket names are limited to 107 bytes) that the server's user owns."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="pgk-", dir="/tmp"))
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(path, owner.pw_uid, owner.pw_gid)
    path.chmod(0o755)
    return path


def children_of(pid):
    found = []
    for stat in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = pathlib.Path(stat).read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.split("/")[2]))
    return found


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def stopped(pid):
    """Meanwhile the process does nothing at all."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Postgres:
    """One server. `conf` is appended to postgresql.conf, `hba` put in front of pg_hba.conf."""

    _template = None
    _running = set()

    def __init__(self, conf="", hba="", port=None):
        self.dir = make_dir()
        self.data = self.dir / "data"
        self.port = port or free_port()
        self.process = None
        subprocess.run(["cp", "-a", self._template_data(), self.data], check=True)
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write(f"port = {self.port}\nunix_socket_directories = '{self.dir}'\n{conf}\n")
        if hba:
            self.set_hba(hba)

    # ---- the template

    @classmethod
    def _template_data(cls):
        # Whoever tidies /tmp may have taken it away.
        if cls._template is None or not cls._template.exists():
            top = make_dir()
            atexit.register(shutil.rmtree, top, ignore_errors=True)
            data = top / "data"
            subprocess.run(
                as_postgres(f"{bindir()}/initdb", "-D", str(data), "-U", "postgres", "--no-sync", "-E", "UTF8",
                            "--locale=C", "--auth=trust"),
                check=True, capture_output=True, cwd="/")
            with open(data / "postgresql.conf", "a", encoding="utf-8") as file:
                file.write(CONF)
            (data / "pg_hba.conf").write_text(HBA, encoding="utf-8")
            cls._template = data
            cls._fill_template(top)
        return cls._template

    @classmethod
    def _fill_template(cls, top):
        maker = cls()
        maker.start()
        for role in ROLES:
            maker.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{password_of(role)}'", db="postgres")
        maker.sql("SET password_encryption = 'md5'", f"CREATE ROLE old LOGIN PASSWORD '{password_of('old')}'",
                  db="postgres")
        maker.sql("CREATE DATABASE app OWNER app", db="postgres")
        maker.sql("GRANT CREATE ON SCHEMA public TO ann, bob, old")
        maker.stop()
        made = top / "made"
        subprocess.run(["cp", "-a", maker.data, made], check=True)
        shutil.copy(cls._template / "postgresql.conf", made / "postgresql.conf")
        cls._template = made
        maker.remove()

    # ---- life

    def start(self, wait=True):
        assert self.process is None, "already running"
        # The log file is ours and append-only: it outlives restarts.
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(
                as_postgres(f"{bindir()}/postgres", "-D", str(self.data)), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd="/", start_new_session=True)
        Postgres._running.add(self)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout=20.0):
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.sql("SELECT 1", db="postgres")
                return
            except psycopg2.OperationalError:
                assert self.process is not None and self.process.poll() is None, f"PostgreSQL ended:\n{self.log()}"
                assert time.monotonic() < deadline, f"PostgreSQL is not ready:\n{self.log()}"
                time.sleep(0.02)

    def stop(self, mode="fast", timeout=20.0):
        if self.process is None:
            return
        self.process.send_signal(STOP_SIGNALS[mode])
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise
        self.process = None
        Postgres._running.discard(self)

    def restart(self, mode="fast"):
        self.stop(mode)
        self.start()

    def kill9(self):
        """The postmaster and all its children die at the same moment, as when the machine lost its power."""
        pid = self.process.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        doomed = [pid, *children_of(pid)]
        # Stopped first, so that none answers while others are dead already.
        for sig in (signal.SIGSTOP, signal.SIGKILL):
            for victim in doomed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, sig)
        self.process.wait(10)
        wait_until(lambda: not any(is_alive(victim) for victim in doomed), 10, "death of all children")
        self.process = None
        Postgres._running.discard(self)

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def remove(self):
        if self.process is not None:
            with contextlib.suppress(Exception):
                self.stop("immediate")
        shutil.rmtree(self.dir, ignore_errors=True)

    # ---- talking to it

    def connect(self, db="app", user="postgres", **kw):
        """Through the Unix socket, which trusts everybody."""
        settings = {"connect_timeout": 10, "application_name": "harness", **kw}
        connection = psycopg2.connect(host=str(self.dir), port=self.port, dbname=db, user=user, **settings)
        connection.autocommit = True
        return connection

    def sql(self, *statements, db="app", user="postgres"):
        """Runs the statements one by one on one connection; the rows of the last."""
        with contextlib.closing(self.connect(db, user)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def backends(self, where="true"):
        """Client backends other than the harness's own, as dictionaries."""
        rows = self.sql(
            "SELECT pid, usename, datname, state, application_name, query, backend_start::text"
            " FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            f" AND application_name <> 'harness' AND ({where}) ORDER BY backend_start", db="postgres")
        names = ("pid", "usename", "datname", "state", "application_name", "query", "backend_start")
        return [dict(zip(names, row)) for row in rows]

    def terminate_backends(self, where="usename <> 'postgres'"):
        rows = self.sql(
            "SELECT pid, pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND ({where})", db="postgres")
        return [row[0] for row in rows]

    def url(self, user="app", db="app"):
        return f"postgresql://{user}:{password_of(user)}@127.0.0.1:{self.port}/{db}"

    def dsn(self, user="postgres", db="app"):
        return f"host={self.dir} port={self.port} dbname={db} user={user}"

    def set_hba(self, text):
        """Puts lines in front of the usual ones; a running server takes them at once."""
        (self.data / "pg_hba.conf").write_text(text + HBA, encoding="utf-8")
        if self.is_running():
            self.process.send_signal(signal.SIGHUP)
            time.sleep(0.1)

    def log(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.dir / "log").read_text(encoding="utf-8", errors="replace")
        return ""


@atexit.register
def _stop_the_rest():
    for server in list(Postgres._running):
        server.remove()
