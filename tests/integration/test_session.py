"""What clients leave in their sessions in transaction pooling: settings move with them, anything else keeps their backend."""
import pathlib

import pytest

from harness import wait_until
from harness import wire as w
from harness.postgres import stopped

PID = "SELECT pg_backend_pid()"


@pytest.fixture
def pool(postgres, start_pooler):
    """A pool of two backends, which LISTEN pins (tests/integration/test_listen.py lets it not)."""
    return start_pooler(postgres, default_pool_size="2", admin_users="app", shared_listener="0")


@pytest.fixture
def single(postgres, start_pooler):
    """A pool of one backend: whoever is next is next on this one."""
    return start_pooler(postgres, default_pool_size="1", admin_users="app")


@pytest.fixture(autouse=True)
def objects(postgres):
    postgres.sql("CREATE SCHEMA IF NOT EXISTS tenant AUTHORIZATION app", "CREATE SCHEMA IF NOT EXISTS other AUTHORIZATION app",
                 "CREATE SEQUENCE IF NOT EXISTS numbers", "GRANT ALL ON numbers TO app")


def on_both_backends(pool, run):
    """Calls run(pid) while one, then the other backend is the only free one."""
    with pool.wire() as a, pool.wire() as b:
        a.query("BEGIN")
        b.query("BEGIN")
        for holder, pid in ((a, a.value(PID)), (b, b.value(PID))):
            holder.query("COMMIT")
            run(pid)
            holder.query("BEGIN")
            assert holder.value(PID) == pid
        a.query("COMMIT")
        b.query("COMMIT")


# ---- settings

SETTINGS = {
    "statement_timeout": ("SET statement_timeout = '77s'", "77s", "statement_timeout"),
    "to": ("SET work_mem TO '5MB'", "5MB", "work_mem"),
    "session": ("SET SESSION lock_timeout = 1234", "1234ms", "lock_timeout"),
    "list": ("SET search_path = tenant, public", "tenant, public", "search_path"),
    "empty": ("SET search_path = ''", '""', "search_path"),
    "quoted": ('SET search_path = "tenant", \'a b\'', 'tenant, "a b"', "search_path"),
    "custom": ("SET app.tenant = '42'", "42", "app.tenant"),
    "custom_quotes": ("SET app.tenant = 'it''s; DROP TABLE x; --'", "it's; DROP TABLE x; --", "app.tenant"),
    "set_config": ("SELECT set_config('app.tenant', '43', false)", "43", "app.tenant"),
    "set_config_path": ("SELECT set_config('search_path', 'tenant', false)", "tenant", "search_path"),
    "characteristics": ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE", "serializable",
                        "default_transaction_isolation"),
    "do": ("DO $$ BEGIN PERFORM set_config('app.tenant', '44', false); END $$", "44", "app.tenant"),
    "comment": ("/* hello */ SET -- x\n statement_timeout = 9000", "9s", "statement_timeout"),
    "many": ("SELECT 1; SET statement_timeout = 8000; SELECT 2", "8s", "statement_timeout"),
    "reported": ("SET DateStyle = 'SQL, DMY'", "SQL, DMY", "DateStyle"),
    "timezone": ("SET TIME ZONE 'Asia/Tokyo'", "Asia/Tokyo", "TimeZone"),
}


@pytest.mark.parametrize("protocol", ["simple", "extended", "named"])
@pytest.mark.parametrize("name", SETTINGS)
def test_setting_moves_with_its_client_and_stays_with_it(pool, name, protocol):
    text, value, setting = SETTINGS[name]
    if protocol != "simple" and name == "many":
        pytest.skip("one statement in the extended protocol")
    with pool.wire() as wire, pool.wire() as other:
        default = other.value(f"SELECT current_setting('{setting}', true)")
        run(wire, text, protocol)
        on_both_backends(pool, lambda pid: check_setting(wire, other, setting, value, default))
        assert pins_of(pool) == []


def run(wire, text, protocol):
    if protocol == "simple":
        assert not w.errors(wire.query(text))
        return
    name = "mine" if protocol == "named" else ""
    wire.send_raw(w.parse(text, name) + w.sync())
    assert not w.errors(wire.recv_until(b"Z"))
    wire.send_raw(w.bind(name=name) + w.execute() + w.sync())
    assert not w.errors(wire.recv_until(b"Z"))


def check_setting(wire, other, setting, value, default):
    assert wire.value(f"SELECT current_setting('{setting}')") == value
    assert other.value(f"SELECT current_setting('{setting}', true)") in (default, default or "")
    assert wire.value(f"SELECT current_setting('{setting}')") == value


