"""The faults, one row each: what the clients do meanwhile, what is done to PostgreSQL, what pgkeel must show."""
import time

from crowd import Bench, Crowd, Work
from stage import make_tables, pause, terminate_all

MARGIN = 0.5  # seconds that a stall may be longer than the server was away


class Times:
    """How long things last. `patience`: how long the clients may take to be served again; `margin`: how much longer
    than the server was away a stall may be."""

    def __init__(self, rounds=5, period=1.0, stopped=5.0, patience=30.0, margin=MARGIN):
        self.rounds, self.period, self.stopped, self.patience = rounds, period, stopped, patience
        self.margin = margin
        self.warm = min(0.5, period)
        self.killed = min(1.0, stopped)


class Scene:
    def __init__(self, server, crowd, times):
        self.server, self.crowd, self.times = server, crowd, times

    def settle(self):
        """Whether everybody is served again."""
        return self.crowd.all_served(self.times.patience)


class Facts:
    """What was done to the server: backends terminated in each round, seconds without it (from the signal until a
    direct connection worked again), seconds it was meant to be away, and whether all clients were served afterwards."""

    def __init__(self, terminated=(), downtime=None, meant=None, is_settled=True):
        self.terminated, self.downtime, self.meant = list(terminated), downtime, meant
        self.is_settled = is_settled
        self.found = None  # increments in the table


# ---- faults

def terminate_idle(scene):
    terminated, is_settled = [], True
    for _ in range(scene.times.rounds):
        assert scene.crowd.pause(scene.times.patience), "the clients are not idle"
        terminated.append(len(terminate_all(scene.server)))
        scene.crowd.resume()
        is_settled = scene.settle()
        if not is_settled:
            break
    return Facts(terminated, is_settled=is_settled)


def terminate_busy(scene):
    terminated, is_settled = [], True
    for _ in range(scene.times.rounds):
        begun = time.monotonic()
        terminated.append(len(terminate_all(scene.server)))
        is_settled = scene.settle()
        if not is_settled:
            break
        pause(max(0.0, begun + scene.times.period - time.monotonic()))
    return Facts(terminated, is_settled=is_settled)


def outage(scene, away, mode):
    """`away` seconds between the signal and the start of the server; `mode` None is kill -9."""
    begun = time.monotonic()
    if mode:
        scene.server.stop(mode)
    else:
        scene.server.kill9()
    pause(max(0.0, begun + away - time.monotonic()))
    scene.server.start()
    downtime = time.monotonic() - begun
    return Facts(downtime=downtime, meant=away, is_settled=scene.settle())


def restart_fast(scene):
    return outage(scene, 0, "fast")


def restart_immediate(scene):
    return outage(scene, 0, "immediate")


def kill9(scene):
    return outage(scene, scene.times.killed, None)


def stop_and_start(scene):
    return outage(scene, scene.times.stopped, "fast")


# ---- what pgkeel must show

class Judge:
    """Collects complaints; each check is a sentence of the contract."""

    def __init__(self, row, tally, facts, margin):
        self.row, self.tally, self.facts, self.margin, self.complaints = row, tally, facts, margin, []

    def must(self, condition, text):
        if not condition:
            self.complaints.append(text)

    def common(self):
        tally, facts = self.tally, self.facts
        self.must(tally.ok, "no request succeeded")
        self.must(not tally.lost, f"{sum(tally.lost.values())} lost clients")
        self.must(not tally.refused, f"{tally.refused} refused logins")
        self.must(not tally.wrong, f"{tally.wrong} wrong answers")
        self.must(not tally.hung, f"{tally.hung} clients without an answer at the end")
        self.must(facts.is_settled, "not all clients were served again")
        self.must(all(facts.terminated), f"a round terminated nothing: {facts.terminated}")

    def nameless(self, where):
        """pgbench does not tell the SQLSTATE of an ERROR."""
        return {f"ERROR{where}"} if not self.tally.clients else set()

    def no_errors(self):
        self.must(not tally_errors(self.tally), f"{tally_errors(self.tally)} errors")

    def one_unknown(self):
        """At most one ERROR 08007 a client."""
        self.must(set(self.tally.errors) <= {"08007", *self.nameless("")}, f"errors other than 08007: {dict(self.tally.errors)}")
        self.must(self.tally.most_errors <= 1, f"one client had {self.tally.most_errors} errors")

    def stall_below(self, bound):
        self.must(self.tally.stall < bound, f"stall of {self.tally.stall:.2f} s, must be below {bound:.2f} s")

    def exactly_once(self):
        """Every acknowledged increment is there, and no other but those whose client was told 08007."""
        acked, unknown, found = self.tally.acked["update"], self.tally.unknown["update"], self.facts.found
        self.must(acked, "no increment was acknowledged")
        self.must(acked <= found <= acked + unknown,
                  f"{found} increments found, {acked} acknowledged, {unknown} unknown")

    def transactions(self):
        """Each interrupted transaction one ERROR 40001 (08007 at COMMIT), and ROLLBACK leads out of it."""
        tally = self.tally
        self.must(set(tally.errors) <= {"40001", "40001@commit", "08007@commit", *self.nameless("@commit")},
                  f"errors other than 40001, or 08007 at COMMIT: {dict(tally.errors)}")
        self.must(tally_errors(tally) == tally.interrupted,
                  f"{tally_errors(tally)} errors in {tally.interrupted} interrupted transactions")
        self.must(tally.interrupted, "no transaction was interrupted")
        self.must(not tally.bad_rollbacks, f"{tally.bad_rollbacks} ROLLBACKs failed")
        self.must(not tally.bad_begins, f"{tally.bad_begins} statements after ROLLBACK failed")


