"""The alert rules and the dashboard of etc/: right in themselves, and about metrics that there are."""
import json
import re
import shutil
import subprocess

import pytest

from harness import free_port, wait_until
from harness.pooler import ROOT
from harness.web import Web

RULES = ROOT / "etc" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "etc" / "grafana" / "pgkeel.json"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")


def promtool(*args):
    ended = subprocess.run([PROMTOOL, *map(str, args)], capture_output=True, text=True, check=False, cwd=RULES.parent)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def dashboard_queries():
    def walk(node):
        if isinstance(node, dict):
            if "expr" in node:
                yield node["expr"]
            if isinstance(node.get("query"), str):
                yield node["query"]
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from walk(child)
    return list(walk(json.loads(DASHBOARD.read_text())))


@needs_promtool
def test_rules_are_right_and_fire_when_they_should_and_only_then():
    promtool("check", "rules", RULES)
    promtool("test", "rules", RULES.parent / "rules_test.yml")


def test_every_rule_has_a_test():
    named = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", (RULES.parent / "rules_test.yml").read_text()))
    assert set(re.findall(r"alert: (\w+)", RULES.read_text())) == named


@needs_promtool
def test_queries_of_the_dashboard_are_promql(tmp_path):
    groups = ["groups:", "  - name: dashboard", "    rules:"]
    for i, query in enumerate(q for q in dashboard_queries() if "pgkeel" in q and not q.startswith("label_values")):
        query = query.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$database", ".*")
        groups.append(f"      - {{record: r{i}, expr: {json.dumps(query)}}}")
    path = tmp_path / "rules.yml"
    path.write_text("\n".join(groups) + "\n")
    assert len(groups) > 30
    promtool("check", "rules", path)


def test_rules_and_dashboard_name_only_metrics_that_there_are(postgres, start_pooler):
    port = free_port()
    pooler = start_pooler(postgres, http_listen=f"127.0.0.1:{port}")
    web = Web(port)
    with pooler.wire() as wire:
        wire.value("SELECT 1")
        wait_until(lambda: web.sample("pool_clients") == 1)
        text = web.ask("/metrics").body
    there = {}
    for name, labels in web.samples():
        there.setdefault(name, set()).update(key for key, _ in labels)
    # A counter by SQLSTATE has no sample before the first error.
    there.setdefault("pgkeel_client_errors_total", set()).add("sqlstate")
    assert "# TYPE pgkeel_client_errors_total counter" in text
    queries = dashboard_queries() + re.findall(r"expr: (.*)", RULES.read_text())
    for query in queries:
        names = set(re.findall(r"pgkeel_\w+", query))
        assert names <= there.keys(), query
        for by in re.findall(r"by \(([\w, ]+)\)", query):
            known = {"instance", "job"}.union(*(there[name] for name in names))
            assert set(by.split(", ")) <= known, query
