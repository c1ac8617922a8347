"""TLS to PostgreSQL: the outcome is the one that libpq alone has with the same parameters."""
import contextlib
import os
import pathlib
import pwd
import re
import shutil

import psycopg2
import pytest

from harness import Postgres, ServerError, free_port, password_of, wait_until
from harness.certificates import Authority

LIBPQ = psycopg2.extensions.libpq_version()
MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
CLEAR, TLS, REFUSED = "clear", "tls", "refused"

# app may come either way, ann over TLS only, bob in clear only, carl with his certificate.
HBA = """
hostssl all carl all scram-sha-256 clientcert=verify-full
hostnossl all carl all reject
hostnossl all ann all reject
hostssl all bob all reject
"""
USERS = ("app", "ann", "bob", "carl")


def owned(server, name, pair):
    """Copies of a certificate and its key that the server's user may read."""
    copies = []
    for source in pair:
        copy = server.data / f"{name}{source.suffix}"
        shutil.copy(source, copy)
        copy.chmod(0o600)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(copy, owner.pw_uid, owner.pw_gid)
        copies.append(copy)
    return copies


def make_server(authority, pair, hba=HBA, conf=""):
    server = Postgres(conf, hba)
    certificate, key = owned(server, "server", pair)
    authorities = owned(server, "authority", [authority.certificate])[0]
    with open(server.data / "postgresql.conf", "a", encoding="utf-8") as file:
        file.write(f"ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'\nssl_ca_file = '{authorities}'\n")
    server.start()
    server.sql(f"CREATE ROLE carl LOGIN PASSWORD '{password_of('carl')}'")
    return server


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("tls"))
    for name in ("one.test", "two.test", "carl", "mallory"):
        setattr(authority, name.split(".")[0], authority.issue(name, kind=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")))
    return authority


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="module")
def one(authority):
    server = make_server(authority, authority.one)
    yield server
    server.remove()


@pytest.fixture(scope="module")
def two(authority):
    server = make_server(authority, authority.two)
    yield server
    server.remove()


def at(server, host="one.test", **params):
    """A connection string; the name is for the certificate, the address is ours."""
    words = {"host": host, "hostaddr": "127.0.0.1", "port": server.port, "dbname": "app", **params}
    return " ".join(f"{key}={value}" for key, value in words.items())


def direct(string, user="app"):
    """How libpq alone fares: CLEAR, TLS or REFUSED, and its words."""
    try:
        with contextlib.closing(psycopg2.connect(f"{string} user={user} password={password_of(user)} connect_timeout=10")) as connection:
            return TLS if connection.info.ssl_in_use else CLEAR, ""
    except psycopg2.OperationalError as error:
        return REFUSED, " ".join(str(error).split())


def pooled(pooler, database, user="app"):
    try:
        with pooler.wire(user, database) as wire:
            return TLS if wire.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t" else CLEAR, ""
    except ServerError as error:
        return REFUSED, str(error)


@pytest.fixture
def start(start_pooler):
    """start({name: connection string}, **settings)"""
    def start(databases, **settings):
        return start_pooler(databases=databases, users=USERS, listen_addr="127.0.0.1", listen_port="@port@", unix_socket_dir="@dir@",
                            auth_type="scram-sha-256", auth_file="@userlist@", **{"server_down_timeout": 0, "pool_size": 1, **settings})
    return start


def own_words(reason):
    """libpq's or PostgreSQL's, without what we say in front."""
    return re.sub(r"^\w+ \w{5}: (database .* is not reachable )?", "", reason)


def compare(start, cases, **settings):
    """cases: {name: (connection string, user, expected)}; every one has the outcome that it has without us, for the same reason."""
    pooler = start({name: case[0] for name, case in cases.items()}, **settings)
    for name, (string, user, expected) in cases.items():
        outcome, words = direct(string, user)
        assert outcome == expected, (name, words)
        ours, reason = pooled(pooler, name, user)
        assert ours == expected, (name, reason)
        if expected == REFUSED:
            assert own_words(reason) in words, (name, reason)
    return pooler


# ---- sslmode

def expected_of(mode, user, has_tls, authority):
    """libpq's documentation, 34.19.1 and 34.19.3."""
    verifies = mode.startswith("verify-") or authority != "none"
    tls_works = has_tls and user != "bob" and not (verifies and authority in ("wrong", "none"))
    clear_works = not has_tls or user != "ann"
    order = {"disable": (CLEAR,), "allow": (CLEAR, TLS), "prefer": (TLS, CLEAR)}.get(mode, (TLS,))
    return next((way for way in order if (tls_works if way == TLS else clear_works)), REFUSED)


@pytest.mark.parametrize("authorities", ["right", "wrong", "none"])
def test_every_mode_with_every_server_fares_as_without_us(start, postgres, one, authority, stranger, authorities):
    certificate = {"right": authority.certificate, "wrong": stranger.certificate, "none": None}[authorities]
    extra = {"sslrootcert": certificate} if certificate else {}
    cases = {}
    for mode in MODES:
        for user in ("app", "ann", "bob"):
            cases[f"{mode}_{user}"] = (at(one, sslmode=mode, **extra), user, expected_of(mode, user, True, authorities))
        cases[f"{mode}_without"] = (at(postgres, sslmode=mode, **extra), "app", expected_of(mode, "app", False, authorities))
    compare(start, cases)


@pytest.mark.parametrize("mode, expected", [("require", TLS), ("verify-ca", TLS), ("verify-full", REFUSED)])
def test_name_of_the_host_matters_for_verify_full_only(start, one, authority, mode, expected):
    compare(start, {"app": (at(one, "other.test", sslmode=mode, sslrootcert=authority.certificate), "app", expected)})


def test_unix_socket_needs_no_tls(start, one):
    string = f"host={one.dir} port={one.port} dbname=app sslmode=verify-full"
    compare(start, {"app": (string, "app", CLEAR)})


# ---- PgBouncer's keys

@pytest.mark.parametrize("mode, authorities", [*((mode, "wrong") for mode in MODES), ("require", "right"), ("verify-full", "right")])
def test_keys_mean_what_they_mean_to_pgbouncer(start, one, authority, stranger, mode, authorities):
    """The authority counts where the mode asks for a certificate; where TLS is optional it never leads to clear text."""
    certificate = authority.certificate if authorities == "right" else stranger.certificate
    pooler = start({"app": at(one)}, server_tls_sslmode=mode, server_tls_ca_file=certificate)
    strict = mode == "require" or mode.startswith("verify")
    optional = {"disable": CLEAR, "allow": CLEAR}.get(mode, TLS)
    assert pooled(pooler, "app")[0] == (REFUSED if strict and authorities == "wrong" else optional)


def test_connection_string_goes_before_the_keys(start, one, authority, stranger):
    strings = {"clear": at(one, sslmode="disable"), "right": at(one, sslrootcert=authority.certificate), "wrong": at(one)}
    pooler = start(strings, server_tls_sslmode="verify-full", server_tls_ca_file=stranger.certificate)
    assert [pooled(pooler, name)[0] for name in strings] == [CLEAR, TLS, REFUSED]


@pytest.mark.parametrize("protocols, version", [("tlsv1.2", "TLSv1.2"), ("tlsv1.3", "TLSv1.3"), ("secure", "TLSv1.3")])
def test_protocols(start, one, protocols, version):
    pooler = start({"app": at(one)}, server_tls_protocols=protocols)
    with pooler.wire() as wire:
        assert wire.value("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == version


def test_older_protocols_are_refused_unless_asked_for(start, authority, one):
    """The server ends at 1.2, we begin at 1.3."""
    one.sql("ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.2'", "SELECT pg_reload_conf()")
    try:
        wait_until(lambda: one.sql("SHOW ssl_max_protocol_version") == [("TLSv1.2",)], what="the reload")
        pooler = start({"new": at(one), "old": at(one, ssl_min_protocol_version="TLSv1.2")}, server_tls_protocols="tlsv1.3",
                       server_tls_sslmode="require")
        assert pooled(pooler, "new")[0] == REFUSED
        assert pooled(pooler, "old")[0] == TLS
    finally:
        one.sql("ALTER SYSTEM RESET ssl_max_protocol_version", "SELECT pg_reload_conf()")


@pytest.mark.parametrize("key", ["server_tls_ca_file", "server_tls_cert_file", "server_tls_key_file"])
def test_file_that_is_not_there_ends_the_start(start_pooler, one, authority, key):
    certificate, private = authority.carl
    settings = {"server_tls_cert_file": certificate, "server_tls_key_file": private, key: "/nowhere"}
    pooler = start_pooler(databases={"app": at(one)}, start=False, **settings)
    for args in ([], ["--check"]):
        pooler.args = args
        status, output = pooler.run()
        assert status == 1 and f'{key} "/nowhere": No such file or directory' in output


def test_wrong_authority_of_one_database_holds_up_no_other(start, one, authority, stranger):
    """They share the server, and its attempts to connect: it answers, so it is not failing."""
    pooler = start({"good": at(one, sslmode="verify-full", sslrootcert=authority.certificate),
                    "bad": at(one, sslmode="verify-full", sslrootcert=stranger.certificate)},
                   server_retry_delay=60, server_retry_max_delay=60, admin_users="app")
    assert pooled(pooler, "bad")[0] == REFUSED
    assert pooled(pooler, "good")[0] == TLS
    assert pooler.admin("SHOW ENDPOINTS")[0]["state"] == "up"


# ---- several hosts

@pytest.mark.parametrize("first, second, is_first_up, expected", [
    ("one.test", "two.test", True, "one"), ("one.test", "two.test", False, "two"), ("one.test", "wrong.test", True, "one"),
    ("one.test", "wrong.test", False, None), ("wrong.test", "two.test", False, "two"), ("wrong.test", "two.test", True, None)],
    ids=["up", "down", "up-wrong", "down-wrong", "wrong-down", "wrong-up"])
def test_each_host_is_verified_by_its_own_name(start, one, two, authority, first, second, is_first_up, expected):
    """As libpq has it: one that cannot be reached is passed over, one with a wrong certificate ends the attempt."""
    ports = f"{one.port if is_first_up else free_port()},{two.port}"
    string = (f"host={first},{second} hostaddr=127.0.0.1,127.0.0.1 port={ports} dbname=app sslmode=verify-full"
              f" sslrootcert={authority.certificate}")
    pooler = compare(start, {"app": (string, "app", TLS if expected else REFUSED)})
    if expected:
        with pooler.wire() as wire:
            assert wire.value("SHOW port") == str({"one": one, "two": two}[expected].port)


# ---- our certificate

def with_files(server, authority, pair, **params):
    return at(server, sslmode="verify-full", sslrootcert=authority.certificate, sslcert=pair[0], sslkey=pair[1], **params)


def test_certificates_of_clients(start, one, authority, stranger, tmp_path):
    loose = tmp_path / "loose.key"
    shutil.copy(authority.carl[1], loose)
    loose.chmod(0o644)
    foreign = stranger.issue("carl")
    compare(start, {
        "right": (with_files(one, authority, authority.carl), "carl", TLS),
        "none": (at(one, sslmode="require"), "carl", REFUSED),
        "name": (with_files(one, authority, authority.mallory), "carl", REFUSED),
        "issuer": (with_files(one, authority, foreign), "carl", REFUSED),
        "loose": (with_files(one, authority, (authority.carl[0], loose)), "carl", REFUSED),
        "swapped": (with_files(one, authority, (authority.carl[0], authority.mallory[1])), "carl", REFUSED),
        "nokey": (with_files(one, authority, (authority.carl[0], tmp_path / "nothing.key")), "carl", REFUSED),
        "idle": (with_files(one, authority, authority.mallory), "app", TLS)})


def test_certificate_of_the_keys(start, one, authority):
    certificate, key = authority.carl
    pooler = start({"app": at(one)}, server_tls_cert_file=certificate, server_tls_key_file=key)
    assert pooled(pooler, "app", "carl")[0] == TLS


# ---- channel binding

def test_channel_binding(start, postgres, one):
    pooler = compare(start, {
        "tls": (at(one, sslmode="require", channel_binding="require"), "app", TLS),
        "off": (at(one, sslmode="require", channel_binding="disable"), "app", TLS),
        "clear": (at(one, sslmode="disable", channel_binding="require"), "app", REFUSED),
        "without": (at(postgres, sslmode="prefer", channel_binding="require"), "app", REFUSED)})
    with pytest.raises(ServerError, match="channel binding") as refusal:
        pooler.wire("app", "clear").close()
    assert refusal.value.sqlstate == "28000"


def test_channel_binding_needs_scram(start, one):
    """A server that asks for md5 could be anybody's."""
    one.sql("SET password_encryption = 'md5'", f"ALTER ROLE ann PASSWORD '{password_of('ann')}'")
    one.set_hba(HBA + "hostssl all ann all md5\n")
    try:
        compare(start, {"md5": (at(one, sslmode="require", channel_binding="require"), "ann", REFUSED),
                        "any": (at(one, sslmode="require"), "ann", TLS)})
    finally:
        one.sql(f"ALTER ROLE ann PASSWORD '{password_of('ann')}'")
        one.set_hba(HBA)


# ---- direct TLS

def knows_direct(start_pooler, one):
    pooler = start_pooler(databases={"app": at(one, sslmode="require", sslnegotiation="direct")}, args=["--check"], start=False)
    return pooler.run()


def test_direct_tls_works_or_is_told(start, start_pooler, one, authority, tmp_path):
    """Where libpq has it (17) the other end is a pgkeel, which takes it whatever PostgreSQL is behind it."""
    status, output = knows_direct(start_pooler, one)
    if status != 0:
        assert LIBPQ < 170000
        assert re.search(r"app: sslnegotiation: this version of libpq does not know it", output)
        return
    certificate, key = authority.one
    inner = start({"app": at(one)}, client_tls_sslmode="require", client_tls_cert_file=certificate, client_tls_key_file=key)
    outer = start({"app": at(inner, sslmode="verify-full", sslrootcert=authority.certificate, sslnegotiation="direct")})
    assert pooled(outer, "app")[0] == TLS


# ---- reload

def test_new_authority_counts_for_new_connections_and_old_ones_live_on(start, authority, stranger, tmp_path):
    """Server and pool get the certificates of another authority, one after the other."""
    server = make_server(authority, authority.one)
    try:
        trusted = tmp_path / "authority.crt"
        shutil.copy(authority.certificate, trusted)
        pooler = start({"app": at(server)}, server_tls_sslmode="verify-full", server_tls_ca_file=trusted, pool_size=3, admin_users="app")
        with pooler.wire() as first:
            first.query("BEGIN")
            pid = first.value("SELECT pg_backend_pid()")
            owned(server, "server", stranger.issue("one.test", "renewed"))
            server.sql("SELECT pg_reload_conf()")
            shutil.copy(stranger.certificate, trusted)
            pooler.admin("RELOAD")
            string = at(server, sslmode="verify-full", sslrootcert=stranger.certificate)
            wait_until(lambda: direct(string)[0] == TLS, 10, "the server's new certificate")
            with pooler.wire() as second:
                assert second.value("SELECT pg_backend_pid()") != pid
                assert first.value("SELECT pg_backend_pid()") == pid
                first.query("COMMIT")
            assert first.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t"
            assert str(pid) in {str(row["pid"]) for row in server.backends("usename = 'app'")}
        # The old authority no longer vouches for anybody.
        shutil.copy(authority.certificate, trusted)
        pooler.admin("RELOAD")
        pooler.admin("RECONNECT")
        wait_until(lambda: pooled(pooler, "app")[0] == REFUSED, 10, "the end of the old connections")
    finally:
        server.remove()


def test_bad_files_at_a_reload_change_nothing(start, one, authority, tmp_path):
    trusted = tmp_path / "authority.crt"
    shutil.copy(authority.certificate, trusted)
    pooler = start({"app": at(one)}, server_tls_sslmode="verify-full", server_tls_ca_file=trusted, admin_users="app")
    assert pooled(pooler, "app")[0] == TLS
    pathlib.Path(trusted).unlink()
    with pytest.raises(ServerError, match="server_tls_ca_file"):
        pooler.admin("RELOAD")
    assert pooled(pooler, "app")[0] == TLS