def tally_errors(tally):
    return sum(tally.errors.values())


def judge_unharmed(judge, _retry):
    judge.no_errors()


def judge_update(judge, _retry):
    judge.no_errors()
    judge.exactly_once()


def judge_transactions(judge, _retry):
    judge.transactions()
    judge.exactly_once()


def judge_restart(judge, _retry):
    judge.no_errors()
    judge.stall_below(judge.facts.downtime + judge.margin)


def judge_crash(judge, retry):
    if retry == "reads":
        judge.no_errors()
    else:
        judge.one_unknown()
    judge.stall_below(judge.facts.downtime + judge.margin)


def judge_stop(judge, _retry):
    judge.no_errors()
    judge.stall_below(judge.facts.meant + 2 * judge.margin)


# ---- the table

class Row:
    def __init__(self, number, title, fault, judge, work="select", pace=0.0):
        self.number, self.title, self.fault, self.judge, self.work, self.pace = (
            number, title, fault, judge, work, pace)

    def seconds(self, times):
        """How long pgbench, which must know before, has to run."""
        if self.fault in (terminate_idle, terminate_busy):
            return times.warm + times.rounds * max(times.period, 3) + 3
        return times.warm + {kill9: times.killed, stop_and_start: times.stopped}.get(self.fault, 0) + 6

    def run(self, server, proxy, options):
        """(tally, facts, complaints) of this fault, with that proxy."""
        times = options.times
        make_tables(server, options.clients)
        kind = Work(self.work, self.pace, options.client, (options.protocol,))
        if options.client == "pgbench":
            kind.pace = 0.5 if self.fault is terminate_idle else self.pace
            crowd = Bench(proxy.login, kind, options.clients, self.seconds(times))
        else:
            crowd = Crowd(proxy.login, kind, options.clients)
        with crowd:
            crowd.start()
            assert crowd.all_served(times.patience), "the clients are not served before the fault"
            pause(times.warm)
            facts = self.fault(Scene(server, crowd, times))
            tally = crowd.stop()
        facts.found = server.sql("SELECT sum(n)::bigint FROM hits")[0][0]
        judge = Judge(self, tally, facts, times.margin)
        judge.common()
        self.judge(judge, options.retry)
        return tally, facts, judge.complaints


PACE = 0.02

ROWS = (
    Row(1, "backends terminated, clients idle", terminate_idle, judge_unharmed),
    Row(2, "backends terminated each second, full load", terminate_busy, judge_unharmed),
    Row(3, "the same, clients paced at 20 ms", terminate_busy, judge_unharmed, pace=PACE),
    Row(4, "the same, update of one row", terminate_busy, judge_update, "update", PACE),
    Row(5, "the same, explicit transactions", terminate_busy, judge_transactions, "transaction"),
    Row(6, "restart -m fast", restart_fast, judge_restart),
    Row(7, "restart -m immediate", restart_immediate, judge_crash),
    Row(8, "kill -9 of all its processes, 1 s down", kill9, judge_crash),
    Row(9, "stopped for 5 s, then started", stop_and_start, judge_stop),
)
