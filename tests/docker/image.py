#!/usr/bin/python3
"""The image of docker/Dockerfile, built and run: tests/docker/image.py [--cache DIR] [--app]

Makes the base image with debootstrap (once: the folder is used again), builds with `buildah --isolation=chroot`, and runs
what came out without a container engine: the image's root, read-only, in namespaces of its own, as the image's user with
the image's environment, pgkeel being process 1. PostgreSQL runs outside, everything stays on loopback. Needs root, buildah and
debootstrap; says so and ends with status 77 otherwise.
"""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "integration"))

from harness import Closed, Postgres, ServerError, Wire, free_port, wait_until  # noqa: E402
from harness.postgres import children_of  # noqa: E402

BASE = "docker.io/library/debian:bookworm-slim"
SKIPPED = 77
NEEDED = ("buildah", "debootstrap", "unshare", "nsenter", "chroot")
TOOLCHAIN = ("cc", "gcc", "c++", "clang", "make", "ld", "as", "cpp", "pkg-config")


def slim(root):
    """Takes out what Debian's -slim images leave out, and keeps it out."""
    unwanted = [f"usr/share/{name}" for name in ("doc", "groff", "info", "linda", "lintian", "locale", "man")]
    for folder in (*unwanted, "var/cache/apt/archives", "var/lib/apt/lists"):
        for path in (root / folder).glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
    (root / "etc/dpkg/dpkg.cfg.d/docker").write_text("".join(f"path-exclude /{name}/*\n" for name in unwanted))


class Builder:
    """buildah with a storage of its own."""

    def __init__(self, cache):
        self.cache = cache
        self.env = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}

    def run(self, *arguments, timeout=1800):
        ended = subprocess.run(
            ["buildah", "--root", self.cache / "storage", "--runroot", self.cache / "runroot", *arguments], env=self.env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
            check=False)
        if ended.returncode != 0:
            raise AssertionError(f"buildah {' '.join(map(str, arguments))}\n{ended.stdout[-5000:]}")
        return ended.stdout.strip()

    def make_base(self):
        """The image that the Dockerfiles begin with, without any registry."""
        root, done = self.cache / "base", self.cache / "base.done"
        if not done.exists():
            print("making the base with debootstrap", flush=True)
            fast = ["eatmydata"] if shutil.which("eatmydata") else []
            subprocess.run([*fast, "debootstrap", "--variant=minbase", "bookworm", root], check=True, timeout=1800,
                           stdout=subprocess.DEVNULL)
            slim(root)
            done.touch()
        with contextlib.suppress(AssertionError):
            self.run("inspect", "--type", "image", BASE)
            return
        container = self.run("from", "scratch")
        self.run("add", "-q", container, root, "/")
        self.run("commit", "-q", "--rm", container, BASE)

    def build(self, name, dockerfile, context):
        began = time.monotonic()
        self.run("bud", "--pull-never", "--format", "docker", "-q", "-f", dockerfile, "-t", name, context)
        print(f"built   {name} in {time.monotonic() - began:.0f} s", flush=True)

    def settings(self, name):
        return json.loads(self.run("inspect", "--type", "image", name))["Docker"]["config"]

    def size_mb(self, name):
        return float(json.loads(self.run("images", "--json", name))[0]["size"].split()[0])

    def packed_mb(self, name):
        """As a registry would send it."""
        archive = self.cache / "packed.tar"
        archive.unlink(missing_ok=True)
        self.run("push", "-q", name, f"oci-archive:{archive}")
        try:
            return archive.stat().st_size / 1e6
        finally:
            archive.unlink()


