"""Starting: what is said about wrong settings, with which status, and what the command line prints."""
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
DATABASE = "[databases]\napp = host=127.0.0.1 port=1\n"


@pytest.fixture
def run(start_pooler):
    """run(ini, *args) runs pgkeel to its end; returns status and what it said."""
    def run_it(ini=None, *args, env=None):
        return start_pooler(ini=ini, args=args, env=env, users="", start=False).run()
    return run_it


@pytest.mark.parametrize("line, words", [
    ("pool_mod = transaction", ["pgkeel.ini:4: ", "pool_mod", 'did you mean "pool_mode"']),
    ("listen_port = 70000", ["pgkeel.ini:4: ", "listen_port", "65535"]),
    ("default_pool_size = many", ["pgkeel.ini:4: ", "default_pool_size"]),
    ("auth_type = hba", ["pgkeel.ini:4: ", "auth_type"]),
    ("client_tls_sslmode = require", ["pgkeel.ini:4: ", "client_tls_sslmode"]),
    ("auth_file = /nowhere/userlist.txt", ["/nowhere/userlist.txt", "No such file"]),
])
def test_wrong_setting_is_one_clear_sentence_and_status_1(run, line, words):
    status, said = run(DATABASE + "[pgkeel]\n" + line + "\n", "--check")
    assert status == 1
    [sentence] = [text for text in said.splitlines() if line.split()[0] in text and "warning: " not in text]
    assert all(word in sentence for word in words), sentence


def test_every_mistake_is_reported_at_once(run):
    status, said = run(DATABASE + "[pgkeel]\nnonsense = 1\nlisten_port = 0x\npool_mode = sometimes\n[nowhere]\na = b\n", "--check")
    assert status == 1
    assert all(name in said for name in ("nonsense", "listen_port", "pool_mode", "nowhere")), said


def test_missing_file_and_missing_database_are_told(run):
    assert run(None, "/nowhere/pgkeel.ini")[0] == 1
    assert "No such file" in run(None, "/nowhere/pgkeel.ini")[1]
    status, said = run("[pgkeel]\nauth_type = any\n", "--check")
    assert status == 1 and "DATABASE_URL" in said


def test_wrong_use_is_status_2(run):
    for args in (["--nonsense"], ["one.ini", "two.ini"], ["--print-settings=poem"]):
        status, said = run(None, *args)
        assert status == 2 and said, args


def test_help_and_version_are_status_0(run):
    status, said = run(None, "--help")
    assert status == 0 and "DATABASE_URL" in said
    status, said = run(None, "-V")
    assert status == 0 and re.match(r"pgkeel \d+\.\d+\.\d+", said)


def test_port_in_use_is_told_with_status_1(postgres, run):
    ini = DATABASE + f"[pgkeel]\nauth_type = any\nlisten_port = {postgres.port}\nunix_socket_dir = @dir@\n"
    status, said = run(ini)
    assert status == 1
    assert f"could not listen on 127.0.0.1:{postgres.port}: Address already in use" in said


def test_printed_sample_is_a_valid_configuration(run):
    status, sample = run(None, "--print-settings=ini")
    assert status == 0 and "default_pool_size" in sample
    assert run(sample, "--check", env={"DATABASE_URL": "postgresql://a:b@127.0.0.1/c"})[0] == 0
    assert (ROOT / "etc/pgkeel.ini").read_text().strip() == sample.strip()


def test_secrets_are_never_printed(run, postgres, start_pooler):
    url = postgres.url().replace("app-secret", "hush%20hush")
    for how in ("table", "ini", "markdown"):
        status, said = run(None, f"--print-settings={how}", env={"DATABASE_URL": url})
        assert status == 0 and "hush" not in said
    pooler = start_pooler(env={"DATABASE_URL": postgres.url()}, args=["-v", "-v"])
    with pooler.wire("app", "app") as client:
        client.query("SELECT 'between us'")
    assert "app-secret" not in pooler.log()


def test_pgbouncer_ini_of_debian_starts_and_serves(postgres, start_pooler):
    text = (ROOT / "tests/unit/data/pgbouncer.ini").read_text()
    text = text.replace("[databases]", f"[databases]\napp = host=127.0.0.1 port={postgres.port} dbname=app", 1)
    for key, value in (("listen_port", "@port@"), ("auth_file", "@userlist@"), ("unix_socket_dir", "@dir@"),
                       ("logfile", "@dir@/pgbouncer.log"), ("pidfile", "@dir@/pgbouncer.pid")):
        text, count = re.subn(rf"(?m)^{key} *=.*$", f"{key} = {value}", text)
        assert count == 1, key
    pooler = start_pooler(postgres, ini=text)
    with pooler.wire() as client:
        assert client.value("SELECT 1") == "1"
    assert (pooler.dir / "pgbouncer.pid").exists()
