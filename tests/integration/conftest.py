"""Fixtures: `postgres` (shared), `fresh_postgres` (factory), `start_pooler` (factory), `pooler` (the usual one)."""
import pytest

pytest.register_assert_rewrite("harness")

from harness.pooler import USERS, Pooler, ini_text
from harness.postgres import Postgres

TAIL = 60


class Scene:
    """What the running test uses, for the report of its failure."""

    servers = []
    poolers = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if not report.failed or call.excinfo is None:
        return
    for pooler in Scene.poolers:
        report.sections.append((f"log of pgkeel on port {pooler.port}", pooler.log_tail(TAIL)))
    for server in Scene.servers:
        tail = "\n".join(server.log().splitlines()[-TAIL:])
        report.sections.append((f"log of PostgreSQL on port {server.port}", tail))


@pytest.fixture(scope="session")
def _shared_postgres():
    server = Postgres().start()
    yield server
    server.remove()


@pytest.fixture
def postgres(_shared_postgres):
    """The server that tests share. A test that stops or reconfigures its server takes `fresh_postgres`."""
    assert _shared_postgres.is_running()
    Scene.servers.append(_shared_postgres)
    yield _shared_postgres
    Scene.servers.remove(_shared_postgres)


@pytest.fixture
def fresh_postgres():
    """fresh_postgres(conf="", hba="", port=None, start=True) makes a server for this test alone."""
    made = []

    def make(conf="", hba="", port=None, start=True):
        server = Postgres(conf, hba, port)
        made.append(server)
        Scene.servers.append(server)
        return server.start() if start else server

    yield make
    for server in made:
        server.remove()
        Scene.servers.remove(server)


@pytest.fixture
def start_pooler():
    """start_pooler(postgres, databases={…}, users=…, pool_size=…, **settings): a pgkeel with a made-up ini file.

    start_pooler(ini=text, users=…) takes the text as it is (@dir@, @port@, @userlist@ are filled in), and
    start_pooler(env={…}) starts it without a file. start=False leaves the start to the test.
    """
    made = []

    def make(postgres=None, databases=None, users=USERS, pool_size=None, ini=None, env=None, args=(), start=True,
             port=None, **settings):
        if ini is None and (postgres is not None or databases is not None):
            if databases is None:
                databases = {"app": f"host=127.0.0.1 port={postgres.port} dbname=app"}
            usual = {
                "listen_addr": "127.0.0.1", "listen_port": "@port@", "unix_socket_dir": "@dir@",
                "auth_type": "scram-sha-256", "auth_file": "@userlist@", "default_pool_size": pool_size,
            }
            ini = ini_text(databases, {**usual, **settings})
        else:
            assert not settings, f"nobody takes {settings}"
        pooler = Pooler(ini, users, env, args, port)
        made.append(pooler)
        Scene.poolers.append(pooler)
        return pooler.start() if start else pooler

    yield make
    complaints = []
    for pooler in made:
        complaints += pooler.finish()
    Scene.poolers.clear()
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture
def pooler(postgres, start_pooler):
    """The usual one: transaction pooling, at most 5 backends, the user app is an administrator."""
    return start_pooler(postgres, pool_size=5, pool_mode="transaction", admin_users="app")


@pytest.fixture
def behind(start_pooler):
    """behind(relay, **settings): a pgkeel whose PostgreSQL is that relay."""
    def make(relay, pool_size=1, **settings):
        return start_pooler(databases={"app": f"host=127.0.0.1 port={relay.port} dbname=app"}, pool_size=pool_size,
                            server_tls_sslmode="disable", **settings)
    return make
