"""Every command of the console by everybody who could try it. The commands are read from the sources: one without a
line here fails."""
import os
import re

import pytest

from harness import Closed, ServerError
from harness import wire as w
from harness.pooler import ROOT

OUT = "42501"  # insufficient privilege

# What is sent, and what comes of it for an administrator and for one who may only look: a tag or an SQLSTATE.
COMMANDS = {
    "SHOW": ("SHOW VERSION", "SHOW", "SHOW"),
    "SELECT": ("SELECT version", "SHOW", "SHOW"),
    "SET": ("SET query_timeout = 9", "SET", OUT),
    "RELOAD": ("RELOAD", "RELOAD", OUT),
    "PAUSE": ("PAUSE app", "PAUSE", OUT),
    "RESUME": ("RESUME app", "RESUME", OUT),
    "DISABLE": ("DISABLE app", "DISABLE", OUT),
    "ENABLE": ("ENABLE app", "ENABLE", OUT),
    "RECONNECT": ("RECONNECT app", "RECONNECT", OUT),
    "KILL": ("KILL other", "KILL", OUT),
    "KILL_CLIENT": ("KILL_CLIENT 4711", "42704", OUT),
    "SUSPEND": ("SUSPEND", "55000", OUT),  # the driver has said PAUSE before
    "WAIT_CLOSE": ("WAIT_CLOSE app", "WAIT_CLOSE", OUT),
    "SHUTDOWN": ("SHUTDOWN nonsense", "42601", OUT),
    "RESET": ("RESET ALL", "RESET", "RESET"),
    "BEGIN": ("BEGIN", "BEGIN", "BEGIN"),
    "START": ("START TRANSACTION", "START", "START"),
    "COMMIT": ("COMMIT", "COMMIT", "COMMIT"),
    "ROLLBACK": ("ROLLBACK", "ROLLBACK", "ROLLBACK"),
    "DISCARD": ("DISCARD ALL", "DISCARD", "DISCARD"),
    "DEALLOCATE": ("DEALLOCATE ALL", "DEALLOCATE", "DEALLOCATE"),
}
SHOWS_OF_ADMINS = {"FDS"}


def names_in(path, table):
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(r'\{"(\w+)",', text[text.index(table):])


COMMAND_NAMES = names_in("src/ops/commands.c", "commands[] = {")
COMMAND_NAMES = COMMAND_NAMES[:COMMAND_NAMES.index("client_encoding")]
SHOW_NAMES = names_in("src/ops/show.c", "shows[] = {")


@pytest.fixture
def guarded(postgres, start_pooler):
    """The one whose doors are tried; what it stands at must not be changed by who may not."""
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app"
    pooler = start_pooler(postgres, {"app": entry, "other": entry}, admin_users="app", stats_users="ann", query_timeout=5)
    pooler.admin("PAUSE")
    yield pooler
    assert pooler.is_running()


def standing(pooler):
    settings = [row["value"] for row in pooler.admin("SHOW CONFIG") if row["key"] == "query_timeout"]
    return (settings, pooler.admin("SHOW STATE"),
            [(row["name"], row["paused"], row["disabled"]) for row in pooler.admin("SHOW DATABASES")])


def outcome(answer):
    codes = [fields["C"] for fields in w.errors(answer)]
    return codes[0] if codes else w.tags(answer)[0]


def attempts(may_change):
    for name in COMMAND_NAMES:
        sql, of_admin, of_stats = COMMANDS[name]
        yield sql, of_admin if may_change else of_stats
    for name in SHOW_NAMES:
        yield f"SHOW {name}", OUT if name in SHOWS_OF_ADMINS and not may_change else "SHOW"


def test_every_command_of_the_sources_has_its_line_here_and_in_help(pooler):
    assert set(COMMANDS) == set(COMMAND_NAMES)
    with pooler.wire(db="pgkeel") as wire:
        wire.query("SHOW HELP")
        words = set(re.findall(r"\w+", wire.notices[0]["D"]))
    drivers = {"SELECT", "RESET", "BEGIN", "START", "COMMIT", "ROLLBACK", "DISCARD", "DEALLOCATE"}
    assert words >= (set(COMMAND_NAMES) - drivers) | set(SHOW_NAMES) | {"HELP"}


def test_administrator_may_do_everything(guarded):
    with guarded.wire(db="pgkeel") as wire:
        for sql, expected in attempts(True):
            assert outcome(wire.query(sql)) == expected, sql
        guarded.admin("RESUME other")
        for sql, expected in attempts(True):
            wire.send_raw(w.extended(sql) + w.sync())
            assert outcome(wire.recv_until(b"Z", 5)) == expected, sql


def test_one_who_may_look_changes_nothing(guarded):
    before = standing(guarded)
    with guarded.wire("ann", "pgkeel") as wire:
        for sql, expected in attempts(False):
            for data in (w.query(sql), w.extended(sql) + w.sync()):
                wire.send_raw(data)
                assert outcome(wire.recv_until(b"Z", 5)) == expected, sql
    assert standing(guarded) == before


@pytest.mark.parametrize("user, password, code", [
    ("bob", None, OUT), ("bob", "wrong", "28P01"), ("nobody", "x", "28P01"), ("pgkeel", "x", "28P01"), ("app", "", "28P01")])
def test_who_is_not_listed_is_not_let_in(guarded, user, password, code):
    before = standing(guarded)
    for database in ("pgkeel", "pgbouncer"):
        with pytest.raises(ServerError) as info:
            guarded.wire(user, database, password=password)
        assert info.value.sqlstate == code
    assert standing(guarded) == before


def test_nobody_commands_before_the_login(guarded):
    before = standing(guarded)
    for sql, _ in attempts(True):
        with guarded.dial() as wire:
            wire.startup("app", "pgkeel")
            wire.send_raw(w.query(sql))
            answer = [message for message in wire.recv_all(5) if message[0] != b"R"]
            assert outcome(answer) == "08P01", sql
    assert standing(guarded) == before


def test_commands_to_a_database_go_to_postgresql(pooler):
    before = standing(pooler)
    with pooler.wire() as wire:
        for name in ("PAUSE", "RESUME", "SUSPEND", "KILL", "KILL_CLIENT", "WAIT_CLOSE", "DISABLE", "SHUTDOWN", "RELOAD"):
            assert outcome(wire.query(COMMANDS[name][0])) == "42601", name  # a syntax error
    assert standing(pooler) == before


@pytest.mark.parametrize("user", ["pgkeel", "pgbouncer"])
def test_whoever_runs_it_is_administrator_on_the_unix_socket_only(guarded, user):
    with guarded.dial(unix=True) as wire:
        assert wire.startup(user, user).asked_method() == 0
        wire.recv_until(b"Z")
        for sql, expected in attempts(True):
            assert outcome(wire.query(sql)) == expected, sql
        assert os.geteuid() == os.stat(guarded.dir).st_uid
    with guarded.dial() as wire, pytest.raises((ServerError, Closed)):
        wire.startup(user, user).login("")
