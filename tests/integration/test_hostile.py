"""What no honest client sends: nothing breaks, nothing leaks, nobody else notices."""
import contextlib
import random
import resource
import socket
import ssl
import struct
import threading

import pytest

from harness import Closed, ServerError, wait_until
from harness import wire as w
from harness.certificates import Authority

INT_MAX = 2**31 - 1
LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10_001, 65_536, INT_MAX, -1, -2**31]


@pytest.fixture
def bystander(pooler):
    """Another client that works all the time; it must never see an error, and no descriptor may stay open."""
    is_over, problems, count = threading.Event(), [], [0]
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"
        baseline = pooler.fd_count()

        def work():
            try:
                while not is_over.is_set():
                    count[0] += 1
                    assert wire.value(f"SELECT {count[0]}") == str(count[0])
                    is_over.wait(0.002)
            except BaseException as error:  # a thread's failure is the test's
                problems.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        yield wire
        is_over.set()
        thread.join()
        assert problems == [] and count[0] > 0
        # The pool may have opened up to five backends meanwhile.
        wait_until(lambda: pooler.fd_count() <= baseline + 5, 10, "all descriptors closed")


def send_and_leave(pooler, data, login=False):
    """Sends the bytes, reads what comes until the peer closes or goes silent, closes."""
    wire = pooler.wire() if login else pooler.dial(timeout=0.3)
    wire.timeout = 0.3
    with wire:
        try:
            wire.send_raw(data)
            while True:
                wire.recv()
        except (Closed, TimeoutError, OSError, AssertionError):
            return


def check_alive(pooler):
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"


# ---- before login

@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_before_login(pooler, bystander, seed):
    chance = random.Random(seed)
    for _ in range(60):
        with pooler.dial() as wire:
            try:
                wire.send_raw(chance.randbytes(chance.randint(1, 3000)))
                wire.half_close()
                wire.socket.recv(10_000)
            except OSError:
                pass
    check_alive(pooler)


@pytest.mark.parametrize("length", LENGTHS)
def test_absurd_length_of_the_first_packet(pooler, bystander, length):
    version = struct.pack("!i", 196608)
    for rest in (b"", version, version + b"user\0app\0\0", b"\0" * 100, b"\xff" * 500):
        send_and_leave(pooler, struct.pack("!i", length) + rest)
    check_alive(pooler)


def test_first_packet_truncated_at_every_byte(pooler, bystander):
    packet = w.startup_packet("app", "app", application_name="x")
    for at in range(len(packet)):
        with pooler.dial() as wire:
            wire.send_raw(packet[:at])
            wire.half_close()
            assert b"R" not in [kind for kind, _ in wire.recv_all()]
    check_alive(pooler)


@pytest.mark.parametrize("body", [
    b"", b"\0", b"user", b"user\0", b"user\0app", b"user\0app\0", b"user\0app\0database", b"user\0app\0database\0",
    b"\0\0\0\0\0\0", b"user\0app\0\0behind", b"user\0app\0user\0bob\0\0", b"user\0" + b"a" * 9000 + b"\0\0",
    b"user\0app\0options\0-c\0\0", b"user\0app\0options\0\\\0\0", b"user\0\xff\xfe\0database\0\x01\0\0",
    b"user\0app\0" + b"".join(b"k%d\0v\0" % n for n in range(1000)) + b"\0",
    b"user\0app\0replication\0true\0\0", b"user\0app\0_pq_.\0\0\0",
    b"user\0app\0" + b"".join(b"_pq_.%d\0\0" % n for n in range(900)) + b"\0",
], ids=range(19))
def test_malformed_first_packet(pooler, bystander, body):
    send_and_leave(pooler, struct.pack("!ii", len(body) + 8, 196608) + body)
    check_alive(pooler)


def test_huge_first_packet_is_refused(pooler, bystander):
    before = pooler.rss_kb()
    for size in (10_001, 65_000, 1_000_000):
        with pooler.dial() as wire:
            with_user = w.startup_packet("app", "app", application_name="x" * size)
            try:
                wire.send_raw(with_user)
                answer = wire.recv_all()
                assert b"R" not in [kind for kind, _ in answer]
            except OSError:
                pass
    assert pooler.rss_kb() - before < 10_000


