"""LISTEN in transaction pooling: one connection for each database listens for all its clients, whose backends are free."""
import contextlib
import re
import threading
import time

import pytest

from harness import Closed, wait_until
from harness import wire as w
from harness.meddler import Meddler

PID = "SELECT pg_backend_pid()"
HERALD = "application_name = 'pgkeel: listens for clients'"


@pytest.fixture
def pool(postgres, start_pooler):
    return start_pooler(postgres, default_pool_size="2", admin_users="app", workers="2")


def pins_of(pooler):
    return [row["pinned"] for row in pooler.admin("SHOW CLIENTS") if row["pinned"]]


def wait_moved(pooler, timeout=5.0):
    """Until no client needs a backend any more: each is told by the herald."""
    def is_so():
        clients = [row for row in pooler.admin("SHOW CLIENTS") if row["database"] != "pgkeel"]
        return all(row["state"] == "idle" and not row["pinned"] for row in clients)

    wait_until(is_so, timeout, what="the herald")


def wait_pinned(pooler, reason):
    wait_until(lambda: pins_of(pooler) == [reason], what="the pin")


def herald_pids(server):
    return [row["pid"] for row in server.backends(HERALD)]


def notified(wire, timeout=5.0):
    """The next notification: channel and payload."""
    while True:
        kind, body = wire.recv(timeout)
        if kind == b"A":
            channel, payload, rest = body[4:].split(b"\0")
            assert rest == b""
            return channel.decode(), payload.decode()
        assert kind == b"N", (kind, body)


def notify(server, channel, payload):
    server.sql(f"""SELECT pg_notify('{channel}', '{payload}')""")


# ---- the backend is free

def test_listening_clients_share_one_backend(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size="1", admin_users="app", workers="2")
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(pool.wire()) for _ in range(20)]
        for number, wire in enumerate(wires):
            wire.query(f"LISTEN mine_{number % 10}; LISTEN everybody")
        wait_moved(pool)
        assert len(herald_pids(postgres)) == 1
        notify(postgres, "everybody", "hello")
        for number in range(10):
            notify(postgres, f"mine_{number}", f"for {number}")
        for number, wire in enumerate(wires):
            assert notified(wire) == ("everybody", "hello")
            assert notified(wire) == (f"mine_{number % 10}", f"for {number % 10}")
            assert wire.is_silent(0.02)
        assert len({wire.value(PID) for wire in wires}) == 1
        assert wires[0].value("SELECT count(*) FROM pg_listening_channels()") == "0"


def test_nothing_is_missed_or_told_twice_on_the_way(postgres, start_pooler):
    """Numbers are notified without end while clients begin to listen: each hears all from some number on, in order."""
    pool = start_pooler(postgres, default_pool_size="4", admin_users="app", workers="2")
    over, numbers = threading.Event(), []

    def speak():
        with contextlib.closing(postgres.connect("app")) as connection, connection.cursor() as cursor:
            while not over.is_set():
                numbers.append(len(numbers))
                cursor.execute(f"NOTIFY numbers, '{numbers[-1]}'")
            cursor.execute("NOTIFY numbers, 'end'")

    speaker = threading.Thread(target=speak)
    speaker.start()
    heard = []
    with contextlib.ExitStack() as stack:
        wires = []
        for _ in range(60):
            wire = stack.enter_context(pool.wire(timeout=20))
            wires.append(wire)
            wire.send_raw(w.query("LISTEN numbers"))
        try:
            wait_moved(pool, timeout=30)
        finally:
            over.set()
            speaker.join()
        for wire in wires:
            heard.append([])
            while not heard[-1] or heard[-1][-1] != "end":
                kind, body = wire.recv(10)
                if kind == b"A":
                    heard[-1].append(body[4:].split(b"\0")[1].decode())
    assert len(numbers) > 100
    for one in heard:
        values = [int(value) for value in one[:-1]]
        assert values == numbers[len(numbers) - len(values):]
    assert min(map(len, heard)) > 1


