"""Commands of the console that halt, send away and change: PAUSE, RESUME, KILL, KILL_CLIENT, DISABLE, WAIT_CLOSE,
SUSPEND and SET."""
import contextlib
import re
import signal
import threading
import time

import psycopg
import pytest

from harness import Closed, ServerError, password_of, wait_until
from harness import wire as w
from harness.threads import run_threads


@pytest.fixture
def console(pooler):
    with pooler.wire(db="pgkeel") as wire:
        yield wire


def do(console, sql):
    """Runs a command that must succeed."""
    answer = console.query(sql)
    assert w.tags(answer) == [sql.split()[0]], w.errors(answer)


def refusal(console, sql):
    [fields] = w.errors(console.query(sql))
    return fields["C"], fields["M"]


def is_waiting(pooler, count=1):
    return wait_until(lambda: len(pooler.admin("SHOW WAITING")) == count, what=f"{count} waiting")


def state(pooler):
    return {row["key"]: row["value"] for row in pooler.admin("SHOW STATE")}


def of_app(postgres):
    return postgres.backends("usename in ('app', 'ann')")


# ---- PAUSE

def test_pause_waits_for_transactions_and_holds_the_rest(postgres, pooler, console):
    with pooler.wire() as holder, pooler.wire() as idle, pooler.wire() as waiter:
        idle.query("SELECT 1")
        holder.query("BEGIN")
        console.send_raw(w.query("PAUSE"))
        assert console.is_silent()
        waiter.send_raw(w.query("SELECT 2"))
        assert [row["why"] for row in is_waiting(pooler) and pooler.admin("SHOW WAITING")] == ["paused"]
        assert holder.value("SELECT 3") == "3"
        holder.query("COMMIT")
        assert w.tags(console.recv_until(b"Z", 3)) == ["PAUSE"]
        assert of_app(postgres) == [] and pooler.admin("SHOW SERVERS") == []
        assert waiter.is_silent() and state(pooler) == {"active": "no", "paused": "yes", "suspended": "no"}
        do(console, "RESUME")
        assert w.rows(waiter.recv_until(b"Z")) == [("2",)]
        assert state(pooler)["active"] == "yes"


def test_pause_in_session_mode_waits_for_clients_to_leave(postgres, start_pooler):
    pooler = start_pooler(postgres, admin_users="app", pool_mode="session")
    with pooler.wire() as client, pooler.wire(db="pgkeel") as console:
        client.query("SELECT 1")
        console.send_raw(w.query("PAUSE"))
        assert console.is_silent()
        assert client.value("SELECT 2") == "2"
        client.terminate()
        assert w.tags(console.recv_until(b"Z", 3)) == ["PAUSE"]
        assert of_app(postgres) == []


