"""The process: signals, pid file, sockets left behind, background, limits."""
import json
import os
import signal
import socket

import pytest

from harness import wire as w
from harness.postgres import wait_until


def fatal_of(client):
    return [fields["C"] for fields in w.errors(client.recv_all())]


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_transaction_is_finished_before_its_client_is_told_to_go(pooler, sig):
    with pooler.wire() as busy, pooler.wire() as idle:
        busy.query("BEGIN")
        os.kill(pooler.pid, sig)
        assert fatal_of(idle) == ["57P01"]
        assert w.tags(busy.query("SELECT 1")) == ["SELECT 1"]
        assert w.tags(busy.query("COMMIT")) == ["COMMIT"]
        assert fatal_of(busy) == ["57P01"]
    assert pooler.wait() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGQUIT])
def test_second_signal_ends_at_once(pooler, second):
    with pooler.wire() as busy:
        busy.query("BEGIN")
        os.kill(pooler.pid, signal.SIGTERM)
        pooler.wait_for_log("shutting down")
        os.kill(pooler.pid, second)
        assert pooler.wait() == 0


def test_clients_left_at_shutdown_timeout_are_closed(postgres, start_pooler):
    pooler = start_pooler(postgres, shutdown_timeout=1)
    with pooler.wire() as busy:
        busy.query("BEGIN")
        os.kill(pooler.pid, signal.SIGTERM)
        assert fatal_of(busy) == ["57P01"]
    assert pooler.wait() == 0
    assert pooler.log_contains("shutdown_timeout is over with 1 clients left")


def test_nothing_of_a_client_is_left_at_postgres_after_the_end(postgres, pooler):
    with pooler.wire() as client:
        client.query("SELECT 1")
    os.kill(pooler.pid, signal.SIGTERM)
    assert pooler.wait() == 0
    wait_until(lambda: postgres.backends("usename = 'app'") == [])


def test_hangup_reloads_and_opens_the_log_file_again(postgres, start_pooler, tmp_path):
    log = tmp_path / "pgkeel.log"
    pooler = start_pooler(postgres, logfile=str(log))
    log.rename(tmp_path / "old.log")
    os.kill(pooler.pid, signal.SIGHUP)
    wait_until(lambda: log.exists() and "settings reloaded" in log.read_text())


def test_pid_file_lives_as_long_as_the_process(postgres, start_pooler, tmp_path):
    path = tmp_path / "pgkeel.pid"
    pooler = start_pooler(postgres, pidfile=str(path))
    assert int(path.read_text()) == pooler.pid
    second = start_pooler(postgres, pidfile=str(path), start=False)
    status, said = second.run()
    assert status == 1 and "belongs to a running process" in said
    assert int(path.read_text()) == pooler.pid
    os.kill(pooler.pid, signal.SIGTERM)
    assert pooler.wait() == 0
    assert not path.exists()


def test_pid_file_and_unix_socket_of_a_crash_are_replaced(postgres, start_pooler, tmp_path):
    path = tmp_path / "pgkeel.pid"
    path.write_text("999999\n")
    pooler = start_pooler(postgres, pidfile=str(path), start=False)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(pooler.dir / f".s.PGSQL.{pooler.port}"))
    left.close()
    pooler.start()
    assert int(path.read_text()) == pooler.pid
    with pooler.dial(unix=True) as client:
        client.startup("app", "app").login("app-secret")
        assert client.value("SELECT 1") == "1"


def test_live_unix_socket_is_never_taken(postgres, start_pooler):
    first = start_pooler(postgres)
    second = start_pooler(postgres, port=first.port, listen_addr="", unix_socket_dir=str(first.dir), start=False)
    status, said = second.run()
    assert status == 1 and "Address already in use" in said
    with first.dial(unix=True) as client:
        client.startup("app", "app").login("app-secret")


def test_background_parent_leaves_when_the_child_listens(postgres, start_pooler, tmp_path):
    pidfile, log = tmp_path / "pgkeel.pid", tmp_path / "pgkeel.log"
    pooler = start_pooler(postgres, pidfile=str(pidfile), logfile=str(log), args=["-d"], start=False)
    status, said = pooler.run()
    assert (status, said) == (0, "")
    pid = int(pidfile.read_text())
    try:
        with pooler.dial() as client:
            client.startup("app", "app").login("app-secret")
            assert client.value("SELECT 1") == "1"
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not pidfile.exists())


def test_background_parent_tells_of_failure(postgres, start_pooler, tmp_path):
    pooler = start_pooler(postgres, port=postgres.port, logfile=str(tmp_path / "log"), args=["-d"], start=False)
    status, said = pooler.run()
    assert status == 1 and "Address already in use" in said


