"""The command line tools beside the daemon: ctl, top, wait, healthcheck, restart."""
import csv
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
import time

import pytest

from harness import free_port, wait_until


@pytest.fixture
def pool(postgres, start_pooler):
    return start_pooler(postgres, pool_size=5, admin_users="app", workers=2)


def run(pool, *args, config=True, **more):
    """Status, standard output and standard error of a tool."""
    ended = subprocess.run(
        [pool.binary, *args[:1], *([str(pool.ini_path)] if config else []), *args[1:]], env={**pool.env, **more},
        cwd=pool.dir, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stdout, ended.stderr


# ---- ctl

def test_ctl_prints_a_table(pool):
    with pool.wire() as client:
        client.query("SELECT 1")
        status, out, err = run(pool, "ctl", "SHOW POOLS")
    assert (status, err) == (0, "")
    head, rule, *rows = out.splitlines()
    assert [name.strip() for name in head.split("|")][:3] == ["database", "user", "cl_active"]
    assert set(rule) == set("-+") and re.match(r" app +\| app +\| +1 \|", rows[0])
    assert re.fullmatch(r"\(\d rows?\)", rows[-2])


def test_ctl_prints_json_and_csv(pool):
    status, out, _ = run(pool, "ctl", "--json", "SHOW CONFIG", "SHOW VERSION")
    config, version = (json.loads(line) for line in out.splitlines())
    assert status == 0 and version[0]["version"].lower().startswith("pgkeel")
    assert {row["key"]: row["value"] for row in config}["default_pool_size"] == "5"
    status, out, _ = run(pool, "ctl", "--csv", "SHOW CONFIG")
    rows = list(csv.reader(io.StringIO(out)))
    assert status == 0 and rows[0][0] == "key" and len({len(row) for row in rows}) == 1
    status, out, _ = run(pool, "ctl", "--json", "SHOW LISTS")
    assert isinstance(json.loads(out)[0]["items"], int)


def test_ctl_stops_at_the_first_error(pool):
    status, out, err = run(pool, "ctl", "SHOW NONSENSE", "RELOAD")
    assert status == 1 and out == "" and "NONSENSE" in err
    assert not pool.log_contains("settings reloaded")
    status, out, err = run(pool, "ctl", "RELOAD", "SHOW VERSION")
    assert (status, err) == (0, "") and out.startswith("RELOAD\n")
    assert pool.log_contains("settings reloaded")


def test_ctl_finds_the_daemon_by_the_environment(postgres, start_pooler):
    pool = start_pooler(env={"DATABASE_URL": postgres.url()})
    status, out, _ = run(pool, "ctl", "SHOW DATABASES", config=False)
    assert status == 0 and " app " in out
    assert run(pool, "ctl", "SHOW DATABASES", config=False, DATABASE_URL="")[0] in (0, 1)
    del pool.env["DATABASE_URL"]
    assert run(pool, "ctl", "SHOW DATABASES", config=False)[0] == 0


def test_pgkeel_config_names_the_file_for_daemon_and_tools(postgres, start_pooler):
    pool = start_pooler(postgres, default_pool_size=7, start=False)
    file, pool.ini_path = pool.ini_path, None
    pool.env["PGKEEL_CONFIG"] = str(file)
    pool.start()
    with pool.wire() as client:
        assert client.value("SELECT 1") == "1"
    status, out, _ = run(pool, "ctl", "--csv", "SHOW CONFIG", config=False)
    assert status == 0 and f"\ndefault_pool_size,7,20,yes,{file}:" in out
    # The command line's file counts more.
    (pool.dir / "other.ini").write_text("[pgkeel]\nlisten_port = 1\n")
    status, _, err = run(pool, "ctl", str(pool.dir / "other.ini"), "SHOW VERSION", config=False)
    assert status == 1 and "no database is configured" in err


def test_ctl_without_a_unix_socket_uses_an_administrator(postgres, start_pooler):
    pool = start_pooler(postgres, unix_socket_dir="", admin_users="nobody, app")
    assert run(pool, "ctl", "SHOW VERSION")[0] == 0
    status, _, err = run(pool, "ctl", "-U", "bob", "SHOW VERSION")
    assert status == 1 and err


def test_tools_say_what_is_wrong(pool, postgres, start_pooler):
    gone = start_pooler(postgres, start=False)
    for tool in (("ctl", "SHOW POOLS"), ("top",), ("healthcheck",), ("restart",), ("wait", "--timeout=0.5s")):
        status, out, err = run(gone, *tool)
        assert status == 1 and out == "" and err, tool
    for tool in (("ctl",), ("ctl", "--nonsense", "x"), ("wait", "--timeout=soon"), ("top", "a", "b")):
        assert run(pool, *tool)[0] == 2, tool
    status, out, _ = run(pool, "top", "--help", config=False)
    assert status == 0 and "pgkeel top" in out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_needs_no_password_whoever_runs_the_daemon(postgres, start_pooler):
    pool = start_pooler(postgres, user="nobody", start=False)
    pool.dir.chmod(0o777)
    pool.userlist_path.chmod(0o644)
    pool.start()
    assert run(pool, "ctl", "RELOAD")[0] == 0


# ---- wait and healthcheck

def test_wait_ends_when_a_query_works(fresh_postgres, start_pooler):
    server = fresh_postgres(start=False)
    entry = f"host=127.0.0.1 port={server.port} dbname=app user=app password=app-secret"
    pool = start_pooler(databases={"app": entry}, start=False)
    ends = []
    thread = threading.Thread(target=lambda: ends.append((run(pool, "wait", "--timeout=60s"), time.monotonic())))
    thread.start()
    pool.start()
    assert not ends
    server.start()
    works_at = time.monotonic()
    thread.join()
    (status, _, err), ended_at = ends[0]
    assert status == 0, err
    assert ended_at > works_at - 1


def test_wait_gives_up_with_the_last_reason(fresh_postgres, start_pooler):
    entry = f"host=127.0.0.1 port={free_port()} dbname=app user=app password=app-secret"
    pool = start_pooler(databases={"app": entry}, server_down_timeout=0)
    status, _, err = run(pool, "wait", "--timeout=1s")
    assert status == 1 and "Connection refused" in err
    status, _, err = run(pool, "wait", "--timeout=1s", "-D", "app", "-U", "nobody")
    assert status == 1 and "no success in time" in err


@pytest.mark.parametrize("more", [{}, {"unix_socket_dir": ""}], ids=["console", "greeting"])
def test_healthcheck_tells_the_living_from_the_dead(postgres, start_pooler, more):
    pool = start_pooler(postgres, **more)
    assert run(pool, "healthcheck")[:2] == (0, "healthy\n")
    os.kill(pool.pid, signal.SIGSTOP)
    status, out, err = run(pool, "healthcheck", "--timeout=1s")
    os.kill(pool.pid, signal.SIGCONT)
    assert status == 1 and out == "" and err
    assert pool.stop() == 0
    assert run(pool, "healthcheck")[0] == 1


def test_healthcheck_leaves_no_line_in_the_log(pool):
    before = pool.log()
    assert run(pool, "healthcheck")[0] == 0
    with pool.wire() as client:  # its line is written after those of the check would be
        client.query("SELECT 1")
    pool.wait_for_log("closing: client left")
    added = pool.log()[len(before):]
    assert "app/app" in added and "pgkeel/pgkeel" not in added


# ---- top

def test_top_prints_once_where_there_is_no_terminal(pool):
    with pool.wire() as client:
        client.query("BEGIN")
        status, out, err = run(pool, "top")
    assert (status, err) == (0, "")
    assert re.search(r"(?m)^app +app +1 +0 +1 ", out) and "trans/s" in out and "\033" not in out


def test_top_refreshes_and_quits_with_q(pool):
    master, slave = pty.openpty()
    top = subprocess.Popen([pool.binary, "top", str(pool.ini_path)], stdin=slave, stdout=slave, stderr=slave, env=pool.env)
    seen = b""

    def sees(pattern):
        nonlocal seen
        while select.select([master], [], [], 0)[0]:
            seen += os.read(master, 65536)
        return re.search(pattern, seen)

    with pool.wire() as client:
        client.query("SELECT 1")
        wait_until(lambda: sees(rb"app +app +1 "), 10, what="the pool")
        seen = b""
        wait_until(lambda: client.query("SELECT 1") and sees(rb"(?m)^app +[1-9][0-9.]+ +[1-9]"), 10, what="rates")
    os.write(master, b"q")
    assert top.wait(10) == 0
    assert sees(rb"\033\[\?1049l")
    os.close(slave)
    os.close(master)


# ---- restart

def test_restart_starts_the_program_anew(postgres, start_pooler):
    pool = start_pooler(postgres, pidfile="@dir@/pid")
    first, pidfile = pool.process, pool.dir / "pid"
    with pool.wire() as busy:
        busy.query("BEGIN")
        status, out, err = run(pool, "restart")
        assert status == 0, err
        second = int(pidfile.read_text())
        assert f"process {second} serves" in out and second != first.pid
        busy.query("COMMIT")
    assert first.wait(10) == 0
    status, out, err = run(pool, "restart")
    third = int(pidfile.read_text())
    assert status == 0 and third not in (first.pid, second)
    assert run(pool, "ctl", "SHOW VERSION")[0] == 0
    pool.is_stopped_by_test = True
    os.kill(third, signal.SIGTERM)
    wait_until(lambda: not pidfile.exists(), 10)


def test_restart_that_fails_says_so_and_changes_nothing(postgres, start_pooler):
    pool = start_pooler(postgres, pidfile="@dir@/pid")
    usual = pool.ini_path.read_text()
    pool.set_ini(usual + "logfile = /nowhere/log\n")
    status, out, err = run(pool, "restart")
    assert status == 1 and out == "" and "ended before it was ready" in err
    assert int((pool.dir / "pid").read_text()) == pool.pid and pool.is_running()
    pool.set_ini(usual)
    assert run(pool, "ctl", "SHOW VERSION")[0] == 0
