"""Clients in processes of their own, so that the generator's interpreter lock is not taken for a stall of the proxy."""
import collections
import json
import os
import pathlib
import re
import select
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
LOGIN_PATIENCE = 60.0
POLL = 0.02


class Work:
    """What the clients do: kind (select, update, transaction, increment), pause between requests, driver, protocols."""

    def __init__(self, kind, pace=0.0, driver="psycopg2", protocols=("simple",)):
        self.kind, self.pace, self.driver, self.protocols = kind, pace, driver, list(protocols)


class Tally:
    """The counts of all clients together."""

    def __init__(self):
        self.ok = self.refused = self.wrong = self.interrupted = self.hung = 0
        self.bad_rollbacks = self.bad_begins = 0
        self.stall = self.dark = 0.0
        self.errors, self.lost = collections.Counter(), collections.Counter()
        self.most_errors = 0  # of one client
        self.acked, self.unknown = collections.Counter(), collections.Counter()
        self.examples = {}
        self.clients = []  # as they came, for who must look closer

    def add(self, counts):
        for name in ("ok", "refused", "wrong", "interrupted", "hung", "bad_rollbacks", "bad_begins"):
            setattr(self, name, getattr(self, name) + counts[name])
        for name in ("errors", "lost", "acked", "unknown"):
            getattr(self, name).update(counts[name])
        self.stall, self.dark = max(self.stall, counts["stall"]), max(self.dark, counts["dark"])
        self.most_errors = max(self.most_errors, sum(counts["errors"].values()))
        self.examples = {**counts["examples"], **self.examples}
        self.clients.append(counts)

    def figures(self):
        """Everything but the clients one by one."""
        figures = {name: value for name, value in self.__dict__.items() if name != "clients"}
        return {**figures, "error_count": sum(self.errors.values()), "lost_count": sum(self.lost.values())}