def test_pause_of_one_database_leaves_the_others_alone(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app"
    pooler = start_pooler(postgres, {"app": entry, "other": entry}, admin_users="app")
    with pooler.wire() as one, pooler.wire(db="other") as two, pooler.wire(db="pgkeel") as console:
        one.query("SELECT 1")
        two.query("SELECT 1")
        do(console, "PAUSE app")
        one.send_raw(w.query("SELECT 2"))
        assert two.value("SELECT 3") == "3" and one.is_silent()
        paused = {row["name"]: row["paused"] for row in pooler.admin("SHOW DATABASES")}
        assert paused == {"app": "1", "other": "0"} and state(pooler)["paused"] == "no"
        assert refusal(console, "RESUME") == ("55000", "pooler is not paused/suspended")
        do(console, 'RESUME "app"')
        assert w.rows(one.recv_until(b"Z")) == [("2",)]


def test_paused_time_is_nobodys_wait(postgres, start_pooler):
    """A maintenance of minutes would end in errors: neither limit counts it, nor what comes before it."""
    pooler = start_pooler(postgres, pool_size=1, admin_users="app", query_wait_timeout="0.6", server_down_timeout="0.6",
                          query_wait_notify="0.3")
    with pooler.wire() as client, pooler.wire(db="pgkeel") as console:
        client.query("SELECT 1")
        do(console, "PAUSE")
        client.send_raw(w.query("SELECT 2"))
        with pooler.dial() as new:  # its settings have to be checked by PostgreSQL
            new.startup(extra_float_digits="2", search_path="pg_catalog")
            assert client.recv_until(b"N", 3) and "is paused" in client.notices[0]["M"]
            time.sleep(1.5)  # what must not happen has no event
            do(console, "RESUME")
            assert w.rows(client.recv_until(b"Z")) == [("2",)]
            new.login()
            assert new.value("SHOW search_path") == "pg_catalog"
        with pooler.wire() as holder:
            holder.query("BEGIN")
            assert [fields["C"] for fields in w.errors(client.query("SELECT 3"))] == ["53300"]


@pytest.mark.parametrize("sql, code, words", [
    ("PAUSE nope", "3D000", "no such database: nope"), ("KILL nope", "3D000", "no such database: nope"),
    ("RESUME", "55000", "pooler is not paused/suspended"), ("RESUME app", "55000", "database app is not paused"),
    ("PAUSE pgbouncer", "0A000", "admin db"), ("DISABLE pgkeel", "0A000", "admin db"),
    ("DISABLE", "42601", "a database is required"), ("ENABLE ;", "42601", "a database is required"),
    ("DISABLE nope", "3D000", "nope"), ("SUSPEND app", "42601", "no argument"), ("RELOAD app", "42601", "no argument"),
    ("KILL_CLIENT", "42601", "id"), ("KILL_CLIENT x", "42601", "id"), ("KILL_CLIENT 4711", "42704", "4711"),
    ("KILL_CLIENT 99999999999999999999999", "42704", "client not found"), ('PAUSE "app', "42601", "quote"),
    ("WAIT_CLOSE nope", "3D000", "nope"), ("PAUSE " + "x" * 5000, "42601", "too long")], ids=lambda text: text[:24])
def test_what_cannot_be_done_is_said_in_pgbouncers_words(console, sql, code, words):
    got = refusal(console, sql)
    assert got[0] == code and words in got[1]
    assert console.value("SHOW VERSION")


def test_pause_twice_is_refused_for_all_and_waits_again_for_one(pooler, console):
    do(console, "PAUSE")
    assert refusal(console, "PAUSE") == ("55000", "already suspended/paused")
    assert refusal(console, "SUSPEND") == ("55000", "already suspended/paused")
    do(console, "RESUME")
    with pooler.wire() as holder:
        holder.query("BEGIN")
        console.send_raw(w.query("PAUSE app"))
        with pooler.wire(db="pgkeel") as second:
            second.send_raw(w.query("PAUSE app"))
            assert second.is_silent() and console.is_silent()
            holder.query("COMMIT")
            assert w.tags(second.recv_until(b"Z")) == w.tags(console.recv_until(b"Z")) == ["PAUSE"]


def test_resume_while_pause_waits_answers_both(pooler, console):
    with pooler.wire() as holder:
        holder.query("BEGIN")
        console.send_raw(w.query("PAUSE"))
        assert console.is_silent()
        pooler.admin("RESUME")
        assert [fields["C"] for fields in w.errors(console.recv_until(b"Z", 3))] == ["55000"]
        with pooler.wire() as other:
            assert other.value("SELECT 1") == "1"


def test_cancelled_pause_is_undone(pooler, console):
    """As in PgBouncer: Ctrl-C in psql."""
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("BEGIN")
        console.send_raw(w.query("PAUSE"))
        waiter.send_raw(w.query("SELECT 1"))
        is_waiting(pooler)
        with pooler.dial() as canceller:
            canceller.cancel_request(console.pid, console.key)
        assert [fields["C"] for fields in w.errors(console.recv_until(b"Z", 3))] == ["57014"]
        assert w.rows(waiter.recv_until(b"Z")) == [("1",)]


@pytest.mark.parametrize("how", ["reset", "half_close", "terminate"])
def test_pause_stays_when_its_console_leaves(postgres, pooler, how):
    with pooler.wire() as holder, pooler.wire(db="pgkeel") as console:
        holder.query("BEGIN")
        console.send_raw(w.query("PAUSE"))
        wait_until(lambda: state(pooler)["paused"] == "yes")
        getattr(console, how)()
        wait_until(lambda: [row["database"] for row in pooler.admin("SHOW CLIENTS")].count("pgkeel") == 1,
                   what="the console gone")
        holder.query("COMMIT")
        wait_until(lambda: of_app(postgres) == [], what="all closed")
        holder.send_raw(w.query("SELECT 1"))
        assert holder.is_silent()
        pooler.admin("RESUME")
        assert w.rows(holder.recv_until(b"Z")) == [("1",)]


def test_reload_during_pause_does_not_end_it(postgres, pooler, console):
    with pooler.wire() as client:
        client.query("SELECT 1")
        do(console, "PAUSE")
        pooler.set_ini(pooler.ini_path.read_text().replace("dbname=app", "dbname=app connect_timeout=9"))
        do(console, "RELOAD")
        do(console, "RECONNECT")
        client.send_raw(w.query("SELECT 2"))
        assert client.is_silent() and of_app(postgres) == []
        do(console, "RESUME")
        assert w.rows(client.recv_until(b"Z")) == [("2",)]


def test_clients_and_pools_that_come_during_pause_wait(postgres, pooler, console):
    do(console, "PAUSE")
    with pooler.dial() as new:
        new.startup("ann")  # nothing is known about her pool yet
        thread = threading.Thread(target=new.login)
        thread.start()
        is_waiting(pooler)
        assert of_app(postgres) == []
        do(console, "RESUME")
        thread.join()
        assert new.value("SELECT current_user") == "ann"


def test_user_who_has_to_be_looked_up_during_pause_waits(fresh_postgres, start_pooler):
    postgres = fresh_postgres()
    postgres.sql("CREATE ROLE asker LOGIN SUPERUSER PASSWORD 'asker-secret'")
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app user=app password={password_of('app')}"
    pooler = start_pooler(databases={"app": entry}, users=["asker"], admin_users="app", auth_user="asker",
                          client_login_timeout=1)
    with pooler.wire("bob") as client:
        client.query("SELECT 1")
    pooler.admin("PAUSE")
    wait_until(lambda: postgres.backends("usename in ('asker', 'app')") == [], what="no connection of ours")
    with pooler.dial() as new:
        new.startup("ann")
        assert new.is_silent(1.3)
        postgres.restart()
        pooler.admin("RESUME")
        new.login()
        assert new.value("SELECT 1") == "1"


def test_replication_is_refused_during_pause(pooler, console):
    do(console, "PAUSE")
    with pytest.raises(ServerError) as info:
        pooler.wire(replication="database")
    assert (info.value.sqlstate, "paused" in str(info.value)) == ("57P03", True)


def test_pause_while_postgresql_is_down(fresh_postgres, start_pooler):
    postgres = fresh_postgres()
    pooler = start_pooler(postgres, admin_users="app", server_down_timeout=1)
    with pooler.wire() as client, pooler.wire(db="pgkeel") as console:
        client.query("SELECT 1")
        postgres.stop("immediate")
        client.send_raw(w.query("SELECT 2"))
        is_waiting(pooler)
        do(console, "PAUSE")
        assert client.is_silent(1.3)
        failures = [row["failed_total_count"] for row in pooler.admin("SHOW ENDPOINTS")]
        assert client.is_silent(0.5)
        assert [row["failed_total_count"] for row in pooler.admin("SHOW ENDPOINTS")] == failures  # left in peace
        postgres.start()
        do(console, "RESUME")
        assert w.rows(client.recv_until(b"Z")) == [("2",)]


def test_backend_that_dies_while_pause_waits_for_it(postgres, pooler, console):
    with pooler.wire() as holder:
        holder.query("BEGIN")
        console.send_raw(w.query("PAUSE"))
        assert console.is_silent()
        postgres.terminate_backends("usename = 'app'")
        assert w.tags(console.recv_until(b"Z", 5)) == ["PAUSE"]
        assert [fields["C"] for fields in w.errors(holder.query("SELECT 1"))] == ["40001"]
        holder.query("ROLLBACK")
        holder.send_raw(w.query("SELECT 1"))
        assert holder.is_silent()
        do(console, "RESUME")
        assert w.rows(holder.recv_until(b"Z")) == [("1",)]


def test_listener_is_closed_and_listens_again(postgres, pooler, console):
    with pooler.wire() as client:
        client.query("LISTEN news")
        wait_until(lambda: [row["state"] for row in pooler.admin("SHOW LISTENERS")] == ["active"], what="a herald")
        [row] = pooler.admin("SHOW LISTENERS")
        assert (row["database"], row["user"], row["channels"]) == ("app", "app", "1")
        assert int(row["remote_pid"]) in [backend["pid"] for backend in of_app(postgres)]
        do(console, "PAUSE")
        assert of_app(postgres) == []
        do(console, "RESUME")
        wait_until(lambda: [row["state"] for row in pooler.admin("SHOW LISTENERS")] == ["active"], what="it again")
        postgres.sql("NOTIFY news, 'x'")
        assert client.recv_until(b"A")


def test_shutdown_of_a_paused_pooler_tells_those_who_wait(pooler, console):
    with pooler.wire() as client:
        client.query("SELECT 1")
        do(console, "PAUSE")
        client.send_raw(w.query("SELECT 2"))
        is_waiting(pooler)
        assert pooler.stop(timeout=5) == 0
        assert [fields["C"] for fields in w.errors(client.recv_all())] == ["57P01"]


def work_until(pooler, is_over, done, number):
    """A client of the load: transactions, prepared statements and single queries, without any retry of its own."""
    with psycopg.connect(pooler.url("ann" if number % 3 else "app"), autocommit=True) as connection:
        connection.prepare_threshold = 2
        while not is_over.is_set():
            assert connection.execute("SELECT %s::int + 1", (number,)).fetchone() == (number + 1,)
            with connection.transaction():
                connection.execute("SELECT 1")
                assert connection.execute("SELECT %s::int", (number,)).fetchone() == (number,)
            done[number] += 1


def test_restart_of_postgresql_during_pause_is_invisible(fresh_postgres, start_pooler):
    postgres = fresh_postgres()
    pooler = start_pooler(postgres, pool_size=3, admin_users="app", workers=4, query_wait_timeout=2)
    is_over, done = threading.Event(), [0] * 16

    def maintain():
        try:
            with pooler.wire(db="pgkeel", timeout=20) as console:
                for _ in range(2):
                    before = list(done)
                    wait_until(lambda: all(now > then + 3 for now, then in zip(done, before)), 20, "progress of all")
                    do(console, "PAUSE")
                    assert of_app(postgres) == []
                    postgres.restart()
                    do(console, "RESUME")
                before = list(done)
                wait_until(lambda: all(now > then for now, then in zip(done, before)), 20, "progress at the end")
        finally:
            is_over.set()

    run_threads([maintain] + [lambda n=n: work_until(pooler, is_over, done, n) for n in range(len(done))])
    assert not pooler.log_contains("connect to .* failed")


def test_pause_and_resume_in_a_row_under_load_lose_nothing(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=2, admin_users="app", workers=4)
    is_over, done = threading.Event(), [0] * 12

    def torment():
        try:
            with pooler.wire(db="pgkeel") as console:
                for number in range(8):
                    do(console, ("PAUSE", "PAUSE app")[number % 2])
                    do(console, ("RESUME", "RESUME app")[number % 2])
                before = list(done)
                wait_until(lambda: all(now > then for now, then in zip(done, before)), 20, "progress at the end")
        finally:
            is_over.set()

    run_threads([torment] + [lambda n=n: work_until(pooler, is_over, done, n) for n in range(len(done))])


@pytest.mark.parametrize("pause, resume", [(signal.SIGUSR1, signal.SIGUSR2)], ids=["usr"])
def test_signals_pause_and_resume(pooler, pause, resume):
    pooler.process.send_signal(pause)
    wait_until(lambda: state(pooler)["paused"] == "yes")
    pooler.process.send_signal(resume)
    wait_until(lambda: state(pooler)["paused"] == "no")
    pooler.wait_for_log("RESUME by a signal: done")


# ---- KILL, KILL_CLIENT

@pytest.mark.parametrize("sql, resume", [("KILL", "RESUME"), ("KILL app", "RESUME app")], ids=["all", "one"])
def test_kill_drops_everybody_at_once_and_pauses(postgres, pooler, console, sql, resume):
    with pooler.wire() as idle, pooler.wire() as busy, pooler.wire() as open_one, pooler.dial() as new:
        idle.query("SELECT 1")
        open_one.query("BEGIN")
        busy.send_raw(w.query("SELECT pg_sleep(60)"))
        wait_until(lambda: [row for row in of_app(postgres) if row["state"] == "active"], what="a running query")
        do(console, sql)
        for wire in (idle, busy, open_one):
            assert [fields["C"] for fields in w.errors(wire.recv_all(3))] == ["57P01"]
        wait_until(lambda: of_app(postgres) == [], what="server connections gone")
        new.startup(search_path="pg_catalog")
        thread = threading.Thread(target=new.login)
        thread.start()
        is_waiting(pooler)
        do(console, resume)
        thread.join()
        assert new.value("SELECT 1") == "1"


def test_kill_of_one_database_spares_the_others_and_ends_a_waiting_pause(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app"
    pooler = start_pooler(postgres, {"app": entry, "other": entry}, admin_users="app")
    with pooler.wire() as one, pooler.wire(db="other") as two, pooler.wire(db="pgkeel") as console:
        one.query("BEGIN")
        two.query("BEGIN")
        console.send_raw(w.query("PAUSE app"))
        assert console.is_silent()
        pooler.admin("KILL app")
        assert w.tags(console.recv_until(b"Z", 5)) == ["PAUSE"]
        assert w.errors(one.recv_all(3))[0]["C"] == "57P01"
        assert two.value("SELECT 1") == "1" and state(pooler)["paused"] == "no"


def test_kill_client_drops_just_that_one(postgres, pooler, console):
    with pooler.wire(application_name="victim") as victim, pooler.wire() as other:
        victim.send_raw(w.query("SELECT pg_sleep(60)"))
        other.query("BEGIN")
        wait_until(lambda: [row for row in of_app(postgres) if row["state"] == "active"], what="a running query")
        [number] = [row["id"] for row in pooler.admin("SHOW CLIENTS") if row["application_name"] == "victim"]
        do(console, f"KILL_CLIENT {number}")
        assert [fields["C"] for fields in w.errors(victim.recv_all(3))] == ["57P01"]
        wait_until(lambda: not [row for row in of_app(postgres) if row["state"] == "active"], what="its query gone")
        assert other.value("SELECT 1") == "1"
        assert refusal(console, f"KILL_CLIENT {number}")[0] == "42704"


# ---- DISABLE, WAIT_CLOSE

def test_disabled_database_takes_no_new_clients_until_it_is_enabled(pooler, console):
    with pooler.wire() as old:
        do(console, "DISABLE app")
        with pytest.raises(ServerError) as info:
            pooler.wire()
        assert info.value.sqlstate == "55000"
        with pytest.raises(ServerError) as info:  # a stranger learns nothing
            pooler.wire(password="wrong")
        assert info.value.sqlstate == "28P01"
        assert old.value("SELECT 1") == "1"
        assert [row["disabled"] for row in pooler.admin("SHOW DATABASES")] == ["1"]
        do(console, "ENABLE app")
        with pooler.wire() as new:
            assert new.value("SELECT 1") == "1"


@pytest.mark.parametrize("sql", ["WAIT_CLOSE", "WAIT_CLOSE app"])
def test_wait_close_waits_for_what_reconnect_flagged(postgres, pooler, console, sql):
    with pooler.wire() as holder:
        holder.query("BEGIN")
        pid = holder.backend_pid()
        do(console, "RECONNECT")
        assert [row["close_needed"] for row in pooler.admin("SHOW SERVERS")] == ["1"]
        console.send_raw(w.query(sql))
        assert console.is_silent()
        holder.query("COMMIT")
        assert w.tags(console.recv_until(b"Z", 3)) == ["WAIT_CLOSE"]
        assert pid not in [row["pid"] for row in of_app(postgres)]
        holder.query("BEGIN")
        do(console, sql)  # the new one is not flagged


# ---- SUSPEND

def test_suspend_stops_everything_but_the_console(pooler, console):
    with pooler.wire() as client, pooler.wire() as other, pooler.dial(timeout=3) as new:
        other.query("BEGIN")
        client.query("SELECT 1")
        do(console, "SUSPEND")
        client.send_raw(w.query("SELECT 2"))
        other.send_raw(w.query("SELECT 3"))
        new.startup()
        assert client.is_silent() and other.is_silent() and new.is_silent()
        assert ("suspended", "yes") in console.rows("SHOW STATE")
        assert refusal(console, "PAUSE") == ("55000", "already suspended/paused")
        do(console, "RESUME")
        assert w.rows(client.recv_until(b"Z")) == [("2",)] and w.rows(other.recv_until(b"Z")) == [("3",)]
        new.login()
        assert new.value("SELECT 4") == "4"
        assert state(pooler)["active"] == "yes"


def test_suspended_time_ends_no_limit(postgres, start_pooler):
    pooler = start_pooler(postgres, admin_users="app", client_idle_timeout=1, query_timeout=1, server_check_delay=0,
                          server_ping_interval="0.5", server_check_timeout="0.5")
    with pooler.wire(db="pgkeel") as console, pooler.wire() as idle, pooler.wire() as busy:
        busy.send_raw(w.query("SELECT pg_sleep(0.5)"))
        idle.query("SELECT 1")
        do(console, "SUSPEND")
        time.sleep(1.5)  # what must not happen has no event
        do(console, "RESUME")
        assert w.errors(busy.recv_until(b"Z")) == []
        assert idle.value("SELECT 2") == "2"
        assert not pooler.log_contains("dead connection")


@pytest.mark.parametrize("end", ["timeout", "resume"])
def test_suspend_waits_for_slow_readers_up_to_its_timeout(postgres, start_pooler, end):
    pooler = start_pooler(postgres, admin_users="app", suspend_timeout=1 if end == "timeout" else 60)
    with pooler.wire(db="pgkeel") as console, pooler.wire() as slow, pooler.wire() as other:
        slow.send_raw(w.query("SELECT repeat('x', 1000) FROM generate_series(1, 40000)"))
        wait_until(lambda: [row for row in pooler.admin("SHOW SOCKETS") if row["send_avail"] != "0"], what="a full buffer")
        console.send_raw(w.query("SUSPEND"))
        assert console.is_silent()
        if end == "timeout":
            assert w.tags(console.recv_until(b"Z", 5)) == ["SUSPEND"]
            do(console, "RESUME")
            pooler.wait_for_log("suspend_timeout is over")
        else:
            pooler.process.send_signal(signal.SIGUSR2)  # nobody new is let in to say RESUME, or to cancel
            assert [fields["C"] for fields in w.errors(console.recv_until(b"Z", 5))] == ["55000"]
            assert len(w.rows(slow.recv_until(b"Z", 30))) == 40000
        assert other.value("SELECT 1") == "1"


# ---- SET

def config(console, key):
    """Value and origin."""
    return next((row[1], row[4]) for row in console.rows("SHOW CONFIG") if row[0] == key)


def test_set_changes_a_setting_for_everybody_at_once(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, admin_users="app")
    with pooler.wire() as holder, pooler.wire() as waiter, pooler.wire(db="pgkeel") as console:
        holder.query("BEGIN")
        waiter.send_raw(w.query("SELECT 1"))
        is_waiting(pooler)
        do(console, "SET default_pool_size = 2")
        assert w.rows(waiter.recv_until(b"Z")) == [("1",)]
        assert config(console, "default_pool_size") == ("2", "SET")
        do(console, "SET query_wait_timeout TO '7'")
        assert config(console, "query_wait_timeout")[1] == "SET" and config(console, "default_pool_size")[0] == "2"
        do(console, "SET query_wait_timeout = DEFAULT")
        assert config(console, "query_wait_timeout") == ("120", "default")
        do(console, "RELOAD")
        assert config(console, "default_pool_size")[0] == "1"
        assert holder.value("SELECT 2") == "2"


def test_set_checks_as_the_file_does(pooler, console):
    good = pooler.ini_path.read_text()
    for key, value in (("pool_mode", "sessions"), ("query_timeout", "soon"), ("default_pool_size", "-3"),
                       ("client_tls_sslmode", "require"), ("auth_file", "/nowhere"), ("auth_type", "hba")):
        pooler.set_ini(re.sub(rf"(?m)^{key} = .*\n", "", good) + f"{key} = {value}\n")
        [told] = w.errors(console.query("RELOAD"))
        pooler.set_ini(good)
        [fields] = w.errors(console.query(f"SET {key} = '{value}'"))
        assert (fields["C"], fields["M"]) == ("22023", f'"{key}" was not changed')
        assert fields["D"].partition(": ")[2] == told["D"].partition(": ")[2]
        assert config(console, key)[1] != "SET"


@pytest.mark.parametrize("sql, code", [
    ("SET listen_port = 7", "55P02"), ("SET workers TO 2", "55P02"), ("SET default_pool_size", "42601"),
    ("SET default_pool_size 3", "42601"), ("SET default_pool_size = '3", "42601"), ("SET pool_mode = ", "22023"),
    ("SET auth_query = '" + "x" * 5000 + "'", "54000")], ids=lambda text: text[:24])
def test_set_of_what_cannot_be_changed_is_refused(console, sql, code):
    assert refusal(console, sql)[0] == code
    do(console, "SET application_name = 'a driver''s wish'")


def test_set_leaves_the_file_to_the_next_reload(pooler, console):
    good = pooler.ini_path.read_text()
    pooler.set_ini(good.replace("default_pool_size = 5", "default_pool_size = 9") + "half a li")
    pooler.set_users(["ann"])
    do(console, "SET query_timeout = 3")
    assert config(console, "query_timeout") == ("3", "SET") and config(console, "default_pool_size")[0] == "5"
    with pooler.wire() as client:
        assert client.value("SELECT 1") == "1"
    assert w.errors(console.query("RELOAD"))[0]["C"] == "22023"
    assert config(console, "query_timeout") == ("3", "SET")  # a reload that fails changes nothing
    pooler.set_ini(good)
    do(console, "RELOAD")
    assert config(console, "query_timeout") == ("0", "default")
    with pytest.raises(ServerError):
        pooler.wire()


def test_set_of_a_file_reads_it(pooler, console):
    (pooler.dir / "more.txt").write_text('"app" "app-secret"\n"new" "new-secret"\n')
    do(console, f"SET auth_file = '{pooler.dir}/more.txt'")
    with pytest.raises((ServerError, Closed)) as info:
        pooler.wire("new", password="wrong")
    assert info.value.sqlstate == "28P01"
    assert ("new",) not in console.rows("SHOW USERS")
    assert dict(console.rows("SHOW LISTS"))["users"] == "2"


@pytest.mark.parametrize("tracked", ["IntervalStyle", "IntervalStyle, default_transaction_read_only, in_hot_standby"],
                         ids=["usual", "extra"])
def test_extra_parameters_follow_their_client(postgres, start_pooler, tracked):
    """What a function sets is seen by nobody, unless PostgreSQL reports it and it is listed."""
    pooler = start_pooler(postgres, pool_size=1, admin_users="app", track_extra_parameters=tracked)
    postgres.sql("CREATE OR REPLACE FUNCTION hidden() RETURNS text LANGUAGE sql AS"
                 " $$ SELECT set_config('default_transaction_read_only', 'on', false) $$")
    with pooler.wire() as client, pooler.wire() as other:
        assert client.value("SELECT hidden()") == "on"
        values = [wire.value("SHOW default_transaction_read_only") for wire in (other, client, other)]
        assert values == (["off", "on", "off"] if "read_only" in tracked else ["on", "on", "on"])
    postgres.sql("DROP FUNCTION hidden()")


# ---- statistics of a period

def test_averages_are_of_the_last_period_and_logged(postgres, start_pooler):
    pooler = start_pooler(postgres, admin_users="app", stats_period=1)
    with pooler.wire() as client, pooler.wire(db="pgkeel") as console:
        for _ in range(50):
            client.query("SELECT 1")

        def average(column):
            return int(next(row[column] for row in console.dicts("SHOW STATS") if row["database"] == "app"))

        wait_until(lambda: average("avg_query_count") >= 25, 5, "a busy period")
        assert average("avg_query_time") > 0
        pooler.wait_for_log(r"stats: \d+ xacts/s, \d+ queries/s, in \d+ B/s, out \d+ B/s, xact \d+ us, query \d+ us")
        wait_until(lambda: average("avg_query_count") == 0, 5, "a quiet period")
        assert average("total_query_count") == 50
        do(console, "SET log_stats = 0")
        lines = len(re.findall("stats: ", pooler.log()))
        do(console, "SET stats_period = 3600")
        assert len(re.findall("stats: ", pooler.log())) <= lines + 1
