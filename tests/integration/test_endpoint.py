"""One PostgreSQL as all pools see it: attempts while it is down, its return, its refusals."""
import contextlib
import itertools
import subprocess
import threading
import time

import pytest

from harness import ServerError, password_of, wait_until
from harness import wire as w
from harness.relay import Relay, fatal

STARTING = fatal("57P03", "the database system is starting up")
FULL = fatal("53300", "sorry, too many clients already")


def entry(port, rest="dbname=app"):
    return f"host=127.0.0.1 port={port} {rest}"


def endpoint_of(pooler, port):
    """The row of SHOW ENDPOINTS, as soon as a first client has made it."""
    name = f"127.0.0.1:{port}"
    return wait_until(lambda: [row for row in pooler.admin("SHOW ENDPOINTS") if row["endpoint"] == name], 5, name)[0]


class Asking(threading.Thread):
    """A client in a thread: logs in, asks one question; `answer` or `error`, and when it came."""

    def __init__(self, pooler, sql="SELECT 1", user="app", db="app"):
        super().__init__(daemon=True)
        self.pooler, self.sql, self.user, self.db = pooler, sql, user, db
        self.answer = self.error = None
        self.began = time.monotonic()
        self.start()

    def run(self):
        try:
            with self.pooler.wire(self.user, self.db, timeout=60) as wire:
                self.answer = wire.value(self.sql)
        except (ServerError, w.Closed, OSError) as error:
            self.error = error
        self.took = time.monotonic() - self.began

    def wait(self, timeout=30):
        self.join(timeout)
        assert not self.is_alive(), f"no answer after {timeout} s"
        return self


def refusal_of(pooler, sqlstate, words, **kw):
    """A client is refused within a second in these words."""
    asking = Asking(pooler, **kw).wait(5)
    assert isinstance(asking.error, ServerError), asking.answer
    assert asking.error.sqlstate == sqlstate
    assert words in str(asking.error)
    assert asking.took < 1
    return asking


@contextlib.contextmanager
def idle_cpu(pooler, duration=1.5):
    """What is done before is done: from here on pgkeel sleeps."""
    yield
    before = pooler.cpu_seconds()
    time.sleep(duration)
    assert pooler.cpu_seconds() - before < 0.1 * duration


def no_slot_is_stuck(pooler):
    def is_free():
        return all(int(row["sv_login"]) == 0 and int(row["cl_waiting"]) == 0 for row in pooler.admin("SHOW POOLS"))
    wait_until(is_free, 5, "no login and no waiter left")
    assert all(row["logins"] == "0" for row in pooler.admin("SHOW ENDPOINTS"))


# ---- while it is down

def test_two_pools_make_one_attempt_at_a_time(postgres, start_pooler):
    with Relay(delay=0.05) as relay:  # takes connections and drops them
        pooler = start_pooler(databases={"app": entry(relay.port), "other": entry(relay.port)},
                              server_tls_sslmode="disable")
        waiting = [Asking(pooler), Asking(pooler, db="other"), Asking(pooler, user="ann", db="other")]
        wait_until(lambda: len(relay.logins) >= 8, 10, "eight attempts")
        # The three pools begin at the same moment; from the first failure on there is one prober.
        later = [login for login in relay.logins if login.began > relay.logins[0].ended + 0.05]
        assert len(later) >= 4
        for one, two in itertools.pairwise(later):
            assert one.ended is not None and two.began >= one.ended
        relay.target = postgres.port
        assert [asking.wait().answer for asking in waiting] == ["1", "1", "1"]
        for name in ("app", "other"):
            pooler.wait_for_log(f'database "{name}" is back after [0-9.]+s')
        no_slot_is_stuck(pooler)