class Process:
    """One process of load.py."""

    def __init__(self, spec):
        self.rest = b""
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "load.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONASYNCIODEBUG": ""})
        self.tell(json.dumps(spec))

    def tell(self, command):
        self.process.stdin.write(command.encode() + b"\n")

    def hear(self, timeout):
        """The next answer, None if there is none in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.rest:
            if not select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            assert data, f"a process of clients ended with status {self.process.wait()}"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        answer = json.loads(line)
        assert answer["what"] != "trouble", answer["text"]
        return answer

    def wait_for(self, what, timeout):
        """The answer of that kind; earlier ones, to commands that nobody waits for any more, are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            answer = self.hear(max(0.0, deadline - time.monotonic()))
            if answer is None or answer["what"] == what:
                return answer

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Crowd:
    """`count` clients that log in with `login` and do `work`. With `with`, so that no process is left behind."""

    def __init__(self, login, work, count):
        processes = min(count, 4 if count <= 64 else 16)
        self.count = count
        self.processes = []
        spec = {"login": login, "work": work.kind, "pace": work.pace, "driver": work.driver,
                "protocols": work.protocols}
        for first in range(processes):
            # Dealt out in blocks: which protocol a client speaks depends on its number.
            numbers = list(range(count * first // processes, count * (first + 1) // processes))
            self.processes.append(Process({**spec, "numbers": numbers}))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()

    def wait_for(self, what, timeout):
        deadline = time.monotonic() + timeout
        answers = [process.wait_for(what, max(0.0, deadline - time.monotonic())) for process in self.processes]
        return answers if all(answers) else None

    def tell(self, command):
        for process in self.processes:
            process.tell(command)

    def start(self):
        """All log in, then all begin."""
        assert self.wait_for("ready", LOGIN_PATIENCE), "the clients cannot log in"
        self.tell("resume")

    def resume(self):
        self.tell("resume")

    def pause(self, timeout):
        """Whether all clients are between two requests; they stay there until resume()."""
        self.tell("pause")
        return self.wait_for("pause", timeout) is not None

    def all_served(self, timeout):
        """Whether every client had a good answer to a request that it began after this call."""
        self.tell("mark")
        return self.wait_for("mark", timeout) is not None

    def stop(self):
        self.tell("stop")
        answers = self.wait_for("stop", 30)
        assert answers, "the clients do not stop"
        tally = Tally()
        for answer in answers:
            for counts in answer["counts"]:
                tally.add(counts)
        return tally


# ---- pgbench

SCRIPTS = {
    "select": "SELECT 1;\n",
    "update": "UPDATE hits SET n = n + 1 WHERE id = 0;\n",
    "transaction": "\\set row :client_id + 1\nBEGIN;\nUPDATE hits SET n = n + 1 WHERE id = :row;\n"
                   "SELECT n FROM hits WHERE id = :row;\nCOMMIT;\n",
}


class Bench:
    """pgbench as the clients. It gives up a client at its first error (but for 40001, which it counts as `failed`),
    prints no SQLSTATE (`ERROR` here), never connects again, and runs for `seconds`, whatever happens."""

    def __init__(self, login, work, count, seconds):
        self.work, self.count, self.patience = work, count, seconds
        self.dir = tempfile.TemporaryDirectory(prefix="pgk-bench-", dir="/tmp")
        script = pathlib.Path(self.dir.name) / "script.sql"
        pause = f"\\sleep {round(work.pace * 1000)} ms\n" if work.pace else ""
        script.write_text(pause + SCRIPTS[work.kind], encoding="ascii")
        self.commands = script.read_text(encoding="ascii").splitlines()
        self.command = [
            "pgbench", "-n", "-M", work.protocols[0], "-c", str(count), "-j", str(min(count, 2)), "-f", str(script),
            "-T", str(round(seconds)), "-P", "1", "-l", "--log-prefix", f"{self.dir.name}/log", "-h", login["host"],
            "-p", str(login["port"]), "-U", login["user"], login["dbname"]]
        self.environment = {**os.environ, "PGPASSWORD": login["password"], "PGSSLMODE": "disable"}
        self.output = open(pathlib.Path(self.dir.name) / "output", "w+b")
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.output.close()
        self.dir.cleanup()

    def logs(self):
        return list(pathlib.Path(self.dir.name).glob("log.*"))

    def good_seconds(self):
        """Of how many seconds it reported that requests were answered in them."""
        text = (pathlib.Path(self.dir.name) / "output").read_text(encoding="utf-8", errors="replace")
        return sum(float(tps) > 0 for tps in re.findall(r"(?m)^progress: [\d.]+ s, ([\d.]+) tps", text))

    def start(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output, env=self.environment)
        assert self.all_served(LOGIN_PATIENCE), "pgbench does not begin"

    def resume(self):
        pass

    def pause(self, _timeout):
        """It cannot be held up; with its long pause between two requests it mostly does nothing anyway."""
        return True

    def all_served(self, timeout):
        """Whether a whole second of good work followed (the report of the current one says little), or it has ended."""
        enough, deadline = self.good_seconds() + 2, time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.good_seconds() >= enough:
                return True
            time.sleep(POLL)
        return self.process.poll() is not None

    def stop(self):
        tally = Tally()
        try:
            self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            tally.hung = 1
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        self.read_output(tally, text)
        for log in self.logs():
            for line in log.read_text(encoding="ascii").splitlines():
                fields = line.split()
                # A transaction that failed has the word `failed` there.
                if len(fields) > 2 and fields[2].isdigit():
                    tally.stall = max(tally.stall, int(fields[2]) / 1e6 - self.work.pace)
        tally.dark = tally.stall
        return tally

    def read_output(self, tally, text):
        def number(pattern):
            found = re.search(pattern, text)
            return int(found.group(1)) if found else 0

        tally.ok = number(r"number of transactions actually processed: (\d+)")
        failed = number(r"number of failed transactions: (\d+)")
        if failed:
            tally.errors["40001"] = tally.interrupted = failed
        for line in re.findall(r"(?m)^pgbench: error: (client \d+ .*aborted.*)$", text):
            command = re.search(r"in command (\d+)", line)
            is_commit = bool(command) and self.commands[int(command.group(1))].startswith("COMMIT")
            code = ("ERROR" if "ERROR:" in line else "EOF") + ("@commit" if is_commit else "")
            (tally.errors if "ERROR:" in line else tally.lost)[code] += 1
            tally.examples.setdefault(code, line)
            tally.unknown["update"] += is_commit or self.work.kind == "update"
            tally.interrupted += self.work.kind == "transaction"
            tally.most_errors = max(tally.most_errors, "ERROR:" in line)
        if self.work.kind != "select":
            tally.acked["update"] = tally.ok
