"""The servers of an outage: one PostgreSQL, and pgkeel or PgBouncer before it, with the same pool."""
import contextlib
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

INTEGRATION = pathlib.Path(__file__).resolve().parents[1] / "integration"
if str(INTEGRATION) not in sys.path:
    sys.path.insert(0, str(INTEGRATION))

from harness import Pooler, Postgres, free_port, password_of, wait_until  # noqa: E402
from harness.pooler import ini_text, userlist  # noqa: E402
from harness.postgres import as_postgres  # noqa: E402

USER = "app"
TABLES = (
    "CREATE TABLE hits (id int PRIMARY KEY, n bigint NOT NULL DEFAULT 0)",
    "INSERT INTO hits (id) SELECT generate_series(0, {clients})",
    "CREATE TABLE increments (client int NOT NULL, number int NOT NULL)",
)


def raise_file_limit():
    """For 500 clients and the proxy's two descriptors for each."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


# ---- PostgreSQL

def make_certificate(server):
    """A certificate that nobody vouches for, owned by the server's user."""
    certificate, key = server.dir / "server.crt", server.dir / "server.key"
    subprocess.run(
        as_postgres("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-out", str(certificate), "-keyout", str(key)),
        check=True, capture_output=True, cwd="/")
    with open(server.data / "postgresql.conf", "a", encoding="utf-8") as file:
        file.write(f"ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\n")


def make_server(is_tls=False, conf=""):
    server = Postgres(conf)
    if is_tls:
        make_certificate(server)
    return server.start()


def make_tables(server, clients):
    server.sql("DROP TABLE IF EXISTS hits, increments", *(line.format(clients=clients) for line in TABLES), user=USER)


def conninfo(server, is_unix=False, is_tls=False):
    """What the proxies are told about the server."""
    host = server.dir if is_unix else "127.0.0.1"
    return f"host={host} port={server.port} dbname=app" + (" sslmode=require" if is_tls else "")


def terminate_all(server):
    """Signals all backends of the pool in one statement; their ids, when all of them are gone."""
    with contextlib.closing(server.connect("postgres")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
                       " WHERE backend_type = 'client backend' AND usename = %s", (USER,))
        pids = [pid for pid, is_sent in cursor.fetchall() if is_sent]

        def are_gone():
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", (pids,))
            return cursor.fetchone()[0] == 0

        wait_until(are_gone, 20, "end of the terminated backends")
    return pids


# ---- proxies

def login(port):
    """What a client needs to come in."""
    return {"host": "127.0.0.1", "port": port, "user": USER, "password": password_of(USER), "dbname": "app",
            "connect_timeout": 200}


SETTINGS = {"listen_addr": "127.0.0.1", "listen_port": "@port@", "auth_type": "scram-sha-256",
            "auth_file": "@userlist@", "pool_mode": "transaction"}


class Pgkeel:
    name = "pgkeel"

    def __init__(self, target, pool_size, **settings):
        ini = ini_text({"app": target}, {**SETTINGS, "unix_socket_dir": "@dir@", "default_pool_size": pool_size,
                                         **settings})
        self.pooler = Pooler(ini, (USER,))

    def start(self):
        self.pooler.start()
        return self

    @property
    def login(self):
        return login(self.pooler.port)

    def log(self):
        return self.pooler.log()

    def stop(self):
        """Complaints about its end."""
        return self.pooler.finish()


class PgBouncer:
    """Debian's, run by the user of PostgreSQL; what it is not told here has its default."""

    name = "pgbouncer"

    @staticmethod
    def program():
        return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    def __init__(self, target, pool_size, **more):
        words = dict(word.split("=", 1) for word in target.split())
        sslmode = words.pop("sslmode", "disable")
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))
        self.dir.chmod(0o755)
        self.port, self.process = free_port(), None
        settings = {**SETTINGS, "listen_port": self.port, "auth_file": self.dir / "userlist.txt", "unix_socket_dir": "",
                    "default_pool_size": pool_size, "max_client_conn": 2000, "server_tls_sslmode": sslmode,
                    "ignore_startup_parameters": "extra_float_digits", **more}
        text = ini_text({"app": " ".join(f"{key}={value}" for key, value in words.items())}, settings)
        (self.dir / "pgbouncer.ini").write_text(text.replace("[pgkeel]", "[pgbouncer]"), encoding="utf-8")
        (self.dir / "userlist.txt").write_text(userlist((USER,)), encoding="utf-8")

    @classmethod
    def version(cls):
        output = subprocess.run([cls.program(), "--version"], capture_output=True, text=True, check=True).stdout
        return output.splitlines()[0].replace("PgBouncer ", "")

    def start(self):
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(
                as_postgres(self.program(), str(self.dir / "pgbouncer.ini")), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd="/")
        wait_until(self._listens, 10, "PgBouncer listens")
        return self

    def _listens(self):
        assert self.process.poll() is None, f"PgBouncer ended:\n{self.log()}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    @property
    def login(self):
        return login(self.port)

    def log(self):
        return (self.dir / "log").read_text(encoding="utf-8", errors="replace")

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
        return []


class Direct:
    """No proxy: what PostgreSQL itself shows. For the terminator's own proof."""

    name = "none"

    def __init__(self, server):
        self.login = login(server.port)

    def start(self):
        return self

    @staticmethod
    def log():
        return ""

    @staticmethod
    def stop():
        return []


def pause(seconds):
    """Part of a fault: how long something lasts. Nothing is awaited by it."""
    time.sleep(seconds)
