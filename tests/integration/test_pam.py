"""auth_type = pam and rules with that method: a service that a script stands behind."""
import contextlib
import os
import pathlib
import threading

import pytest

from harness import ServerError, wait_until

SERVICES = pathlib.Path("/etc/pam.d")

SCRIPT = """#!/bin/sh
# PAM_USER, PAM_TYPE, PAM_RHOST are the environment; the password comes in on standard input.
password=$(tr -d '\\0')
echo "$PAM_TYPE $PAM_USER from $PAM_RHOST" >>{folder}/asked
while [ "$PAM_USER" = slow ] && [ ! -e {folder}/gate ]; do sleep 0.05; done
case "$PAM_TYPE" in
auth) [ "$password" = "$PAM_USER-by-pam" ] ;;
account) [ "$PAM_USER" != closed ] ;;
esac
"""


@pytest.fixture
def service(tmp_path):
    """Name of a service of PAM."""
    if os.geteuid() != 0 or not SERVICES.is_dir():
        pytest.skip("services of PAM are the administrator's")
    tmp_path.chmod(0o777)
    script, file = tmp_path / "ask", SERVICES / f"pgkeel-test-{os.getpid()}"
    script.write_text(SCRIPT.format(folder=tmp_path))
    script.chmod(0o755)
    file.write_text(f"auth required pam_exec.so expose_authtok quiet {script}\naccount required pam_exec.so quiet {script}\n")
    yield file.name
    file.unlink()


@pytest.fixture
def start(postgres, start_pooler, service):
    def start(**settings):
        with contextlib.suppress(AssertionError):
            return start_pooler(databases={"app": f"host={postgres.dir} port={postgres.port} user=app"}, listen_addr="127.0.0.1",
                                listen_port="@port@", unix_socket_dir="@dir@", auth_file="@userlist@",
                                **{"auth_type": "pam", "auth_pam_service": service, **settings})
        return pytest.skip("pgkeel was built without PAM")
    return start


def outcome(pooler, user, password=None, db="app"):
    try:
        with pooler.wire(user, db, password=password or f"{user}-by-pam") as wire:
            return wire.value("SELECT 1")
    except ServerError as error:
        return error.sqlstate


def test_who_may_come_in(start, tmp_path):
    pooler = start()
    assert outcome(pooler, "pia") == "1"  # nobody of auth_file
    assert outcome(pooler, "pia", "wrong") == outcome(pooler, "nobody", "x") == "28000"
    assert outcome(pooler, "closed") == "28000"
    assert outcome(pooler, "app", "app-secret") == "28000"  # auth_file has no say
    assert "auth pia from 127.0.0.1" in (tmp_path / "asked").read_text()
    assert pooler.log_contains("PAM authentication failed for user") and not pooler.log_contains("by-pam")


def test_empty_password_is_not_asked_about(start, tmp_path):
    pooler = start()
    with pooler.dial() as wire, pytest.raises(ServerError) as caught:
        wire.startup("pia", "app").login("")
    assert caught.value.sqlstate == "28000" and not (tmp_path / "asked").exists()


def test_console(start):
    pooler = start(admin_users="pia")
    with pooler.wire("pia", "pgkeel", password="pia-by-pam") as wire:
        assert wire.query("SHOW POOLS")


def test_slow_service_holds_up_nobody(start, tmp_path):
    pooler = start(workers=1)
    results = []
    threads = [threading.Thread(target=lambda: results.append(outcome(pooler, "slow"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: (tmp_path / "asked").exists() and (tmp_path / "asked").read_text().count("auth slow") == 2, what="both are asked about")
    assert [outcome(pooler, "pia") for _ in range(5)] == ["1"] * 5 and not results
    (tmp_path / "gate").touch()
    for thread in threads:
        thread.join()
    assert results == ["1", "1"]


def test_client_may_leave_while_pam_is_asked(start, tmp_path):
    pooler = start(client_login_timeout=1)
    wire = pooler.dial().startup("slow", "app")
    wire.asked_method()
    wire.send(b"p", b"slow-by-pam\0")
    assert wire.recv_all()[-1][0] == b"E"
    wire.close()
    (tmp_path / "gate").touch()
    assert outcome(pooler, "pia") == "1"


def test_rule_with_its_own_service(start, service, tmp_path):
    rules = tmp_path / "hba.conf"
    rules.write_text(f"host all pia all pam pamservice={service}\nhost all app all scram-sha-256\n")
    pooler = start(auth_type="hba", auth_hba_file=rules, auth_pam_service="missing")
    assert outcome(pooler, "pia") == "1" and outcome(pooler, "pia", "x") == "28000"
    assert outcome(pooler, "app", "app-secret") == "1"
