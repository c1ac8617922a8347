"""The console: SHOW in every shape a driver asks for it, commands, who may use them, and reloading."""
import contextlib
import decimal
import os
import re
import shutil
import socket
import subprocess
import threading
import time

import psycopg
import psycopg2
import pytest

from harness import Closed, ServerError, password_of, wait_until
from harness import wire as w
from harness.pooler import ROOT

SOCKETS = ("type user database replication state addr port local_addr local_port connect_time request_time wait"
           " wait_us close_needed ptr link remote_pid tls application_name prepared_statements id")
COUNTS = ("client_parse_count", "server_parse_count", "bind_count", "client_login_count")

BUFFERS = "recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail"
EMPTY = {"ACTIVE_SOCKETS", "DNS_HOSTS", "DNS_ZONES", "LISTENERS", "PEERS", "PEER_POOLS"}  # may be without rows

COLUMNS = {
    "ACTIVE_SOCKETS": f"{SOCKETS} {BUFFERS} worker pinned pinned_s",
    "CLIENTS": f"{SOCKETS} worker pinned pinned_s",
    "CONFIG": "key value default changeable origin",
    "DATABASES": "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime"
                 " pool_mode load_balance_hosts max_connections current_connections max_client_connections"
                 " current_client_connections paused disabled",
    "DNS_HOSTS": "hostname ttl addrs",
    "DNS_ZONES": "zonename serial count",
    "FDS": "fd task user database addr port cancel link client_encoding std_strings datestyle timezone password"
           " scram_client_key scram_server_key",
    "LISTENERS": "database user state remote_pid channels worker",
    "LISTS": "list items",
    "MEM": "name size used free memtotal",
    "PEERS": "peer_id host port pool_size",
    "PEER_POOLS": "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login",
    "POOLS": "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active"
             " sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode"
             " load_balance_hosts",
    "PREPARED": "name users bytes statement",
    "SERVERS": f"{SOCKETS} worker pinned pinned_s",
    "SOCKETS": f"{SOCKETS} {BUFFERS} worker pinned pinned_s",
    "STATE": "key value",
    "STATS": "database total_server_assignment_count total_xact_count total_query_count total_received total_sent"
             " total_xact_time total_query_time total_wait_time total_client_parse_count total_server_parse_count"
             " total_bind_count total_client_login_count avg_server_assignment_count avg_xact_count avg_query_count"
             " avg_recv avg_sent avg_xact_time avg_query_time avg_wait_time avg_client_parse_count"
             " avg_server_parse_count avg_bind_count avg_client_login_count",
    "STATS_AVERAGES": "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time"
                      " query_time wait_time " + " ".join(f"avg_{name}" for name in COUNTS),
    "STATS_TOTALS": "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time"
                    " query_time wait_time " + " ".join(COUNTS),
    "TOTALS": "name value",
    "USERS": "name pool_size reserve_pool_size pool_mode max_user_connections current_connections"
             " max_user_client_connections current_client_connections",
    "VERSION": "version",
}

NUMBERS = {"port", "local_port", "wait", "wait_us", "close_needed", "remote_pid", "prepared_statements", "id", "worker",
           "items", "pool_size", "maxwait", "maxwait_us", "cl_active", "sv_idle", "total_query_count", "avg_recv"}


@pytest.fixture
def console(pooler):
    """A psycopg2 connection of the administrator app to the console."""
    with contextlib.closing(pooler.connect(db="pgkeel", autocommit=True)) as connection:
        yield connection


