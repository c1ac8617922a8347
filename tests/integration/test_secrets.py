"""No secret of a configuration shows anywhere: consoles, logs, printed settings, errors, core files, /proc."""
import contextlib
import hashlib
import os
import pathlib
import pwd
import re
import resource
import signal
import subprocess

import psycopg2
import pytest

from harness.certificates import Authority, openssl

# Where a secret can be, and it.
SECRETS = {place: f"hush-{place}-4711" for place in (
    "keywords", "url", "parameter", "file", "environment", "list", "md5", "verifier", "query", "admin", "clear", "key", "wrong", "broken")}
SHOWS = ("CLIENTS CONFIG DATABASES ENDPOINTS HELP LISTS MEM POOLS PREPARED SERVERS STATE STATS STATS_AVERAGES STATS_TOTALS USERS VERSION"
         " WAITING DNS_HOSTS DNS_ZONES FDS SOCKETS ACTIVE_SOCKETS").split()


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """A certificate of ours and its key, which needs a password (libpq's sslpassword)."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    certificate, private = authority.issue("app", kind=("ec", "-pkeyopt", "ec_paramgen_curve:P-256"))
    locked = private.with_suffix(".locked")
    openssl("pkcs8", "-topk8", "-in", private, "-passout", f"pass:{SECRETS['key']}", "-out", locked)
    locked.chmod(0o600)
    return certificate, locked


@pytest.fixture
def server(fresh_postgres):
    """Each role's password is the secret of its name; the database is the same for all."""
    server = fresh_postgres()
    server.sql(*(f"CREATE ROLE {place} LOGIN PASSWORD '{secret}'" for place, secret in SECRETS.items()), "ALTER ROLE query SUPERUSER")
    return server


@pytest.fixture
def everywhere(server, start_pooler, key, tmp_path):
    """A pgkeel with a secret in every place that can hold one, at its most talkative."""
    verifiers = dict(server.sql("SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('verifier', 'query')"))
    md5 = "md5" + hashlib.md5(f"{SECRETS['md5']}md5".encode()).hexdigest()
    token, rules = tmp_path / "token", tmp_path / "hba"
    token.write_text(f"{SECRETS['file']}\n")
    rules.write_text("host all clear all password\nhost all md5 all md5\nhost all all all scram-sha-256\nlocal all all trust\n")
    place = f"host=127.0.0.1 port={server.port} dbname=app"
    link = f"127.0.0.1:{server.port}/app"
    databases = {
        "keywords": f"{place} user=keywords password='{SECRETS['keywords']}'",
        "url": f"postgresql://url:{SECRETS['url']}@{link}",
        "parameter": f"postgresql://{link}?user=parameter&password={SECRETS['parameter']}",
        "file": f"{place} user=file password_file={token}",
        "key": f"{place} user=key password={SECRETS['key']} sslmode=disable sslcert={key[0]} sslkey={key[1]} sslpassword={SECRETS['key']}",
        "wrong": f"{place} user=wrong password={SECRETS['wrong']}x",
        "down": f"host=127.0.0.1 port=1 dbname=app user=app password={SECRETS['wrong']}y",
        "none": f"{place} user=nobody password={SECRETS['wrong']}z",
        "app": place,
    }
    users = {name: SECRETS[name] for name in ("list", "admin", "clear", "keywords")}
    users |= {"md5": md5, "verifier": verifiers["verifier"], "query": SECRETS["query"]}
    pooler = start_pooler(
        databases=databases, users=users, args=["-vv"],
        env={"DATABASE_URL_ENVIRONMENT": f"postgresql://environment:{SECRETS['environment']}@{link}"},
        listen_addr="127.0.0.1", listen_port="@port@", unix_socket_dir="@dir@", auth_type="hba", auth_hba_file=rules, auth_file="@userlist@",
        auth_user="query", admin_users="admin", stats_users="list", verbose=10, server_down_timeout=0, pool_size=2)
    return pooler, [*SECRETS.values(), md5, *verifiers.values(), *(v.split("$")[-1].split(":")[0] for v in verifiers.values())]


