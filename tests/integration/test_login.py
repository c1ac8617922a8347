"""Who may come in, what is asked of them, and what their first packet may say."""
import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
import struct

import psycopg2
import pytest

from harness import Closed, ServerError, password_of, wait_until
from harness import wire as w

METHODS = {"plain": 3, "md5": 5, "scram-sha-256": 10}


def md5_secret(user):
    return "md5" + hashlib.md5((password_of(user) + user).encode()).hexdigest()


def scram_verifier(user, iterations=4096):
    salt = b"sixteen bytes ok"
    salted = hashlib.pbkdf2_hmac("sha256", password_of(user).encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt, stored, server = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"


def fixed_user(postgres, user="app"):
    """A database entry that logs in by itself, whatever kind of secret the client's user has."""
    return {"app": f"host=127.0.0.1 port={postgres.port} dbname=app user={user} password={password_of(user)}"}


def refusal_of(pooler, *args, **kw):
    with pytest.raises(ServerError) as refusal:
        pooler.wire(*args, **kw).close()
    return refusal.value.fields


def log_in_or_none(pooler):
    try:
        return pooler.wire()
    except ServerError as error:
        assert error.sqlstate == "53300"
        return None


# ---- methods and secrets

@pytest.mark.parametrize("auth_type, method, secret", [
    ("plain", 3, password_of("ann")),
    ("plain", 3, md5_secret("ann")),
    ("plain", 10, scram_verifier("ann")),
    ("md5", 5, password_of("ann")),
    ("md5", 5, md5_secret("ann")),
    ("md5", 10, scram_verifier("ann")),
    ("scram-sha-256", 10, password_of("ann")),
    ("scram-sha-256", 10, scram_verifier("ann")),
], ids=lambda value: str(value)[:13])
def test_right_password_logs_in_and_wrong_or_empty_does_not(postgres, start_pooler, auth_type, method, secret):
    pooler = start_pooler(postgres, fixed_user(postgres), users={"ann": secret}, auth_type=auth_type)
    with pooler.dial() as wire:
        assert wire.startup("ann").asked_method() == method
    with pooler.wire("ann") as wire:
        assert wire.value("SELECT 42") == "42"
    for wrong in ("nonsense", "", password_of("ann") + " ", secret if secret != password_of("ann") else "x"):
        assert refusal_of(pooler, "ann", password=wrong)["C"] == "28P01", wrong


def test_md5_secret_cannot_log_in_by_scram(postgres, start_pooler):
    pooler = start_pooler(postgres, fixed_user(postgres), users={"ann": md5_secret("ann")})
    assert refusal_of(pooler, "ann")["C"] == "28P01"


def test_verifier_of_pg_authid_is_accepted(postgres, start_pooler):
    [(verifier,)] = postgres.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'ann'")
    assert verifier.startswith("SCRAM-SHA-256$")
    pooler = start_pooler(postgres, fixed_user(postgres), users={"ann": verifier})
    with pooler.connect("ann") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == ("app",)
    connection.close()
    assert refusal_of(pooler, "ann", password="nonsense")["C"] == "28P01"


def test_trust_asks_nothing_but_knows_its_users(postgres, start_pooler):
    pooler = start_pooler(postgres, auth_type="trust")
    with pooler.dial() as wire:
        assert wire.startup("app").asked_method() == 0
    with pooler.wire("app", password="anything") as wire:
        assert wire.value("SELECT current_user") == "app"
    assert refusal_of(pooler, "nobody")["C"] == "28P01"


def test_user_of_the_client_is_the_user_of_the_backend(postgres, start_pooler):
    pooler = start_pooler(postgres)
    for user in ("app", "ann", "bob"):
        with pooler.wire(user) as wire:
            assert wire.value("SELECT current_user") == user


@pytest.mark.parametrize("auth_type", ["plain", "md5", "scram-sha-256"])
def test_unknown_user_gets_the_same_answer_as_wrong_password(postgres, start_pooler, auth_type):
    pooler = start_pooler(postgres, auth_type=auth_type)
    wrong, unknown = refusal_of(pooler, "ann", password="nonsense"), refusal_of(pooler, "eve", password="nonsense")
    assert wrong["C"] == unknown["C"] == "28P01"
    assert wrong["V"] == "FATAL"
    assert wrong["M"] == 'password authentication failed for user "ann"'
    assert {**unknown, "M": unknown["M"].replace("eve", "ann")} == wrong


def test_unknown_user_is_given_a_salt_that_stays_the_same(postgres, start_pooler):
    pooler = start_pooler(postgres)

    def salt_of(user):
        with pooler.dial() as wire:
            assert wire.startup(user).asked_method() == 10
            first = w.Scram("nonsense").first()
            wire.send(b"p", w.cstring("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first)
            _, body = wire.recv()
            return dict(part.split("=", 1) for part in body[4:].decode().split(","))["s"]

    assert salt_of("eve") == salt_of("eve") != salt_of("mallory")
    assert salt_of("ann") == salt_of("ann")
    assert len(salt_of("eve")) == len(salt_of("ann"))


def test_empty_secret_in_the_list_lets_nobody_in(postgres, start_pooler):
    pooler = start_pooler(postgres, fixed_user(postgres), users={"ann": ""})
    assert refusal_of(pooler, "ann", password="")["C"] == "28P01"


def test_unknown_database_is_named_only_after_authentication(pooler):
    assert refusal_of(pooler, "app", "nowhere", password="nonsense")["C"] == "28P01"
    with pooler.dial() as wire:
        assert wire.startup("app", "nowhere").asked_method() == 10
    fields = refusal_of(pooler, "app", "nowhere")
    assert (fields["V"], fields["C"]) == ("FATAL", "3D000")
    assert fields["M"] == 'database "nowhere" does not exist'


def test_database_that_postgres_does_not_have_is_told_in_its_words(postgres, start_pooler):
    pooler = start_pooler(postgres, {"*": f"host=127.0.0.1 port={postgres.port}"})
    with pooler.wire("app", "app") as wire:
        assert wire.value("SELECT current_database()") == "app"
    fields = refusal_of(pooler, "app", "nowhere")
    assert fields["C"] == "3D000"
    assert 'database "nowhere" does not exist' in fields["M"]


def test_database_url_alone_is_a_working_pool(postgres, start_pooler):
    pooler = start_pooler(env={"DATABASE_URL": postgres.url()})
    with pooler.dial() as wire:
        assert wire.startup("app", "app").asked_method() == 10
    with pooler.wire("app", "app") as wire:
        assert wire.value("SELECT current_user || '@' || current_database()") == "app@app"
    assert refusal_of(pooler, "app", password="nonsense")["C"] == "28P01"
    assert refusal_of(pooler, "ann")["C"] == "28P01"


# ---- what the first packet may say

def test_startup_parameters_are_in_force_in_the_session(postgres, pooler):
    with pooler.wire(extra_float_digits="-3", search_path="pg_catalog", options="-c geqo=off -c statement_timeout=5s",
                     application_name="my app", DateStyle="German, DMY", TimeZone="Asia/Tokyo") as wire:
        for name, value in [("extra_float_digits", "-3"), ("search_path", "pg_catalog"), ("geqo", "off"),
                            ("statement_timeout", "5s"), ("application_name", "my app"),
                            ("DateStyle", "German, DMY"), ("TimeZone", "Asia/Tokyo")]:
            assert wire.value(f"SHOW {name}") == value, name
    with pooler.wire() as wire:
        for name in ("extra_float_digits", "search_path", "geqo", "statement_timeout", "TimeZone", "DateStyle",
                     "application_name"):
            usual = "" if name == "application_name" else postgres.sql(f"SHOW {name}")[0][0]
            assert wire.value(f"SHOW {name}") == usual, f"{name} leaked"


def test_startup_parameters_follow_the_client_from_backend_to_backend(postgres, start_pooler):
    pooler = start_pooler(postgres, pool_size=1)
    with pooler.wire(search_path="pg_catalog", TimeZone="Asia/Tokyo", statement_timeout="5s") as tokyo, \
            pooler.wire(TimeZone="America/Lima") as lima:
        for _ in range(3):
            assert [tokyo.value(f"SHOW {name}") for name in ("TimeZone", "search_path", "statement_timeout")] == \
                ["Asia/Tokyo", "pg_catalog", "5s"]
            assert [lima.value(f"SHOW {name}") for name in ("TimeZone", "search_path", "statement_timeout")] == \
                ["America/Lima", '"$user", public', "0"]
        assert tokyo.backend_pid() == lima.backend_pid()


def test_values_are_quoted_never_pasted(pooler):
    nasty = "a'; DROP TABLE x; --\\'\" é"
    with pooler.wire(application_name=nasty, **{"search_path": "\"we'ird\", public"}) as wire:
        assert wire.value("SHOW search_path") == "\"we'ird\", public"
        assert wire.value("SHOW application_name").startswith("a'; DROP TABLE x; --\\'\"")


@pytest.mark.parametrize("name", [b"B\xfcro \xff", "Bu\u0308ro \u20ac".encode(), b"\xc3", b"\xed\xa0\x80"])
def test_application_name_in_any_encoding_is_taken(postgres, pooler, name):
    def shown_by(wire):
        """From PostgreSQL 16 on it shows \\xNN instead of a question mark."""
        return re.sub(r"\\x[0-9a-f]{2}", "?", wire.value("SHOW application_name"))

    with w.Wire("127.0.0.1", postgres.port) as direct, pooler.wire(application_name=name) as wire:
        assert shown_by(wire) == shown_by(direct.startup(application_name=name).login())
        assert wire.parameters["application_name"] == wire.value("SHOW application_name")


@pytest.mark.parametrize("params, sqlstate", [
    ({"client_encoding": "nonsense"}, "22023"),
    ({"statement_timeout": "soon"}, "22023"),
    ({"no_such_thing": "1"}, "42704"),
    ({"max_connections": "7"}, "55P02"),
    ({"options": "-c geqo=perhaps"}, "22023"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else value)
def test_bad_startup_parameter_is_refused_in_the_words_of_postgres(postgres, pooler, params, sqlstate):
    with w.Wire("127.0.0.1", postgres.port) as direct, pytest.raises(ServerError) as refusal:
        direct.startup(**params).login()
    fields = refusal_of(pooler, **params)
    assert fields["V"] == "FATAL"
    assert fields["C"] == refusal.value.sqlstate == sqlstate
    assert fields["M"] == refusal.value.fields["M"]
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"


def test_client_is_told_canonical_values(postgres, pooler):
    params = {"client_encoding": "utf-8", "DateStyle": "iso", "TimeZone": "utc", "standard_conforming_strings": "yes",
              "IntervalStyle": "ISO_8601"}
    with w.Wire("127.0.0.1", postgres.port) as direct:
        direct.startup(**params).login()
    with pooler.wire(**params) as wire:
        assert wire.parameters["client_encoding"] == "UTF8"
        assert wire.parameters == direct.parameters


def test_client_is_told_what_a_direct_connection_tells(postgres, pooler):
    with w.Wire("127.0.0.1", postgres.port) as direct:
        direct.startup().login()
    for _ in range(2):
        with pooler.wire() as wire:
            assert wire.parameters == direct.parameters
            assert wire.pid is not None and wire.key is not None
            assert wire.status == "I"


@pytest.mark.parametrize("order", ["sg", "gs", "s", "g"])
def test_encryption_requests_are_declined_and_login_goes_on(pooler, order):
    with pooler.dial() as wire:
        for step in order:
            assert (wire.ssl_request() if step == "s" else wire.gssenc_request()) == b"N"
        assert wire.startup().login().value("SELECT 1") == "1"


def test_bytes_behind_an_encryption_request_are_refused(pooler):
    with pooler.dial() as wire:
        wire.send_raw(struct.pack("!ii", 8, w.SSL_REQUEST) + w.startup_packet("app", "app"))
        rest = wire.recv_all()
        assert b"R" not in [kind for kind, _ in rest]


def test_sslmode_require_is_refused_and_prefer_works(pooler):
    with pytest.raises(psycopg2.OperationalError, match="does not support SSL"):
        pooler.connect(sslmode="require")
    pooler.connect(sslmode="prefer").close()


@pytest.mark.parametrize("protocol, params, options", [
    (196608 + 9999, {}, []),
    (196608, {"_pq_.magic": "1", "_pq_.more": "x"}, ["_pq_.magic", "_pq_.more"]),
    (196610, {"_pq_.magic": "1"}, ["_pq_.magic"]),
], ids=["3.9999", "3.0_with_options", "3.2_with_option"])
def test_newer_protocol_is_negotiated(pooler, protocol, params, options):
    with pooler.dial() as wire:
        wire.startup(protocol=protocol, **params).login()
        assert wire.negotiation is not None
        newest, count = struct.unpack_from("!ii", wire.negotiation)
        names = [name.decode() for name in wire.negotiation[8:].split(b"\0") if name]
        # Like PostgreSQL, the whole version; never more than was asked for.
        assert newest in (196608, 196610) and newest <= protocol
        assert (count, names) == (len(options), options)
        assert wire.value("SELECT 1") == "1"


def test_protocol_3_2_is_spoken_or_negotiated(pooler):
    with pooler.dial() as wire:
        wire.startup(protocol=196610).login()
        assert wire.negotiation in (None, struct.pack("!ii", 196608, 0))
        assert 4 <= len(wire.key) <= 256
        assert wire.value("SELECT 1") == "1"


def test_plain_3_0_is_not_negotiated(pooler):
    with pooler.wire() as wire:
        assert wire.negotiation is None


@pytest.mark.parametrize("protocol", [131072, 262144, 65536, 0, 80877000])
def test_other_major_versions_are_refused(pooler, protocol):
    with pooler.dial() as wire:
        wire.send_raw(w.startup_packet("app", "app", protocol))
        # What speaks protocol 2 expects an error without a length.
        answer = b""
        with contextlib.suppress(Closed):
            while True:
                answer += wire.recv_bytes(1)
        assert answer.startswith(b"E")
        assert b"protocol" in answer


@pytest.mark.parametrize("user", [None, ""])
def test_missing_user_is_refused(pooler, user):
    with pooler.dial() as wire:
        wire.send_raw(w.startup_packet(user, "app"))
        [fields] = w.errors(wire.recv_all())
        assert (fields["V"], fields["C"]) == ("FATAL", "28000")


def test_database_defaults_to_the_user(pooler):
    with pooler.dial() as wire:
        wire.send_raw(w.startup_packet("app"))
        wire.user = "app"
        assert wire.login().value("SELECT current_database()") == "app"


def test_bytes_behind_the_first_packet_wait_for_their_turn(postgres, start_pooler):
    pooler = start_pooler(postgres, auth_type="trust")
    with pooler.dial() as wire:
        wire.send_raw(w.startup_packet("app", "app") + w.query("SELECT 7") + w.query("SELECT 8"))
        wire.recv_until(b"Z")
        assert w.rows(wire.recv_until(b"Z")) == [("7",)]
        assert w.rows(wire.recv_until(b"Z")) == [("8",)]
    pooler = start_pooler(postgres, auth_type="plain")
    with pooler.dial() as wire:
        wire.send_raw(w.startup_packet("app", "app") + w.message(b"p", w.cstring(password_of("app"))) +
                      w.query("SELECT 9"))
        wire.recv_until(b"Z")
        assert w.rows(wire.recv_until(b"Z")) == [("9",)]


def test_login_in_single_bytes(pooler):
    with pooler.dial() as wire:
        wire.user = "app"
        wire.send_split(w.startup_packet("app", "app"), 1, 0.001)
        assert wire.login().value("SELECT 1") == "1"


def test_terminate_instead_of_a_password_is_no_error(pooler):
    with pooler.dial() as wire:
        wire.startup().asked_method()
        wire.send_raw(w.terminate())
        assert wire.eof()


def test_slow_login_times_out(postgres, start_pooler):
    pooler = start_pooler(postgres, client_login_timeout="1")
    with pooler.dial() as silent, pooler.dial() as halfway:
        halfway.startup().asked_method()
        for wire in (silent, halfway):
            assert [fields["C"] for fields in w.errors(wire.recv_all(5))] in ([], ["08P01"], ["57P05"], ["57014"])
            assert wire.eof()
    pooler.wire().terminate()


def test_too_many_clients_are_told(postgres, start_pooler):
    pooler = start_pooler(postgres, max_client_conn="3")
    clients = [pooler.wire() for _ in range(3)]
    assert refusal_of(pooler)["C"] == "53300"
    clients.pop().terminate()
    clients.append(wait_until(lambda: log_in_or_none(pooler), what="a place for another client"))
    for client in clients:
        assert client.value("SELECT 1") == "1"
        client.close()


# ---- drivers

def test_psycopg3_logs_in(pooler):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(pooler.url()) as connection:
        assert connection.execute("SELECT %s::int + 1", [41]).fetchone() == (42,)


def test_asyncpg_logs_in(pooler):
    asyncpg = pytest.importorskip("asyncpg")

    async def talk():
        connection = await asyncpg.connect(pooler.url(), statement_cache_size=0)
        try:
            return await connection.fetchval("SELECT $1::int + 1", 41)
        finally:
            await connection.close()

    assert asyncio.run(talk()) == 42


def test_login_over_the_unix_socket(pooler):
    with pooler.dial(unix=True) as wire:
        assert wire.startup("bob").login().value("SELECT current_user") == "bob"
