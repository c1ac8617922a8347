"""auth_type = hba: the rules of pg_hba.conf, and the same outcome as PostgreSQL's for every method."""
import asyncio
import contextlib
import os
import pathlib
import pwd
import re
import shutil
import ssl
import subprocess

import psycopg2
import pytest

from harness import ServerError, password_of, wait_until
from harness import wire as w
from harness.certificates import Authority, openssl

METHODS = ("trust", "reject", "password", "md5", "scram-sha-256", "cert")
RULES = "hostnossl cert all 127.0.0.1/32 reject\n" + "".join(
    f"{'hostssl' if name == 'cert' else 'host'} {name} all 127.0.0.1/32 {name}\n" for name in METHODS)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.with_server(tmp_path_factory.mktemp("hba"), "ann")


def start_with(start_pooler, tmp_path, authority, rules, ident=None, databases=None, postgres=None, **settings):
    hba = tmp_path / "hba.conf"
    hba.write_text(rules)
    if ident is not None:
        (tmp_path / "ident.conf").write_text(ident)
        settings["auth_ident_file"] = tmp_path / "ident.conf"
    certificate, key = authority.server
    return start_pooler(postgres, databases, auth_type="hba", auth_hba_file=hba, client_tls_sslmode="prefer", client_tls_cert_file=certificate,
                        client_tls_key_file=key, client_tls_ca_file=authority.certificate, pool_size=2, **settings)


# ---- the same outcome as PostgreSQL's

@pytest.fixture(scope="module")
def both(authority, tmp_path_factory):
    """PostgreSQL and pgkeel with the same rules; pgkeel's own logins take another way in."""
    from harness.pooler import USERS, Pooler, ini_text
    from harness.postgres import Postgres

    tmp_path = tmp_path_factory.mktemp("both")
    server = Postgres(hba=RULES, conf="ssl = on\nssl_ca_file = 'ca.crt'\n")
    owner = (server.data / "postgresql.conf").stat()
    for path, name in ((authority.server[0], "server.crt"), (authority.server[1], "server.key"), (authority.certificate, "ca.crt")):
        (server.data / name).write_bytes(path.read_bytes())
        os.chown(server.data / name, owner.st_uid, owner.st_gid)
        os.chmod(server.data / name, 0o600)
    server.start()
    for name in METHODS:
        server.sql(f'CREATE DATABASE "{name}"', db="postgres")
    (tmp_path / "hba.conf").write_text(RULES)
    certificate, key = authority.server
    pooler = Pooler(ini_text({name: f"host={server.dir} port={server.port} dbname={name}" for name in METHODS},
                             {"listen_addr": "127.0.0.1", "listen_port": "@port@", "unix_socket_dir": "@dir@", "auth_file": "@userlist@",
                              "auth_type": "hba", "auth_hba_file": tmp_path / "hba.conf", "client_tls_sslmode": "prefer",
                              "client_tls_cert_file": certificate, "client_tls_key_file": key,
                              "client_tls_ca_file": authority.certificate}), USERS)
    pooler.start()
    yield server, pooler
    complaints = pooler.finish()
    server.remove()
    assert not complaints


