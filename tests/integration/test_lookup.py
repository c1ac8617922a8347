"""Users that only PostgreSQL knows: auth_user, auth_query, auth_dbname."""
import threading
import time

import pytest

from harness import ServerError, password_of, wait_until
from harness.pooler import USERS

ASKS = "application_name = 'pgkeel: looks up users'"


@pytest.fixture
def server(fresh_postgres):
    server = fresh_postgres("log_statement = 'all'\nlog_connections = on\n")
    server.sql("CREATE ROLE asker LOGIN SUPERUSER PASSWORD 'asker-secret'", "CREATE ROLE dora LOGIN PASSWORD 'dora-secret'",
               "CREATE ROLE late LOGIN PASSWORD 'late-secret' VALID UNTIL '2001-01-01'", "CREATE ROLE group_only PASSWORD 'group_only-secret'",
               "CREATE ROLE bare LOGIN", "SET password_encryption = 'md5'", "CREATE ROLE olga LOGIN PASSWORD 'olga-secret'",
               "CREATE TABLE logins (name text)", "GRANT ALL ON logins TO PUBLIC")
    return server


@pytest.fixture
def start(server, start_pooler):
    """The pool logs in as app, whoever the client is."""
    def start(auth_type="scram-sha-256", entry="", **settings):
        databases = {"app": f"host=127.0.0.1 port={server.port} dbname=app user=app password={password_of('app')} {entry}"}
        return start_pooler(databases=databases, users=(*USERS, "asker"), listen_addr="127.0.0.1", listen_port="@port@", unix_socket_dir="@dir@",
                            auth_file="@userlist@", **{"auth_type": auth_type, "auth_user": "asker", "pool_size": 2, **settings})
    return start


def outcome(pooler, user, password=None):
    try:
        with pooler.wire(user, password=password) as wire:
            return wire.value("SELECT 1")
    except ServerError as error:
        return error.sqlstate


@pytest.mark.parametrize("auth_type, user", [("scram-sha-256", "dora"), ("md5", "dora"), ("md5", "olga"), ("plain", "olga"), ("plain", "dora")])
def test_right_and_wrong_passwords(start, auth_type, user):
    pooler = start(auth_type)
    assert outcome(pooler, user) == "1"
    assert outcome(pooler, user, "wrong") == outcome(pooler, user, "") == "28P01"
    assert outcome(pooler, user) == "1"


@pytest.mark.parametrize("user", ["nobody", "late", "group_only", "bare", "x' OR '1'='1", "'; DROP TABLE logins; --", "ünï", "x" * 300])
def test_who_may_not_come_in(start, server, user):
    """CVE-2025-2291 (VALID UNTIL was not looked at), CVE-2015-6817 (unknown users came in), odyssey #149 (the name was SQL)."""
    for auth_type in ("scram-sha-256", "md5", "plain"):
        pooler = start(auth_type)
        assert outcome(pooler, user, f"{user}-secret") == outcome(pooler, user, "") == "28P01"
    assert server.sql("SELECT count(*) FROM logins") == [(0,)]


def test_unknown_user_is_asked_for_a_password_even_with_trust(start):
    pooler = start("trust")
    assert outcome(pooler, "dora") == "1"
    assert outcome(pooler, "nobody", "x") == "28P01"


def test_what_clients_say_never_reaches_the_one_who_asks(start, server):
    """CVE-2025-12819: search_path of the client's first packet was in force where auth_query ran."""
    server.sql("CREATE SCHEMA evil", "CREATE TABLE evil.pg_authid AS SELECT * FROM pg_authid", "CREATE TABLE evil.seen (a text)")
    pooler = start()
    with pooler.dial() as wire:
        wire.startup("dora", "app", search_path="evil, pg_catalog", options="-c search_path=evil").login()
    with pooler.dial() as wire, pytest.raises(ServerError):
        wire.startup("nobody", "app", search_path="evil, pg_catalog", options="-c search_path=evil").login("x")
    pids = {row["pid"] for row in server.backends(ASKS)}
    assert len(pids) == 1
    lines = [line for line in server.log().splitlines() if f"[{pids.copy().pop()}]" in line]
    assert lines and not any("evil" in line for line in lines)


def test_answer_is_remembered_and_asked_again_after_a_wrong_password(start, server):
    pooler = start()
    for _ in range(5):
        assert outcome(pooler, "dora") == "1"
    assert server.log().count("pg_catalog.pg_authid") == 1
    server.sql("ALTER ROLE dora PASSWORD 'other'")
    assert outcome(pooler, "dora", "other") == "28P01"  # the old one is remembered, for this once
    assert outcome(pooler, "dora", "other") == "1"
    assert outcome(pooler, "dora") == "28P01"


def test_one_connection_is_kept_and_its_death_is_not_noticed(start, server):
    pooler = start()
    assert outcome(pooler, "dora") == "1"
    first = [row["pid"] for row in server.backends(ASKS)]
    assert outcome(pooler, "olga", "wrong") == "28P01"
    assert [row["pid"] for row in server.backends(ASKS)] == first
    server.sql(f"SELECT pg_terminate_backend({first[0]})")
    wait_until(lambda: not server.backends(ASKS), what="the end")
    assert outcome(pooler, "bare", "x") == "28P01"
    assert [row["pid"] for row in server.backends(ASKS)] != first


def test_server_that_is_down_is_said(start, server):
    pooler = start(server_connect_timeout=2)
    server.stop()
    assert outcome(pooler, "dora") == "08006"
    assert pooler.log_contains("auth_query: ")
    server.start()
    assert outcome(pooler, "dora") == "1"