def test_setting_of_a_rolled_back_transaction_is_gone(pool):
    with pool.wire() as wire:
        wire.query("SET statement_timeout = 5000")
        wire.query("BEGIN")
        wire.query("SET statement_timeout = 6000")
        wire.query("SET app.tenant = 'x'")
        wire.query("ROLLBACK")
        on_both_backends(pool, lambda pid: check_value(wire, "SHOW statement_timeout", "5s"))
        assert wire.value("SELECT current_setting('app.tenant', true)") in (None, "")


def check_value(wire, sql, value):
    assert wire.value(sql) == value


def test_setting_of_a_failed_statement_is_not_taken(pool):
    with pool.wire() as wire:
        assert w.errors(wire.query("SET statement_timeout = 'nonsense'"))
        assert w.errors(wire.query("SET statement_timeout = 5000; SELECT 1/0"))
        on_both_backends(pool, lambda pid: check_value(wire, "SHOW statement_timeout", "0"))


LEAVES_NOTHING = [
    "BEGIN; SET LOCAL statement_timeout = 5; COMMIT",
    "SELECT set_config('statement_timeout', '5', true)",
    "SELECT pg_catalog.set_config('app.x', coalesce(NULL, (SELECT 'a, b')), TRUE)",
    "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; COMMIT",
    "UPDATE numbers_of SET a = 1 WHERE false",
    "SELECT 'set_config(a, b, false)', 'SET x = 1; SET y = 2'",
    "SELECT 1 -- ; SET x = 1",
    "/* SET x = 1; */ SELECT 1",
    "SELECT 1 AS temp, 2 AS \"set\"",
    "BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; CLOSE c; COMMIT",
    "SELECT pg_advisory_xact_lock(1)",
    "CREATE TABLE IF NOT EXISTS numbers_of (a int)",
]


@pytest.mark.parametrize("text", LEAVES_NOTHING)
def test_what_leaves_nothing_is_not_asked_about(single, postgres, text):
    postgres.sql("CREATE TABLE IF NOT EXISTS numbers_of (a int)", user="app")
    with single.wire() as wire:
        pid = wire.value(PID)
        assert not w.errors(wire.query(text))
        assert postgres.sql(f"SELECT query FROM pg_stat_activity WHERE pid = {pid}") == [(text,)]


@pytest.mark.parametrize("reset", ["RESET statement_timeout", "RESET ALL", "DISCARD ALL", "SET statement_timeout TO DEFAULT"])
@pytest.mark.parametrize("options", [None, "-c statement_timeout=4000"], ids=["default", "startup"])
def test_reset_goes_back_to_the_settings_of_the_startup(pool, reset, options):
    params = {"options": options} if options else {}
    with pool.wire(application_name="me", DateStyle="ISO, DMY", **params) as wire:
        expected = wire.value("SHOW statement_timeout")
        assert expected == ("4s" if options else "0")
        wire.query("SET statement_timeout = 5000")
        on_both_backends(pool, lambda pid: check_value(wire, "SHOW statement_timeout", "5s"))
        wire.query(reset)
        on_both_backends(pool, lambda pid: check_value(wire, "SHOW statement_timeout", expected))
        on_both_backends(pool, lambda pid: check_value(wire, "SHOW DateStyle", "ISO, DMY"))
        assert wire.value("SHOW application_name") == "me"
        assert wire.parameters["DateStyle"] == "ISO, DMY"
        assert wire.parameters["application_name"] == "me"


def test_search_path_of_the_startup_is_each_clients_own(pool):
    """PostgreSQL 15 does not report it: one client's must not be taken for another's."""
    with pool.wire(options="-c search_path=tenant") as one, pool.wire(options="-c search_path=other") as two, pool.wire() as three:
        for _ in range(3):
            assert one.value("SHOW search_path") == "tenant"
            assert two.value("SHOW search_path") == "other"
            assert three.value("SHOW search_path") == '"$user", public'
        one.query("DISCARD ALL")
        for _ in range(3):
            assert one.value("SHOW search_path") == "tenant"
            assert three.value("SHOW search_path") == '"$user", public'
            assert two.value("SHOW search_path") == "other"


def test_search_path_is_put_back_after_a_scrub(single):
    with single.wire(options="-c search_path=tenant") as wire:
        assert wire.value("SHOW search_path") == "tenant"
        with single.wire() as other:
            other.query("BEGIN")
            other.query("SELECT 1")
        # It left in a transaction: its backend was reset.
        assert wire.value("SHOW search_path") == "tenant"


# ---- pins