def test_waits_between_attempts_grow_and_the_log_tells(postgres, start_pooler):
    with Relay() as relay:
        pooler = start_pooler(databases={"app": entry(relay.port)}, server_retry_jitter=0,
                              server_tls_sslmode="disable")
        asking = Asking(pooler)
        wait_until(lambda: len(relay.logins) >= 9, 10, "nine attempts")
        began = [login.began for login in relay.logins]
        gaps = [two - one for one, two in itertools.pairwise(began)]
        for gap, delay in zip(gaps, (0.1, 0.15, 0.225, 0.3, 0.3, 0.3)):  # a client waits: never more than 0.3
            assert delay - 0.01 < gap < delay + 0.25, gaps
        relay.target = postgres.port
        assert asking.wait().answer == "1"
    log = pooler.log()
    for attempt in range(1, 6):
        assert log.count(f"connect to 127.0.0.1:{relay.port} failed (attempt {attempt}/5): ") == 1
    assert "(attempt 1/5): server closed the connection unexpectedly; retrying in 0.1s" in log
    assert "(attempt 6/5)" not in log
    assert log.count('database "app" is down') == 1
    assert log.count('database "app" is back after') == 1
    assert 'connection pool "app" ready on attempt ' in log


def test_nobody_waits_and_the_end_is_noticed_all_the_same(fresh_postgres, start_pooler):
    server = fresh_postgres()
    pooler = start_pooler(server, server_retry_attempts=2)
    with pooler.wire() as wire:
        wire.query("SELECT 1")
        server.stop()
        with contextlib.suppress(ServerError):
            wire.send_raw(w.query("SELECT 1"))
            wait_until(lambda: endpoint_of(pooler, server.port)["state"] == "down", 10, "down")
        server.start()
        wire.recv_until(b"Z", 20)
        pooler.wait_for_log('database "app" is back')
        wait_until(lambda: endpoint_of(pooler, server.port)["state"] == "up", 10, "up")
        row = endpoint_of(pooler, server.port)
        assert row["attempts"] == "0" and row["down_total_count"] == "1" and int(row["failed_total_count"]) >= 2


def test_timeout_of_0_fails_at_once_also_for_those_who_come_later(start_pooler):
    with Relay() as relay:
        relay.refuse()
        pooler = start_pooler(databases={"app": entry(relay.port)}, server_down_timeout=0,
                              server_retry_delay=5, server_retry_max_delay=5)
        for _ in range(5):
            asking = Asking(pooler).wait(5)
            assert asking.error.sqlstate == "57P03" and "refused" in asking.error.fields.get("D", "")
            assert asking.took < 1


# ---- coming back

def test_those_who_waited_are_served_in_order(fresh_postgres, start_pooler):
    server = fresh_postgres()
    pooler = start_pooler(server, pool_size=1)
    waiters = [pooler.wire(timeout=30) for _ in range(10)]
    server.stop()
    for waiter in waiters:
        waiter.send_raw(w.query("SELECT extract(epoch FROM clock_timestamp()), pg_sleep(0.01)"))
        time.sleep(0.03)
    server.start()
    moments = [float(w.rows(waiter.recv_until(b"Z"))[0][0]) for waiter in waiters]
    assert moments == sorted(moments)
    for waiter in waiters:
        waiter.close()


@pytest.mark.parametrize("most", [1, 4])
def test_never_more_logins_at_a_time_than_allowed_after_a_restart(fresh_postgres, start_pooler, most):
    server = fresh_postgres()
    with Relay(server.port, delay=0.03) as relay:
        pooler = start_pooler(databases={"app": entry(relay.port)}, pool_size=20, server_max_logins=most,
                              server_tls_sslmode="disable")
        clients = [pooler.wire(timeout=60) for _ in range(64)]
        for client in clients:
            client.send_raw(w.query("SELECT pg_sleep(0.05)"))
        for client in clients:
            client.recv_until(b"Z")
        server.stop()
        wait_until(lambda: endpoint_of(pooler, relay.port)["backends"] == "0", 10, "death of all backends")
        relay.forget()
        for number, client in enumerate(clients):
            client.send_raw(w.query(f"SELECT {number}, pg_sleep(0.3)"))
        wait_until(lambda: len(relay.logins) >= 3, 10, "attempts")
        server.start()
        for number, client in enumerate(clients):
            assert w.rows(client.recv_until(b"Z"))[0][0] == str(number)
            client.close()
        assert relay.most_at_a_time == most
        assert most < len(server.backends("usename = 'app'")) <= 20
        no_slot_is_stuck(pooler)