def test_json_log_is_json(postgres, start_pooler):
    pooler = start_pooler(postgres, log_format="json")
    with pooler.wire() as client:
        client.query("SELECT 1")
    pooler.wait_for_log("client left")
    lines = [json.loads(line) for line in pooler.log().splitlines() if line.startswith("{")]
    assert any(line.get("db") == "app" and line.get("user") == "app" and line["msg"] == "login ok" for line in lines)


def test_limit_of_clients_refuses_logins_but_never_cancels(postgres, start_pooler):
    pooler = start_pooler(postgres, max_client_conn=2, pool_size=2)
    with pooler.wire() as one, pooler.wire() as two:
        with pooler.dial() as three:
            with pytest.raises(w.ServerError) as refusal:
                three.startup("app", "app").login("app-secret")
            assert refusal.value.sqlstate == "53300"
        one.send_raw(w.query("SELECT pg_sleep(20)"))
        wait_until(lambda: postgres.backends("query LIKE '%pg_sleep(20)%' AND state = 'active'"))
        with pooler.dial() as cancel:
            cancel.cancel_request(one.pid, one.key)
        assert w.errors(one.recv_until(b"Z"))[0]["C"] == "57014"
        assert two.value("SELECT 1") == "1"
    wait_until(lambda: pooler.wire().close() is None)


def test_connects_and_disconnects_leave_nothing_behind(pooler):
    def some():
        for _ in range(100):
            with pooler.wire() as client:
                client.query("SELECT 1")
    some()
    wait_until(lambda: pooler.log().count("client left") == 100)
    files, memory = pooler.fd_count(), pooler.rss_kb()
    for _ in range(3):
        some()
    wait_until(lambda: pooler.log().count("client left") == 400)
    assert pooler.fd_count() <= files + 5  # its pool may have grown to its limit meanwhile
    assert pooler.rss_kb() - memory < 3000 or pooler.keeps_freed_memory()


def test_quit_signal_ends_at_once_and_tells_everybody(postgres, pooler):
    with pooler.wire() as busy, pooler.wire() as idle:
        busy.send_raw(w.query("SELECT pg_sleep(30)"))
        wait_until(lambda: postgres.backends("query LIKE '%pg_sleep(30)%' AND state = 'active'"))
        assert pooler.stop(signal.SIGQUIT, 5) == 0
        assert fatal_of(idle) == ["57P01"]
        assert fatal_of(busy) == ["57P01"]
    wait_until(lambda: not postgres.backends("usename = 'app' AND state <> 'active'"))


def test_leaving_process_accepts_nobody(pooler):
    with pooler.wire() as busy:
        busy.query("BEGIN")
        os.kill(pooler.pid, signal.SIGTERM)
        pooler.wait_for_log("shutting down")
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", pooler.port)) != 0, what="a closed port")
        assert not (pooler.dir / f".s.PGSQL.{pooler.port}").exists()
        busy.query("COMMIT")
    assert pooler.wait() == 0


def test_running_query_is_finished_before_the_end(postgres, pooler):
    with pooler.wire() as busy:
        busy.send_raw(w.query("SELECT pg_sleep(0.5), 'done'"))
        wait_until(lambda: postgres.backends("query LIKE '%done%' AND state = 'active'"))
        os.kill(pooler.pid, signal.SIGTERM)
        answer = busy.recv_all()
        assert w.rows(answer) == [("", "done")]
        assert [fields["C"] for fields in w.errors(answer)] == ["57P01"]
    assert pooler.wait() == 0


def test_hangup_leaves_the_renamed_log_alone_and_changes_settings(postgres, start_pooler, tmp_path):
    log, old = tmp_path / "pgkeel.log", tmp_path / "old.log"
    pooler = start_pooler(postgres, logfile=str(log), pool_size=3)
    wait_until(lambda: "ready: " in log.read_text())
    log.rename(old)
    pooler.set_ini(pooler.ini_path.read_text().replace("default_pool_size = 3", "default_pool_size = 4"))
    pooler.reload()
    wait_until(lambda: log.exists() and "settings reloaded" in log.read_text())
    size = len(old.read_text())
    config = {row["key"]: row["value"] for row in pooler.admin("SHOW CONFIG")}
    assert config["default_pool_size"] == "4"
    with pooler.wire():
        pass
    wait_until(lambda: "client left" in log.read_text())
    assert len(old.read_text()) == size


def test_hangup_with_a_broken_file_keeps_serving(pooler):
    pooler.set_ini(pooler.ini_path.read_text() + "nonsense = 1\n")
    with pooler.wire() as client:
        pooler.reload()
        pooler.wait_for_log("reload failed")
        assert client.value("SELECT 1") == "1"
    assert pooler.log_contains(r"ERROR.*pgkeel\.ini:\d+: nonsense: unknown key")


