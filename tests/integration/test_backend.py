"""Backends: how pgkeel reaches PostgreSQL, and how it lets go of it."""
import os
import subprocess

import pytest

from harness import wire as w
from harness.postgres import wait_until


@pytest.fixture
def tls_postgres(fresh_postgres, tmp_path):
    server = fresh_postgres(start=False)
    key, certificate = server.data / "server.key", server.data / "server.crt"
    subprocess.run(
        ["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost",
         "-out", certificate, "-keyout", key], check=True, capture_output=True)
    owner = (server.data / "postgresql.conf").stat()
    for path in (key, certificate):
        os.chown(path, owner.st_uid, owner.st_gid)
        os.chmod(path, 0o600)
    with open(server.data / "postgresql.conf", "a") as conf:
        conf.write("\nssl = on\n")
    readable = tmp_path / "root.crt"
    readable.write_bytes(certificate.read_bytes())
    server.start()
    server.certificate = readable
    return server


def in_use(client):
    return client.query("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")


@pytest.mark.parametrize("options", ["sslmode=require", "sslmode=verify-full sslrootcert=@cert@"])
def test_requests_and_large_results_go_through_tls(tls_postgres, start_pooler, options):
    entry = f"host=localhost port={tls_postgres.port} dbname=app " + options.replace("@cert@", str(tls_postgres.certificate))
    pooler = start_pooler(tls_postgres, {"app": entry}, pool_size=2)
    with pooler.wire() as client:
        assert w.rows(in_use(client)) == [("t", "TLSv1.3")]
        assert len(client.value("SELECT repeat('x', 9000000)")) == 9_000_000
        assert client.value("SELECT length('" + "y" * 3_000_000 + "')") == "3000000"


def test_idle_tls_backend_that_dies_is_noticed(tls_postgres, start_pooler):
    entry = f"host=localhost port={tls_postgres.port} dbname=app sslmode=require"
    pooler = start_pooler(tls_postgres, {"app": entry}, pool_size=2)
    with pooler.wire() as client:
        assert client.value("SELECT 1") == "1"
        tls_postgres.terminate_backends("usename = 'app'")
        pooler.wait_for_log("dead connection removed from pool")
        assert client.value("SELECT 2") == "2"


def test_certificate_of_nobody_is_refused_in_openssl_words(tls_postgres, start_pooler):
    entry = f"host=127.0.0.1 port={tls_postgres.port} dbname=app sslmode=verify-full sslrootcert={tls_postgres.certificate}"
    pooler = start_pooler(tls_postgres, {"app": entry}, server_down_timeout=1)
    with pooler.dial() as client:
        with pytest.raises(w.ServerError) as refusal:
            client.startup("app", "app").login("app-secret")
    assert refusal.value.sqlstate == "57P03"
    assert pooler.log_contains("certificate")


def test_several_hosts_are_tried_and_the_writable_one_is_used(postgres, fresh_postgres, start_pooler):
    standby = fresh_postgres(conf="default_transaction_read_only = on")
    entry = (f"host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,{standby.port},{postgres.port} "
             "dbname=app target_session_attrs=read-write")
    pooler = start_pooler(postgres, {"app": entry})
    with pooler.wire() as client:
        assert client.value("SHOW port") == str(postgres.port)


def test_backend_through_a_unix_socket(postgres, start_pooler):
    entry = f"host={postgres.dir} port={postgres.port} dbname=app"
    pooler = start_pooler(postgres, {"app": entry})
    with pooler.wire() as client:
        assert client.value("SELECT client_addr IS NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()") == "t"


def test_connect_query_runs_once_for_each_backend(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app connect_query='SET work_mem = ''7MB'''"
    pooler = start_pooler(postgres, {"app": entry}, pool_size=1)
    with pooler.wire() as client:
        assert client.value("SHOW work_mem") == "7MB"


def test_broken_connect_query_is_said_and_never_loops_fast(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app connect_query='SELECT nonsense'"
    pooler = start_pooler(postgres, {"app": entry}, pool_size=1, server_down_timeout=1)
    with pooler.dial() as client:
        with pytest.raises(w.ServerError):
            client.startup("app", "app").login("app-secret")
    assert pooler.log_contains("connect_query failed: column \"nonsense\" does not exist")
    assert pooler.log().count("connect_query failed") < 20


def test_slot_counts_until_postgres_has_closed_its_side(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, server_lifetime=1)
    for _ in range(15):
        with pooler.wire() as client:
            client.value("SELECT pg_sleep(0.1)")
            assert len(postgres.backends("usename = 'app'")) <= 1
    wait_until(lambda: len(postgres.backends("usename = 'app'")) <= 1)


def test_password_file_is_read_for_each_connection(fresh_postgres, start_pooler, tmp_path):
    """Tokens of clouds are long, and new ones come every few minutes: no restart, no reload, and who is connected stays."""
    server = fresh_postgres()
    secret = tmp_path / "token"
    tokens = ["a" * 900, "b" * 3000]
    server.sql(f"CREATE ROLE cloud LOGIN PASSWORD '{tokens[0]}'")
    secret.write_text(tokens[0] + "\n")
    entry = f"host=127.0.0.1 port={server.port} dbname=app user=cloud password_file={secret}"
    pooler = start_pooler(server, {"app": entry}, pool_size=2)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("BEGIN")
        pid = one.backend_pid()
        server.sql(f"ALTER ROLE cloud PASSWORD '{tokens[1]}'")
        secret.write_text(tokens[1])
        assert two.backend_pid() != pid
        assert one.backend_pid() == pid
        one.query("COMMIT")
    assert tokens[0][:50] not in pooler.log() and tokens[1][:50] not in pooler.log()


@pytest.mark.parametrize("content, words", [(None, "No such file"), ("", "it is empty"), ("wrong\n", "password authentication failed")])
def test_password_file_that_is_of_no_use_is_said(fresh_postgres, start_pooler, tmp_path, content, words):
    server = fresh_postgres()
    secret = tmp_path / "token"
    if content is not None:
        secret.write_text(content)
    entry = f"host=127.0.0.1 port={server.port} dbname=app user=app password_file={secret}"
    pooler = start_pooler(server, {"app": entry}, pool_size=1)
    with pytest.raises(w.ServerError):
        pooler.wire().close()
    assert pooler.log_contains(words)
    secret.write_text("app-secret")
    wait_until(lambda: logs_in(pooler), 10, "a login with the right one")


def logs_in(pooler):
    try:
        with pooler.wire() as wire:
            return wire.value("SELECT 1") == "1"
    except w.ServerError:
        return False
