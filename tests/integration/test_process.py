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
    assert pooler.rss_kb() - memory < 3000