def test_wrong_password_of_the_one_who_asks_is_said(start, server):
    pooler = start()
    server.sql("ALTER ROLE asker PASSWORD 'changed'")
    assert outcome(pooler, "dora") == "08006"
    assert pooler.log_contains('auth_query: password authentication failed for user "asker"')


@pytest.mark.parametrize("query, words", [("SELECT $1, (1/0)::text", "division by zero"), ("SELECT $1", "must give a name and a secret"), ("nonsense", "syntax error"),
                                          ("SELECT $1, repeat('x', 5000)", "too long")])
def test_query_that_fails_is_said(start, query, words):
    pooler = start(auth_query=query)
    assert outcome(pooler, "dora") == "58000"
    assert pooler.log_contains(words)


def test_queries_that_take_long_hold_up_nobody_else(start):
    pooler = start(auth_query="SELECT $1, pg_sleep(30)::text", server_connect_timeout=1, admin_users="app")
    results = []
    threads = [threading.Thread(target=lambda: results.append(outcome(pooler, "dora"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    with pooler.wire() as wire:  # of auth_file
        for _ in range(50):
            assert wire.value("SELECT 1") == "1"
    for thread in threads:
        thread.join()
    assert results == ["08006"] * 4


def test_another_database_and_query_for_one_database(start, server):
    server.sql("CREATE DATABASE secrets", db="postgres")
    server.sql("CREATE TABLE accounts (name text, secret text)", "INSERT INTO accounts VALUES ('emil', 'emil-secret')", db="secrets")
    pooler = start("plain", entry="auth_dbname=app auth_query='SELECT name, secret FROM accounts WHERE name = $1'")
    assert outcome(pooler, "emil") == "58000"  # there is no such table
    server.sql("CREATE TABLE accounts (name text, secret text)", "INSERT INTO accounts VALUES ('emil', 'emil-secret')")
    assert outcome(pooler, "emil") == "1"
    assert outcome(pooler, "emil", "x") == "28P01"


def test_unknown_database_is_named_after_the_login_only(start):
    pooler = start()
    with pytest.raises(ServerError) as refusal:
        pooler.wire("dora", db="nowhere").close()
    assert refusal.value.sqlstate == "28P01"
    with pytest.raises(ServerError) as refusal:
        pooler.wire("app", db="nowhere").close()
    assert refusal.value.sqlstate == "3D000"


def test_secrets_are_nowhere_to_be_seen(start):
    pooler = start()
    assert outcome(pooler, "dora") == "1"
    assert "SCRAM-SHA-256$" not in pooler.log() and "asker-secret" not in pooler.log()


@pytest.mark.parametrize("auth_type", ["md5", "plain"])
def test_question_does_not_tell_who_exists(start, auth_type):
    pooler = start(auth_type)
    for user in ("dora", "nobody", "late", "bare"):
        with pooler.dial() as wire:
            wire.startup(user)
            assert wire.asked_method() == 10, user


def test_the_one_who_asks_may_have_its_password_in_a_file(server, start_pooler, tmp_path):
    token = tmp_path / "token"
    token.write_text("asker-secret\n")
    databases = {"app": f"host=127.0.0.1 port={server.port} dbname=app user=asker password_file={token}"}
    pooler = start_pooler(databases=databases, users=(), listen_addr="127.0.0.1", listen_port="@port@", auth_file="@userlist@",
                          auth_type="scram-sha-256", auth_user="asker")
    assert outcome(pooler, "dora") == "1"
    assert outcome(pooler, "dora", "x") == "28P01"
    token.write_text("wrong\n")
    server.terminate_backends(ASKS)
    assert outcome(pooler, "nobody", "x") == "08006"


def test_clients_that_wait_for_their_lookup_have_not_logged_in(start):
    pooler = start(workers=1, helpers=4, max_unauthenticated=4, max_client_conn=12,
                   auth_query="SELECT $1, NULL FROM pg_sleep(0.5)")
    strangers = []
    for i in range(20):
        strangers.append(pooler.dial().startup(f"stranger{i}"))
        time.sleep(0.01)
    with pooler.wire("ann") as wire:  # they may be told to go, but keep no place by staying
        assert wire.value("SELECT 1") == "1"
    for wire in strangers:
        wire.close()


def test_few_are_asked_about_at_a_time(start, server):
    """However many strangers come: they keep neither PostgreSQL nor the dials of others busy."""
    pooler = start(auth_query="SELECT $1, NULL FROM pg_sleep(0.2)", helpers=4, pool_size=10)
    strangers = [pooler.dial().startup(f"stranger{i}") for i in range(12)]
    most = 0
    with pooler.wire("ann") as wire:  # of auth_file: needs a dial, not a lookup
        assert wire.value("SELECT 1") == "1"
    for wire in strangers:
        most = max(most, len(server.backends(ASKS)))
        wire.asked_method()
        wire.close()
    assert 0 < most <= 4


def test_whom_a_rule_turns_away_is_not_asked_about(start, server, tmp_path):
    rules = tmp_path / "hba.conf"
    rules.write_text("host all nobody all reject\nhost all dora all scram-sha-256\nhostssl all all all cert\n")
    pooler = start("hba", auth_hba_file=rules)
    assert [outcome(pooler, user, "x") for user in ("nobody", "stranger")] == ["28000"] * 2
    assert server.backends(ASKS) == []
    assert outcome(pooler, "dora") == "1"
    assert server.backends(ASKS)
