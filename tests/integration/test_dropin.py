"""Debian's pgbouncer package under pgkeel: its own files, as they are installed, with databases and users added."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

from harness import password_of, wait_until
from harness.containers import can_make_namespaces
from harness.pooler import TROUBLE, sanitizer_environment, userlist
from harness.postgres import as_postgres, make_dir

PACKAGED = pathlib.Path("/etc/pgbouncer")
# What the files name. The tests' folders are put in their places, where nobody but this pgkeel sees them.
PLACES = {"etc": "/etc/pgbouncer", "log": "/var/log/postgresql", "run": "/run/postgresql"}
LOOPBACK_UP = ("import fcntl, socket, struct;"
               "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14x', b'lo', 0x41))")


pytestmark = [
    pytest.mark.skipif(not (PACKAGED / "pgbouncer.ini").exists(), reason="the package pgbouncer is not installed"),
    pytest.mark.skipif(not can_make_namespaces(), reason="mount and network namespaces need root"),
]


class Dropin:
    """pgkeel in PgBouncer's place: port 6432 of a network of its own, the package's paths, the package's user."""

    def __init__(self, binary):
        self.dir = make_dir()
        for name in PLACES:
            self._own(self.dir / name, is_folder=True)
        shutil.copy(binary, self.dir / "pgkeel")
        self.process = None

    @staticmethod
    def _own(path, is_folder=False):
        if is_folder:
            path.mkdir()
        shutil.chown(path, "postgres", "postgres")

    def install(self, databases, users):
        """The package's files, every byte of them, and the lines that an administrator adds."""
        text = (PACKAGED / "pgbouncer.ini").read_text(encoding="utf-8")
        assert text.count("[databases]\n") == 1
        lines = "".join(f"{name} = {value}\n" for name, value in databases.items())
        files = {"pgbouncer.ini": text.replace("[databases]\n", f"[databases]\n{lines}"),
                 "userlist.txt": (PACKAGED / "userlist.txt").read_text(encoding="utf-8") + userlist(users)}
        for name, content in files.items():
            path = self.dir / "etc" / name
            path.write_text(content, encoding="utf-8")
            path.chmod(0o640)
            self._own(path)

    def start(self):
        for place in PLACES.values():
            if not os.path.isdir(place):
                pytest.skip(f"there is no {place}")
        steps = [f"mount --bind {self.dir / name} {place}" for name, place in PLACES.items()]
        steps += [f'{sys.executable} -c "{LOOPBACK_UP}"', 'exec "$@"']
        pgkeel = as_postgres(str(self.dir / "pgkeel"), "/etc/pgbouncer/pgbouncer.ini")
        environment = {"PATH": os.environ["PATH"], **sanitizer_environment()}
        with open(self.dir / "stderr", "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--net", "sh", "-ec", " && ".join(steps), "sh", *pgkeel],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/")
        wait_until(lambda: (self.dir / "run/.s.PGSQL.6432").exists() or self.process.poll() is not None, 15,
                   what="the unix socket")
        assert self.process.poll() is None, self.said()

    def psql(self, sql, user, database, host="localhost", password=None):
        """Status, output and errors of psql inside of that network, as the system user postgres."""
        ended = subprocess.run(
            ["nsenter", "-t", str(self.process.pid), "--mount", "--net", "--",
             *as_postgres("psql", "-XAtw", "-h", host, "-p", "6432", "-U", user, "-d", database, "-c", sql)],
            env={"PATH": os.environ["PATH"], "PGPASSWORD": password or password_of(user)}, cwd="/",
            capture_output=True, text=True, timeout=30, check=False)
        return ended.returncode, ended.stdout, ended.stderr

    def said(self):
        paths = (self.dir / "stderr", self.dir / "log/pgbouncer.log")
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths if path.exists())

    def finish(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        assert self.process is None or self.process.returncode == 0, self.said()
        assert not TROUBLE.search(self.said()), self.said()
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture
def dropin(start_pooler):
    one = Dropin(start_pooler(start=False).binary)
    yield one
    one.finish()


def test_packaged_configuration_with_databases_added_starts_and_serves(postgres, dropin):
    # The unix socket is the way from that network to this one's PostgreSQL.
    dropin.install({"app": f"host={postgres.dir} port={postgres.port} dbname=app",
                    "other": f"host={postgres.dir} port={postgres.port} dbname=app user=ann pool_size=3"},
                   ["app", "bob"])
    dropin.start()
    assert dropin.psql("SELECT current_user", "app", "app") == (0, "app\n", "")
    assert dropin.psql("SELECT current_user", "bob", "other") == (0, "ann\n", "")
    assert dropin.psql("SELECT current_user", "app", "app", host="/var/run/postgresql") == (0, "app\n", "")
    status, _, error = dropin.psql("SELECT 1", "app", "app", password="wrong")
    assert status == 2 and "password authentication failed" in error
    # The service's own user is let into the console by the socket, as PgBouncer lets it in.
    status, rows, _ = dropin.psql("SHOW DATABASES", "pgbouncer", "pgbouncer", host="/var/run/postgresql")
    assert status == 0 and {"app", "other"} <= {row.split("|")[0] for row in rows.splitlines()}
    assert (dropin.dir / "run/pgbouncer.pid").read_text().strip() == str(dropin.process.pid)
    beginning, ready, _ = (dropin.dir / "log/pgbouncer.log").read_text().partition(" ready: ")
    assert ready and not re.search(r"unknown|ignored|WARN|ERROR", beginning), beginning