def test_other_reasons_keep_the_backend(pool, postgres):
    with pool.wire() as wire:
        wire.query("CREATE TEMP TABLE mine (a int); LISTEN news")
        wait_pinned(pool, "listen, temporary table")
        pid = wire.value(PID)
        notify(postgres, "news", "1")
        assert notified(wire) == ("news", "1")
        assert wire.value(PID) == pid
        wire.query("DROP TABLE mine")
        wait_moved(pool)
        notify(postgres, "news", "2")
        assert notified(wire) == ("news", "2")


def test_shared_listener_can_be_switched_off(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size="1", admin_users="app", shared_listener="0")
    before = set(herald_pids(postgres))
    with pool.wire() as wire:
        wire.query("LISTEN news")
        pid = wire.value(PID)
        wait_pinned(pool, "listen")
        assert set(herald_pids(postgres)) == before
        notify(postgres, "news", "1")
        assert notified(wire) == ("news", "1") and wire.value(PID) == pid


# ---- what is listened to

@pytest.mark.parametrize("text, extended", [("UNLISTEN a", False), ("UNLISTEN *", False), ("DISCARD ALL", False), ("UNLISTEN a", True),
                                            ("BEGIN; UNLISTEN a; COMMIT", False),
                                            ("SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;", False)])
def test_unlisten(pool, postgres, text, extended):
    with pool.wire() as wire:
        wire.query("LISTEN a; LISTEN b")
        wait_moved(pool)
        if extended:
            wire.send_raw(w.extended(text) + w.sync())
            wire.recv_until(b"Z")
        else:
            wire.query(text)
        notify(postgres, "a", "gone")
        notify(postgres, "b", "kept")
        if text in ("UNLISTEN a", "BEGIN; UNLISTEN a; COMMIT"):
            assert notified(wire) == ("b", "kept")
        assert wire.is_silent(0.3)


@pytest.mark.parametrize("texts", [["BEGIN", "UNLISTEN *", "ROLLBACK"], ["BEGIN", "SAVEPOINT s", "UNLISTEN a", "ROLLBACK TO s", "COMMIT"],
                                   ["UNLISTEN a; SELECT 1/0"], ["BEGIN; UNLISTEN a; SELECT 1/0", "COMMIT"]])
def test_unlisten_that_was_rolled_back(pool, postgres, texts):
    with pool.wire() as wire:
        wire.query("LISTEN a")
        wait_moved(pool)
        for text in texts:
            wire.query(text)
        notify(postgres, "a", "kept")
        assert notified(wire) == ("a", "kept")


def test_listen_that_was_rolled_back(pool, postgres):
    with pool.wire() as wire, pool.wire() as other:
        wire.query("BEGIN; LISTEN a")
        wire.query("ROLLBACK")
        other.query("LISTEN a")
        wait_moved(pool)
        notify(postgres, "a", "1")
        assert notified(other) == ("a", "1") and wire.is_silent(0.2)


def test_listening_again_and_again(pool, postgres):
    with pool.wire() as wire:
        for round_ in range(5):
            wire.query("LISTEN a; LISTEN a")
            wire.query(f"LISTEN b{round_}")
            wait_moved(pool)
            notify(postgres, "a", str(round_))
            notify(postgres, f"b{round_}", "b")
            assert [notified(wire), notified(wire)] == [("a", str(round_)), (f"b{round_}", "b")]
            assert wire.is_silent(0.1)


@pytest.mark.parametrize("name", ["Upper", "with space", 'quo"te', "ünï", "x" * 63])
def test_names_of_channels(pool, postgres, name):
    quoted = '"' + name.replace('"', '""') + '"'
    with pool.wire() as wire:
        wire.query(f"LISTEN {quoted}")
        wait_moved(pool)
        notify(postgres, name, "x" * 7000)
        assert notified(wire) == (name, "x" * 7000)
        wire.query(f"UNLISTEN {quoted}")
        notify(postgres, name, "2")
        assert wire.is_silent(0.2)


def test_databases_are_apart(postgres, start_pooler):
    postgres.sql("SELECT 1")
    databases = {name: f"host=127.0.0.1 port={postgres.port} dbname={name}" for name in ("app", "postgres")}
    pool = start_pooler(databases=databases, auth_type="trust", admin_users="app", auth_file="@userlist@", listen_addr="127.0.0.1",
                        listen_port="@port@", default_pool_size="1")
    with pool.wire(db="app") as one, pool.wire(db="postgres") as two:
        one.query("LISTEN news")
        two.query("LISTEN news")
        wait_moved(pool)
        notify(postgres, "news", "in app")
        assert notified(one) == ("news", "in app") and two.is_silent(0.2)