def ask(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        names = [column.name for column in cursor.description or []]
        return [dict(zip(names, row)) for row in cursor.fetchall()] if names else []


def refusal(connection, sql):
    """The SQLSTATE, and everything that was said, of a statement that must fail."""
    with connection.cursor() as cursor, pytest.raises(psycopg2.Error) as info:
        cursor.execute(sql)
    return info.value.pgcode, str(info.value)


def change(pooler, old, new):
    text = pooler.ini_path.read_text()
    assert old in text
    pooler.set_ini(text.replace(old, new))


# ---- SHOW

def use_a_named_statement(wire):
    wire.send_raw(w.parse("SELECT 1", "mine") + w.bind(name="mine") + w.execute() + w.sync())
    assert w.kinds(wire.recv_until(b"Z")) == "12DCZ"


@pytest.mark.parametrize("name", COLUMNS)
def test_show_has_exactly_the_columns_of_pgbouncer_and_ours_behind(pooler, console, name):
    with pooler.wire() as wire:
        use_a_named_statement(wire)
        with console.cursor() as cursor:
            cursor.execute(f"SHOW {name}")
            assert [column.name for column in cursor.description] == COLUMNS[name].split()
            assert cursor.fetchall() or name in EMPTY
            cursor.execute(f"  select {name.lower()} ; ")
            assert [column.name for column in cursor.description] == COLUMNS[name].split()


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", COLUMNS)
def test_show_answers_prepared_statements_of_psycopg_3(pooler, name, binary):
    with pooler.wire() as wire, psycopg.connect(pooler.url(db="pgkeel"), autocommit=True) as connection:
        use_a_named_statement(wire)
        for _ in range(7):
            cursor = connection.execute(f"SHOW {name}", prepare=True, binary=binary)
            assert [column.name for column in cursor.description] == COLUMNS[name].split()
            rows = cursor.fetchall()
            assert rows or name in EMPTY
            for row in rows:
                for column, value in zip(cursor.description, row):
                    assert not isinstance(value, bytes)
                    if column.name in NUMBERS and value is not None and (name, column.name) != ("USERS", "pool_size"):
                        assert isinstance(value, (int, decimal.Decimal)), f"{column.name}: {value!r}"
                    if column.name == "id":
                        assert 0 < value < 1000


def test_binary_and_text_results_say_the_same(pooler):
    with pooler.wire() as wire, psycopg.connect(pooler.url(db="pgkeel"), autocommit=True) as connection:
        wire.query("SELECT 1")
        for name in ("DATABASES", "LISTS", "CONFIG", "STATS_TOTALS", "TOTALS"):
            text, binary = (connection.execute(f"SHOW {name}", prepare=True, binary=binary).fetchall()
                            for binary in (False, True))
            assert text == binary


def test_console_answers_under_both_its_names(pooler):
    for name in ("pgkeel", "pgbouncer"):
        with contextlib.closing(pooler.connect(db=name, autocommit=True)) as connection:
            assert re.fullmatch(r"pgkeel \d+\.\d+.*", ask(connection, "SHOW VERSION")[0]["version"])


def test_show_pools_shows_a_waiting_client_and_how_long_it_waits(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, admin_users="app")

    def pool():
        return next(row for row in pooler.admin("SHOW POOLS") if (row["database"], row["user"]) == ("app", "app"))

    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("BEGIN")
        assert pool()["cl_waiting"] == "0" and pool()["sv_active"] == "1"
        waiter.send_raw(w.query("SELECT 1"))
        wait_until(lambda: pool()["cl_waiting"] == "1", what="a waiting client")
        wait_until(lambda: int(pool()["maxwait_us"]) > 0, what="maxwait_us")
        wait_until(lambda: pool()["maxwait"] == "1", what="maxwait of a second")
        assert pool()["cl_active"] == "1" and pool()["pool_mode"] == "transaction"
        states = sorted(row["state"] for row in pooler.admin("SHOW CLIENTS") if row["database"] == "app")
        assert states == ["active", "waiting"]
        waits = [int(row["wait"]) for row in pooler.admin("SHOW CLIENTS") if row["state"] == "waiting"]
        assert waits == [1]
        holder.query("COMMIT")
        waiter.recv_until(b"Z")
        wait_until(lambda: pool()["maxwait"] == pool()["maxwait_us"] == "0", what="nobody waits")
        assert pool()["sv_idle"] == "1" and pool()["sv_active"] == "0"


def totals(pooler):
    return next(row for row in pooler.admin("SHOW STATS_TOTALS") if row["database"] == "app")


def counts(pooler, *names):
    row = totals(pooler)
    return tuple(int(row[name]) for name in names)


def test_stats_count_ten_queries_as_ten(pooler):
    with pooler.wire() as wire:
        before = counts(pooler, "query_count", "xact_count")
        assert before == (0, 0)
        for _ in range(10):
            wire.query("SELECT 1")
        wait_until(lambda: counts(pooler, "query_count", "xact_count") == (10, 10), what=f"10, not {totals(pooler)}")
        stats = next(row for row in pooler.admin("SHOW STATS") if row["database"] == "app")
        assert (stats["total_query_count"], stats["total_xact_count"]) == ("10", "10")
        assert stats["total_client_login_count"] == "1"
        assert int(stats["total_received"]) >= 10 * len(w.query("SELECT 1")) and int(stats["total_sent"]) > 100


def test_stats_count_a_transaction_once(pooler):
    with pooler.wire() as wire:
        for sql in ("BEGIN", "SELECT 1", "SELECT pg_sleep(0.1)", "COMMIT"):
            wire.query(sql)
        wait_until(lambda: counts(pooler, "query_count", "xact_count") == (4, 1), what=f"4, 1, not {totals(pooler)}")
        row = totals(pooler)
        assert 100_000 <= int(row["query_time"]) < 5_000_000 and 100_000 <= int(row["xact_time"]) < 5_000_000


def test_stats_count_a_failed_query_and_a_rolled_back_transaction(pooler):
    with pooler.wire() as wire:
        for sql in ("SELECT 1/0", "BEGIN", "SELECT 1/0", "ROLLBACK"):
            wire.query(sql)
        wait_until(lambda: counts(pooler, "query_count", "xact_count") == (4, 2), what=f"4, 2, not {totals(pooler)}")


def test_stats_count_the_extended_protocol(pooler):
    with pooler.wire() as wire:
        for n in range(10):
            wire.send_raw(w.extended("SELECT $1::text", [n]) + w.sync())
            wire.recv_until(b"Z")
        wait_until(lambda: counts(pooler, "query_count", "xact_count") == (10, 10), what=f"10, not {totals(pooler)}")


def test_stats_count_parse_and_bind_messages(pooler):
    with pooler.wire() as wire:
        for n in range(10):
            wire.send_raw(w.extended("SELECT $1::text", [n]) + w.sync())
            wire.recv_until(b"Z")
        wait_until(lambda: counts(pooler, "client_parse_count", "bind_count") == (10, 10), what="10 Parse, 10 Bind")


def test_stats_count_an_assignment_for_each_transaction_and_none_for_a_login(pooler):
    with pooler.wire() as wire:
        for _ in range(3):
            wire.query("SELECT 1")
        wait_until(lambda: counts(pooler, "xact_count") == (3,), what="3 transactions")
        assert counts(pooler, "server_assignment_count") == (3,)


def test_show_servers_names_a_process_that_postgresql_knows(postgres, pooler, console):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        pid = wire.backend_pid()
        servers = ask(console, "SHOW SERVERS")
        assert [row["remote_pid"] for row in servers] == [pid]
        assert [row["pid"] for row in postgres.backends("usename = 'app'")] == [pid]
        server = servers[0]
        assert (server["type"], server["user"], server["database"], server["state"]) == ("S", "app", "app", "active")
        assert server["addr"] == "127.0.0.1" and server["port"] == postgres.port
        client = next(row for row in ask(console, "SHOW CLIENTS") if row["database"] == "app")
        assert client["link"] == server["ptr"]
        wire.query("COMMIT")


def test_server_links_to_the_client_that_uses_it(pooler, console):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        client = next(row for row in ask(console, "SHOW CLIENTS") if row["database"] == "app")
        assert ask(console, "SHOW SERVERS")[0]["link"] == client["ptr"]


def test_show_clients_shows_address_name_and_the_console_itself(pooler, console):
    with pooler.wire(application_name="who am I") as wire:
        rows = ask(console, "SHOW CLIENTS")
        client = next(row for row in rows if row["database"] == "app")
        assert client["application_name"] == "who am I"
        assert (client["addr"], client["port"]) == wire.socket.getsockname()
        assert [row["user"] for row in rows if row["database"] == "pgkeel"] == ["app"]
        assert len({row["id"] for row in rows}) == len(rows) == 2


def test_show_lists_counts(pooler, console):
    with pooler.wire() as one, pooler.wire("ann"):
        one.query("BEGIN")
        items = {row["list"]: row["items"] for row in ask(console, "SHOW LISTS")}
    assert list(items) == ["databases", "users", "peers", "pools", "peer_pools", "free_clients", "used_clients",
                           "login_clients", "free_servers", "used_servers", "dns_names", "dns_zones", "dns_queries",
                           "dns_pending"]
    assert items["databases"] == 1 and items["users"] == 4
    assert items["used_clients"] >= 2 and items["used_servers"] >= 1


def test_show_config_has_every_key_with_its_origin(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=7, admin_users="app", env={"PGKEEL_SERVER_LIFETIME": "77"})
    rows = {row["key"]: row for row in pooler.admin("SHOW CONFIG")}
    known = re.findall(r"(?m)^SETTING\((\w+),", (ROOT / "src/conf/settings.def").read_text())
    assert list(rows) == known
    lines = pooler.ini_path.read_text().splitlines()
    section = lines.index("[pgkeel]")
    for number, line in enumerate(lines[section + 1:], section + 2):
        key = line.partition(" = ")[0]
        assert rows[key]["origin"].endswith(f"pgkeel.ini:{number}"), rows[key]
    assert rows["default_pool_size"]["value"] == "7" and rows["default_pool_size"]["default"] == "20"
    assert rows["server_lifetime"]["origin"].startswith("environment")
    assert rows["query_timeout"]["origin"] == "default"
    assert rows["workers"]["changeable"] == "no" and rows["query_timeout"]["changeable"] == "yes"


def test_show_state_says_active(pooler):
    assert [tuple(row.values()) for row in pooler.admin("SHOW STATE")] == [
        ("active", "yes"), ("paused", "no"), ("suspended", "no")]


def test_show_help_is_a_notice(pooler):
    with pooler.wire(db="pgkeel") as wire:
        wire.query("SHOW HELP")
        assert "SHOW" in wire.notices[0]["D"] and "STATS_TOTALS" in wire.notices[0]["D"]


# ---- words it does not know

@pytest.mark.parametrize("sql, hint", [
    ("SHOW POOL", "POOLS"), ("SHOW clientz", "CLIENTS"), ("SHOW STATS_TOTAL", "STATS_TOTALS"), ("RELAOD", "RELOAD"),
    ("SHWO POOLS", "SHOW"), ("SHUTDWON", "SHUTDOWN"), ("GRUMPF INTO t VALUES (1)", "SHOW HELP"),
    ("SHOW nothing_like_it", "SHOW HELP")])
def test_unknown_words_are_refused_with_a_suggestion(pooler, console, sql, hint):
    code, text = refusal(console, sql)
    assert code == "42601" and hint in text
    assert ask(console, "SHOW VERSION")


@pytest.mark.parametrize("sql", [
    "'", '"', "\\", "((((", "SELECT", "SHOW", "x" * 60000, "SHOW " + "y" * 60000, "RECONNECT" + " z" * 20000, ";;;",
    "", " ", "--", "/* */", "SHOW POOLS; SHOW CLIENTS", "SHUTDOWN maybe", "%s%n%d", "\u00e4\u00f6", "SHOW \x01\x02"])
def test_garbage_does_not_end_a_console(pooler, sql):
    with pooler.wire(db="pgkeel") as wire:
        answer = wire.query(sql)
        assert w.kinds(answer) in ("EZ", "IZ", "CZ")
        assert wire.value("SHOW VERSION")
        wire.send_raw(w.extended(sql) + w.sync())
        wire.recv_until(b"Z")
        assert wire.value("SHOW VERSION")


def test_broken_messages_end_the_console_alone(pooler):
    for data in (w.message(b"Q", b"no end"), b"Q\0\0\0\1", b"Q\x7f\xff\xff\xff", w.message(b"!"),
                 w.message(b"P", b"x"), w.message(b"B"), w.message(b"D"), w.message(b"E"), w.message(b"C")):
        with pooler.wire(db="pgkeel") as wire:
            wire.send_raw(data + w.sync())
            with contextlib.suppress(Closed):
                wire.recv_until(b"Z")
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"


# ---- who may

def test_stats_user_may_look_but_not_touch(postgres, start_pooler):
    pooler = start_pooler(postgres, admin_users="app", stats_users="bob, ann")
    with contextlib.closing(pooler.connect("ann", "pgkeel", autocommit=True)) as console:
        for name in COLUMNS.keys() - {"FDS"}:
            ask(console, f"SHOW {name}")
        for sql in ("RELOAD", "RECONNECT app", "SHUTDOWN WAIT_FOR_CLIENTS", "SHOW FDS"):
            assert refusal(console, sql)[0] == "42501"
    with psycopg.connect(pooler.url("ann", "pgkeel"), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SHUTDOWN", prepare=True)
    assert pooler.is_running()


def test_user_in_neither_list_is_refused_after_his_password(postgres, start_pooler):
    pooler = start_pooler(postgres, admin_users="app", stats_users="ann")
    with pytest.raises(ServerError) as info:
        pooler.wire("bob", "pgkeel")
    assert info.value.sqlstate == "42501"
    with pytest.raises(ServerError) as info:
        pooler.wire("bob", "pgkeel", password="wrong")
    assert info.value.sqlstate == "28P01"
    with pytest.raises(ServerError) as info:
        pooler.wire("app", "pgkeel", password="wrong")
    assert info.value.sqlstate == "28P01"


def test_unix_socket_lets_the_same_uid_in_without_a_password(pooler):
    for user, database in (("pgkeel", "pgkeel"), ("pgbouncer", "pgbouncer")):
        with pooler.dial(unix=True) as wire:
            assert wire.startup(user, database).asked_method() == 0
            wire.recv_until(b"Z")
            wire.rows("RELOAD")
    with pooler.dial() as wire, pytest.raises(ServerError) as info:
        wire.startup("pgkeel", "pgkeel").login("")
    assert info.value.sqlstate in ("28P01", "42501", "28000")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("psql"), reason="needs root and psql")
def test_unix_socket_does_not_let_another_uid_in_without_a_password(pooler):
    pooler.dir.chmod(0o755)
    ended = subprocess.run(
        ["setpriv", "--reuid=nobody", "--clear-groups", "psql", "-w", "-h", str(pooler.dir), "-p", str(pooler.port),
         "-U", "pgkeel", "-d", "pgkeel", "-c", "SHOW VERSION"],
        capture_output=True, text=True, timeout=15, check=False, cwd="/tmp")
    assert ended.returncode != 0 and "password" in ended.stderr


# ---- RELOAD

def test_reload_reports_every_finding_with_its_line_and_keeps_what_is_in_force(pooler, console):
    pooler.set_ini(pooler.ini_path.read_text().replace("default_pool_size = 5", "default_pool_size = 6") +
                   "pool_sise = 3\nlisten_port = 700000\nquery_timeout = soon\n")
    lines = pooler.ini_path.read_text().splitlines()
    code, text = refusal(console, "RELOAD")
    assert code == "22023"
    for key in ("pool_sise", "listen_port = 700000", "query_timeout"):
        number = next(i for i, line in enumerate(lines, 1) if line.startswith(key))
        assert re.search(rf"pgkeel\.ini:{number}: {key.split()[0]}", text), f"{key} in {text}"
        assert pooler.log_contains(rf"ERROR.*pgkeel\.ini:{number}: {key.split()[0]}")
    config = {row["key"]: row["value"] for row in ask(console, "SHOW CONFIG")}
    assert config["default_pool_size"] == "5"
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"
    # A right file makes it work again.
    pooler.set_ini("\n".join(lines[:-3]) + "\n")
    ask(console, "RELOAD")
    config = {row["key"]: row["value"] for row in ask(console, "SHOW CONFIG")}
    assert config["default_pool_size"] == "6"


def test_reload_without_its_file_fails_and_keeps_what_is_in_force(pooler, console):
    pooler.ini_path.rename(pooler.dir / "away")
    code, text = refusal(console, "RELOAD")
    assert code == "22023" and "pgkeel.ini" in text
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"


def test_reload_changes_a_pools_size_for_those_who_wait(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1, admin_users="app")
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("BEGIN")
        waiter.send_raw(w.query("SELECT 1"))
        wait_until(lambda: any(row["cl_waiting"] == "1" for row in pooler.admin("SHOW POOLS")), what="a waiting client")
        change(pooler, "default_pool_size = 1", "default_pool_size = 2")
        pooler.admin("RELOAD")
        waiter.recv_until(b"Z", 5)
        assert holder.value("SELECT 2") == "2"
        change(pooler, "default_pool_size = 2", "default_pool_size = 1")
        pooler.admin("RELOAD")
        assert holder.value("SELECT 3") == "3"
        holder.query("COMMIT")
        wait_until(lambda: len(postgres.backends("usename = 'app'")) <= 1, what="a single backend")


def test_reload_adds_a_database_and_a_user_under_connected_clients(postgres, start_pooler):
    pooler = start_pooler(postgres, users=("app",), admin_users="app")
    with pooler.wire() as wire:
        wire.query("BEGIN")
        pid = wire.backend_pid()
        for user, database in (("ann", "app"), ("app", "more")):
            with pytest.raises(ServerError):
                pooler.wire(user, database)
        change(pooler, "[databases]\n", f"[databases]\nmore = host=127.0.0.1 port={postgres.port} dbname=postgres\n")
        pooler.set_users(("app", "ann"))
        pooler.admin("RELOAD")
        with pooler.wire("ann") as other:
            assert other.value("SELECT current_user") == "ann"
        with pooler.wire(db="more") as other:
            assert other.value("SELECT current_database()") == "postgres"
        assert wire.backend_pid() == pid
        wire.query("COMMIT")


def test_changed_connection_string_closes_backends_when_they_come_back(postgres, pooler):
    with pooler.wire() as wire:
        wire.query("BEGIN")
        pid = wire.backend_pid()
        change(pooler, " dbname=app", " dbname=app connect_timeout=7")
        pooler.admin("RELOAD")
        assert wire.backend_pid() == pid
        wire.query("COMMIT")
        wait_until(lambda: pid not in [row["pid"] for row in postgres.backends()], what="the old one closed")
        assert wire.backend_pid() != pid


def test_changed_connection_string_is_never_served_by_an_idle_old_backend(postgres, pooler):
    with pooler.wire() as wire:
        pid = wire.backend_pid()
        change(pooler, " dbname=app", " dbname=postgres")
        pooler.admin("RELOAD")
        assert wire.value("SELECT current_database()") == "postgres"
        wait_until(lambda: pid not in [row["pid"] for row in postgres.backends()], what="the old one closed")


@pytest.mark.parametrize("what, sqlstate", [("database", "3D000"), ("user", "28000")])
def test_what_a_reload_brings_back_is_used_at_once(postgres, start_pooler, what, sqlstate):
    """The refusal from before was still repeated for a second."""
    pooler = start_pooler(postgres, pool_size=1)
    ini = pooler.ini_path.read_text(encoding="utf-8")
    with pooler.wire() as client:
        assert client.value("SELECT 1") == "1"
        for _ in range(3):
            if what == "database":
                pooler.set_ini(ini.replace("app = host", "other = host"))
            else:
                pooler.set_users(["ann"])
            pooler.admin("RELOAD")
            postgres.terminate_backends("usename = 'app'")
            wait_until(lambda: [fields["C"] for fields in w.errors(client.query("SELECT 1"))] == [sqlstate])
            pooler.set_ini(ini)
            pooler.set_users(["app"])
            pooler.admin("RELOAD")
            assert client.value("SELECT 1") == "1"


def test_reload_that_changes_nothing_keeps_the_backends(pooler):
    with pooler.wire() as wire:
        pid = wire.backend_pid()
        for _ in range(3):
            pooler.admin("RELOAD")
        assert wire.backend_pid() == pid


# ---- RECONNECT and SHUTDOWN

def test_reconnect_replaces_backends(postgres, pooler, console):
    with pooler.wire() as wire, pooler.wire() as busy:
        pid = wire.backend_pid()
        busy.query("BEGIN")
        busy_pid = busy.backend_pid()
        ask(console, "RECONNECT")
        assert busy.backend_pid() == busy_pid
        busy.query("COMMIT")
        assert wire.backend_pid() not in (pid, busy_pid)
        wait_until(lambda: not {pid, busy_pid} & {row["pid"] for row in postgres.backends()}, what="old ones closed")


def test_reconnect_of_another_database_replaces_nothing(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app"
    pooler = start_pooler(postgres, {"app": entry, "other": entry}, admin_users="app")
    with pooler.wire() as wire, pooler.wire(db="other") as other:
        pids = wire.backend_pid(), other.backend_pid()
        pooler.admin("RECONNECT other")
        assert wire.backend_pid() == pids[0] and other.backend_pid() != pids[1]


@pytest.mark.parametrize("sql", ["SHUTDOWN", "SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN WAIT_FOR_CLIENTS"])
def test_shutdown_ends_with_status_0(pooler, sql):
    with pooler.wire() as wire, pooler.wire(db="pgkeel") as console:
        wire.query("SELECT 1")
        console.send_raw(w.query(sql))
        assert console.recv()[0] in (b"C", b"E")
        wire.terminate()
        console.terminate()
        assert pooler.wait(10) == 0


def test_shutdown_tells_clients_why(pooler):
    with pooler.wire() as wire, pooler.wire(db="pgkeel") as console:
        wire.query("SELECT 1")
        console.send_raw(w.query("SHUTDOWN"))
        assert w.errors(wire.recv_all())[0]["C"] == "57P01"
        assert pooler.wait(10) == 0


# ---- many at once

def test_two_consoles_at_once(pooler):
    failures = []

    def work(user_database):
        try:
            with pooler.wire(db=user_database) as wire:
                for _ in range(150):
                    assert wire.rows("SHOW CONFIG") and wire.rows("SHOW VERSION") and wire.rows("SHOW DATABASES")
        except BaseException as error:  # a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("pgkeel", "pgbouncer")]
    for thread in threads:
        thread.start()
    pooler.admin("RELOAD")
    for thread in threads:
        thread.join()
    assert not failures


def test_console_that_leaves_while_it_is_answered_harms_nobody(pooler):
    for number in range(60):
        wire = pooler.wire(db="pgkeel")
        wire.send_raw(w.query(("SHOW CLIENTS", "SHOW STATS", "RELOAD")[number % 3]) * 3)
        wire.reset()
    assert pooler.admin("SHOW VERSION")


def test_pipelined_statements_are_answered_in_order(pooler):
    with pooler.wire(db="pgkeel") as wire:
        wire.send_raw(w.query("SHOW STATE") + w.extended("SHOW VERSION") + w.extended("SHOW STATE") + w.sync() +
                      w.query("SHOW VERSION"))
        assert w.kinds(wire.recv_until(b"Z")) == "TDDDCZ"
        assert w.kinds(wire.recv_until(b"Z")) == "12TDC12TDDDCZ"
        assert w.kinds(wire.recv_until(b"Z")) == "TDCZ"


def test_error_skips_to_the_next_sync(pooler):
    with pooler.wire(db="pgkeel") as wire:
        wire.send_raw(w.extended("SHOW nonsense") + w.extended("SHOW VERSION") + w.sync() +
                      w.extended("SHOW VERSION") + w.sync())
        answer = wire.recv_until(b"Z")
        assert w.kinds(answer) == "12EZ" and w.errors(answer)[0]["C"] == "42601"
        assert w.kinds(wire.recv_until(b"Z")) == "12TDCZ"


def test_reload_and_show_in_one_pipeline(pooler):
    with pooler.wire(db="pgkeel") as wire:
        wire.send_raw(w.extended("RELOAD") + w.extended("SHOW VERSION") + w.sync())
        assert w.kinds(wire.recv_until(b"Z")) == "12nC12TDCZ"


def test_named_portals_keep_their_statements(pooler):
    with pooler.wire(db="pgkeel") as wire:
        wire.send_raw(w.parse("SHOW VERSION", "v") + w.parse("SHOW STATE", "s") + w.bind(portal="a", name="v") +
                      w.bind(portal="b", name="s") + w.execute("a") + w.execute("b") + w.sync())
        assert w.kinds(wire.recv_until(b"Z")) == "1122DCDDDCZ"


def test_result_formats_are_kept_column_by_column(pooler):
    with pooler.wire(db="pgkeel") as wire:
        wire.send_raw(w.parse("SHOW LISTS") + w.bind(results=(0, 1)) + w.describe() + w.execute() + w.sync())
        answer = dict(wire.recv_until(b"Z"))
        one = len("items\0") + 18  # what RowDescription says of the last column, its format at the end
        assert (answer[b"T"][-one - 2:-one], answer[b"T"][-2:]) == (b"\0\0", b"\0\1")
        wire.send_raw(w.parse("SHOW LISTS") + w.bind(results=(0, 1)) + w.execute() + w.sync())
        row = next(body for kind, body in wire.recv_until(b"Z") if kind == b"D")
        assert row == b"\0\2" + b"\0\0\0\x09databases" + b"\0\0\0\4" + b"\0\0\0\1"


def test_portal_that_does_not_exist_is_refused(pooler):
    with pooler.wire(db="pgkeel") as wire:
        for data in (w.execute("nothing"), w.describe("P", "nothing"),
                     w.parse("SHOW VERSION") + w.bind(portal="a") + w.close("P", "a") + w.execute("a"),
                     w.parse("SHOW VERSION") + w.bind() + w.sync() + w.execute()):
            wire.send_raw(data + w.sync())
            answer = wire.recv_until(b"Z")
            answer = wire.recv_until(b"Z") if not w.errors(answer) else answer
            assert w.errors(answer)[0]["C"] == "34000"


def test_statements_and_portals_are_bounded(pooler):
    with pooler.wire(db="pgkeel") as wire:
        for n in range(33):
            wire.send_raw(w.parse("SHOW VERSION", f"s{n}") + w.sync())
            assert [e["C"] for e in w.errors(wire.recv_until(b"Z"))] == (["53000"] if n == 32 else [])
        wire.send_raw(b"".join(w.bind(portal=f"p{n}", name="s0") for n in range(33)) + w.sync())
        assert [e["C"] for e in w.errors(wire.recv_until(b"Z"))] == ["53000"]


@pytest.mark.parametrize("read_buffer", [16384, 262144])
def test_message_over_the_limit_ends_the_console_with_its_reason(postgres, start_pooler, read_buffer):
    pooler = start_pooler(postgres, admin_users="app", read_buffer=read_buffer)
    limit = min(read_buffer, 65535)
    with pooler.wire(db="pgkeel") as wire:
        assert w.kinds(wire.query("x" * (limit - 6))) == "EZ"
        wire.send_raw(w.query("x" * (limit - 5)))
        assert w.errors(wire.recv_all())[0]["C"] == "08P01"


def test_reader_that_does_not_read_costs_no_memory(pooler):
    with pooler.wire(db="pgkeel") as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.socket.settimeout(60)

        def write():
            with contextlib.suppress(OSError):
                wire.socket.sendall(w.query("SHOW CONFIG") * 100000)

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(1)  # by now the kernel's buffers are full, and pgkeel has stopped
        before, ticks = pooler.rss_kb(), pooler.cpu_seconds()
        time.sleep(1)
        assert pooler.rss_kb() - before < 1000
        assert pooler.cpu_seconds() - ticks < 0.3
        assert pooler.admin("SHOW VERSION")
        wire.socket.shutdown(socket.SHUT_RDWR)
        writer.join()


def test_answers_wait_for_a_slow_reader_and_all_come(pooler):
    with pooler.wire(db="pgkeel") as wire:
        writer = threading.Thread(target=wire.socket.sendall, args=(w.query("SHOW CONFIG") * 1000,))
        writer.start()
        time.sleep(0.5)
        for _ in range(1000):
            assert w.kinds(wire.recv_until(b"Z")).startswith("TDDD")
        writer.join()


def test_every_finding_of_a_reload_is_told_however_many(pooler, console):
    good = pooler.ini_path.read_text()
    pooler.set_ini(good + "".join(f"no_such_key_{n} = 1\n" for n in range(60)))
    code, text = refusal(console, "RELOAD")
    assert code == "22023"
    assert all(f"no_such_key_{n}:" in text for n in range(60))


def test_reconnect_of_an_unknown_database_is_refused(console):
    assert refusal(console, "RECONNECT nonsense")[0] == "3D000"


def test_reconnect_closes_idle_backends_at_once(postgres, pooler):
    with pooler.wire() as one, pooler.wire() as two:
        for wire in (one, two):
            wire.query("BEGIN")
        pids = {wire.backend_pid() for wire in (one, two)}
        for wire in (one, two):
            wire.query("COMMIT")
        pooler.admin("RECONNECT")
        wait_until(lambda: not pids & {row["pid"] for row in postgres.backends()}, what="old ones closed")


def test_users_and_memory_are_counted(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app"
    pooler = start_pooler(postgres, {"app": entry, "other": entry}, admin_users="app", pool_size=3)
    with pooler.wire() as one, pooler.wire(db="other") as two, pooler.wire("ann") as three:
        for wire in (one, two, three):
            wire.query("BEGIN")
        users = {row["name"]: row for row in pooler.admin("SHOW USERS")}
        assert {name: (row["current_connections"], row["current_client_connections"], row["pool_size"])
                for name, row in users.items()} == {"app": ("2", "2", "3"), "ann": ("1", "1", "3")}
        memory = {row["name"]: row for row in pooler.admin("SHOW MEM")}
        assert memory["server"]["used"] == "3" and memory["client"]["used"] == "4" and memory["pool"]["used"] == "3"


def test_databases_behind_the_star_are_shown_by_their_names(postgres, start_pooler):
    pooler = start_pooler(postgres, {"*": f"host=127.0.0.1 port={postgres.port}"}, admin_users="app")
    with pooler.wire(db="postgres") as wire:
        wire.query("SELECT 1")
        rows = {row["name"]: row for row in pooler.admin("SHOW DATABASES")}
        assert set(rows) == {"*", "postgres"}
        assert (rows["postgres"]["database"], rows["postgres"]["current_connections"],
                rows["postgres"]["current_client_connections"]) == ("postgres", "1", "1")


def test_client_on_the_unix_socket_is_shown_with_its_process(pooler, console):
    with pooler.dial(unix=True) as wire:
        wire.startup().login()
        client = next(row for row in ask(console, "SHOW CLIENTS") if row["database"] == "app")
        assert (client["addr"], client["port"], client["remote_pid"]) == ("unix", pooler.port, os.getpid())
        other = next(row for row in ask(console, "SHOW CLIENTS") if row["database"] == "pgkeel")
        assert (other["local_addr"], other["local_port"]) == ("127.0.0.1", pooler.port)


def test_fakes_answer_what_drivers_ask(pooler):
    with pooler.wire(db="pgkeel") as wire:
        for name in ("client_encoding", "default_transaction_isolation", "standard_conforming_strings", "datestyle",
                     "timezone", "TimeZone"):
            assert wire.value(f"SHOW {name}")
    with psycopg.connect(pooler.url(db="pgkeel")) as connection:  # no autocommit: BEGIN, COMMIT
        assert connection.execute("SHOW VERSION").fetchall()
        connection.commit()
    assert password_of("app") not in pooler.log()
