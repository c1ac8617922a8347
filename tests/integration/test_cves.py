"""What had a CVE in other poolers and drivers, and has no better place (test_tls, test_hba, test_lookup have the others)."""
import base64
import contextlib
import socket
import ssl
import struct
import threading
import time

import pytest

from harness import Closed, wait_until
from harness import wire as w
from harness.certificates import Authority
from harness.meddler import Meddler

AUTH_SASL = w.message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0")


class FakeServer:
    """Serves each connection by `serve(sock)`."""

    def __init__(self, serve):
        self.serve, self.served, self.ended = serve, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self.one, args=(sock,), daemon=True).start()

    def one(self, sock):
        self.served += 1
        with contextlib.suppress(OSError), sock:
            self.serve(sock)
        self.ended += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def read_packet(sock, has_type):
    size = 5 if has_type else 4
    head = sock.recv(size, socket.MSG_WAITALL)
    if len(head) < size:
        raise ConnectionResetError
    return sock.recv(struct.unpack("!i", head[-4:])[0] - 4, socket.MSG_WAITALL)


def with_fake(start_pooler, postgres, fake, **settings):
    databases = {"fake": f"host=127.0.0.1 port={fake.port} dbname=x", "app": f"host=127.0.0.1 port={postgres.port} dbname=app"}
    return start_pooler(databases=databases, auth_type="trust", auth_file="@userlist@", listen_addr="127.0.0.1", listen_port="@port@",
                        unix_socket_dir="@dir@", server_connect_timeout=3, **{"server_tls_sslmode": "disable", **settings})


def assert_only_fake_fails(pooler, fake):
    """The dial ends; clients of the other database notice nothing."""
    with pooler.dial() as wire:
        wire.startup("app", "fake")
        wait_until(lambda: fake.ended > 0, what="the end of a dial")
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"
    assert pooler.is_running()


# ---- clients

@pytest.mark.parametrize("announced", [-1, -2, 0, 1, 5, 100, 4095, 4096, 65535, 2**31 - 1, -2**31])
def test_any_length_of_a_sasl_message(postgres, start_pooler, announced):
    """CVE-2026-6664: the announced length overflowed, before anybody had proved anything."""
    pooler = start_pooler(postgres, pool_size=1)
    for data in (b"", b"n,,n=,r=abc", b"x" * 5000):
        with pooler.dial() as wire:
            wire.startup("app", "app")
            assert wire.asked_method() == 10
            with contextlib.suppress(OSError, Closed):
                wire.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", announced) + data)
                kind, body = wire.recv()
                assert kind == b"E" and w.error_fields(body)["C"] in ("08P01", "28P01") or (kind == b"R" and announced == len(data))
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"


# ---- servers

@pytest.mark.parametrize("first", [
    b"r=@nonce@" + b"x" * 1_000_000 + b",s=c2FsdA==,i=4096", b"r=@nonce@abc,s=" + base64.b64encode(b"s" * 1_000_000) + b",i=4096",
    b"r=other,s=c2FsdA==,i=4096", b"r=@nonce@abc,s=,i=4096", b"r=@nonce@abc,s=c2FsdA==,i=0", b"r=@nonce@abc,s=c2FsdA==,i=-5",
    b"r=@nonce@abc,s=c2FsdA==,i=99999999999999999999", b"", b"r=", b"e=other-error", b"\0" * 100],
    ids=["nonce", "salt", "other_nonce", "no_salt", "i0", "negative", "overflow", "empty", "r", "error", "zeroes"])
def test_scram_of_a_malicious_server(postgres, start_pooler, first):
    """CVE-2026-6665: a long nonce of the server overflowed the stack."""
    def serve(sock):
        read_packet(sock, False)
        sock.sendall(AUTH_SASL)
        nonce = read_packet(sock, True).rpartition(b"r=")[2]
        sock.sendall(w.message(b"R", struct.pack("!i", 11) + first.replace(b"@nonce@", nonce)))
        sock.recv(100_000)

    with FakeServer(serve) as fake:
        assert_only_fake_fails(with_fake(start_pooler, postgres, fake), fake)