# ---- when

def test_open_transaction_is_not_disturbed(pool, postgres):
    with pool.wire() as wire:
        wire.query("LISTEN news")
        wait_moved(pool)
        wire.query("BEGIN")
        notify(postgres, "news", "1")
        notify(postgres, "news", "2")
        assert wire.is_silent(0.3)
        assert wire.value("SELECT 5") == "5"
        wire.send_raw(w.query("COMMIT"))
        assert [message[0] for message in wire.recv_until(b"Z")] == [b"C", b"Z"]
        assert [notified(wire), notified(wire)] == [("news", "1"), ("news", "2")]


def test_requests_and_notifications_do_not_mix(pool, postgres):
    """A client asks without end while it is notified: each answer is whole, each notification comes once."""
    over = threading.Event()

    def speak():
        number = 0
        with contextlib.closing(postgres.connect("app")) as connection, connection.cursor() as cursor:
            while not over.is_set():
                cursor.execute(f"NOTIFY news, '{number}'")
                number += 1

    with pool.wire() as wire:
        wire.query("LISTEN news")
        wait_moved(pool)
        speaker = threading.Thread(target=speak)
        speaker.start()
        heard = []
        try:
            for number in range(500):
                wire.send_raw(w.extended(f"SELECT {number}") + w.sync())
                found = []
                while not found or found[-1][0] != b"Z":
                    message = wire.recv()
                    if message[0] == b"A":
                        heard.append(int(message[1][4:].split(b"\0")[1]))
                        assert not found  # between requests only
                    else:
                        found.append(message)
                assert w.rows(found) == [(str(number),)]
        finally:
            over.set()
            speaker.join()
        assert heard == list(range(heard[0], heard[0] + len(heard))) and len(heard) > 50


def test_client_that_does_not_read_is_closed_alone(pool, postgres):
    with pool.wire() as idle, pool.wire() as wire:
        idle.query("LISTEN news")
        wire.query("LISTEN news")
        wait_moved(pool)
        payload = "x" * 7900
        sent = 0
        while not pool.log_contains("too many notifications wait"):
            assert sent < 20000
            postgres.sql(*[f"SELECT pg_notify('news', '{sent + i}{payload}')" for i in range(100)])
            for i in range(100):
                assert notified(wire)[1].startswith(str(sent + i))
            sent += 100
        assert wire.value("SELECT 1") == "1"
        with pytest.raises(Closed):
            while True:
                idle.recv()


# ---- losses

def test_lost_listener_is_replaced_and_said(pool, postgres):
    with pool.wire() as wire, pool.wire() as two:
        wire.query("LISTEN news")
        two.query("LISTEN other")
        wait_moved(pool)
        before = herald_pids(postgres)
        assert len(before) == 1
        postgres.sql(f"SELECT pg_terminate_backend({before[0]})")
        for each in (wire, two):
            kind, body = each.recv(5)
            assert (kind, w.error_fields(body)["C"]) == (b"N", "01000")
        assert herald_pids(postgres) != before
        notify(postgres, "news", "again")
        assert notified(wire) == ("news", "again") and two.is_silent(0.1)
        assert pool.log_contains("the connection that listens for clients was lost: .*terminat")


def test_listening_survives_a_restart(fresh_postgres, start_pooler):
    server = fresh_postgres()
    pool = start_pooler(server, pool_size=1, admin_users="app")
    with pool.wire(timeout=20) as wire:
        wire.query("LISTEN news")
        wait_moved(pool)
        server.kill9()
        server.start()
        kind, body = wire.recv(15)
        assert (kind, w.error_fields(body)["C"]) == (b"N", "01000")
        notify(server, "news", "again")
        assert notified(wire) == ("news", "again")
        assert wire.value("SELECT 1") == "1"


