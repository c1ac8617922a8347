"""Starting: what is said about wrong settings, with which status, and what the command line prints."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness import wire as w

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
    for how in ("table", "ini", "markdown", "man"):
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


# ---- what is said, and where

def run_apart(pooler):
    """Status, standard output and standard error."""
    ended = subprocess.run(
        pooler.command(), env=pooler.env, cwd=pooler.dir, capture_output=True, text=True, timeout=10, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def test_mistakes_go_to_standard_error_and_results_to_standard_output(start_pooler):
    bad = start_pooler(ini=DATABASE + "[pgkeel]\npool_mod = session\n", args=["--check"], users="", start=False)
    status, out, err = run_apart(bad)
    assert status == 1 and out == "" and "pgkeel.ini:4: pool_mod: unknown key" in err
    good = start_pooler(ini=DATABASE, args=["--check"], users="", start=False)
    status, out, err = run_apart(good)
    assert (status, out) == (0, "settings are valid\n")
    flag = start_pooler(args=["--nonsense"], users="", start=False)
    status, out, err = run_apart(flag)
    assert status == 2 and out == "" and "--nonsense" in err


def test_missing_file_is_one_sentence_alone(run):
    status, said = run(None, "/nowhere/pgkeel.ini")
    assert status == 1
    assert said.splitlines() == ["/nowhere/pgkeel.ini: cannot be read: No such file or directory"]


def test_missing_database_is_one_sentence_without_blaming_a_default(run):
    status, said = run(None)
    assert status == 1
    assert len(said.splitlines()) == 1 and "no database is configured" in said


def test_sample_with_a_database_in_it_is_valid(run):
    sample = run(None, "--print-settings=ini")[1]
    assert sample.count("[databases]") == 1
    sample = sample.replace("[databases]", "[databases]\napp = host=127.0.0.1 port=1", 1)
    status, said = run(sample, "--check")
    assert status == 0 and "settings are valid" in said
    assert not re.search(r"unknown|must be", said)


def test_sample_without_its_comment_signs_is_valid_too(run):
    sample = run(None, "--print-settings=ini")[1]
    known = re.findall(r"(?m)^SETTING\((\w+),", (ROOT / "src/conf/settings.def").read_text())
    for key in known:
        sample, count = re.subn(rf"(?m)^[;#] ?({key} =)", r"\1", sample)
        assert count == 1 or re.search(rf"(?m)^{key} =", sample), key
    status, said = run(sample.replace("[databases]", "[databases]\napp = host=127.0.0.1 port=1", 1), "--check")
    assert status == 0, said


def test_printed_reference_has_every_key(run):
    status, said = run(None, "--print-settings=markdown")
    known = re.findall(r"(?m)^SETTING\((\w+),", (ROOT / "src/conf/settings.def").read_text())
    assert status == 0 and len(known) > 80
    assert [key for key in known if not re.search(rf"(?m)^\|? ?`?{key}\b", said)] == []


def test_manual_page_has_every_key_and_formats_without_a_warning(run):
    status, page = run(None, "--print-settings=man")
    known = re.findall(r"(?m)^SETTING\((\w+),", (ROOT / "src/conf/settings.def").read_text())
    assert status == 0 and [key for key in known if f"\n.B {key}\n" not in page] == []
    if shutil.which("groff"):
        for text in (page, (ROOT / "docs/pgkeel.1").read_text()):
            made = subprocess.run(["groff", "-man", "-Tutf8", "-P-cbou", "-ww"], input=text, capture_output=True, text=True)
            assert made.stderr == "" and "SEE ALSO" in made.stdout


def test_manual_page_and_completion_know_the_whole_usage(run):
    usage = run(None, "--help")[1]
    options = re.findall(r"(?m)(?<![\w-])--[a-z-]+", usage)
    commands = re.findall(r"(?m)^  ([a-z]+) [ \w\"]{8,}", usage)
    assert {"--check", "--print-settings"} <= set(options)
    page = (ROOT / "docs/pgkeel.1").read_text().replace("\\-", "-")
    completion = (ROOT / "etc/pgkeel.bash").read_text()
    for text in (page, completion):
        assert [word for word in options + commands if not re.search(rf"(?<![\w-]){word}\b", text)] == []


def test_printed_settings_show_values_that_were_set(run):
    for how in ("table", "ini"):
        status, said = run(DATABASE + "[pgkeel]\nquery_timeout = 77\n", f"--print-settings={how}")
        assert status == 0 and re.search(r"(?m)^query_timeout\b.*77", said), said


# ---- secrets

@pytest.mark.parametrize("url", [
    "postgresql://app:hush@127.0.0.1:bad/app", "postgresql://app:hush@127.0.0.1/app?nonsense=1",
    "postgresql://app:hush@[127.0.0.1/app", "postgresql://app:hush%zz@127.0.0.1/app", "app:hush@127.0.0.1",
    "postgresql://app:hush@127.0.0.1/app?sslmode=hush%zz", "host=h password='hush", "mysql://app:hush@127.0.0.1/app"])
def test_wrong_database_url_is_refused_without_its_password(run, url):
    status, said = run(None, "--check", env={"DATABASE_URL": url})
    assert status == 1 and "DATABASE_URL" in said and "hush" not in said, said


@pytest.mark.parametrize("entry", [
    "host=h password=hush nonsense=1", "host=h password='hush", "host=h password = hush port", "password=hush=hush ="])
def test_wrong_connection_string_is_refused_without_its_password(run, entry):
    status, said = run(f"[databases]\napp = {entry}\n", "--check")
    assert status == 1 and "pgkeel.ini:2" in said and "hush" not in said, said


def test_password_in_a_file_is_masked(run):
    ini = "[databases]\napp = host=h user=u password=hush sslpassword=hush\n"
    for how in ("table", "ini", "markdown", "man"):
        status, said = run(ini, f"--print-settings={how}")
        assert status == 0 and "hush" not in said


def test_secrets_are_on_neither_console_nor_log_at_any_level(postgres, start_pooler):
    pooler = start_pooler(env={"DATABASE_URL": postgres.url()}, args=["-v", "-v"])
    with pooler.wire() as client:
        client.query("SELECT 1")
        for name in ("CONFIG", "DATABASES", "CLIENTS", "SERVERS", "POOLS"):
            assert "app-secret" not in repr(pooler.admin(f"SHOW {name}"))
    with pytest.raises(w.ServerError):
        pooler.wire("app", "app", password="mistyped-secret")
    pooler.admin("RELOAD")
    assert not re.search("app-secret|mistyped-secret", pooler.log())


def test_password_that_postgresql_refuses_is_not_logged(postgres, start_pooler):
    entry = f"host=127.0.0.1 port={postgres.port} dbname=app user=app password=hush"
    pooler = start_pooler(postgres, {"app": entry}, args=["-v", "-v"])
    with pytest.raises(w.ServerError) as refusal:
        pooler.wire()
    assert "hush" not in str(refusal.value)
    pooler.wait_for_log("password authentication failed")
    assert "hush" not in pooler.log()
