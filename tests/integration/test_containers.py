"""docker/ without a container engine: what its files name exists, and pgkeel takes every setting in them."""
import fnmatch
import pathlib
import re
import subprocess

import pytest

from harness.containers import DOCKER, ROOT, SECRETS, compose, image_environment, manifests, pod_containers, stages

DOCKERFILES = {"pgkeel": (DOCKER / "Dockerfile", ROOT), "app": (DOCKER / "app/Dockerfile", DOCKER / "app")}
OF_EVERY_PROGRAM = re.compile(r"lib(c|m|gcc_s|asan|ubsan|tsan|pam|crypto)\.so|ld-linux")


def pgkeel_environments():
    """What pgkeel gets from each file, by a name for it."""
    found = {"image": {}, "compose": compose()["services"]["pgkeel"]["environment"]}
    for file, thing in manifests():
        for container in pod_containers(thing):
            if container["image"] == "pgkeel":
                found[file] = {pair["name"]: pair["value"] for pair in container.get("env", [])}
    return {name: {**image_environment(), **environment} for name, environment in found.items()}


def mounted(name, tmp_path):
    """The files that a pgkeel of that name finds, in a folder of the test's; {path there: path here}."""
    here = {"/etc/pgkeel/": tmp_path, SECRETS: DOCKER / "secrets"}
    (tmp_path / "userlist.txt").touch()
    text = (ROOT / "etc/docker.ini").read_text()
    for file, thing in manifests():
        if file != name:
            continue
        if thing["kind"] == "Secret":
            for key, content in thing["stringData"].items():
                (tmp_path / key).write_text(content)
            here.update({f"{SECRETS}{thing['metadata']['name']}/": tmp_path})
        if thing["kind"] == "ConfigMap":
            text = thing["data"]["pgkeel.ini"]
    places = sorted(here.items(), key=lambda pair: -len(pair[0]))
    for there, ours in places:
        text = text.replace(there, f"{ours}/")
    (tmp_path / "pgkeel.ini").write_text(text)
    return places


@pytest.mark.parametrize("name", ["image", "compose", "sidecar.yaml", "deployment.yaml"])
def test_environment_is_valid(start_pooler, tmp_path, name):
    pool = start_pooler(start=False)
    listed = subprocess.run([pool.binary, "--print-settings"], env={}, capture_output=True, text=True, check=True)
    keys = {line.split()[0].upper() for line in listed.stdout.splitlines()}
    environment = pgkeel_environments()[name]
    for variable in environment:
        key = variable.removeprefix("PGKEEL_")
        assert {key, key.removesuffix("_FILE")} & (keys | {"CONFIG", "DATABASE_URL"}), variable
    places = mounted(name, tmp_path)
    for variable, value in environment.items():
        for there, ours in places:
            value = value.replace(there, f"{ours}/")
        environment[variable] = value
    pool.env.update(environment)
    pool.args = ["--check"]
    status, said = pool.run()
    if name == "image":  # users come with what is mounted or set
        said, count = re.subn(r"\S+: warning: auth_file: no user is known, so nobody can log in\n", "", said)
        assert count == 1
    assert (status, said) == (0, "settings are valid\n")


def is_sent(path):
    """Whether .dockerignore, which begins with *, lets the builder see it."""
    first, *others = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    return any(fnmatch.fnmatch(path.split("/")[0], other.removeprefix("!")) for other in others)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_copies_what_exists(name):
    path, context = DOCKERFILES[name]
    copied = [rest.split() for stage in stages(path) for word, rest in stage if word == "COPY"]
    sources = [source for words in copied if not words[0].startswith("--from") for source in words[:-1]]
    assert sources and all((context / source).exists() for source in sources)
    assert context != ROOT or all(map(is_sent, sources))


def test_image_has_the_libraries_that_the_program_needs(start_pooler):
    binary = start_pooler(start=False).binary
    said = subprocess.run(["objdump", "-p", binary], capture_output=True, text=True, check=True).stdout
    installed = " ".join(rest for word, rest in stages(DOCKER / "Dockerfile")[-1] if word == "RUN").split()
    for library in re.findall(r"NEEDED +(\S+)", said):
        if not OF_EVERY_PROGRAM.match(library):
            stem, version = library.replace("_", "-").split(".so.")
            # The rule of Debian's policy manual, 8.1.
            assert f"{stem}{'-' if stem[-1].isdigit() else ''}{version}" in installed, library


def test_image_is_neither_root_nor_a_compiler_and_checks_its_health():
    *_, build, final = stages(DOCKER / "Dockerfile")
    words = dict(final)
    assert words["USER"] == "6432:6432" and words["STOPSIGNAL"] == "SIGTERM"
    assert '["pgkeel", "healthcheck"]' in words["HEALTHCHECK"]
    assert "gcc" not in words["RUN"] and "scripts/deps" in "".join(rest for _, rest in build)


def test_compose_and_manifests_refer_to_what_they_have():
    project = compose()
    for name, service in project["services"].items():
        for other in service.get("depends_on", {}):
            assert other in project["services"], name
        for secret in service.get("secrets", []):
            assert (DOCKER / project["secrets"][secret]["file"]).is_file()
        for value in service.get("environment", {}).values():
            if value.startswith(SECRETS):
                assert pathlib.PurePath(value).name in service["secrets"], name
    kinds = [(file, thing["kind"]) for file, thing in manifests()]
    assert ("sidecar.yaml", "Deployment") in kinds and ("deployment.yaml", "Service") in kinds
    for _, thing in manifests():
        for container in pod_containers(thing):
            ports = {port["name"] for port in container.get("ports", [])}
            probes = [probe for name, probe in container.items() if name.endswith("Probe")]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports
            volumes = {volume["name"] for volume in thing["spec"]["template"]["spec"]["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