def test_client_that_only_listens_survives_its_backend(fresh_postgres, start_pooler):
    """While the herald cannot log in, the backend tells; when that dies, the herald will."""
    server = fresh_postgres()
    server.sql("ALTER ROLE app CONNECTION LIMIT 1")
    pool = start_pooler(server, pool_size=1, admin_users="app")
    with pool.wire() as wire:
        wire.query("LISTEN news")
        pool.wait_for_log("cannot listen for clients: .*too many connections for role")
        wait_pinned(pool, "listen")
        server.sql("NOTIFY news, '1'")
        assert notified(wire) == ("news", "1")
        server.sql("ALTER ROLE app CONNECTION LIMIT -1", f"SELECT pg_terminate_backend({wire.value(PID)})")
        kind, body = wire.recv(5)
        assert (kind, w.error_fields(body)["C"]) == (b"N", "01000")
        wait_until(lambda: herald_pids(server), what="the herald")
        assert wire.value("SELECT 1") == "1" and pins_of(pool) == []
        wait_until(lambda: pool.log_contains("listens for clients"), what="the log")
        server.sql("NOTIFY news, '2'")
        assert notified(wire) == ("news", "2")


def test_unused_listener_serves_the_next(pool, postgres):
    with pool.wire() as wire:
        wire.query("LISTEN news")
        wait_moved(pool)
        before = herald_pids(postgres)
    with pool.wire() as wire:
        wire.query("LISTEN news")
        wait_moved(pool)
        assert herald_pids(postgres) == before
        notify(postgres, "news", "1")
        assert notified(wire) == ("news", "1")
        assert wire.is_silent(0.1)


def test_storm_of_coming_and_going(postgres, start_pooler):
    """Clients listen, hear, stop, go away; meanwhile the herald and backends are killed."""
    pool = start_pooler(postgres, default_pool_size="3", admin_users="app", workers="2", server_check_delay="0")
    over = time.monotonic() + 8
    failures, rounds = [], []

    def live(number):
        count = 0
        while time.monotonic() < over:
            try:
                with pool.wire(timeout=20) as wire:
                    wire.query(f"LISTEN c{number}")
                    for step in range(5):
                        wire.query("SELECT 1")
                        count += 1
                        if step == 3:
                            wire.query("UNLISTEN *")
            except Closed:
                pass  # its backend died while something else was on it
            except Exception as error:  # noqa: BLE001
                failures.append(error)
                return
        rounds.append(count)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    while time.monotonic() < over:
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND random() < 0.3")
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert not failures and min(rounds) > 5
    with pool.wire() as wire:
        wire.query("LISTEN done")
        wait_moved(pool)
        notify(postgres, "done", "1")
        while True:
            kind, body = wire.recv(5)
            if kind == b"A":
                assert body[4:] == b"done\x001\0"
                break
    assert re.search("listens for clients", pool.log())


# ---- the move

class Mover:
    """An edit of a Meddler: what a backend says of its own mark goes through `at_mark(link, message)`; of a herald's, through `at_herald`."""

    def __init__(self, at_mark=None, at_herald=None):
        self.at_mark, self.at_herald, self.marks = at_mark, at_herald, 0

    def __call__(self, link, kind, body):
        message = w.message(kind, body)
        if kind == b"C":
            link.tag = body
        if kind != b"A" or not body[4:].startswith(b"pgkeel_"):
            return message
        if getattr(link, "tag", b"") == b"NOTIFY\0":
            self.marks += 1
            return self.at_mark(link, message) if self.at_mark else message
        return self.at_herald(link, message) if self.at_herald else message


@pytest.fixture
def meddled(start_pooler):
    """meddled(server, edit, **settings): a pgkeel behind a Meddler."""
    with contextlib.ExitStack() as stack:
        def make(server, edit, **settings):
            relay = stack.enter_context(Meddler(server.port, edit))
            return start_pooler(databases={"app": f"host=127.0.0.1 port={relay.port} dbname=app"}, admin_users="app",
                                **{"server_tls_sslmode": "disable", "default_pool_size": "2", **settings})
        yield make


