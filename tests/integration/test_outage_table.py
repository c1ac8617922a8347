"""The table of the outage contract, each fault for a second or two; `make outage` is the long one, beside PgBouncer."""
import pathlib
import sys

import pytest

OUTAGE = pathlib.Path(__file__).resolve().parents[1] / "outage"
if str(OUTAGE) not in sys.path:
    sys.path.insert(0, str(OUTAGE))

import exactly_once  # noqa: E402
import stage  # noqa: E402
from crowd import Crowd, Work  # noqa: E402
from outage import Options  # noqa: E402
from rows import ROWS, Times  # noqa: E402

# A machine that builds for others stalls by itself: `make outage` holds stalls to half a second more than the fault.
SHORT = Times(rounds=2, period=0.3, stopped=1.2, patience=20.0, margin=5.0)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    server = stage.make_server()
    yield server
    server.remove()


class Proxy:
    def __init__(self, pooler):
        self.login = stage.login(pooler.port)


@pytest.fixture
def play(server, start_pooler):
    """play(number, …) runs that row of the table; pgkeel must show what the contract says."""

    def run(number, client="psycopg2", protocol="simple", pool_size=20, clients=6, retry="aborted"):
        pooler = start_pooler(server, pool_size=pool_size, pool_mode="transaction", transparent_retry=retry)
        options = Options(clients, client, protocol, retry, SHORT)
        tally, facts, complaints = ROWS[number - 1].run(server, Proxy(pooler), options)
        assert not complaints, f"{complaints}; errors {dict(tally.errors)}, lost {dict(tally.lost)}: {tally.examples}"
        return tally, facts

    return run


@pytest.mark.parametrize("number", [row.number for row in ROWS], ids=[row.title for row in ROWS])
def test_contract_holds_when(play, number):
    play(number)


@pytest.mark.parametrize("number", [2, 5, 6])
def test_contract_holds_with_more_clients_than_backends(play, number):
    play(number, pool_size=4, clients=24)


@pytest.mark.parametrize("client, number", [("psycopg3", 4), ("pipeline", 2), ("asyncpg", 2)])
def test_contract_holds_in_the_extended_protocol(play, client, number):
    play(number, client, "extended")


def test_crash_is_only_a_wait_where_reads_may_run_twice(play):
    play(7, retry="reads")


def test_increments_are_there_exactly_once_under_25_terminations_a_second(server, start_pooler):
    pooler = start_pooler(server, pool_size=8, pool_mode="transaction")
    wish = exactly_once.Wish(seconds=3.0, clients=16)
    tally, terminated, _ = exactly_once.run(server, Proxy(pooler), wish)
    findings = exactly_once.Findings(server, tally)
    assert not findings.complaints
    assert not tally.errors, tally.examples
    assert findings.acked > terminated > 5


# ---- the counting itself: a loss that goes unseen would let every row pass

def test_losses_without_a_proxy_are_all_counted(server):
    stage.make_tables(server, 4)
    with Crowd(stage.login(server.port), Work("select", 0.005), 4) as crowd:
        crowd.start()
        for _ in range(3):
            assert crowd.all_served(20)
            assert len(stage.terminate_all(server)) == 4
        assert crowd.all_served(20)
        tally = crowd.stop()
    assert sum(tally.lost.values()) == 12
    assert not tally.hung


def test_increments_done_twice_or_not_at_all_are_found(server):
    stage.make_tables(server, 2)
    with Crowd(stage.login(server.port), Work("increment", 0.0, "psycopg3", ("simple", "extended")), 2) as crowd:
        crowd.start()
        assert crowd.all_served(20)
        tally = crowd.stop()
    assert not exactly_once.Findings(server, tally).complaints
    server.sql("INSERT INTO increments SELECT * FROM increments WHERE client = 0 AND number = 1",
               "DELETE FROM increments WHERE client = 1 AND number = 1", "UPDATE hits SET n = n + 1 WHERE id = 2")
    complaints = exactly_once.Findings(server, tally).complaints
    assert len(complaints) == 3
    assert sum("more than once" in complaint for complaint in complaints) == 1
    assert sum("acknowledged and are not there" in complaint for complaint in complaints) == 1
    assert sum("updates found" in complaint for complaint in complaints) == 1
