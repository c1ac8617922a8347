"""What clients cost while they are idle."""
import resource
import ssl

import pytest

from harness.certificates import Authority

CLIENTS = 5000
BYTES_PER_IDLE_CLIENT = 1000
# Measured: 15.5 kB with TLS 1.3, of which 14.0 kB are OpenSSL's (7.6 kB for an SSL, 2.3 kB for two keys); with the
# buffers of a record in both directions it would be 33 kB more.
TLS_CLIENTS = 400
BYTES_PER_IDLE_TLS_CLIENT = 18000


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, CLIENTS * 3), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(180)
def test_5000_clients_are_served_and_cost_less_than_1_kB_each_while_idle(postgres, start_pooler, many_files, capsys):
    pooler = start_pooler(postgres, auth_type="trust", pool_size=10, log_connections=0, log_disconnections=0)

    def connect():
        wire = pooler.dial()
        clients.append(wire)
        wire.startup("app", "app").login(None)
        assert wire.value("SELECT 1") == "1"

    clients = []
    try:
        for _ in range(200):
            connect()
        before = pooler.rss_kb()
        for _ in range(CLIENTS):
            connect()
        each = (pooler.rss_kb() - before) * 1024 / CLIENTS
        with capsys.disabled():
            print(f"\n{each:.0f} bytes per idle client, {CLIENTS} clients")
        assert each < BYTES_PER_IDLE_CLIENT or pooler.keeps_freed_memory()
        assert len(postgres.backends("usename = 'app'")) <= 10
        assert clients[0].value("SELECT 2") == "2"
    finally:
        for wire in clients:
            wire.close()


@pytest.mark.timeout(180)
def test_tls_clients_own_no_buffers_while_idle(postgres, start_pooler, many_files, tmp_path, capsys):
    """Neither after the handshake nor after having sent and received records of full size."""
    certificate, key = Authority(tmp_path).issue("localhost", kind=("ec", "-pkeyopt", "ec_paramgen_curve:P-256"))
    pooler = start_pooler(postgres, auth_type="trust", pool_size=5, log_connections=0, log_disconnections=0,
                          client_tls_sslmode="require", client_tls_cert_file=certificate, client_tls_key_file=key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    padding = "x" * 20_000

    def connect():
        wire = pooler.dial()
        clients.append(wire)
        assert wire.ssl_request() == b"S"
        wire.socket = context.wrap_socket(wire.socket)
        wire.startup("app", "app").login(None)
        talk(wire)

    def talk(wire):
        assert wire.value(f"SELECT '{padding}'") == padding

    clients = []
    try:
        for _ in range(50):
            connect()
        before = pooler.rss_kb()
        for _ in range(TLS_CLIENTS):
            connect()
        each = (pooler.rss_kb() - before) * 1024 / TLS_CLIENTS
        for wire in clients:
            talk(wire)
        later = (pooler.rss_kb() - before) * 1024 / TLS_CLIENTS
        with capsys.disabled():
            print(f"\n{each:.0f} bytes per idle TLS client, {later:.0f} after more talk, {TLS_CLIENTS} clients")
        assert max(each, later) < BYTES_PER_IDLE_TLS_CLIENT or pooler.keeps_freed_memory()
    finally:
        for wire in clients:
            wire.close()