def test_mark_of_another_client_does_not_end_what_the_backend_tells(postgres, meddled):
    """All who move at a time hear each other's marks: only the own one counts."""
    def after_another(_, mark):
        sender, rest = mark[5:9], mark[9:]
        channel = rest[:rest.index(b"\0") + 1]
        return w.message(b"A", sender + channel + b"0/7fffffff/1\0") + w.message(b"A", sender + b"news\0before\0") + mark

    mover = Mover(after_another)
    pool = meddled(postgres, mover)
    with pool.wire() as wire:
        wire.query("LISTEN news")
        wait_moved(pool)
        assert mover.marks == 1
        assert notified(wire) == ("news", "before")


def test_mark_that_a_lost_listener_missed_is_repeated(fresh_postgres, meddled):
    server = fresh_postgres()
    is_lost = threading.Event()

    def wait(_, mark):
        is_lost.wait(10)
        return mark

    mover = Mover(wait, lambda _, mark: mark if is_lost.is_set() else b"")
    pool = meddled(server, mover)
    with pool.wire() as wire:
        wire.query("LISTEN news")
        wait_until(lambda: mover.marks == 1, what="the mark")
        time.sleep(0.1)
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE " + HERALD)
        pool.wait_for_log("listens for clients again")
        is_lost.set()
        wait_moved(pool)
        notify(server, "news", "1")
        assert notified(wire) == ("news", "1") and wire.is_silent(0.1)
        assert mover.marks == 2


def test_mark_of_another_name_of_the_database_moves_nobody(postgres, start_pooler):
    """Both names have a listening connection, which hear the same marks, each at its own time."""
    is_over = threading.Event()

    def edit(link, kind, body):
        if kind == b"A" and body.endswith(b"news\0late\0") and link.tag == b"LISTEN\0":
            is_over.wait(10)  # the listening connection of this name
        if kind == b"C" and body == b"COMMIT\0":
            notify(postgres, "news", "late")
        if kind == b"C":
            link.tag = body
        return w.message(kind, body)

    with Meddler(postgres.port, edit) as relay:
        pool = start_pooler(databases={"one": f"host=127.0.0.1 port={relay.port} dbname=app",
                                       "two": f"host=127.0.0.1 port={postgres.port} dbname=app"},
                            server_tls_sslmode="disable", admin_users="app", default_pool_size="1")
        with pool.wire(db="one") as first, pool.wire(db="two") as other, pool.wire(db="one") as wire:
            first.query("LISTEN news")
            other.query("LISTEN news")
            wait_moved(pool)
            wire.query("BEGIN")
            wire.query("LISTEN news")
            wire.send_raw(w.query("COMMIT"))
            wire.recv_until(b"Z")
            assert notified(wire) == ("news", "late")
            wait_moved(pool)
            assert notified(other) == ("news", "late")
            time.sleep(0.2)
            is_over.set()
            assert notified(first) == ("news", "late")
            notify(postgres, "news", "2")
            assert notified(wire) == ("news", "2")


def test_client_that_listens_to_more_after_its_backend_was_lost_moves(fresh_postgres, start_pooler):
    server = fresh_postgres()
    server.sql("ALTER ROLE app CONNECTION LIMIT 1")
    pool = start_pooler(server, pool_size=1, admin_users="app")
    with pool.wire() as wire:
        wire.query("LISTEN a")
        pool.wait_for_log("cannot listen for clients")
        time.sleep(1.7)  # the next attempt comes 3 s after the first
        server.sql(f"SELECT pg_terminate_backend({wire.value(PID)})")
        wait_until(lambda: not pins_of(pool), what="the loss")
        wire.query("LISTEN b")
        wait_pinned(pool, "listen")
        server.sql("ALTER ROLE app CONNECTION LIMIT -1")
        wait_moved(pool, 10)
        kind, body = wire.recv(5)
        assert (kind, w.error_fields(body)["C"]) == (b"N", "01000")
        notify(server, "a", "1")
        notify(server, "b", "2")
        assert [notified(wire), notified(wire)] == [("a", "1"), ("b", "2")]