@pytest.mark.parametrize("healthy", ["number % 2 == 0", "number % 5 == 0"])
def test_connects_that_fail_now_and_then_forget_nobody(postgres, start_pooler, healthy):
    with Relay(postgres.port, drop=lambda number: not eval(healthy, {"number": number})) as relay:
        pooler = start_pooler(databases={"app": entry(relay.port)}, pool_size=10, server_tls_sslmode="disable")
        asking = [Asking(pooler, "SELECT 1 FROM pg_sleep(0.2)") for _ in range(40)]
        assert [one.wait(40).answer for one in asking] == ["1"] * 40
        no_slot_is_stuck(pooler)


def test_live_backends_serve_while_dials_fail(postgres, start_pooler):
    with Relay(postgres.port) as relay:
        pooler = start_pooler(databases={"app": entry(relay.port)}, pool_size=6, server_down_timeout=1,
                              server_tls_sslmode="disable")
        with pooler.wire() as one, pooler.wire() as two:
            one.query("BEGIN")
            two.query("BEGIN")
            relay.refuse()
            others = [Asking(pooler, "SELECT 1 FROM pg_sleep(0.3)") for _ in range(12)]
            wait_until(lambda: endpoint_of(pooler, relay.port)["state"] == "down", 10, "failed dials")
            assert {row["why"] for row in pooler.admin("SHOW WAITING")} == {"busy"}
            one.query("COMMIT")
            two.query("COMMIT")
            assert [other.wait().answer for other in others] == ["1"] * 12
        assert not pooler.log_contains('database "app" is (down|back)')
        assert endpoint_of(pooler, relay.port)["backends"] == "2"


# ---- refusals that will not change

def test_wrong_password_is_told_at_once_and_asked_for_once_a_second(fresh_postgres, start_pooler):
    server = fresh_postgres()
    with Relay(server.port) as relay:
        line = entry(relay.port, "dbname=app user=app password=nonsense")
        pooler = start_pooler(databases={"app": line}, server_tls_sslmode="disable")
        with idle_cpu(pooler):
            for _ in range(10):
                refusal_of(pooler, "28P01", 'password authentication failed for user "app"')
        assert 1 <= len(relay.logins) <= 2
        row = endpoint_of(pooler, relay.port)
        assert row["state"] in ("up", "recovering") and row["backends"] == "0"
        seen = len(relay.logins)
        refusal_of(pooler, "28P01", "password authentication failed")
        assert len(relay.logins) == seen + 1
        no_slot_is_stuck(pooler)
        server.sql("ALTER ROLE app PASSWORD 'nonsense'")
        time.sleep(1)
        assert Asking(pooler).wait().answer == "1"
        assert "nonsense" not in pooler.log()


def test_wrong_password_leaves_other_pools_of_the_endpoint_alone(postgres, start_pooler):
    bad = entry(postgres.port, "dbname=app user=app password=nonsense")
    pooler = start_pooler(databases={"app": entry(postgres.port), "bad": bad})
    with pooler.wire() as wire:
        for _ in range(3):
            refusal_of(pooler, "28P01", "password", db="bad")
            assert wire.value("SELECT 1") == "1"
            assert Asking(pooler, user="ann").wait().took < 1
    assert endpoint_of(pooler, postgres.port)["down_total_count"] == "0"