def libpq_outcome(port, method, user, password, tls, files):
    """SQLSTATE of the refusal (libpq does not give it: its words), or None."""
    settings = {"host": "127.0.0.1", "port": port, "dbname": method, "user": user, "sslmode": "require" if tls else "disable", **files}
    if password is not None:
        settings["password"] = password
    try:
        with contextlib.closing(psycopg2.connect(**settings)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return None
    except psycopg2.OperationalError as error:
        return re.sub(r"port \d+", "port", str(error).strip().partition("FATAL:  ")[2] or str(error).strip().splitlines()[-1])


def asyncpg_outcome(port, method, user, password, tls, files):
    asyncpg = pytest.importorskip("asyncpg")
    context = False
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if files:
            context.load_cert_chain(files["sslcert"], files["sslkey"])

    async def run():
        connection = await asyncpg.connect(host="127.0.0.1", port=port, user=user, password=password or "", database=method, ssl=context,
                                           timeout=10)
        await connection.close()

    try:
        asyncio.run(run())
    except asyncpg.PostgresError as error:
        return error.sqlstate
    except (OSError, asyncpg.InterfaceError) as error:
        return type(error).__name__
    return None


class Jdbc:
    """One virtual machine for all logins."""

    def __init__(self, folder):
        jar = "/usr/share/java/postgresql.jar"
        if shutil.which("javac") is None or not os.path.exists(jar):
            pytest.skip("no javac, or no libpostgresql-jdbc-java")
        program = pathlib.Path(__file__).resolve().parents[1] / "drivers" / "Logins.java"
        subprocess.run(["javac", "-cp", jar, "-d", folder, program], check=True)
        self.process = subprocess.Popen(["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{jar}:{folder}", "Logins"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def outcome(self, port, method, user, password, tls, files):
        key = ""
        if files:
            key = files["sslkey"] + ".pk8"  # the form that pgjdbc reads
            openssl("pkcs8", "-topk8", "-inform", "PEM", "-outform", "DER", "-nocrypt", "-in", files["sslkey"], "-out", key)
        words = (port, method, user, password, "tls" if tls else "plain", files.get("sslcert", ""), key)
        self.process.stdin.write("\t".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def jdbc(tmp_path_factory):
    machine = Jdbc(tmp_path_factory.mktemp("jdbc"))
    yield machine
    machine.process.stdin.close()
    machine.process.wait()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("who", ["right", "wrong", "empty", "missing"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("driver", [libpq_outcome, asyncpg_outcome, Jdbc.outcome], ids=["libpq", "asyncpg", "pgjdbc"])
def test_outcome_is_that_of_postgres(request, both, authority, driver, method, who, tls):
    server, pooler = both
    if driver is Jdbc.outcome:
        driver = request.getfixturevalue("jdbc").outcome
    known = "old" if method == "md5" else "ann"  # PostgreSQL has an md5 hash of old's password, verifiers of the others'
    user = "nobody" if who == "missing" else known
    password = {"right": password_of(known), "wrong": "wrong", "empty": "", "missing": "x"}[who]
    files = {}
    if method == "cert" and tls and who != "empty":
        files = {"sslcert": str(authority.ann[0]), "sslkey": str(authority.ann[1])}
    expected = driver(server.port, method, user, password, tls, files)
    assert driver(pooler.port, method, user, password, tls, files) == expected


@pytest.mark.parametrize("method", ["password", "md5", "scram-sha-256"])
def test_wrong_password_against_a_warm_pool(both, method):
    """CVE-2025-46801 of pgpool: a connection that was there already was given to anybody."""
    _, pooler = both
    for tls in (False, True):
        assert libpq_outcome(pooler.port, method, "ann", password_of("ann"), tls, {}) is None
        assert "password authentication failed" in libpq_outcome(pooler.port, method, "ann", "wrong", tls, {})


# ---- rules of our own

def test_peer_and_maps(postgres, start_pooler, authority, tmp_path):
    me = pwd.getpwuid(os.getuid()).pw_name
    pooler = start_with(start_pooler, tmp_path, authority, "local all all peer map=us\nhostssl all all all cert map=them\n",
                        f"us {me} app\nthem /^(.*)$ app\n", postgres=postgres)
    with pooler.dial(unix=True) as wire:
        assert wire.startup("app").login().value("SELECT 1") == "1"
    with pooler.dial(unix=True) as wire, pytest.raises(ServerError, match='Peer authentication failed for user "ann"'):
        wire.startup("ann").login()
    files = {"sslcert": str(authority.ann[0]), "sslkey": str(authority.ann[1])}
    assert libpq_outcome(pooler.port, "app", "app", None, True, files) is None
    assert "certificate authentication failed" in libpq_outcome(pooler.port, "app", "ann", None, True, files)


def test_certificate_besides_a_password(postgres, start_pooler, authority, tmp_path):
    rules = "hostssl app ann all scram-sha-256 clientcert=verify-full\nhostssl app app all scram-sha-256 clientcert=verify-ca\n"
    pooler = start_with(start_pooler, tmp_path, authority, rules, postgres=postgres)
    files = {"sslcert": str(authority.ann[0]), "sslkey": str(authority.ann[1])}
    assert libpq_outcome(pooler.port, "app", "ann", password_of("ann"), True, files) is None
    assert libpq_outcome(pooler.port, "app", "app", password_of("app"), True, files) is None
    assert "valid client certificate" in libpq_outcome(pooler.port, "app", "ann", password_of("ann"), True, {"sslcert": "/nowhere"})
    other = authority.issue("other")
    assert "certificate authentication failed" in libpq_outcome(
        pooler.port, "app", "ann", password_of("ann"), True, {"sslcert": str(other[0]), "sslkey": str(other[1])})


def test_names_are_cut_as_postgres_cuts_them(postgres, start_pooler, authority, tmp_path):
    """A rule for a name of 63 bytes was passed by under a longer one."""
    name = "n" * 63
    postgres.sql(f"DROP ROLE IF EXISTS {name}", f"CREATE ROLE {name} LOGIN PASSWORD '{password_of(name)}'")
    pooler = start_with(start_pooler, tmp_path, authority, f"host all {name} all reject\nhost all all all scram-sha-256\n", postgres=postgres,
                        users=(name, "app"))
    for user in (name, name + "x"):
        assert "pg_hba.conf rejects" in libpq_outcome(pooler.port, "app", user, password_of(name), False, {})


def test_rules_change_on_reload_and_bad_ones_do_not(postgres, start_pooler, authority, tmp_path):
    pooler = start_with(start_pooler, tmp_path, authority, "host all all all scram-sha-256\n", postgres=postgres, admin_users="app")
    with pooler.wire() as wire:
        (tmp_path / "hba.conf").write_text("host all ann all reject\nhost all all all scram-sha-256\n")
        pooler.reload()
        wait_until(lambda: libpq_outcome(pooler.port, "app", "ann", password_of("ann"), False, {}) is not None, what="the rule")
        assert wire.value("SELECT 1") == "1"
        (tmp_path / "hba.conf").write_text("host all all all nonsense\n")
        with pytest.raises(ServerError, match="expected a method"):
            with pooler.wire(db="pgkeel") as console:
                console.dicts("RELOAD")
        assert "rejects" in libpq_outcome(pooler.port, "app", "ann", password_of("ann"), False, {})
        assert w.rows(wire.query("SELECT 1")) == [("1",)]


def test_console_is_a_database_to_the_rules_whatever_replication_says(postgres, start_pooler, authority, tmp_path):
    rules = "host pgkeel all all reject\nhost replication all all scram-sha-256\nhost app all all scram-sha-256\n"
    pooler = start_with(start_pooler, tmp_path, authority, rules, postgres=postgres, admin_users="app")
    for more in ({}, {"replication": "true"}, {"replication": "database"}):
        with pooler.dial() as wire, pytest.raises(ServerError, match="rejects connection"):
            wire.startup("app", "pgkeel", **more).login()