def test_backend_that_listens_to_more_than_the_listener_takes_its_client_along(postgres, start_pooler):
    """What was listened to after shared_listener was switched off is on the backend alone: its loss is not hidden."""
    pool = start_pooler(postgres, default_pool_size="2", admin_users="app", shared_listener="1")
    with pool.wire() as wire:
        wire.query("LISTEN a")
        wait_moved(pool)
        pool.set_ini(pool.ini_path.read_text().replace("shared_listener = 1", "shared_listener = 0"))
        pool.reload()
        wait_until(lambda: [row["value"] for row in pool.admin("SHOW CONFIG") if row["key"] == "shared_listener"] == ["0"], what="the reload")
        time.sleep(0.2)
        wire.query("LISTEN b")
        wait_pinned(pool, "listen")
        postgres.sql(f"SELECT pg_terminate_backend({wire.value(PID)})")
        with pytest.raises(Closed):
            while True:
                wire.recv(5)


# ---- UNLISTEN in doubt

def test_unlisten_of_a_transaction_that_was_lost_is_forgotten(pool, postgres):
    with pool.wire() as wire:
        wire.query("LISTEN a")
        wait_moved(pool)
        wire.query("BEGIN")
        wire.query("UNLISTEN a")
        postgres.sql(f"SELECT pg_terminate_backend({wire.value(PID)})")
        wire.send_raw(w.query("ROLLBACK"))
        wire.recv_until(b"Z")
        assert wire.value("SELECT 1") == "1"
        notify(postgres, "a", "kept")
        assert notified(wire) == ("a", "kept")


def test_unlisten_of_a_transaction_that_took_too_long_is_forgotten(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size="1", admin_users="app", idle_transaction_timeout="0.2")
    with pool.wire() as wire:
        wire.query("LISTEN a")
        wait_moved(pool)
        wire.query("BEGIN")
        wire.query("UNLISTEN a")
        pool.wait_for_log("idle_transaction_timeout is over")
        wire.query("ROLLBACK")
        assert wire.value("SELECT 1") == "1"
        notify(postgres, "a", "kept")
        assert notified(wire) == ("a", "kept")


def test_unlisten_takes_no_channel_of_a_later_request(pool, postgres):
    """Requests that are pipelined are read before the first is answered."""
    with pool.wire() as wire:
        wire.query("LISTEN a; LISTEN b")
        wait_moved(pool)
        wire.send_raw(w.query("UNLISTEN a") + w.query("BEGIN; SELECT pg_sleep(0.1); UNLISTEN b; ROLLBACK"))
        wire.recv_until(b"Z")
        wire.recv_until(b"Z")
        notify(postgres, "b", "kept")
        while (heard := notified(wire)) != ("b", "kept"):
            assert heard[0] == "a"


@pytest.mark.parametrize("is_failed", [False, True])
def test_unlisten_behind_a_rollback_counts(pool, postgres, is_failed):
    """What asyncpg sends before it gives a connection back."""
    with pool.wire() as wire:
        wire.query("LISTEN a; LISTEN b")
        wait_moved(pool)
        wire.query("BEGIN")
        if is_failed:
            wire.query("SELECT 1/0; UNLISTEN b")
        wire.query("ROLLBACK; UNLISTEN a")
        notify(postgres, "a", "gone")
        notify(postgres, "b", "kept")
        assert notified(wire) == ("b", "kept")


# ---- the listener's life

def test_listener_follows_its_database_to_another_server(fresh_postgres, start_pooler):
    old, new = fresh_postgres(), fresh_postgres()
    pool = start_pooler(old, pool_size=1, admin_users="app")
    with pool.wire() as wire:
        wire.query("LISTEN news")
        wait_moved(pool)
        pool.set_ini(pool.ini_path.read_text().replace(f"port={old.port}", f"port={new.port}"))
        pool.reload()
        kind, body = wire.recv(5)
        assert (kind, w.error_fields(body)["C"]) == (b"N", "01000")
        assert herald_pids(new) and not herald_pids(old)
        notify(new, "news", "1")
        assert notified(wire) == ("news", "1")


def test_listener_that_nobody_needs_holds_no_pool(fresh_postgres, start_pooler):
    """One that never could log in and whose clients are gone lets its pool expire."""
    server = fresh_postgres()
    server.sql("ALTER ROLE app CONNECTION LIMIT 1")
    pool = start_pooler(server, pool_size=1, admin_users="app", autodb_idle_timeout="0.3", server_idle_timeout="0.3",
                        server_retry_max_delay="0.1")
    with pool.wire() as wire:
        wire.query("LISTEN news")
        pool.wait_for_log("cannot listen for clients")
    wait_until(lambda: "app" not in [row["database"] for row in pool.admin("SHOW POOLS")], 10, what="the end of the pool")