def test_warm_backends_of_a_wrong_password_are_tried_ever_less(postgres, start_pooler):
    with Relay(postgres.port) as relay:
        line = entry(relay.port, "dbname=app user=app password=nonsense")
        start_pooler(databases={"app": line}, min_pool_size=3, server_tls_sslmode="disable")
        wait_until(lambda: relay.logins, 5, "an attempt")
        time.sleep(5)
        # After 2 s, the next after 4 more. Others may have begun before the first answer.
        assert 2 <= len(relay.logins) <= 5


def test_wrong_password_is_no_reason_to_refuse_while_backends_live(fresh_postgres, start_pooler):
    server = fresh_postgres()
    pooler = start_pooler(server, pool_size=3)
    with pooler.wire() as wire:
        wire.query("BEGIN")
        server.sql("ALTER ROLE app PASSWORD 'another'")
        others = [Asking(pooler) for _ in range(4)]
        pooler.wait_for_log("password authentication failed")
        time.sleep(0.3)
        assert all(other.is_alive() for other in others)
        wire.query("COMMIT")
        assert [other.wait().answer for other in others] == ["1"] * 4


def test_dropped_database_is_told_in_the_words_of_postgres(fresh_postgres, start_pooler):
    server = fresh_postgres()
    pooler = start_pooler(server)
    with pooler.wire() as wire:
        wire.query("SELECT 1")
        server.sql("DROP DATABASE app WITH (FORCE)", db="postgres")
        with idle_cpu(pooler):
            for _ in range(5):
                wait_until(lambda: endpoint_of(pooler, server.port)["backends"] == "0")
                began = time.monotonic()
                fields = w.errors(wire.query("SELECT 1"))[0]
                assert time.monotonic() - began < 1
                assert fields["C"] == "3D000" and 'database "app" does not exist' in fields["M"]
        no_slot_is_stuck(pooler)
        server.sql("CREATE DATABASE app OWNER app", db="postgres")
        wait_until(lambda: not w.errors(wire.query("SELECT 1")), 5, "the new database")


# ---- refusals that wait

def test_limit_of_the_role_is_shared_by_waiting(fresh_postgres, start_pooler):
    server = fresh_postgres()
    server.sql("ALTER ROLE app CONNECTION LIMIT 1")
    pooler = start_pooler(server, pool_size=5)
    with idle_cpu(pooler):
        asking = [Asking(pooler, "SELECT 1 FROM pg_sleep(0.1)") for _ in range(8)]
        ann = Asking(pooler, user="ann").wait()
        assert ann.answer == "1" and ann.took < 4
        assert [one.wait().answer for one in asking] == ["1"] * 8
    assert not pooler.log_contains('database "app" is down')
    no_slot_is_stuck(pooler)


def test_role_without_any_connection_waits_as_busy(fresh_postgres, start_pooler):
    server = fresh_postgres()
    server.sql("ALTER ROLE app CONNECTION LIMIT 0")
    pooler = start_pooler(server, query_wait_timeout=3, server_down_timeout=1)
    asking = Asking(pooler)
    pooler.wait_for_log("too many connections for role")
    assert [row["why"] for row in pooler.admin("SHOW WAITING")] == ["busy"]
    assert asking.wait().error.sqlstate == "53300" and asking.took > 2.5
    asking = Asking(pooler)
    server.sql("ALTER ROLE app CONNECTION LIMIT 5")
    assert asking.wait().answer == "1"


def test_full_server_makes_clients_wait_until_there_is_room(fresh_postgres, start_pooler):
    server = fresh_postgres(conf="max_connections = 8\nsuperuser_reserved_connections = 1")
    pooler = start_pooler(server, pool_size=5, server_down_timeout=1)
    hogs = [server.connect(user="ann") for _ in range(7)]
    asking = [Asking(pooler) for _ in range(6)]
    pooler.wait_for_log(r"attempt 2/5\): .*(too many clients|remaining connection slots)")
    with idle_cpu(pooler):
        assert all(one.is_alive() for one in asking)
    rows = pooler.admin("SHOW WAITING")
    assert len(rows) == 6 and all(row["why"] == "busy" and row["reason"] for row in rows)
    assert endpoint_of(pooler, server.port)["error_class"] == "full"
    hogs.pop().close()
    assert [one.wait().answer for one in asking] == ["1"] * 6
    assert not pooler.log_contains('database "app" is down')
    for hog in hogs:
        hog.close()
    no_slot_is_stuck(pooler)