def test_start_after_kill_9_replaces_pid_file_and_socket(postgres, start_pooler, tmp_path):
    path = tmp_path / "pgkeel.pid"
    pooler = start_pooler(postgres, pidfile=str(path))
    pooler.wait_for_log("ready: ")
    assert pooler.stop(signal.SIGKILL) == -signal.SIGKILL
    assert path.exists() and (pooler.dir / f".s.PGSQL.{pooler.port}").exists()
    pooler.process = None
    pooler.start()
    wait_until(lambda: int(path.read_text()) == pooler.pid, what="its own number in the pid file")
    assert pooler.admin("SHOW VERSION")


def test_pid_file_with_the_number_of_a_stranger_is_replaced(postgres, start_pooler, tmp_path):
    path = tmp_path / "pgkeel.pid"
    for text in (f"{os.getpid()}\n", "nonsense\n", "", "-1\n", "99999999999999999999\n"):
        path.write_text(text)
        pooler = start_pooler(postgres, pidfile=str(path))
        pooler.wait_for_log("ready: ")
        assert path.read_text() == f"{pooler.pid}\n"
        assert pooler.stop() == 0
        assert not path.exists()


def test_background_needs_somewhere_to_log(postgres, start_pooler):
    status, said = start_pooler(postgres, args=["-d"], start=False).run()
    assert status == 1 and "logfile or syslog" in said


def test_failed_start_takes_no_pid_file_away_and_leaves_none(postgres, start_pooler, tmp_path):
    path = tmp_path / "pgkeel.pid"
    assert start_pooler(postgres, port=postgres.port, pidfile=str(path), start=False).run()[0] == 1
    assert not path.exists()


def test_every_line_of_a_json_log_is_json_whatever_clients_say(postgres, start_pooler):
    pooler = start_pooler(postgres, log_format="json", args=["-v", "-v"])
    for name in ('quote"', "back\\slash", "new\nline", "\x01\x1b[31m", "\u00e4\u20ac", "%s%n", "x" * 300):
        with pooler.dial() as client, pytest.raises(w.ServerError):
            client.startup(name, name, application_name=name).login("wrong")
        with pooler.wire(application_name=name) as client:
            client.query(f"SELECT nonsense -- {name}")
    pooler.wait_for_log("client left")
    assert pooler.stop() == 0
    for line in pooler.log().splitlines():
        assert isinstance(json.loads(line), dict), line


def test_connect_and_close_leaves_no_line(pooler):
    pooler.wait_for_log("ready: ")
    before = pooler.log()
    for _ in range(20):
        socket.create_connection(("127.0.0.1", pooler.port)).close()
        pooler.dial(unix=True).close()
        pooler.dial().reset()
    # A client after them is the event to wait for; only it may speak.
    with pooler.wire("ann"):
        pass
    pooler.wait_for_log("client left")
    said = pooler.log()[len(before):].splitlines()
    assert [line for line in said if "ann" not in line and "stood still" not in line] == []


def test_half_logins_leave_no_descriptors(pooler):
    def some():
        for number in range(100):
            with pooler.dial(unix=number % 2 == 0) as client:
                client.send_raw(w.startup_packet("app", "app")[:number % 20])
            with pooler.dial() as client, pytest.raises(w.ServerError):
                client.startup("app", "app").login("wrong")
    some()
    files, memory = pooler.fd_count(), pooler.rss_kb()
    for _ in range(2):
        some()
    wait_until(lambda: pooler.fd_count() <= files + 1, what="descriptors closed")
    assert pooler.rss_kb() - memory < 3000 or pooler.keeps_freed_memory()


def start_until_the_port_is_open(pooler):
    """At once, unlike wait_ready(): perhaps no more than the port is there."""
    pooler.start(wait=False)
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", pooler.port)) == 0:
                return
        assert pooler.is_running(), pooler.log_tail()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signal_in_the_moment_of_the_start_ends_it_tidily(postgres, start_pooler, tmp_path, sig):
    for number in range(10):
        path = tmp_path / f"{number}.pid"
        pooler = start_pooler(postgres, pidfile=str(path), start=False)
        start_until_the_port_is_open(pooler)
        assert pooler.stop(sig) == 0
        assert not path.exists() and not (pooler.dir / f".s.PGSQL.{pooler.port}").exists()


def test_hangup_in_the_moment_of_the_start_kills_nobody(postgres, start_pooler):
    for _ in range(10):
        pooler = start_pooler(postgres, start=False)
        start_until_the_port_is_open(pooler)
        pooler.reload()
        pooler.wait_for_log("ready: ")
        assert pooler.stop() == 0
