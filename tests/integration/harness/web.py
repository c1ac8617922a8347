"""The HTTP listener of a pgkeel: asking it, and reading what Prometheus would read."""
import collections
import http.client
import json
import re
import time

Answer = collections.namedtuple("Answer", "status headers body")

SAMPLE = re.compile(r'^(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Web:
    def __init__(self, port, token=None):
        self.port = port
        self.token = token

    def ask(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read().decode("utf-8")
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
        finally:
            connection.close()

    def status(self, since=0):
        answer = self.ask(f"/status.json?since={since}")
        assert answer.status == 200, answer
        return json.loads(answer.body)

    def samples(self):
        """{(name, ((label, value), ...)): number} of /metrics."""
        answer = self.ask("/metrics")
        assert answer.status == 200, answer
        found = {}
        for line in answer.body.splitlines():
            if line.startswith("#"):
                continue
            name, labels, value = SAMPLE.match(line).groups()
            key = (name, tuple((key, value) for key, value in LABEL.findall(labels or "")))
            assert key not in found, f"twice: {line}"
            found[key] = float(value)
        return found

    def sample(self, name, **labels):
        """The sum of all samples of that name that have these labels."""
        return sum(value for (found, pairs), value in self.samples().items()
                   if found == f"pgkeel_{name}" and labels.items() <= dict(pairs).items())

    def wait_for(self, condition, timeout=10.0):
        """Waits until condition(status) of a fresh status is true, and returns that status."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            if condition(status):
                return status
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