def test_server_that_is_starting_up_is_waited_for(postgres, start_pooler):
    with Relay(postgres.port, answer=STARTING) as relay:
        pooler = start_pooler(databases={"app": entry(relay.port)}, server_tls_sslmode="disable")
        asking = [Asking(pooler) for _ in range(5)]
        with idle_cpu(pooler, 3):
            wait_until(lambda: endpoint_of(pooler, relay.port)["state"] == "down", 10, "down")
        rows = pooler.admin("SHOW WAITING")
        assert len(rows) == 5
        for row in rows:
            assert row["why"] == "down" and row["reason"] == "the database system is starting up"
            assert row["database"] == "app" and row["user"] == "app" and int(row["wait_us"]) > 1000000
        row = endpoint_of(pooler, relay.port)
        assert row["error_class"] == "starting" and row["last_error"] == "the database system is starting up"
        relay.answer = None
        came_back = time.monotonic()
        assert [one.wait().answer for one in asking] == ["1"] * 5
        assert time.monotonic() - came_back < 1
        no_slot_is_stuck(pooler)


@pytest.mark.parametrize("sqlstate, text", [
    ("3D000", 'database "app" does not exist'), ("28000", 'role "app" is not permitted to log in'),
    ("42501", 'permission denied for database "app"')])
def test_fatal_glued_to_authentication_ok(start_pooler, sqlstate, text):
    glued = b"R\x00\x00\x00\x08\x00\x00\x00\x00" + fatal(sqlstate, text)
    with Relay(answer=glued) as relay:
        pooler = start_pooler(databases={"app": entry(relay.port)}, server_tls_sslmode="disable", pool_size=1)
        with idle_cpu(pooler):
            for _ in range(3):
                refusal_of(pooler, sqlstate, text)
        no_slot_is_stuck(pooler)


def test_role_limit_glued_to_authentication_ok_waits_and_ends_well(postgres, start_pooler):
    glued = b"R\x00\x00\x00\x08\x00\x00\x00\x00" + fatal("53300", 'too many connections for role "app"')
    with Relay(postgres.port, answer=glued) as relay:
        pooler = start_pooler(databases={"app": entry(relay.port)}, server_tls_sslmode="disable", pool_size=1)
        asking = Asking(pooler)
        pooler.wait_for_log(r"attempt 2/5\): too many connections for role")
        relay.answer = None
        assert asking.wait().answer == "1"
        no_slot_is_stuck(pooler)


# ---- settings

def test_without_connect_timeout_a_slow_login_succeeds(postgres, start_pooler):
    with Relay(postgres.port, delay=1) as relay:
        pooler = start_pooler(databases={"app": entry(relay.port)}, server_connect_timeout=0)
        assert Asking(pooler).wait().answer == "1"


def test_dial_to_the_former_address_tells_nothing_about_the_new_one(postgres, start_pooler):
    with Relay(delay=1.5) as relay:
        pooler = start_pooler(databases={"app": entry(relay.port)}, server_tls_sslmode="disable")
        asking = Asking(pooler)
        wait_until(lambda: relay.logins, 5, "a dial")
        pooler.set_ini(pooler.ini_path.read_text(encoding="utf-8").replace(
            f"port={relay.port}", f"port={postgres.port}"))
        pooler.reload()
        assert asking.wait().answer == "1"
        assert not pooler.log_contains(f"connect to 127.0.0.1:{postgres.port} failed")
        assert {row["endpoint"]: row["backends"] for row in pooler.admin("SHOW ENDPOINTS")} == {
            f"127.0.0.1:{relay.port}": "0", f"127.0.0.1:{postgres.port}": "1"}
        no_slot_is_stuck(pooler)


