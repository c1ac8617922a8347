"""How pgkeel proves itself to PostgreSQL: password_file, password_command, the keys of a SCRAM login."""
import base64
import concurrent.futures
import hashlib
import hmac
import os
import pathlib
import signal
import struct
import sys
import time

import pytest

from harness import ServerError, password_of, wait_until
from harness import wire as w
from harness.postgres import is_alive
from test_cves import AUTH_SASL, FakeServer, read_packet


class Command:
    """A password_command that notes each run, then does what `body` says."""

    def __init__(self, directory, body='cat "$DIR/token"'):
        self.dir = directory
        self.runs_path = directory / "runs"
        self.script = directory / "command"
        self.runs_path.touch()
        self.set_body(body)

    def set_body(self, body):
        new = self.script.with_suffix(".new")
        new.write_text(f'DIR={self.dir}\necho "$PGKEEL_DATABASE $PGUSER $PGHOST $PGPORT" >> "$DIR/runs"\n{body}\n')
        new.rename(self.script)

    def set_token(self, token):
        (self.dir / "token").write_text(token + "\n")

    def runs(self):
        return self.runs_path.read_text().splitlines()

    def __str__(self):
        return f"password_command='exec sh {self.script}'"


@pytest.fixture
def command(tmp_path):
    return Command(tmp_path)


def entry_of(server, rest, user="cloud"):
    return f"host=127.0.0.1 port={server.port} dbname=app user={user} {rest}"


@pytest.fixture
def cloud(postgres):
    """A role of its own on the shared server."""
    postgres.sql("DROP ROLE IF EXISTS cloud", "CREATE ROLE cloud LOGIN PASSWORD 'first'")
    yield postgres
    postgres.terminate_backends("usename = 'cloud'")


def outcome(pooler, user="app", **kw):
    try:
        with pooler.wire(user, **kw) as wire:
            return wire.value("SELECT 1")
    except ServerError as error:
        return error.sqlstate


# ---- password_command

@pytest.mark.parametrize("token", ["t" * 20000, "with space and 'quotes' \\ $x \"y\"", "ünï\r"], ids=["long", "special", "utf8"])
def test_command_gives_the_password(cloud, start_pooler, command, token):
    quoted = token.replace("'", "''")
    cloud.sql(f"ALTER ROLE cloud PASSWORD '{quoted}'")
    command.set_token(token)
    pooler = start_pooler(cloud, {"one": entry_of(cloud, command), "two": entry_of(cloud, command)}, pool_size=2)
    for db in ("one", "one", "two"):
        assert outcome(pooler, db=db) == "1"
    assert command.runs() == [f"{db} cloud 127.0.0.1 {cloud.port}" for db in ("one", "two")]
    assert token[:100] not in pooler.log()


@pytest.mark.parametrize("ttl, runs", [("", 1), ("password_command_ttl=0", 3)], ids=["default", "none"])
def test_what_it_gave_is_used_until_it_is_too_old(cloud, start_pooler, command, ttl, runs):
    command.set_token("first")
    pooler = start_pooler(cloud, {"app": entry_of(cloud, f"{command} {ttl}")}, pool_size=1)
    for _ in range(3):
        assert outcome(pooler) == "1"
        cloud.terminate_backends("usename = 'cloud'")
    assert len(command.runs()) == runs


def test_refused_token_is_replaced_before_any_client_notices(cloud, start_pooler, command):
    command.set_token("first")
    pooler = start_pooler(cloud, {"app": entry_of(cloud, command)}, pool_size=2)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("BEGIN")
        cloud.sql("ALTER ROLE cloud PASSWORD 'second'")
        command.set_token("second")
        assert two.value("SELECT 1") == "1"
        assert len(command.runs()) == 2
        one.query("COMMIT")