PINS = {
    "listen": ("LISTEN news", "UNLISTEN news", "listen"),
    "unlisten_all": ("LISTEN news", "UNLISTEN *", "listen"),
    "prepare": ("PREPARE p AS SELECT 1", "DEALLOCATE p", "prepare"),
    "prepare_all": ("PREPARE p AS SELECT 1", "DEALLOCATE ALL", "prepare"),
    "temp": ("CREATE TEMP TABLE mine (a int)", "DROP TABLE mine", "temporary table"),
    "temporary": ("CREATE TEMPORARY TABLE mine (a int)", "DISCARD TEMP", "temporary table"),
    "select_into": ("SELECT 1 AS a INTO TEMP mine", "DROP TABLE mine", "temporary table"),
    "pg_temp": ("CREATE TABLE pg_temp.mine (a int)", "DISCARD ALL", "temporary table"),
    "temp_as": ("CREATE TEMP TABLE mine AS SELECT 1", "DROP TABLE mine", "temporary table"),
    "hold": ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE c", "cursor with hold"),
    "hold_all": ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "CLOSE ALL", "cursor with hold"),
    "lock": ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(7)", "advisory lock"),
    "try_lock": ("SELECT pg_try_advisory_lock(7)", "SELECT pg_advisory_unlock_all()", "advisory lock"),
    "quoted_lock": ('SELECT pg_catalog."pg_advisory_lock"(7)', "DISCARD ALL", "advisory lock"),
    "reset_query": ("SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;", "advisory lock"),
    "do": ("DO $$ BEGIN PERFORM pg_advisory_lock(7); END $$", "SELECT pg_advisory_unlock(7)", "advisory lock"),
    "two": ("LISTEN news; PREPARE p AS SELECT 1", "DISCARD ALL", "listen, prepare"),
}


def pins_of(pool):
    return [row["pinned"] for row in pool.admin("SHOW CLIENTS") if row["pinned"]]


@pytest.mark.parametrize("name", PINS)
def test_pin_lasts_as_long_as_what_it_is_for(pool, name):
    text, undo, reason = PINS[name]
    with pool.wire() as wire, pool.wire() as other:
        pid = wire.value(PID)
        assert not w.errors(wire.query(text))
        pinned = wire.value(PID)
        assert pins_of(pool) == [reason]
        for _ in range(3):
            assert other.value(PID) != pinned
            assert wire.value(PID) == pinned
        assert not w.errors(wire.query(undo))
        wait_until(lambda: pins_of(pool) == [], what="the end of the pin")
        on_both_backends(pool, lambda pid: check_value(wire, PID, pid))


@pytest.mark.parametrize("name", PINS)
def test_nothing_is_left_for_the_next_client(single, name):
    text = PINS[name][0]
    wire = single.wire()
    assert not w.errors(wire.query(text))
    wire.close()
    with single.wire() as other:
        other.query("SELECT 1")
        assert other.value("SELECT count(*) FROM pg_listening_channels()") == "0"
        assert other.value("SELECT count(*) FROM pg_prepared_statements WHERE from_sql") == "0"
        assert other.value("SELECT count(*) FROM pg_cursors WHERE is_holdable") == "0"
        assert other.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()") == "0"
        assert other.value("SELECT to_regclass('pg_temp.mine')") is None


def test_pin_of_a_rolled_back_transaction_is_none(pool):
    with pool.wire() as wire:
        wire.query("BEGIN")
        wire.query("LISTEN news")
        wire.query("CREATE TEMP TABLE mine (a int)")
        wire.query("ROLLBACK")
        assert pins_of(pool) == []


def test_temporary_table_that_its_commit_drops_does_not_pin(pool):
    with pool.wire() as wire:
        wire.query("BEGIN")
        wire.query("CREATE TEMP TABLE mine (a int) ON COMMIT DROP")
        wire.query("COMMIT")
        assert pins_of(pool) == []


def test_pinned_client_gets_its_notifications(pool, postgres):
    with pool.wire() as wire:
        wire.query("LISTEN news")
        postgres.sql("NOTIFY news, 'hello'", user="app")
        kind, body = wire.recv(10)
        assert (kind, body[4:]) == (b"A", b"news\0hello\0")


def test_reset_by_a_pinned_client_gives_its_own_settings_back(pool):
    with pool.wire(application_name="me", options="-c statement_timeout=4000") as wire:
        wire.query("LISTEN news")
        wire.query("RESET ALL")
        assert wire.value("SHOW statement_timeout") == "4s"
        assert wire.value("SHOW application_name") == "me"
        assert pins_of(pool) == ["listen"]