@pytest.mark.parametrize("text", [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300,
    b"SSH-2.0-OpenSSH_9.2\r\n", b"\0" * 4096, b"\xff" * 4096], ids=["http", "tls", "ssh", "zeros", "ones"])
def test_other_protocols(pooler, bystander, text):
    send_and_leave(pooler, text)
    check_alive(pooler)


@pytest.mark.parametrize("kind", [b"p", b"Q", b"X", b"S", b"d", b"\0"])
@pytest.mark.parametrize("length", [0, 3, 4, 5, 65_540, INT_MAX, -1])
def test_absurd_answer_to_the_challenge(pooler, bystander, kind, length):
    with pooler.dial(timeout=0.3) as wire:
        wire.startup().asked_method()
        try:
            wire.send_raw(kind + struct.pack("!i", length) + b"SCRAM-SHA-256\0" + b"\xff" * 40)
            answer = wire.recv_all()
            assert b"Z" not in [kind for kind, _ in answer]
        except (TimeoutError, OSError):
            pass
    check_alive(pooler)


@pytest.mark.parametrize("first", [
    b"", b"n,,", b"n,,n=,r=", b"n,,n=,r=abc,m=x", b"y,,n=,r=abc", b"p=tls-unique,,n=,r=abc", b"n,a=bob,n=,r=abc",
    b"n,,m=ext,n=,r=abc", b"n,,n=,r=" + b"a" * 20_000, b"n,,n=\0,r=abc", b"\xff" * 100], ids=range(11))
@pytest.mark.parametrize("final", [
    b"", b"c=biws,r=x,p=", b"c=biws", b"c=biws,r=abc,p=!!!!", b"\xff" * 100, b"p=" + b"A" * 60_000], ids=range(6))