@pytest.mark.parametrize("answer", [
    w.message(b"E", b"\0"), w.message(b"E", b""), w.message(b"E", b"SFATAL\0C"), w.message(b"E", b"SFATAL\0\0"), w.message(b"E", b"C28P01\0\0"),
    w.message(b"E", b"SFATAL\0C" + b"1" * 1_000_000 + b"\0M" + b"x" * 1_000_000 + b"\0\0"), w.message(b"E", b"Sx\0Sy\0C00000\0C28P01\0Ma\0Mb\0\0"),
    w.message(b"R", b""), w.message(b"R", struct.pack("!i", 99)), w.message(b"R", struct.pack("!i", 5)), b"E\0\0\0\x03", b"R\x7f\xff\xff\xff",
    b"\0" * 64, b"HTTP/1.1 400 Bad Request\r\n\r\n", w.message(b"v", b"\xff" * 8), w.message(b"K", b""), b""],
    ids=["zero", "nothing", "open_code", "no_code", "no_severity", "long", "twice", "no_method", "unknown_method", "no_salt", "short_length",
         "long_length", "zeroes", "http", "version", "key", "silence"])
def test_first_words_of_a_malicious_server(postgres, start_pooler, answer):
    """CVE-2026-6666: an ErrorResponse without SQLSTATE was read through a null pointer."""
    def serve(sock):
        read_packet(sock, False)
        sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1000)

    with FakeServer(serve) as fake:
        assert_only_fake_fails(with_fake(start_pooler, postgres, fake), fake)


def test_bytes_in_clear_behind_the_answer_to_an_ssl_request(postgres, start_pooler, tmp_path):
    """CVE-2021-23222, odyssey PR #363: what a man in the middle put behind the server's S was believed."""
    context, heard = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    context.load_cert_chain(*Authority(tmp_path).issue("localhost"))

    def serve(sock):
        assert read_packet(sock, False) == struct.pack("!i", 80877103)
        sock.sendall(b"S" + w.message(b"R", struct.pack("!i", 0)) + w.message(b"Z", b"I"))
        heard.append(context.wrap_socket(sock, server_side=True).recv(1000))

    with FakeServer(serve) as fake:
        pooler = with_fake(start_pooler, postgres, fake, server_tls_sslmode="require")
        with pooler.dial() as wire:
            wire.startup("app", "fake")
            wait_until(lambda: heard, what="the end")
        assert heard[0] == b""
        pooler.wait_for_log("unencrypted data after SSL response")


@pytest.mark.parametrize("fields", [
    b"", b"\0", b"Mno code\0\0", b"SERROR\0Mno code\0\0", b"C\0\0", b"CXX\0Mshort\0\0", b"SERROR\0C22012\0C57P01\0Mtwice\0\0", b"SERROR\0C22012\0M",
    b"SERROR\0C22012\0Mno end", b"SERROR\0C" + b"9" * 70000 + b"\0Mlong\0\0", b"\xff\xff\xff\0\0", b"VFATAL\0\0", b"SFATAL\0VFATAL\0Mno code\0\0"],
    ids=["nothing", "zero", "message", "no_code", "empty_code", "short_code", "twice", "open_message", "no_end", "long", "unknown", "fatal", "fatal_no_code"])
def test_error_in_a_session_with_fields_missing_or_twice(postgres, behind, fields):
    def edit(link, kind, body):
        return w.message(kind, fields) if kind == b"E" and link.is_ready else w.message(kind, body)

    with Meddler(postgres.port, edit=edit) as relay:
        pooler = behind(relay, pool_size=2)
        with pooler.wire() as wire, pooler.wire() as other:
            wire.send_raw(w.query("SELECT 1/0"))
            with contextlib.suppress(Closed, OSError):
                wire.recv_until(b"Z")
            assert other.value("SELECT 1") == "1"
        assert pooler.is_running()


@pytest.mark.slow
def test_endless_derivation_for_a_server_holds_up_no_client(postgres, start_pooler):
    """CVE-2026-42198 of pgjdbc: a server that asks for billions of iterations. The helper works for it; the loops do not."""
    iterations = [b"3000000"]

    def serve(sock):
        read_packet(sock, False)
        sock.sendall(AUTH_SASL)
        nonce = read_packet(sock, True).rpartition(b"r=")[2]
        sock.sendall(w.message(b"R", struct.pack("!i", 11) + b"r=" + nonce + b"abc,s=c2FsdA==,i=" + iterations[0]))
        sock.recv(1000)

    with FakeServer(serve) as fake:
        pooler = with_fake(start_pooler, postgres, fake)
        if pooler.keeps_freed_memory():  # a sanitizer: it must end before the process does, which waits for 5 s
            iterations[0] = b"300000"
        with pooler.dial() as waiting:
            waiting.startup("app", "fake")
            wait_until(lambda: fake.served > 0, what="a dial")
            with pooler.wire() as wire:
                began, slowest = time.monotonic(), 0.0
                while time.monotonic() - began < 1.5:
                    before = time.monotonic()
                    assert wire.value("SELECT 1") == "1"
                    slowest = max(slowest, time.monotonic() - before)
            assert slowest < 0.5