# ---- beside it

def test_move_that_takes_too_long_gives_the_backend_up(postgres, meddled):
    is_over = threading.Event()

    def wait(_, mark):
        is_over.wait(10)
        return mark

    mover = Mover(wait)
    pool = meddled(postgres, mover, query_timeout="0.5")
    with pool.wire() as wire:
        wire.query("LISTEN news")
        wait_until(lambda: mover.marks == 1, what="the mark")
        wire.send_raw(w.query("SELECT 5"))
        kind, body = wire.recv(3)
        assert (kind, w.error_fields(body)["C"]) == (b"N", "01000")
        assert w.rows(wire.recv_until(b"Z", 3)) == [("5",)]
        is_over.set()
        notify(postgres, "news", "1")
        assert notified(wire) == ("news", "1") and wire.is_silent(0.1)


def test_session_is_asked_when_no_cancel_can_hit_the_question(postgres, start_pooler):
    with Meddler(postgres.port) as relay:
        relay.may_cancel.clear()
        pool = start_pooler(databases={"app": f"host=127.0.0.1 port={relay.port} dbname=app"}, pool_size=1, admin_users="app",
                            server_tls_sslmode="disable", shared_listener="0")
        with pool.wire() as wire:
            wire.send_raw(w.query("LISTEN news; SELECT pg_sleep(0.5)"))
            wait_until(lambda: postgres.backends("state = 'active' AND query LIKE 'LISTEN news; SELECT pg_sleep%'"), what="the query")
            with pool.dial() as canceller:
                canceller.cancel_request(wire.pid, wire.key)
            wait_until(lambda: relay.cancels == 1, what="the cancel")
            assert w.tags(wire.recv_until(b"Z")) == ["LISTEN", "SELECT 1"]
            time.sleep(0.2)
            assert pins_of(pool) == []
            relay.may_cancel.set()
            wait_pinned(pool, "listen")
            notify(postgres, "news", "1")
            assert notified(wire) == ("news", "1")


def test_client_of_another_encoding_keeps_its_backend(pool, postgres):
    with pool.wire(client_encoding="LATIN1") as wire, pool.wire() as other:
        wire.query("LISTEN news")
        other.query("LISTEN news")
        wait_until(lambda: herald_pids(postgres), what="the listening connection")
        wait_pinned(pool, "listen")
        notify(postgres, "news", "\u00fc")
        kind, body = wire.recv(5)
        assert (kind, body[4:]) == (b"A", b"news\0\xfc\0")
        assert notified(other) == ("news", "\u00fc")


@pytest.mark.parametrize("text, question", [
    ("LISTEN news", "SELECT * FROM pg_listening_channels()"),
    ("CREATE TEMP TABLE mine (a int)", "SELECT relname FROM pg_class WHERE relname = 'mine' AND pg_table_is_visible(oid)")])
def test_changed_columns_leave_no_session_behind(fresh_postgres, start_pooler, text, question):
    """A request that could be prepared anew on another backend stays where its client's session is."""
    server = fresh_postgres()
    server.sql("CREATE TABLE things (a int)", "GRANT ALL ON things TO public")
    pool = start_pooler(server, pool_size=1, admin_users="app", shared_listener="0")
    with pool.wire() as wire:
        wire.query(text)
        wait_until(lambda: pins_of(pool), what="the pin")
        wire.send_raw(w.parse("SELECT * FROM things", "s") + w.bind(name="s") + w.execute() + w.sync())
        wire.recv_until(b"Z")
        server.sql("ALTER TABLE things ADD COLUMN b int")
        wire.send_raw(w.bind(name="s") + w.describe() + w.execute() + w.sync())
        assert [fields["C"] for fields in w.errors(wire.recv_until(b"Z"))] == ["0A000"]
        assert len(wire.rows(question)) == 1 and pins_of(pool)
    with pool.wire() as other:
        assert other.rows(question) == []
