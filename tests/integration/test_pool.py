"""How many backends there are, who gets one, when they are closed, and what happens to those that die."""
import collections
import contextlib
import threading
import time

import pytest

from harness import ServerError, free_port, password_of, wait_until
from harness import wire as w
from harness.threads import run_threads


def app_backends(server, where="true"):
    return server.backends(f"usename = 'app' AND ({where})")


class Sampler(threading.Thread):
    """Counts the backends of app, as fast as it can, until it is stopped."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.most, self.samples, self.is_over = server, 0, 0, False

    def run(self):
        with contextlib.closing(self.server.connect("postgres")) as connection, connection.cursor() as cursor:
            while not self.is_over:
                cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
                self.most = max(self.most, cursor.fetchone()[0])
                self.samples += 1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        self.join()


# ---- limits

@pytest.mark.parametrize("size", [1, 3, 7])
def test_never_more_backends_than_pool_size_under_30_threads(postgres, start_pooler, size):
    pooler = start_pooler(postgres, pool_size=size)
    seen = set()

    def work(number):
        for round_number in range(15):
            with pooler.wire(timeout=30) as wire:
                for n in range(3):
                    assert wire.value(f"SELECT {number * 1000 + n}") == str(number * 1000 + n)
                wire.query("BEGIN")
                seen.add(wire.backend_pid())
                # Some end their transaction, the others leave inside it.
                if round_number % 3:
                    wire.query("COMMIT")

    with Sampler(postgres) as sampler:
        run_threads([lambda number=number: work(number) for number in range(30)])
    assert sampler.samples > 10
    assert 1 <= sampler.most <= size
    assert seen


def test_every_thread_gets_its_own_answers(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=4)

    def work(number):
        with pooler.wire(timeout=30) as wire:
            for n in range(200):
                wire.send_raw(w.extended("SELECT $1::text, $2::text", [number, n]) + w.sync() +
                              w.query(f"SELECT '{number}/{n}'"))
                assert w.rows(wire.recv_until(b"Z")) == [(str(number), str(n))]
                assert w.rows(wire.recv_until(b"Z")) == [(f"{number}/{n}",)]

    run_threads([lambda number=number: work(number) for number in range(20)])
    assert len(app_backends(postgres)) <= 4


def test_limit_of_a_database_wins(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app"
    pooler = start_pooler(postgres, {"app": f"{entry} pool_size=1"}, pool_size=5)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("BEGIN")
        two.send_raw(w.query("SELECT 1"))
        assert two.is_silent()
        one.query("COMMIT")
        two.recv_until(b"Z")


def test_max_db_connections_holds_for_all_users_together(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=5, max_db_connections=2)

    def work(number):
        user = ("app", "ann", "bob")[number % 3]
        with pooler.wire(user, timeout=30) as wire:
            for _ in range(10):
                assert wire.value("SELECT current_user FROM pg_sleep(0.005)") == user

    run_threads([lambda number=number: work(number) for number in range(12)])
    assert len(postgres.backends("usename <> 'postgres'")) <= 2


def test_most_recently_used_backend_is_used_first(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=5, workers=1)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("BEGIN")
        two.query("BEGIN")
        pid = two.backend_pid()
        one.query("COMMIT")
        two.query("COMMIT")
        assert [one.backend_pid() for _ in range(5)] == [pid] * 5


# ---- waiting

def test_waiting_clients_are_served_in_order(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire() as holder:
        holder.query("BEGIN")
        waiters = [pooler.wire(timeout=20) for _ in range(8)]
        for waiter in waiters:
            waiter.send_raw(w.query("SELECT extract(epoch FROM clock_timestamp()), pg_sleep(0.02)"))
            time.sleep(0.05)
        holder.query("COMMIT")
        moments = [float(w.rows(waiter.recv_until(b"Z"))[0][0]) for waiter in waiters]
        assert moments == sorted(moments)
        for waiter in waiters:
            waiter.close()


def test_wait_has_an_end(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, query_wait_timeout=1)
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("BEGIN")
        began = time.monotonic()
        waiter.send_raw(w.query("SELECT 1"))
        fields = w.errors(waiter.recv_until(b"EZ"))[0]
        assert 0.8 < time.monotonic() - began < 4
        assert fields["C"] == "53300"
        holder.query("COMMIT")
        assert holder.value("SELECT 1") == "1"
    with pooler.wire() as other:
        assert other.value("SELECT 1") == "1"


def test_waiting_client_is_told_that_it_waits(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, query_wait_notify=1)
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("BEGIN")
        waiter.send_raw(w.query("SELECT 1"))
        kind, _ = waiter.recv(5)
        assert kind == b"N"
        holder.query("COMMIT")
        assert w.rows(waiter.recv_until(b"Z")) == [("1",)]


def test_client_that_leaves_the_queue_costs_nobody_a_turn(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire() as holder, pooler.wire() as patient:
        holder.query("BEGIN")
        for ending in ("close", "reset", "terminate"):
            impatient = pooler.wire()
            impatient.send_raw(w.query("SELECT 1"))
            impatient.is_silent(0.1)
            getattr(impatient, ending)()
        patient.send_raw(w.query("SELECT 2"))
        assert patient.is_silent()
        holder.query("COMMIT")
        assert w.rows(patient.recv_until(b"Z")) == [("2",)]


# ---- ends of backends

def test_idle_backends_are_closed_after_server_idle_timeout(postgres, start_pooler):
    pooler = start_pooler(postgres, server_idle_timeout=1)
    with pooler.wire() as wire:
        pid = wire.backend_pid()
        wait_until(lambda: not app_backends(postgres, f"pid = {pid}"), 6, "end of the idle backend")
        assert wire.value("SELECT 1") == "1"
    assert f"[{pid}] app@app LOG:  unexpected EOF" not in postgres.log()


def test_old_backends_are_closed_after_server_lifetime(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, server_lifetime=1)
    with pooler.wire() as wire:
        pids, deadline = collections.Counter(), time.monotonic() + 4
        while time.monotonic() < deadline:
            pids[wire.backend_pid()] += 1
            time.sleep(0.05)
    assert 2 <= len(pids) <= 6


def test_old_backend_is_not_closed_inside_a_transaction(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, server_lifetime=1)
    with pooler.wire() as wire:
        wire.query("BEGIN")
        pid = wire.backend_pid()
        time.sleep(2)
        assert wire.backend_pid() == pid
        wire.query("COMMIT")
        wait_until(lambda: not app_backends(postgres, f"pid = {pid}"), 5, "end of the old backend")


def test_min_pool_size_is_kept_warm(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=5, min_pool_size=3, server_idle_timeout=1)
    with pooler.wire() as wire:
        wire.query("SELECT 1")
        wait_until(lambda: len(app_backends(postgres)) == 3, 8, "three backends")
        time.sleep(2)
        assert len(app_backends(postgres)) in (2, 3)
        postgres.terminate_backends("usename = 'app'")
        wait_until(lambda: len(app_backends(postgres)) == 3, 8, "three backends again")
        assert wire.value("SELECT 1") == "1"


def test_min_pool_size_of_a_fixed_user_needs_no_client(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app user=ann password={password_of('ann')}"
    start_pooler(postgres, {"app": entry}, min_pool_size=2)
    wait_until(lambda: len(postgres.backends("usename = 'ann'")) == 2, 8, "two backends before the first client")


# ---- deaths of backends

def test_idle_backend_that_was_terminated_is_replaced_unnoticed(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=3)
    with pooler.wire() as one, pooler.wire() as two:
        for _ in range(5):
            pid = one.backend_pid()
            assert pid in postgres.terminate_backends("usename = 'app'")
            assert one.backend_pid() != pid
            assert two.value("SELECT 1") == "1"
        assert not [notice for notice in one.notices if "terminat" in notice["M"]]
    pooler.wait_for_log("dead connection removed")


def test_query_right_after_a_restart_succeeds(fresh_postgres, start_pooler):
    server = fresh_postgres()
    pooler = start_pooler(server, pool_size=3)
    with pooler.wire(timeout=20) as wire:
        wire.value("SELECT 1")
        for mode in ("fast", "immediate"):
            server.restart(mode)
            assert wire.value("SELECT 2") == "2"
        server.kill9()
        server.start()
        assert wire.value("SELECT 3") == "3"


def test_query_during_an_outage_waits_for_its_end(fresh_postgres, start_pooler):
    server = fresh_postgres()
    pooler = start_pooler(server, pool_size=3)
    with pooler.wire(timeout=30) as wire:
        wire.value("SELECT 1")
        server.stop()
        wire.send_raw(w.query("SELECT 2"))
        assert wire.is_silent(1)
        server.start()
        assert w.rows(wire.recv_until(b"Z")) == [("2",)]


def test_postgres_that_starts_after_pooler_and_client(fresh_postgres, start_pooler):
    server = fresh_postgres(start=False)
    pooler = start_pooler(server)
    found = []

    def early():
        with pooler.wire(timeout=30) as wire:
            found.append(wire.value("SELECT 'early'"))

    client = threading.Thread(target=early)
    client.start()
    time.sleep(2)
    assert found == []
    server.start()
    client.join()
    assert found == ["early"]
    assert pooler.log_contains(r"connect to .* failed \(attempt 1/5\)")
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"


def test_outage_has_an_end_for_those_who_wait(start_pooler):
    entry = f"host=127.0.0.1 port={free_port()} dbname=app"
    pooler = start_pooler(databases={"app": entry}, server_down_timeout=1)
    with pytest.raises(ServerError) as refusal:
        pooler.wire()
    assert refusal.value.sqlstate == "57P03"
    assert "refused" in str(refusal.value)


# ---- clients that die

@pytest.mark.parametrize("ending", ["close", "reset", "half_close"])
def test_client_that_dies_inside_a_transaction_leaves_nothing(postgres, start_pooler, ending):
    pooler = start_pooler(postgres, pool_size=1)
    postgres.sql("DROP TABLE IF EXISTS left_behind", "CREATE TABLE left_behind (a int)", user="app")
    for _ in range(5):
        dying = pooler.wire()
        dying.query("BEGIN")
        assert w.tags(dying.query("INSERT INTO left_behind VALUES (1)")) == ["INSERT 0 1"]
        getattr(dying, ending)()
        with pooler.wire() as other:
            assert other.value("SELECT count(*) FROM left_behind") == "0"
            assert other.status == "I"
            assert other.value("SELECT now() = statement_timestamp()") == "t"
        dying.close()
    postgres.sql("DROP TABLE left_behind")


def test_client_that_dies_during_a_long_query_frees_its_backend(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    dying = pooler.wire()
    dying.send_raw(w.query("SELECT pg_sleep(60)"))
    wait_until(lambda: app_backends(postgres, "state = 'active'"))
    dying.reset()
    began = time.monotonic()
    with pooler.wire() as other:
        assert other.value("SELECT 1") == "1"
    assert time.monotonic() - began < 5


# ---- refusals of PostgreSQL

def test_wrong_password_of_the_pool_is_told_in_the_words_of_postgres(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app user=app password=nonsense"
    pooler = start_pooler(postgres, {"app": entry})
    with pytest.raises(ServerError) as refusal:
        pooler.wire()
    assert refusal.value.sqlstate == "28P01"
    assert 'password authentication failed for user "app"' in str(refusal.value)
    assert "nonsense" not in pooler.log()


def test_wrong_database_of_the_pool_is_told_in_the_words_of_postgres(postgres, start_pooler):
    pooler = start_pooler(postgres, {"app": f"host=127.0.0.1 port={postgres.port} dbname=missing"})
    with pytest.raises(ServerError) as refusal:
        pooler.wire()
    assert refusal.value.sqlstate == "3D000"
    assert 'database "missing" does not exist' in str(refusal.value)


def test_refused_pool_disturbs_no_other(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname="
    pooler = start_pooler(postgres, {"app": f"{entry}app", "bad": f"{entry}missing"})
    with pooler.wire() as wire:
        for _ in range(5):
            with pytest.raises(ServerError):
                pooler.wire(db="bad")
            assert wire.value("SELECT 1") == "1"


# ---- ways to PostgreSQL

def test_backends_over_the_unix_socket(postgres, start_pooler):
    pooler = start_pooler(postgres, {"app": f"host={postgres.dir} port={postgres.port} dbname=app"})
    with pooler.wire() as wire:
        assert wire.value("SELECT inet_server_addr()") is None


def test_url_with_several_hosts(postgres, start_pooler):
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{postgres.port}"
    pooler = start_pooler(
        postgres, {"app": f"postgresql://app:{password_of('app')}@{hosts}/app?target_session_attrs=read-write"})
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"