def say(pooler, user, database, password, sql="SELECT 1"):
    """What a client sees, whatever it is."""
    try:
        with contextlib.closing(psycopg2.connect(host="127.0.0.1", port=pooler.port, user=user, dbname=database, password=password,
                                                 connect_timeout=10, sslmode="disable")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return repr(cursor.fetchall()) if cursor.description else "done"
    except psycopg2.Error as error:
        return f"{error}{error.diag.message_detail}{error.diag.message_hint}"


def run_apart(pooler, *args):
    """What another run of the program with the same settings says."""
    return subprocess.run([pooler.binary, *args, str(pooler.ini_path)], env=pooler.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, check=False).stdout


def test_no_secret_is_to_be_seen(everywhere, key):
    pooler, secrets = everywhere
    seen = []
    # Everyone uses what it has, so that each secret has been where it goes.
    for database in ("keywords", "url", "parameter", "file", "key", "environment"):
        assert say(pooler, "list", database, SECRETS["list"]) == "[(1,)]", database
    for user in ("list", "md5", "clear", "parameter", "environment"):
        assert say(pooler, user, "url", SECRETS[user]) == "[(1,)]", user
    for database in ("wrong", "down", "none", "nowhere"):
        seen.append(say(pooler, "list", database, SECRETS["list"]))
        assert seen[-1] != "[(1,)]", database
    for user in ("list", "md5", "clear", "verifier", "query", "parameter", "stranger"):
        seen.append(say(pooler, user, "url", "x"))
    for word in SHOWS:
        seen.append(say(pooler, "admin", "pgkeel", SECRETS["admin"], f"SHOW {word}"))
    assert any("password" in text for text in seen) and "url" in "".join(seen)
    # Mistakes in lines with secrets, at the start and on RELOAD.
    good = pooler.ini_path.read_text()
    broken = "\n".join(f"bad{i} = {line}" for i, line in enumerate((
        f"host=x password={SECRETS['broken']} {SECRETS['broken']}", f"host=x password='{SECRETS['broken']}", f"{SECRETS['broken']}",
        f"postgresql://u:{SECRETS['broken']}@h:x/d", f"postgresql://u:{SECRETS['broken']}@[::1/d", f"postgresql://h/d?password={SECRETS['broken']}%zz",
        f"pasword={SECRETS['broken']}", f"port={SECRETS['broken']}", f"pool_size={SECRETS['broken']}")))
    pooler.set_ini(good.replace("[databases]", f"[databases]\n{broken}"))
    seen.append(say(pooler, "admin", "pgkeel", SECRETS["admin"], "RELOAD"))
    assert "bad0" in seen[-1]
    seen.append(run_apart(pooler, "--check"))
    pooler.set_ini(good)
    seen.append(say(pooler, "admin", "pgkeel", SECRETS["admin"], "RELOAD"))
    for how in ("", "=table", "=ini", "=markdown"):
        seen.append(run_apart(pooler, f"--print-settings{how}"))
    assert sum("password=***" in text for text in seen) == 3
    seen.append(pooler.log())
    assert "login ok" in pooler.log()
    private = [line for line in key[1].read_text().splitlines() if "-----" not in line]
    for text in seen:
        for secret in (*secrets, *private):
            assert secret not in text, text[max(0, text.index(secret) - 200):][:400]


# ---- core files and /proc

@contextlib.contextmanager
def limit(what, value):
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (hard if value is None else value, hard))
    yield
    resource.setrlimit(what, (soft, hard))


@pytest.mark.parametrize("core_dump", [0, 1])
def test_crash_leaves_secrets_in_a_core_file_only_where_wanted(postgres, start_pooler, core_dump):
    if re.search(r"[|/]", pathlib.Path("/proc/sys/kernel/core_pattern").read_text()):
        pytest.skip("core files go elsewhere here")
    secret = b"hush-in-memory-4711"
    pooler = start_pooler(postgres, users={"app": "app-secret", "other": secret.decode()}, core_dump=core_dump, start=False)
    if pooler.keeps_freed_memory():
        pytest.skip("sanitizers write no core files")
    with limit(resource.RLIMIT_CORE, None):
        pooler.start()
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"
        pooler.is_stopped_by_test = True
        pooler.process.send_signal(signal.SIGABRT)
        assert pooler.process.wait(20) == -signal.SIGABRT
    cores = list(pooler.dir.glob("core*"))
    assert len(cores) == core_dump
    for core in cores:
        content = core.read_bytes()
        assert secret in content and b"app-secret" in content


def as_user(name, *command):
    if os.geteuid() != 0:
        return subprocess.run(command, capture_output=True, check=False)
    user = pwd.getpwnam(name)
    return subprocess.run(["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *command], capture_output=True, check=False)


@pytest.mark.parametrize("core_dump", [0, 1])
def test_processes_of_the_same_user_do_not_look_in(postgres, start_pooler, core_dump):
    """Its environment has the password of DATABASE_URL; its memory has all."""
    name = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    pooler = start_pooler(env={"DATABASE_URL": postgres.url(), "PGKEEL_CORE_DUMP": core_dump, "PGKEEL_USER": name}, start=False)
    pooler.dir.chmod(0o777)
    pooler.start()
    pooler.wait_for_log("ready")
    read = as_user(name, "cat", f"/proc/{pooler.pid}/environ")
    assert (b"app-secret" in read.stdout) == bool(core_dump)
    for file in ("maps", "mem"):
        opened = as_user(name, "head", "-c0", f"/proc/{pooler.pid}/{file}")
        if not core_dump:
            assert b"Permission denied" in opened.stderr
    assert pooler.connect().closed == 0
