"""docker/compose.yaml as processes: an application without retry code and pgkeel are up before PostgreSQL is.

SIDECAR_DELAY=20 lets PostgreSQL come as late as it does there.
"""
import os
import re
import subprocess
import sys
import time

import pytest

from harness import free_port, wait_until
from harness.containers import DOCKER, ROOT, SECRETS, can_make_namespaces, compose, image_environment, only_hosts

DELAY = float(os.environ.get("SIDECAR_DELAY", "2"))


class Application:
    """docker/app/app.py with its output."""

    def __init__(self, environment, directory):
        self.log = directory / "app.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(DOCKER / "app/app.py")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": os.environ["PATH"], **environment})

    def said(self):
        return self.log.read_text()

    def visits(self):
        """(number, milliseconds) of each row it wrote."""
        assert self.process.poll() is None, f"the application ended:\n{self.said()}"
        return [(int(number), int(ms)) for number, ms in re.findall(r"visit (\d+), (\d+) ms", self.said())]

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def scene(tmp_path, fresh_postgres, start_pooler):
    """The services of compose.yaml with their environment; ports and folders are this machine's. As there, the name db
    is not known before PostgreSQL begins (where namespaces can be made)."""
    pytest.importorskip("psycopg")
    services = compose()["services"]
    server, port = fresh_postgres(start=False), free_port()
    has_names = can_make_namespaces()
    for path in (DOCKER / "secrets").iterdir():
        (tmp_path / path.name).write_text(
            path.read_text().replace("@db:5432/", f"@{'db' if has_names else '127.0.0.1'}:{server.port}/"))
    usual = image_environment()["PGKEEL_CONFIG"]
    moved = {usual: str(tmp_path / "pgkeel.ini"), SECRETS: f"{tmp_path}/", "6432": str(port), "*:9127": f"127.0.0.1:{free_port()}"}
    (tmp_path / "userlist.txt").touch()
    (tmp_path / "pgkeel.ini").write_text(
        (ROOT / "etc/docker.ini").read_text().replace("/etc/pgkeel/", f"{tmp_path}/"))

    def here(environment):
        return {name: next((str(value).replace(there, ours) for there, ours in moved.items() if there in str(value)),
                           str(value)) for name, value in environment.items()}

    pool = start_pooler(env=here({**image_environment(), **services["pgkeel"]["environment"]}), port=port, start=False)
    pool.wrap = only_hosts(tmp_path) if has_names else []
    pool.start()
    subprocess.run([pool.binary, "healthcheck"], env=pool.env, check=True, timeout=20)
    application = Application(here(services["app"]["environment"]), tmp_path)

    def begin():
        (tmp_path / "hosts").write_text("127.0.0.1 db\n")
        server.start()

    yield server, begin, pool, application
    application.end()


def test_application_waits_for_a_late_database_and_never_sees_it_go(scene):
    server, begin, pool, application = scene
    wait_until(lambda: "connecting" in application.said(), 10)
    time.sleep(DELAY)
    assert application.visits() == []
    begin()
    began = time.monotonic()
    wait_until(application.visits, 10, what="the first row")
    print(f"PostgreSQL after {DELAY:.0f} s, the first row {time.monotonic() - began:.2f} s after it was ready")
    for _ in range(2):
        server.restart()
        seen = len(application.visits())
        wait_until(lambda: len(application.visits()) >= seen + 2, 15, what="rows after the restart")
    numbers = [number for number, _ in application.visits()]
    assert numbers == sorted(set(numbers)) and "Traceback" not in application.said()
    assert pool.is_running()
    print(pool.log_tail(12), application.said(), sep="\n")