def test_age_of_the_oldest_lease_is_known_while_clients_wait(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=2)
    with pooler.wire() as older, pooler.wire() as younger:
        older.query("BEGIN")
        began = time.monotonic()
        time.sleep(0.7)
        younger.query("BEGIN")
        asking = Asking(pooler)

        def age():
            return [int(row["oldest_lease_us"]) for row in pooler.admin("SHOW WAITING") if row["oldest_lease_us"] != "0"]
        us = wait_until(age, 5, "an age")[0]
        passed = time.monotonic() - began
        assert passed - 0.3 < us / 1e6 < passed + 0.1
        older.query("COMMIT")
        assert asking.wait().answer == "1"
        # Who waits next does not hear of a lease that has ended.
        older.query("BEGIN")
        time.sleep(0.3)
        asking = Asking(pooler)
        wait_until(lambda: pooler.admin("SHOW WAITING"), 5, "a waiter")
        assert age() == [] or age()[0] < (time.monotonic() - began) * 1e6 - 500000
        us = wait_until(age, 5, "the age of the other")[0]
        assert us / 1e6 < time.monotonic() - began - 0.5
        younger.query("COMMIT")
        older.query("COMMIT")
        assert asking.wait().answer == "1"


def test_console_lists_what_is_new(pooler):
    with pooler.wire() as wire:
        wire.query("SELECT 1")
        rows = pooler.admin("SHOW ENDPOINTS")
        assert [(row["state"], row["backends"], row["last_error"]) for row in rows] == [("up", "1", None)]
        assert pooler.admin("SHOW WAITING") == []
    assert password_of("app") not in pooler.log()


# ---- names

def test_backends_leave_an_address_that_the_name_has_left(fresh_postgres, start_pooler, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.1 db.test\n", encoding="ascii")
    own_hosts = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    if subprocess.run([*own_hosts, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs a mount namespace for an /etc/hosts of its own")
    server = fresh_postgres(conf="listen_addresses = '127.0.0.1,127.0.0.2'")
    pooler = start_pooler(databases={"app": f"host=db.test port={server.port} dbname=app"}, pool_size=5,
                          pool_recreate_cooldown=0, start=False)
    pooler.wrap = own_hosts + pooler.wrap
    pooler.start()
    clients = [pooler.wire() for _ in range(3)]
    for client in clients:
        client.query("BEGIN")
        assert client.value("SELECT host(inet_server_addr())") == "127.0.0.1"
    pids = [client.backend_pid() for client in clients]
    for client in clients[1:]:
        client.query("COMMIT")
    # One backend is busy, two are idle; one of these dies, and the name is still where it was.
    server.terminate_backends(f"pid = {pids[2]}")
    pooler.wait_for_log(rf"addresses of db.test:{server.port} are 127.0.0.1\n")
    assert clients[1].backend_pid() == pids[1]
    clients[2].query("BEGIN")
    dying = clients[2].backend_pid()
    spare = Asking(pooler, "SELECT pg_backend_pid()").wait().answer
    clients[2].query("COMMIT")
    assert str(dying) != spare
    hosts.write_text("127.0.0.1 localhost\n127.0.0.2 db.test\n", encoding="ascii")
    server.terminate_backends(f"pid = {dying}")
    pooler.wait_for_log(rf"addresses of db.test:{server.port} changed from 127.0.0.1 to 127.0.0.2")
    wait_until(lambda: [row["pid"] for row in server.backends("usename = 'app'")] == [pids[0]], 5, "only the busy one")
    assert clients[0].backend_pid() == pids[0]
    clients[0].query("COMMIT")
    for client in clients:
        assert client.value("SELECT host(inet_server_addr())") == "127.0.0.2"
        client.close()