def test_malformed_scram(pooler, first, final):
    with pooler.dial(timeout=1) as wire:
        wire.startup().asked_method()
        try:
            wire.send(b"p", w.cstring("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first)
            wire.send(b"p", final)
            answer = wire.recv_all()
        except OSError:
            return
        assert b"Z" not in [kind for kind, _ in answer]
        assert w.errors(answer)[0]["V"] == "FATAL"


def test_queries_instead_of_a_password_are_not_run(postgres, pooler):
    with pooler.dial() as wire:
        wire.send_raw(w.startup_packet("app", "app") + w.query("CREATE TABLE never (a int)"))
        wire.recv_all()
    assert postgres.sql("SELECT to_regclass('never')") == [(None,)]


def test_connect_and_close_logs_nothing(pooler):
    pooler.wait_for_log("ready: ")
    before = pooler.log()
    for _ in range(20):
        pooler.dial().close()
        pooler.dial(unix=True).close()
        with pooler.dial() as wire:
            wire.half_close()
            assert wire.eof()
        pooler.dial().reset()
    check_alive(pooler)
    added = [line for line in pooler.log()[len(before):].splitlines() if "login ok" not in line]
    noise = [line for line in added if "client" in line and "app" not in line]
    assert noise == []


# ---- after login

@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", [b"Q", b"P", b"d", b"S", b"X", b"F", b"?"])
def test_absurd_length_after_login(pooler, bystander, kind, length):
    send_and_leave(pooler, kind + struct.pack("!i", length) + b"SELECT 1\0", login=True)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_after_login(pooler, bystander, seed):
    chance = random.Random(seed)
    for _ in range(15):
        wire = pooler.wire()
        with wire:
            try:
                wire.send_raw(chance.randbytes(chance.randint(1, 3000)))
                wire.half_close()
                wire.timeout = 5
                wire.recv_all()
            except (OSError, AssertionError):
                pass
    check_alive(pooler)


@pytest.mark.parametrize("seed", range(5))
def test_random_messages_after_login(pooler, bystander, seed):
    chance = random.Random(seed)
    kinds = b"QPBDECHSXFdcfp" + bytes(range(256))
    for _ in range(15):
        wire = pooler.wire()
        with wire:
            data = b"".join(w.message(bytes([chance.choice(kinds)]), chance.randbytes(chance.randint(0, 40)))
                            for _ in range(chance.randint(1, 30)))
            try:
                wire.send_raw(data)
                wire.half_close()
                wire.timeout = 5
                wire.recv_all()
            except (OSError, AssertionError):
                pass
    check_alive(pooler)


def test_message_truncated_at_every_byte(postgres, pooler, bystander):
    data = w.extended("SELECT $1::text", ["hello"]) + w.sync()
    for at in range(1, len(data)):
        with pooler.wire() as wire:
            wire.send_raw(data[:at])
            wire.half_close()
            assert b"E" not in [kind for kind, _ in wire.recv_all()], at
    assert len(postgres.backends("usename = 'app'")) <= 5


def test_half_sent_request_is_never_completed(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    postgres.sql("DROP TABLE IF EXISTS half", "CREATE TABLE half (a text)", user="app")
    # A statement of which PostgreSQL could make sense, in a message larger than any buffer.
    text = "INSERT INTO half VALUES ('x'); -- " + "y" * 1_000_000
    for ending in ("close", "half_close", "reset"):
        with pooler.wire() as wire:
            wire.send_raw(w.query(text)[:500_000])
            wire.is_silent(0.1)
            getattr(wire, ending)()
    check_alive(pooler)
    assert postgres.sql("SELECT count(*) FROM half") == [(0,)]
    postgres.sql("DROP TABLE half")


def test_message_of_a_gigabyte_that_never_comes_costs_no_memory(pooler, bystander):
    before = pooler.rss_kb()
    with pooler.wire() as wire:
        wire.send_raw(b"Q" + struct.pack("!i", 1_000_000_000) + b"SELECT 1 -- ")
        try:
            for _ in range(200):
                wire.send_raw(b"x" * 100_000)
        except OSError:
            pass
        assert pooler.rss_kb() - before < 10_000
    check_alive(pooler)


@pytest.mark.parametrize("kind", [b"R", b"Z", b"T", b"K", b"1", b"\0", b"\xff", b"v", b"W"])
def test_message_that_no_client_may_send(postgres, pooler, bystander, kind):
    with pooler.wire() as wire:
        wire.send(kind, b"\0\0\0\0")
        [fields] = w.errors(wire.recv_all())
        assert (fields["V"], fields["C"]) == ("FATAL", "08P01")


def test_client_that_stops_reading_and_leaves(pooler, bystander):
    for _ in range(5):
        wire = pooler.wire()
        wire.send_raw(w.query("SELECT repeat('x', 10000) FROM generate_series(1, 3000)"))
        wire.is_silent(0.05)
        wire.reset()
    check_alive(pooler)


def test_many_connections_at_once(pooler, bystander):
    sockets = []
    for _ in range(500):
        sock = socket.create_connection(("127.0.0.1", pooler.port))
        sockets.append(sock)
    for number, sock in enumerate(sockets):
        if number % 3 == 0:
            sock.sendall(b"\0\0\0")
        elif number % 3 == 1:
            sock.sendall(w.startup_packet("app", "app"))
    check_alive(pooler)
    for sock in sockets:
        sock.close()


def test_wrong_passwords_in_a_crowd(pooler, bystander):
    def guess():
        for _ in range(10):
            with pytest.raises(ServerError) as refusal:
                pooler.wire("ann", password="nonsense")
            assert refusal.value.sqlstate == "28P01"

    threads = [threading.Thread(target=guess) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("before", [
    w.query("SELECT 1"), w.query("SELECT 1/0"), w.query("SELECT pg_sleep(20)"), w.parse("SELECT 1", "a") + w.query("SELECT 2"),
    w.parse("SELECT 1", "a") * 2 + w.query("SELECT 2"), w.extended("SELECT 1"), w.extended("SELECT 1") + w.sync(),
    w.query("BEGIN; SELECT 1"), w.query("COPY (SELECT 1) TO STDOUT")],
    ids=["query", "error", "long", "parse", "twice", "execute", "sync", "begin", "copy"])
@pytest.mark.parametrize("bad", [b"\x10\0\0\0\x04", b"S\0\0\0\x01", w.parse("SELECT 1 /* " + "x" * (17 << 20) + " */", "big")],
                         ids=["type", "length", "size"])
def test_refused_client_leaves_a_backend_that_owes_nothing(postgres, start_pooler, before, bad):
    """What it had sent completely in the same packet was waited for, and never sent."""
    pooler = start_pooler(postgres, pool_size=1, cancel_wait_timeout=60)
    for _ in range(2):
        with pooler.wire() as wire:
            wire.send_raw(before + bad[:100_000])
            assert w.errors(wire.recv_all())[-1]["V"] == "FATAL"
        with pooler.wire(timeout=5) as other:
            assert other.value("SELECT 'served'") == "served" and other.status == "I"


def test_silent_connections_do_not_keep_clients_out(postgres, start_pooler):
    """Each of them may wait for client_login_timeout: beyond the limit the oldest goes, whoever logs in comes in."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most[1], most[1]))
    count = min(10_000, most[1] - 1000)
    pooler = start_pooler(postgres, pool_size=1, workers=2, max_client_conn=1000, listen_backlog=1000)
    silent = []
    try:
        for _ in range(count):
            silent.append(socket.create_connection(("127.0.0.1", pooler.port), 10))
        with pooler.wire() as wire:
            assert wire.value("SELECT 1") == "1"
        wait_until(lambda: pooler.fd_count() < 400, what="the end of the oldest")
        silent[0].settimeout(10)
        assert b"53300" in silent[0].recv(1000)
    finally:
        for sock in silent:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_place_of_a_client_that_is_told_to_go_is_free_at_once(postgres, start_pooler):
    pooler = start_pooler(postgres, workers=1, max_unauthenticated=4, max_client_conn=8)
    strangers = []
    for _ in range(20):
        strangers.append(pooler.dial().startup())
        strangers[-1].asked_method()
    with pooler.wire() as wire:  # none of them has closed its side
        assert wire.value("SELECT 1") == "1"
    for wire in strangers:
        wire.close()


# ---- addresses that fail too often

def attempt(pooler, password=None, source=None):
    """SQLSTATE of a login, "" if it works."""
    with contextlib.closing(w.Wire("127.0.0.1", pooler.port, source=source)) as wire:
        try:
            wire.startup("ann", "app").login(password)
        except ServerError as error:
            return error.sqlstate
    return ""


def test_address_that_fails_too_often_is_refused(postgres, start_pooler):
    pooler = start_pooler(postgres, max_login_failures=5, workers=2)
    assert [attempt(pooler) for _ in range(8)] == [""] * 8
    assert [attempt(pooler, "wrong") for _ in range(7)] == ["28P01"] * 5 + ["53300"] * 2
    assert attempt(pooler) == "53300"
    assert attempt(pooler, source="127.0.0.2") == ""
    with pooler.dial(unix=True) as wire:
        wire.startup("ann", "app").login()
    pooler.set_ini(pooler.ini_path.read_text().replace("max_login_failures = 5", "max_login_failures = 0"))
    pooler.reload()
    wait_until(lambda: attempt(pooler) == "", 10, "no limit any more")


def test_failures_are_forgiven(postgres, start_pooler):
    pooler = start_pooler(postgres, max_login_failures=60)  # one a second
    while attempt(pooler, "wrong") != "53300":
        pass
    wait_until(lambda: attempt(pooler) == "", 10, "a second is over")


def test_probes_and_limits_of_ours_are_no_failures(postgres, start_pooler):
    pooler = start_pooler(postgres, max_login_failures=2, max_client_conn=1)
    for _ in range(5):
        socket.create_connection(("127.0.0.1", pooler.port)).close()
    with pooler.wire() as wire:
        assert [attempt(pooler) for _ in range(5)] == ["53300"] * 5
        assert wire.value("SELECT 1") == "1"
    wait_until(lambda: attempt(pooler) == "", 10, "the place is free again")

    def leave():  # who does so when asked for its password has failed
        with contextlib.suppress(ServerError), pooler.dial() as wire:
            wire.startup("ann", "app").asked_method()
        return pooler.log_contains("max_login_failures")

    wait_until(leave, 10, "too many have left")


def test_cancels_and_probes_over_tls_are_no_failures(postgres, start_pooler, tmp_path):
    certificate, key = Authority(tmp_path).issue("localhost")
    pooler = start_pooler(postgres, max_login_failures=2, client_tls_sslmode="prefer", client_tls_cert_file=certificate, client_tls_key_file=key)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for said in (b"", struct.pack("!iiii", 16, 80877102, 1, 2)) * 3:
        with w.Wire("127.0.0.1", pooler.port) as wire:
            wire.ssl_request()
            with context.wrap_socket(wire.socket) as session:
                session.sendall(said)
    assert [attempt(pooler) for _ in range(3)] == [""] * 3