def test_refused_new_token_is_told_and_asked_for_anew(cloud, start_pooler, command):
    command.set_token("wrong")
    pooler = start_pooler(cloud, {"app": entry_of(cloud, command)}, pool_size=1)
    assert outcome(pooler) == "28P01"
    command.set_token("first")
    wait_until(lambda: outcome(pooler) == "1", what="a login with the right one")


def test_one_run_at_a_time_serves_all_who_wait(cloud, start_pooler, command):
    command.set_body('until [ -e "$DIR/go" ]; do sleep 0.05; done; cat "$DIR/token"')
    command.set_token("first")
    pooler = start_pooler(cloud, {"app": entry_of(cloud, f"{command} password_command_ttl=0")}, pool_size=4, workers=2)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(outcome, pooler) for _ in range(4)]
        wait_until(lambda: [row["sv_login"] for row in pooler.admin("SHOW POOLS")] == ["4"], what="four dials")
        (command.dir / "go").touch()
        assert [one.result() for one in waiting] == ["1"] * 4
    assert len(command.runs()) == 1


@pytest.mark.parametrize("body, words", [
    ("echo some trouble >&2; exit 3", "password_command ended with status 3"), ("kill -9 $$", "password_command was killed by signal 9"),
    ("true", "password_command wrote nothing"), ("printf 'a\\0b'", "password_command wrote a zero byte"),
    ("yes", "password_command wrote (too much|more than 65536 bytes)"), ("no-such-program", "password_command ended with status 127")],
    ids=["status", "signal", "nothing", "zero", "endless", "missing"])
def test_failure_of_the_command_is_said_and_clients_wait_for_its_end(cloud, start_pooler, command, body, words):
    command.set_body(body)
    command.set_token("first")
    pooler = start_pooler(cloud, {"app": entry_of(cloud, command)}, pool_size=1)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(outcome, pooler)
        pooler.wait_for_log(words)
        command.set_body('cat "$DIR/token"')
        assert waiting.result() == "1"
    if "trouble" in body:
        assert pooler.log_contains("password_command said: some trouble")


def test_command_that_takes_too_long_is_killed_with_its_children(cloud, start_pooler, command):
    command.set_body('sleep 1000 & echo $! >> "$DIR/pids"; echo $$ >> "$DIR/pids"; sleep 1000')
    pooler = start_pooler(cloud, {"app": entry_of(cloud, command)}, server_connect_timeout=1, server_down_timeout=0)
    assert outcome(pooler) == "57P03"
    assert pooler.log_contains("password_command took too long and was killed")
    pids = [int(pid) for pid in (command.dir / "pids").read_text().split()]
    assert len(pids) >= 2
    wait_until(lambda: not any(is_alive(pid) for pid in pids[:2]), what="their end")
    assert not pathlib.Path(f"/proc/{pids[1]}").exists(), "it was not waited for"


def test_child_that_stays_in_the_background_holds_up_nothing(cloud, start_pooler, command):
    command.set_body('sleep 1000 & echo $! > "$DIR/pids"; cat "$DIR/token"')
    command.set_token("first")
    pooler = start_pooler(cloud, {"app": entry_of(cloud, command)})
    began = time.monotonic()
    assert outcome(pooler) == "1"
    assert time.monotonic() - began < 10
    wait_until(lambda: not is_alive(int((command.dir / "pids").read_text())), what="its end")


def test_end_of_the_process_does_not_wait_for_a_command(cloud, start_pooler, command):
    command.set_body('echo $$ > "$DIR/pids"; sleep 1000')
    pooler = start_pooler(cloud, {"app": entry_of(cloud, command)})
    with pooler.dial() as wire:
        wire.startup("app", "app")
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            thread.submit(outcome, pooler)
            wait_until(lambda: (command.dir / "pids").exists() and (command.dir / "pids").read_text(), what="a run")
            assert pooler.stop(signal.SIGQUIT) == 0
    assert not is_alive(int((command.dir / "pids").read_text()))