def test_lost_pinned_session_ends_with_a_reason(pool, postgres):
    with pool.wire() as wire:
        wire.query("LISTEN news")
        pid = wire.value(PID)
        postgres.sql(f"SELECT pg_terminate_backend({pid})")
        kind, body = wire.recv(10)
        assert (kind, w.error_fields(body)["C"]) == (b"E", "57P01")


def test_waiting_clients_are_told_of_pins(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size="1", query_wait_timeout="1", shared_listener="0")
    with pool.wire() as wire, pool.wire() as other:
        wire.query("LISTEN news")
        error = w.errors(other.query("SELECT 1"))[0]
        assert error["C"] == "53300" and "1/1 pinned" in error["D"]


def test_pins_are_capped(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size="3", max_pinned="2", admin_users="app")
    with pool.wire() as one, pool.wire() as two, pool.wire() as three, pool.wire() as four:
        for wire in (one, two):
            wire.query("CREATE TEMP TABLE mine (a int)")
        wait_until(lambda: pins_of(pool) == ["temporary table"] * 2, what="the pins")
        three.send_raw(w.query("PREPARE p AS SELECT 1"))
        error = w.errors(three.recv_all())[0]
        assert (error["S"], error["C"]) == ("FATAL", "53300") and "2/2 pinned" in error["D"] and "prepare" in error["D"]
        assert four.value("SELECT 1") == "1"
        assert four.value("SELECT count(*) FROM pg_prepared_statements WHERE from_sql") == "0"
        one.query("DROP TABLE mine")
        wait_until(lambda: pins_of(pool) == ["temporary table"], what="the end of a pin")
        four.query("PREPARE p AS SELECT 1")
        wait_until(lambda: sorted(pins_of(pool)) == ["prepare", "temporary table"], what="the other pin")
        four.query("LISTEN news")
        assert four.value("SELECT 1") == "1"


@pytest.mark.parametrize("extended", [False, True])
def test_value_of_a_sequence_is_never_anothers(single, extended):
    with single.wire() as one, single.wire() as two:
        one.query("SELECT nextval('numbers')")
        two.send_raw(w.extended("SELECT lastval()") + w.sync() if extended else w.query("SELECT lastval()"))
        assert w.errors(two.recv_until(b"Z"))[0]["C"] == "55000"
        wait_until(lambda: pins_of(single) == ["sequence value"], what="the pin")
        number = two.value("SELECT nextval('numbers')")
        assert two.value("SELECT lastval()") == number


def test_value_of_a_sequence_inside_its_transaction_needs_no_pin(pool):
    with pool.wire() as wire:
        wire.query("BEGIN")
        number = wire.value("SELECT nextval('numbers')")
        assert wire.value("SELECT currval('numbers')") == number
        wire.query("COMMIT")
        assert pins_of(pool) == []


@pytest.mark.parametrize("name, expected", [("me", "me - "), (None, "app - ")])
def test_application_name_may_tell_the_address(postgres, start_pooler, name, expected):
    pool = start_pooler(postgres, application_name_add_host="1")
    with pool.wire(**({"application_name": name} if name else {})) as wire:
        found = wire.value("SHOW application_name")
        assert found.startswith(expected + "127.0.0.1:") and wire.parameters["application_name"] == found


def has_unread_bytes(port):
    """Whether something waits in the socket of this local TCP port."""
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] == "01":
            return int(fields[4].partition(":")[2], 16) > 0
    return False


def test_news_of_a_backend_just_granted_are_not_the_answer_to_its_settings(postgres, start_pooler):
    """In one turn of the loop: a client leaves, its backend is granted to one who logs in, and has something to read. Taken
    for the answer to the settings, the new client had those of whoever was there before."""
    pool = start_pooler(postgres, default_pool_size="1", pool_mode="session", server_reset_query="", admin_users="app", auth_type="trust",
                        workers="1")
    one = pool.wire(TimeZone="America/Lima")
    one.query("LISTEN news")
    pid, port = (int(one.value(sql)) for sql in (PID, f"SELECT client_port FROM pg_stat_activity WHERE pid = {one.value(PID)}"))
    with pool.dial() as two:
        two.startup(TimeZone="Asia/Tokyo")
        wait_until(lambda: [row["cl_waiting"] for row in pool.admin("SHOW POOLS") if row["database"] == "app"] == ["1"], what="the login")
        with stopped(pool.pid):
            one.reset()
            postgres.sql("NOTIFY news")
            wait_until(lambda: has_unread_bytes(port), what="the notification")
        two.login()
        assert (two.value(PID), two.value("SHOW TimeZone")) == (str(pid), "Asia/Tokyo")
