"""TLS from clients: modes, certificates, channel binding, reload, and what is not a handshake."""
import asyncio
import contextlib
import os
import pty
import select
import socket
import ssl
import struct
import subprocess
import threading
import time

import psycopg2
import pytest

from harness import password_of, wait_until
from harness import wire as w
from harness.certificates import Authority, openssl

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.with_server(tmp_path_factory.mktemp("tls"), "app")


@pytest.fixture
def start_tls(postgres, start_pooler, authority):
    """start_tls(sslmode, **settings)"""
    def start(sslmode="require", **settings):
        certificate, key = authority.server
        return start_pooler(postgres, **{"client_tls_sslmode": sslmode, "client_tls_cert_file": certificate, "client_tls_key_file": key,
                                         "client_tls_ca_file": authority.certificate, "admin_users": "app", "pool_size": 3, **settings})
    return start


def connect(pooler, user="app", **kw):
    settings = {"host": "127.0.0.1", "port": pooler.port, "dbname": "app", "user": user, "password": password_of(user),
                "connect_timeout": 5, **kw}
    with contextlib.closing(psycopg2.connect(**settings)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        return connection.info.ssl_in_use


class TlsWire(w.Wire):
    """A client that speaks raw messages over TLS."""

    def __init__(self, pooler, direct=False, alpn=("postgresql",), tweak=None, **kw):
        super().__init__("127.0.0.1", pooler.port, **kw)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if tweak:
            tweak(context)
        if not direct:
            self.socket.sendall(SSL_REQUEST)
            assert self.socket.recv(1) == b"S"
        self.socket = context.wrap_socket(self.socket)


def ask_for_tls(pooler):
    """A connection whose handshake may begin."""
    wire = pooler.dial()
    wire.send_raw(SSL_REQUEST)
    assert wire.recv_bytes(1) == b"S"
    return wire


# ---- modes

@pytest.mark.parametrize("ours, theirs, expected", [
    ("disable", "prefer", False), ("disable", "require", None), ("allow", "disable", False), ("allow", "require", True),
    ("prefer", "disable", False), ("prefer", "prefer", True), ("prefer", "require", True), ("require", "disable", None),
    ("require", "allow", True), ("require", "prefer", True), ("require", "verify-full", True), ("verify-ca", "require", None),
    ("verify-full", "prefer", None)])
def test_modes(start_tls, authority, ours, theirs, expected):
    pooler = start_tls(ours)
    if expected is None:
        with pytest.raises(psycopg2.OperationalError):
            connect(pooler, sslmode=theirs, sslrootcert=str(authority.certificate))
    else:
        assert connect(pooler, sslmode=theirs, sslrootcert=str(authority.certificate)) is expected


def test_refusal_without_tls_says_why(start_tls):
    pooler = start_tls()
    with pytest.raises(w.ServerError) as refusal:
        pooler.wire().close()
    assert refusal.value.sqlstate == "28000" and "without TLS" in str(refusal.value)


def test_unix_sockets_need_no_tls(start_tls):
    pooler = start_tls()
    with pooler.dial(unix=True) as wire:
        assert wire.startup("app", "app").login().value("SELECT 1") == "1"


@pytest.mark.parametrize("protocols, version, works", [
    ("tlsv1.2", ssl.TLSVersion.TLSv1_2, True), ("tlsv1.2", ssl.TLSVersion.TLSv1_3, False), ("tlsv1.3", ssl.TLSVersion.TLSv1_3, True),
    ("tlsv1.3", ssl.TLSVersion.TLSv1_2, False), ("secure", ssl.TLSVersion.TLSv1_2, True), ("secure", ssl.TLSVersion.TLSv1_3, True),
    ("secure", ssl.TLSVersion.TLSv1_1, False)])
def test_protocols(start_tls, protocols, version, works):
    pooler = start_tls(client_tls_protocols=protocols)

    def tweak(context):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version

    if works:
        with TlsWire(pooler, tweak=tweak) as wire:
            assert wire.startup().login().value("SELECT 1") == "1"
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TlsWire(pooler, tweak=tweak)


def test_ciphers(start_tls):
    pooler = start_tls(client_tls_ciphers="ECDHE-RSA-AES256-GCM-SHA384", client_tls_protocols="tlsv1.2")
    with TlsWire(pooler) as wire:
        assert wire.socket.cipher()[0] == "ECDHE-RSA-AES256-GCM-SHA384"
    pooler = start_tls(client_tls13_ciphers="TLS_CHACHA20_POLY1305_SHA256")
    with TlsWire(pooler) as wire:
        assert wire.socket.cipher()[0] == "TLS_CHACHA20_POLY1305_SHA256"


@pytest.mark.parametrize("key, value, words", [
    ("client_tls_key_file", "/nowhere", "client_tls_key_file"), ("client_tls_cert_file", "/nowhere", "client_tls_cert_file"),
    ("client_tls_ca_file", "/nowhere", "client_tls_ca_file"), ("client_tls_protocols", "sslv3", "is not tlsv1.2"),
    ("client_tls_ciphers", "nonsense", "client_tls_ciphers"), ("client_tls13_ciphers", "nonsense", "client_tls13_ciphers"),
    ("client_tls_ecdhcurve", "nonsense", "client_tls_ecdhcurve")])
def test_bad_files_and_words_end_the_start(postgres, start_pooler, authority, key, value, words):
    certificate, private = authority.server
    settings = {"client_tls_sslmode": "require", "client_tls_cert_file": certificate, "client_tls_key_file": private, key: value}
    pooler = start_pooler(postgres, start=False, **settings)
    for args in ([], ["--check"]):
        pooler.args = args
        status, output = pooler.run()
        assert status == 1 and words in output


# ---- the handshake

def test_direct_tls_needs_the_name_of_the_protocol(start_tls):
    pooler = start_tls()
    with TlsWire(pooler, direct=True) as wire:
        assert wire.socket.selected_alpn_protocol() == "postgresql"
        assert wire.startup().login().value("SELECT 1") == "1"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        TlsWire(pooler, direct=True, alpn=("http/1.1",))
    wire = TlsWire(pooler, direct=True, alpn=())
    with contextlib.suppress(OSError):
        wire.startup()
        assert wire.recv_all() == []
    wire.close()


@pytest.mark.parametrize("together", [True, False])
def test_bytes_in_clear_before_the_handshake_end_the_connection(start_tls, together):
    """CVE-2021-3935, CVE-2021-43766: what a man in the middle puts in front of the handshake was taken for the client's."""
    pooler = start_tls("prefer")
    with pooler.dial() as wire:
        if together:
            wire.send_raw(SSL_REQUEST + w.startup_packet("app", "app"))
            assert w.errors(wire.recv_all())[0]["C"] == "08P01"
        else:
            wire.send_raw(SSL_REQUEST)
            assert wire.recv_bytes(1) == b"S"
            wire.send_raw(w.startup_packet("app", "app"))
            with contextlib.suppress(w.Closed, ConnectionError):
                assert b"R" not in wire.recv_bytes(64)
    wait_until(lambda: pooler.log_contains("TLS handshake failed" if not together else "unencrypted data"), what="the log")


def test_second_request_for_tls_is_declined(start_tls):
    with TlsWire(start_tls()) as wire:
        wire.send_raw(SSL_REQUEST)
        assert wire.recv_bytes(1) == b"N"
        assert wire.startup().login().value("SELECT 1") == "1"


def test_unfinished_handshakes_cost_nobody_anything(start_tls):
    pooler = start_tls(client_login_timeout=1)
    silent = [ask_for_tls(pooler) for _ in range(50)]
    for wire in silent:
        wire.send_raw(b"\x16\x03\x01")
    with TlsWire(pooler) as wire:
        assert wire.startup().login().value("SELECT 1") == "1"
    for wire in silent:
        with contextlib.suppress(ConnectionError):
            assert wire.eof(10)
        wire.close()


def client_hello():
    """What a client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@pytest.fixture(scope="module")
def slow_key(authority):
    """A certificate whose key takes long to sign."""
    certificate, key = authority.issue("slow", kind=("rsa:4096",))
    return {"client_tls_cert_file": certificate, "client_tls_key_file": key}


def test_signatures_are_made_by_helpers(start_tls, slow_key):
    pooler = start_tls(**slow_key)
    with TlsWire(pooler) as wire:
        wire.startup().login()
    before = pooler.cpu_seconds_of_threads()
    for _ in range(60):
        TlsWire(pooler).close()
    after = pooler.cpu_seconds_of_threads()
    helpers, workers = (after[name] - before.get(name, 0) for name in ("helper", "worker"))
    assert helpers > 0.1 and workers < helpers / 3


def test_clients_may_go_in_the_midst_of_a_handshake(start_tls, slow_key):
    pooler = start_tls(max_unauthenticated=10, client_login_timeout=2, **slow_key)
    with TlsWire(pooler) as logged_in:
        logged_in.startup().login()
        files, hello = pooler.fd_count(), client_hello()
        for _ in range(3):
            wires = [ask_for_tls(pooler) for _ in range(8)]
            for wire in wires:
                wire.send_raw(hello)
            for wire in wires[::2]:
                wire.reset()
            wires += [ask_for_tls(pooler) for _ in range(10)]  # the oldest of too many are closed, handshake or not
            assert logged_in.value("SELECT 1") == "1"
            for wire in wires[1:]:
                wire.close()
        assert connect(pooler, sslmode="require")
        wait_until(lambda: pooler.fd_count() <= files, 10, "pgkeel closes what was left")


def shake_hands(pooler):
    """A socket whose handshake is over, and a function that makes the next bytes of the session."""
    wire = ask_for_tls(pooler)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    session = context.wrap_bio(incoming, outgoing)
    while True:
        try:
            session.do_handshake()
            wire.send_raw(outgoing.read())
            return wire, lambda data: (session.write(data), outgoing.read())[1]
        except ssl.SSLWantReadError:
            wire.send_raw(outgoing.read())
            incoming.write(wire.socket.recv(65536))


def test_broken_record_behind_a_login_ends_that_client_only(start_tls, slow_key):
    pooler = start_tls(auth_type="trust", max_unauthenticated=1000, **slow_key)
    hello = client_hello()
    for number in range(10):
        wire, seal = shake_hands(pooler)
        body = struct.pack("!i", 196608) + f"user\0app\0database\0app\0application_name\0number{number}\0\0".encode()
        login = seal(struct.pack("!i", len(body) + 4) + body)
        queue = [ask_for_tls(pooler) for _ in range(12)]  # so that helpers have something to do
        for other in queue:
            other.send_raw(hello)
        wire.send_raw(login + b"\x17\x03\x03\x00\x30" + b"A" * 48)
        with contextlib.suppress(ConnectionError):
            while wire.socket.recv(65536):
                pass
        for other in (wire, *queue):
            other.close()
    assert connect(pooler, sslmode="require")


def test_end_in_the_midst_of_handshakes(start_tls, slow_key):
    pooler = start_tls(**slow_key)
    hello = client_hello()
    wires = [ask_for_tls(pooler) for _ in range(100)]
    for wire in wires:
        wire.send_raw(hello)
    assert pooler.stop() == 0
    for wire in wires:
        wire.close()


def test_garbage_instead_of_a_handshake(start_tls):
    pooler = start_tls()
    for garbage in (b"\x16\x03\x01\xff\xff" + b"x" * 4000, b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01\x03\x01" + b"y" * 50):
        with pooler.dial() as wire, contextlib.suppress(OSError, w.Closed):
            wire.send_raw(SSL_REQUEST)
            assert wire.recv_bytes(1) == b"S"
            wire.send_raw(garbage)
            wire.half_close()
            wire.recv_all()
        with pooler.dial() as wire, contextlib.suppress(OSError, w.Closed):
            wire.send_raw(garbage)
            wire.half_close()
            wire.recv_all()
    assert connect(pooler, sslmode="require")


def test_sessions_are_resumed(start_tls):
    pooler = start_tls(client_tls_protocols="tlsv1.2")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = None
    for is_second in (False, True):
        with w.Wire("127.0.0.1", pooler.port) as wire:
            wire.send_raw(SSL_REQUEST)
            assert wire.recv_bytes(1) == b"S"
            wire.socket = context.wrap_socket(wire.socket, session=session)
            assert wire.startup().login().value("SELECT 1") == "1"
            assert wire.socket.session_reused is is_second
            session = wire.socket.session


# ---- data

def test_large_data_both_ways(start_tls):
    with TlsWire(start_tls(), timeout=30) as wire:
        wire.startup().login()
        assert wire.value("SELECT repeat('x', 20000000)") == "x" * 20_000_000
        assert wire.value(f"SELECT length('{'y' * 5_000_000}')") == "5000000"


def test_records_are_small(start_tls):
    """libpq's asynchronous readers can hang on records of more than 8 kB."""
    pooler = start_tls()
    with Tap(pooler) as tap:
        with contextlib.closing(psycopg2.connect(host="127.0.0.1", port=tap.port, dbname="app", user="app", password=password_of("app"),
                                                 sslmode="require")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT repeat('x', 1000000)")
            assert cursor.fetchone() == ("x" * 1_000_000,)
    records = tap.data[1:]  # behind the S
    lengths, at = [], 0
    while at + 5 <= len(records):
        lengths.append(struct.unpack_from("!H", records, at + 3)[0])
        at += 5 + lengths[-1]
    assert sum(lengths) > 1_000_000 and max(lengths) <= 8192 + 256


class Tap:
    """Passes one connection on and keeps what comes back."""

    def __init__(self, pooler):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.target, self.data = self.listener.getsockname()[1], pooler.port, bytearray()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        client, _ = self.listener.accept()
        server = socket.create_connection(("127.0.0.1", self.target))

        def there():
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    server.sendall(data)
                server.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=there, daemon=True)
        thread.start()
        while data := server.recv(65536):
            self.data += data
            client.sendall(data)
        client.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.join(10)
        self.listener.close()


def test_cancel_over_tls_and_in_clear(start_tls):
    pooler = start_tls()
    with contextlib.closing(psycopg2.connect(host="127.0.0.1", port=pooler.port, dbname="app", user="app", password=password_of("app"),
                                             sslmode="require")) as connection, connection.cursor() as cursor:
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        with pytest.raises(psycopg2.errors.QueryCanceled):
            cursor.execute("SELECT pg_sleep(20)")
        timer.join()


def test_asyncpg(start_tls):
    asyncpg = pytest.importorskip("asyncpg")
    pooler = start_tls()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def run():
        connection = await asyncpg.connect(host="127.0.0.1", port=pooler.port, user="app", password=password_of("app"), database="app",
                                           ssl=context)
        assert await connection.fetchval("SELECT $1::int + 1", 4) == 5
        await connection.close()

    asyncio.run(run())


# ---- channel binding

@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha1"])
def test_channel_binding(start_tls, authority, digest):
    certificate, key = authority.issue("localhost", f"localhost-{digest}", digest=digest)
    pooler = start_tls(client_tls_cert_file=certificate, client_tls_key_file=key, client_tls_ciphers="DEFAULT:@SECLEVEL=0")
    assert connect(pooler, sslmode="require", channel_binding="require")
    assert connect(pooler, sslmode="require", channel_binding="disable")


def test_man_in_the_middle_is_noticed(start_tls, authority, tmp_path):
    """With his own certificate he passes the client's messages on: the proof is bound to another one."""
    pooler = start_tls()
    other = Authority(tmp_path, "other")
    certificate, key = other.issue("localhost")
    with Middle(pooler, certificate, key) as middle:
        for binding in ("require", "prefer"):
            with pytest.raises(psycopg2.OperationalError, match="channel binding"):
                psycopg2.connect(host="127.0.0.1", port=middle.port, dbname="app", user="app", password=password_of("app"),
                                 sslmode="require", channel_binding=binding)


class Middle:
    """Ends the client's TLS session and begins another one."""

    def __init__(self, pooler, certificate, key):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.target = self.listener.getsockname()[1], pooler.port
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with contextlib.suppress(OSError):
            assert client.recv(8) == SSL_REQUEST
            client.sendall(b"S")
            client = self.context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.target))
            server.sendall(SSL_REQUEST)
            assert server.recv(1) == b"S"
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.pass_on(client, context.wrap_socket(server))

    @staticmethod
    def pass_on(client, server):
        """In one thread: a TLS session is not to be read and written at the same time."""
        with client, server:
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for source, sink in ((client, server), (server, client)):
                    if source in ready:
                        data = source.recv(65536)
                        while source.pending():
                            data += source.recv(65536)
                        if not data:
                            return
                        sink.sendall(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


# ---- certificates of clients

def client_files(pair):
    return {"sslmode": "require", "sslcert": str(pair[0]), "sslkey": str(pair[1])}


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_certificate_of_a_client_is_verified(start_tls, authority, tmp_path, mode):
    pooler = start_tls(mode)
    assert connect(pooler, **client_files(authority.app))
    stranger = Authority(tmp_path, "stranger").issue("app")
    for files in (client_files(stranger), {"sslmode": "require"}):
        with pytest.raises(psycopg2.OperationalError):
            connect(pooler, **files)


def test_login_by_certificate(start_tls, authority):
    pooler = start_tls("verify-full", auth_type="cert")
    assert connect(pooler, password="", **client_files(authority.app))
    with pytest.raises(psycopg2.OperationalError, match='certificate authentication failed for user "ann"'):
        connect(pooler, "ann", password="", **client_files(authority.app))
    several = authority.issue("service", "several", alt="DNS:ann,email:app")
    assert connect(pooler, "ann", password="", **client_files(several))
    assert connect(pooler, "app", password="", **client_files(several))


# ---- reload

def subject(pooler):
    with TlsWire(pooler) as wire:
        data = wire.socket.getpeercert(True)
    text = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-serial"], input=data, check=True, capture_output=True).stdout
    return text


def test_new_certificate_under_load(start_tls, authority, tmp_path):
    certificate, key = authority.issue("localhost", "first")
    pooler = start_tls(client_tls_cert_file=certificate, client_tls_key_file=key)
    over, failures, done = threading.Event(), [], []

    def work():
        try:
            with TlsWire(pooler, timeout=10) as wire:
                wire.startup().login()
                while not over.is_set():
                    assert wire.value("SELECT 1") == "1"
                    done.append(1)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    before = subject(pooler)
    new_certificate, new_key = authority.issue("localhost", "second")
    certificate.write_bytes(new_certificate.read_bytes())
    key.write_bytes(new_key.read_bytes())
    pooler.reload()
    wait_until(lambda: subject(pooler) != before, what="the new certificate")
    count = len(done)
    wait_until(lambda: len(done) > count + 100, what="more work")
    over.set()
    for thread in threads:
        thread.join()
    assert not failures


def test_bad_certificate_on_reload_changes_nothing(start_tls, authority):
    certificate, key = authority.issue("localhost", "good")
    pooler = start_tls("prefer", client_tls_cert_file=certificate, client_tls_key_file=key)
    before = subject(pooler)
    certificate.write_text("nonsense")
    with pytest.raises(w.ServerError, match="client_tls_cert_file"):
        pooler.admin("RELOAD")
    assert subject(pooler) == before and connect(pooler, sslmode="require")
    assert pooler.log_contains("reload failed")


def test_refused_handshakes_wait_for_the_peer_without_work(start_tls):
    pooler = start_tls(client_login_timeout=1)
    silent = [ask_for_tls(pooler) for _ in range(3)]
    pooler.wait_for_log("client_login_timeout")
    before = pooler.cpu_seconds()
    time.sleep(1)
    assert pooler.cpu_seconds() - before < 0.3
    for wire in silent:
        wire.close()


def test_password_of_a_key_is_never_asked_for(postgres, start_pooler, authority, tmp_path):
    certificate, key = authority.server
    locked = tmp_path / "locked.key"
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked)
    pooler = start_pooler(postgres, start=False, client_tls_sslmode="require", client_tls_cert_file=certificate, client_tls_key_file=locked)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", 'exec timeout --foreground 5 "$@"', "sh", *map(str, pooler.command()), "--check"])
    said = b""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            said += data
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert b"client_tls_key_file" in said and b"pass phrase" not in said
