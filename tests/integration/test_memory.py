"""What clients cost while they are idle."""
import resource

import pytest

CLIENTS = 5000
BYTES_PER_IDLE_CLIENT = 1000


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, CLIENTS * 3), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(180)
def test_5000_clients_are_served_and_cost_less_than_1_kB_each_while_idle(postgres, start_pooler, many_files, capsys):
    pooler = start_pooler(postgres, auth_type="trust", pool_size=10, log_connections=0, log_disconnections=0)

    def connect():
        wire = pooler.dial()
        clients.append(wire)
        wire.startup("app", "app").login(None)
        assert wire.value("SELECT 1") == "1"

    clients = []
    try:
        for _ in range(200):
            connect()
        before = pooler.rss_kb()
        for _ in range(CLIENTS):
            connect()
        each = (pooler.rss_kb() - before) * 1024 / CLIENTS
        with capsys.disabled():
            print(f"\n{each:.0f} bytes per idle client, {CLIENTS} clients")
        assert each < BYTES_PER_IDLE_CLIENT or pooler.keeps_freed_memory()
        assert len(postgres.backends("usename = 'app'")) <= 10
        assert clients[0].value("SELECT 2") == "2"
    finally:
        for wire in clients:
            wire.close()