class Container:
    """One run of the image: `files` are what is mounted, by their path inside."""

    def __init__(self, root, settings, env, files=None, user=None):
        self.user = user or settings["User"]
        self.env = {**dict(pair.split("=", 1) for pair in settings["Env"]), **env}
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="pgk-", dir="/tmp"))
        self.dir.chmod(0o755)
        (self.dir / "root").mkdir()
        steps = [f"mount --bind {root} root"]
        for number, (path, content) in enumerate((files or {}).items()):
            (self.dir / str(number)).write_text(content)
            folder = pathlib.PurePath(path).parent
            # An engine makes the places for what it mounts.
            steps += [f"test -e root{path} || {{ mkdir -p root{folder} && touch root{path}; }}",
                      f"mount --bind {number} root{path}"]
        steps += ["mount -t proc proc root/proc", "mount -o remount,bind,ro root",
                  f'exec chroot --userspec={self.user} --groups= root "$@"']
        self.log = self.dir / "log"
        with open(self.log, "wb") as log:
            self.outer = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "\n".join(steps), "sh",
                 *settings["Entrypoint"]], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd=self.dir)
        wait_until(self._pid, 10, what="the container")
        self.pid = self._pid()

    def _pid(self):
        for child in children_of(self.outer.pid):
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == "pgkeel":
                    return child
        assert self.outer.poll() is None, self.said()
        return None

    def run(self, *command):
        """As `docker exec`: status and output."""
        user, group = self.user.split(":")
        ended = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-p", "-r", "-w", "-S", user, "-G", group, "--", *command],
            env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
        return ended.returncode, ended.stdout

    def is_healthy(self):
        return self.run("pgkeel", "healthcheck") == (0, "healthy\n")

    def said(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        """The status, which is pgkeel's."""
        if self.outer.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        try:
            return self.outer.wait(40)
        except subprocess.TimeoutExpired:
            self.outer.kill()
            raise


class Site:
    """What the checks share."""

    def __init__(self, builder, root, server):
        self.builder, self.root, self.server = builder, root, server
        self.settings = builder.settings("pgkeel")

    @contextlib.contextmanager
    def container(self, env=None, files=None, user=None):
        port = free_port()
        # Outside of a network of its own it must not listen everywhere.
        local = {"PGKEEL_LISTEN_ADDR": "127.0.0.1", "PGKEEL_LISTEN_PORT": str(port),
                 "PGKEEL_HTTP_LISTEN": f"127.0.0.1:{free_port()}", **(env or {})}
        one = Container(self.root, self.settings, local, files, user)
        one.port = port
        try:
            wait_until(one.is_healthy, 20, what=f"health\n{one.said()}")
            yield one
            status = one.stop()
            assert status == 0, f"status {status}\n{one.said()}"
            shutil.rmtree(one.dir, ignore_errors=True)
        except BaseException:
            print(one.said())
            with contextlib.suppress(Exception):
                one.stop()
            raise


def works(container, user="app"):
    with contextlib.suppress(OSError, Closed, ServerError):
        with Wire("127.0.0.1", container.port, 20).startup(user, "app").login() as client:
            return client.value("SELECT current_user") == user
    return False


# ---- the checks, in this order

def check_settings(site):
    """image: user by number, health check, stop signal, ports"""
    config = site.settings
    assert config["User"] == "6432:6432" and config["StopSignal"] == "SIGTERM", config
    assert config["Healthcheck"]["Test"] == ["CMD", "pgkeel", "healthcheck"], config
    assert config["Entrypoint"] == ["pgkeel"] and set(config["ExposedPorts"]) == {"6432/tcp", "9127/tcp"}, config


def check_contents(site):
    """image: no compiler, no headers, no package lists; nothing is missing that the program needs"""
    for folder in ("usr/bin", "usr/local/bin"):
        there = {path.name for path in (site.root / folder).iterdir()}
        assert not there & set(TOOLCHAIN) and not any("gcc" in name for name in there), folder
    for folder in ("usr/include", "var/lib/apt/lists", "src"):
        assert not list((site.root / folder).glob("*")) if (site.root / folder).exists() else True, folder
    said = subprocess.run(["chroot", site.root, "ldd", "/usr/bin/pgkeel"], capture_output=True, text=True, check=True)
    assert "not found" not in said.stdout and "libpq.so" in said.stdout, said.stdout


def check_secret(site):
    """run: DATABASE_URL_FILE alone, as another user than root on a root that nobody can write to"""
    with site.container({"DATABASE_URL_FILE": "/run/secrets/url"}, {"/run/secrets/url": site.server.url()}) as one:
        assert works(one)
        status = pathlib.Path(f"/proc/{one.pid}/status").read_text()
        assert "\nUid:\t6432\t6432\t6432\t6432\n" in status and "\nCapEff:\t0000000000000000\n" in status, status
        assert f"\nNSpid:\t{one.pid}\t1\n" in status, status
        for place in ("/tmp", "/run", "/etc/pgkeel", "/var/tmp"):
            code, said = one.run("touch", f"{place}/x")
            assert code != 0 and "Read-only file system" in said, said
        code, said = one.run("pgkeel", "ctl", "--csv", "SHOW DATABASES")
        assert code == 0 and "\napp," in said, said
        assert " WARN" not in one.said() and " ERROR" not in one.said(), one.said()


def check_variable(site):
    """run: DATABASE_URL alone, as any other number"""
    with site.container({"DATABASE_URL": site.server.url()}, user="1000770000:0") as one:
        assert works(one)


def check_file(site):
    """run: a PgBouncer's file and userlist, mounted"""
    ini = (f"[databases]\n* = host=127.0.0.1 port={site.server.port}\n[pgbouncer]\nauth_type = scram-sha-256\n"
           "auth_file = /etc/pgkeel/userlist.txt\nadmin_users = bob\ndefault_pool_size = 3\n")
    users = '"app" "app-secret"\n"bob" "bob-secret"\n'
    with site.container({}, {"/etc/pgkeel/pgkeel.ini": ini, "/etc/pgkeel/userlist.txt": users}) as one:
        assert works(one) and works(one, "bob")
        code, said = one.run("pgkeel", "ctl", "--csv", "SHOW CONFIG")
        assert code == 0 and "\ndefault_pool_size,3," in said, said


def check_health(site):
    """run: healthy without PostgreSQL, unhealthy when it hangs"""
    nowhere = f"postgresql://app:app-secret@127.0.0.1:{free_port()}/app"
    with site.container({"DATABASE_URL": nowhere}) as one:
        os.kill(one.pid, signal.SIGSTOP)
        try:
            assert one.run("pgkeel", "healthcheck", "--timeout=2s")[0] == 1
        finally:
            os.kill(one.pid, signal.SIGCONT)
        assert one.is_healthy()


def check_http(site):
    """run: health and metrics over HTTP"""
    with site.container({"DATABASE_URL": site.server.url()}) as one:
        base = f"http://{one.env['PGKEEL_HTTP_LISTEN']}"

        def answers(path, words=""):
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(base + path, timeout=10) as answer:
                return answer.status == 200 and words in answer.read().decode()
            return False

        assert answers("/livez") and answers("/readyz") and answers("/metrics", "pgkeel_")
        wait_until(lambda: answers("/readyz?db=app"), 10, what="the database")


CHECKS = [check_settings, check_contents, check_secret, check_variable, check_file, check_health, check_http]


def run_checks(site):
    failed = 0
    for check in CHECKS:
        began = time.monotonic()
        try:
            check(site)
            print(f"ok      {check.__doc__} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as problem:  # pylint: disable=broad-except
            failed += 1
            where = traceback.extract_tb(problem.__traceback__)[1]
            print(f"FAILED  {check.__doc__}: line {where.lineno}: {type(problem).__name__} {problem}", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", default="/var/tmp/pgkeel-docker", help="where the base and the images are kept")
    parser.add_argument("--app", action="store_true", help="build the example application, too")
    arguments = parser.parse_args()
    lacking = [name for name in NEEDED if not shutil.which(name)]
    if os.geteuid() != 0 or lacking:
        print(f"skipped: needs {'root' if os.geteuid() != 0 else ' and '.join(lacking)}")
        sys.exit(SKIPPED)
    cache = pathlib.Path(arguments.cache).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    builder = Builder(cache)
    builder.make_base()
    builder.build("pgkeel", SOURCE / "docker/Dockerfile", SOURCE)
    if arguments.app:
        builder.build("pgkeel-app", SOURCE / "docker/app/Dockerfile", SOURCE / "docker/app")
    print(f"size    pgkeel {builder.size_mb('pgkeel'):.0f} MB, of which {builder.size_mb(BASE):.0f} MB are the base;"
          f" packed {builder.packed_mb('pgkeel'):.0f} MB, the base alone {builder.packed_mb(BASE):.0f} MB", flush=True)
    container = builder.run("from", "--pull-never", "pgkeel")
    server = Postgres().start()
    try:
        failed = run_checks(Site(builder, pathlib.Path(builder.run("mount", container)), server))
    finally:
        server.remove()
        builder.run("rm", container)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
