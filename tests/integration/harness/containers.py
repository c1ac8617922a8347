"""What docker/ says, read for the tests that stand in for a container engine."""
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOCKER = ROOT / "docker"
SECRETS = "/run/secrets/"


def can_make_namespaces():
    return os.geteuid() == 0 and subprocess.run(
        ["unshare", "--mount", "--net", "true"], capture_output=True, check=False).returncode == 0


def only_hosts(directory):
    """The beginning of a command whose program finds the names in directory/hosts and no others."""
    (directory / "hosts").write_text("")
    (directory / "nsswitch.conf").write_text("hosts: files\n")
    mounts = "".join(f"mount --bind {directory}/{name} /etc/{name} && " for name in ("hosts", "nsswitch.conf"))
    return ["unshare", "--mount", "sh", "-ec", f'{mounts}exec "$@"', "sh"]


def documents(path):
    """The documents of a YAML file."""
    yaml = pytest.importorskip("yaml")
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def compose():
    return documents(DOCKER / "compose.yaml")[0]


def manifests():
    """Every object of every file for Kubernetes: (file's name, object)."""
    return [(path.name, thing) for path in sorted((DOCKER / "kubernetes").glob("*.yaml")) for thing in documents(path)]


def pod_containers(thing):
    """The containers of a Deployment, those that begin first among them."""
    pod = thing.get("spec", {}).get("template", {}).get("spec", {})
    return pod.get("initContainers", []) + pod.get("containers", [])


def stages(path):
    """The instructions of each stage of a Dockerfile: [[(word, rest), …], …]"""
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text(encoding="utf-8")).replace("\\\n", " ")
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


def image_environment():
    """What the image itself sets."""
    return dict(pair.split("=", 1) for word, rest in stages(DOCKER / "Dockerfile")[-1] if word == "ENV"
                for pair in rest.split())