def test_command_gets_no_descriptor_signal_mask_or_input_of_ours(cloud, start_pooler, command):
    look = "import os, pathlib; print([fd for fd in range(3, 1000) if pathlib.Path(f'/proc/self/fd/{fd}').exists()])"
    command.set_body(f'{sys.executable} -c "{look}" > "$DIR/fds"; cp /proc/$$/status "$DIR/status"; cat > "$DIR/input"; cat "$DIR/token"')
    command.set_token("first")
    pooler = start_pooler(cloud, {"app": entry_of(cloud, command), "other": f"host=127.0.0.1 port={cloud.port} dbname=app"})
    with pooler.wire(db="other") as wire:  # there are sockets that could leak
        assert wire.value("SELECT 1") == "1"
        assert outcome(pooler) == "1"
    assert (command.dir / "fds").read_text() == "[]\n"
    assert (command.dir / "input").read_text() == ""
    status = dict(line.split(":", 1) for line in (command.dir / "status").read_text().splitlines())
    assert int(status["SigBlk"], 16) == int(status["SigIgn"], 16) & 0x7FFFFFFF == 0  # the next two belong to libc
    assert status["NoNewPrivs"].strip() == "1"  # as the documentation says


def test_what_it_says_is_logged_within_limits_and_without_the_password(cloud, start_pooler, command):
    command.set_body('seq 100000 >&2; cat "$DIR/token"')
    command.set_token("first")
    pooler = start_pooler(cloud, {"app": entry_of(cloud, command)})
    assert outcome(pooler) == "1"
    assert pooler.log_contains("password_command said: 1 2 3") and len(pooler.log()) < 10000
    cloud.sql("ALTER ROLE cloud PASSWORD 'sesame-open'")
    cloud.terminate_backends("usename = 'cloud'")
    command.set_body('set -x; echo sesame-open')
    assert outcome(pooler) == "1"
    pooler.wait_for_log("its password is in it")
    assert "sesame-open" not in pooler.log()


def test_others_are_served_while_commands_run(cloud, start_pooler, command):
    """Neither a loop nor all helpers wait for it: another database of the same server gets its connections."""
    command.set_body("sleep 1000")
    databases = {"app": entry_of(cloud, command), "other": f"host=127.0.0.1 port={cloud.port} dbname=app"}
    pooler = start_pooler(cloud, databases, workers=1, helpers=6, pool_size=20)
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        for _ in range(12):
            threads.submit(outcome, pooler)
        wait_until(lambda: [row["sv_login"] for row in pooler.admin("SHOW POOLS")] == ["12"], what="twelve dials")
        began = time.monotonic()
        assert outcome(pooler, db="other") == "1"
        assert time.monotonic() - began < 10  # than server_connect_timeout, 15 s
        assert len(command.runs()) == 1
        assert pooler.stop(signal.SIGQUIT) == 0


def test_users_are_looked_up_with_a_password_of_a_command(fresh_postgres, start_pooler, command):
    server = fresh_postgres()
    server.sql("CREATE ROLE cloud LOGIN SUPERUSER PASSWORD 'first'")
    command.set_token("first")
    pooler = start_pooler(server, {"app": entry_of(server, command)}, users=(), auth_user="cloud")
    assert outcome(pooler, "ann") == "1"
    assert outcome(pooler, "ann", password="wrong") == "28P01"
    assert len(command.runs()) == 1


@pytest.mark.parametrize("rest, words", [
    ("password_command=x password_file=y", "password_command: there is a password_file, too"),
    ("password_command=x password_command_ttl=soon", "password_command_ttl: ")], ids=["both", "ttl"])
def test_settings_that_make_no_sense(start_pooler, rest, words):
    pooler = start_pooler(databases={"app": f"host=x {rest}"}, args=["--check"], start=False)
    status, output = pooler.run()
    assert status == 1 and words in output


# ---- password_file

@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "long"])
def test_password_file_that_is_no_file_holds_up_nobody(postgres, start_pooler, tmp_path, kind):
    path = tmp_path / "token"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_text("x" * 100000)
    pooler = start_pooler(postgres, {"app": entry_of(postgres, f"password_file={path}", user="app")}, server_connect_timeout=5)
    began = time.monotonic()
    assert outcome(pooler) == "28000"
    assert time.monotonic() - began < 4
    assert pooler.log_contains("its first line is too long" if kind == "long" else "it is not a regular file")


# ---- the keys of a SCRAM login

@pytest.fixture(scope="session")
def takes_keys(tmp_path_factory):
    """Whether the libpq of pgkeel has scram_client_key (since PostgreSQL 18)."""
    from harness.pooler import Pooler
    pooler = Pooler("[databases]\napp = host=x scram_client_key=x\n[pgkeel]\n", args=["--check"])
    return "does not know it" not in pooler.run()[1]


@pytest.fixture
def needs_keys(takes_keys):
    if not takes_keys:
        pytest.skip("this libpq has no scram_client_key; that of PostgreSQL 18 has")


def verifiers_of(server, *users):
    return {user: server.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'")[0][0] for user in users}


@pytest.fixture
def keyless(fresh_postgres, start_pooler):
    """A database without a user of its own, and only verifiers of PostgreSQL's in auth_file."""
    server = fresh_postgres()

    def start(**settings):
        users = settings.pop("users", None)
        return server, start_pooler(server, users=verifiers_of(server, "app", "ann") if users is None else users, pool_size=2, **settings)
    return start


def test_login_leaves_keys_that_let_us_in(needs_keys, keyless):
    server, pooler = keyless(admin_users="app")
    assert not pooler.log_contains("SCRAM verifier")
    for user in ("ann", "app"):
        with pooler.wire(user) as wire:
            assert wire.value("SELECT current_user") == user
    assert outcome(pooler, "ann", password="wrong") == "28P01"
    server.terminate_backends()
    assert outcome(pooler, "ann") == "1"


def test_keys_of_a_changed_password_are_refused_and_forgotten(needs_keys, keyless):
    server, pooler = keyless()
    assert outcome(pooler) == "1"
    old = verifiers_of(server, "app")
    server.sql("ALTER ROLE app PASSWORD 'other'")
    server.terminate_backends()
    assert outcome(pooler) == "28P01"  # auth_file has the old one
    assert pooler.log_contains('password authentication failed for user "app"')
    pooler.set_users(verifiers_of(server, "app"))
    pooler.reload()
    pooler.wait_for_log("settings reloaded")
    assert outcome(pooler) == "28P01"
    assert outcome(pooler, password="other") == "1"
    assert old != verifiers_of(server, "app")


def test_keys_of_users_that_were_looked_up(needs_keys, fresh_postgres, start_pooler):
    server = fresh_postgres()
    server.sql("CREATE ROLE asker LOGIN SUPERUSER PASSWORD 'asker-secret'")
    pooler = start_pooler(server, users=("asker",), auth_user="asker")
    assert outcome(pooler, "ann") == "1"
    assert outcome(pooler, "bob") == "1"
    server.sql("ALTER ROLE bob PASSWORD 'other'")
    server.terminate_backends("usename = 'bob'")
    wait_until(lambda: outcome(pooler, "bob", password="other") == "1", 15, "a login with the new one")


def test_keys_are_nowhere_to_be_seen(needs_keys, keyless):
    server, pooler = keyless(admin_users="app", verbose=2)
    assert outcome(pooler) == "1"
    told = pooler.log() + "".join(str(pooler.admin(f"SHOW {what}")) for what in ("CONFIG", "DATABASES", "POOLS", "SERVERS", "USERS"))
    _, salt, keys = verifiers_of(server, "app")["app"].split("$")
    iterations, salt = salt.split(":")
    salted = hashlib.pbkdf2_hmac("sha256", password_of("app").encode(), base64.b64decode(salt), int(iterations))
    client_key = base64.b64encode(hmac.digest(salted, b"Client Key", "sha256")).decode()
    for secret in ("scram_client_key", client_key, *keys.split(":")):
        assert secret not in told


def test_keys_where_postgres_does_not_ask_for_scram(needs_keys, keyless):
    server, pooler = keyless()
    server.set_hba("host all app all password\n")
    assert outcome(pooler) == "28000"
    assert pooler.log_contains("PostgreSQL asks for a password, but only the keys of a SCRAM login are known")


def test_replication_with_keys(needs_keys, keyless):
    server, pooler = keyless()
    server.sql("ALTER ROLE app REPLICATION")
    with pooler.wire(replication="database") as wire:
        assert wire.rows("IDENTIFY_SYSTEM")


def test_older_libpq_says_at_the_start_and_at_the_login_what_is_missing(takes_keys, keyless):
    if takes_keys:
        pytest.skip("this libpq has scram_client_key")
    _, pooler = keyless()
    assert pooler.log().count("this libpq cannot log in with the keys of a verifier") == 1
    assert pooler.log_contains('gets no connection to "app"')
    with pytest.raises(ServerError) as refusal:
        pooler.wire().close()
    assert refusal.value.sqlstate == "28000"
    assert "of this user only a SCRAM verifier is known, and this libpq cannot log in with its keys" in refusal.value.fields["M"]


@pytest.mark.parametrize("rest", ["user=app password=app-secret", "password_file=/nowhere"], ids=["user", "file"])
def test_nothing_is_said_of_databases_with_a_password(postgres, start_pooler, rest):
    pooler = start_pooler(postgres, {"app": f"host=127.0.0.1 port={postgres.port} dbname=app {rest}"}, users=verifiers_of(postgres, "app"))
    assert not pooler.log_contains("SCRAM verifier")


@pytest.mark.parametrize("users, user, words", [
    ({"ann": "md5" + "0" * 32, "app": password_of("app")}, "ann", "of this user only an md5 hash is known"),
    ({"ann": ""}, "ann", "none is known for this user")], ids=["md5", "none"])
def test_missing_password_is_said(postgres, start_pooler, users, user, words):
    pooler = start_pooler(postgres, users=users, auth_type="trust")
    assert outcome(pooler, user) == "28000"
    assert pooler.log_contains(f"PostgreSQL asks for a password, but {words}")


# ---- servers that ask for too much

def hostile_server(iterations):
    def serve(sock):
        read_packet(sock, False)
        sock.sendall(AUTH_SASL)
        nonce = read_packet(sock, True).rpartition(b"r=")[2]
        sock.sendall(w.message(b"R", struct.pack("!i", 11) + b"r=" + nonce + b"abc,s=c2FsdA==,i=%d" % iterations))
        sock.recv(1000)
    return FakeServer(serve)


def test_endless_derivation_ends_in_time_for_those_who_wait_and_takes_few_helpers(postgres, start_pooler):
    """libpq cannot be called back, but the dial fails, no second one follows it, and other databases get their connections."""
    with hostile_server(2**31 - 1) as fake:
        databases = {"app": f"host=127.0.0.1 port={postgres.port} dbname=app", "fake": f"host=127.0.0.1 port={fake.port} dbname=x sslmode=disable"}
        pooler = start_pooler(postgres, databases, server_connect_timeout=1, server_down_timeout=0, helpers=4)
        began = time.monotonic()
        assert outcome(pooler, db="fake") == "57P03"
        assert time.monotonic() - began < 8
        assert pooler.log_contains("timed out, and libpq goes on")
        wait_until(lambda: outcome(pooler, db="fake") == "57P03" and pooler.log_contains("an earlier attempt still keeps libpq busy"), what="the next attempt")
        assert fake.served == 1
        assert outcome(pooler) == "1"
        assert pooler.stop(signal.SIGQUIT) == 0
