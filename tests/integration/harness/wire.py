"""A client that speaks the raw protocol, so that tests decide about every byte.

A message is a pair (type, body), type one byte. PostgreSQL's documentation: chapter "Frontend/Backend Protocol".
"""
import base64
import contextlib
import hashlib
import hmac
import os
import socket
import struct
import time

from harness.postgres import password_of

PROTOCOL_3_0 = 196608
SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102


class Closed(Exception):
    """The peer closed the connection."""


class ServerError(Exception):
    """An ErrorResponse where none was expected; `fields` by their letters."""

    def __init__(self, fields):
        super().__init__(f"{fields.get('V')} {fields.get('C')}: {fields.get('M')} {fields.get('D', '')}".strip())
        self.fields = fields
        self.sqlstate = fields.get("C")


# ---- builders: whole messages as bytes

def message(kind, body=b""):
    return kind + struct.pack("!i", len(body) + 4) + body


def cstring(text):
    return (text.encode() if isinstance(text, str) else text) + b"\0"


def startup_packet(user=None, database=None, protocol=PROTOCOL_3_0, **params):
    pairs = {**({"user": user} if user is not None else {}), **({"database": database} if database else {}), **params}
    body = struct.pack("!i", protocol) + b"".join(cstring(k) + cstring(v) for k, v in pairs.items()) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def query(sql):
    return message(b"Q", cstring(sql))


def parse(sql, name="", types=()):
    return message(b"P", cstring(name) + cstring(sql) + struct.pack("!h", len(types)) +
                   b"".join(struct.pack("!I", oid) for oid in types))


def bind(values=(), portal="", name="", formats=(), results=()):
    body = cstring(portal) + cstring(name) + struct.pack("!h", len(formats))
    body += b"".join(struct.pack("!h", code) for code in formats) + struct.pack("!h", len(values))
    for value in values:
        if value is None:
            body += struct.pack("!i", -1)
        else:
            data = value if isinstance(value, bytes) else str(value).encode()
            body += struct.pack("!i", len(data)) + data
    return message(b"B", body + struct.pack("!h", len(results)) + b"".join(struct.pack("!h", r) for r in results))


def describe(kind="P", name=""):
    return message(b"D", kind.encode() + cstring(name))


def execute(portal="", limit=0):
    return message(b"E", cstring(portal) + struct.pack("!i", limit))


def close(kind="S", name=""):
    return message(b"C", kind.encode() + cstring(name))


def sync():
    return message(b"S")


def flush():
    return message(b"H")


def copydata(data):
    return message(b"d", data)


def copydone():
    return message(b"c")


def copyfail(reason="no more"):
    return message(b"f", cstring(reason))


def terminate():
    return message(b"X")


def functioncall(oid, *arguments):
    """Arguments and result in binary."""
    body = struct.pack("!Ihhh", oid, 1, 1, len(arguments))
    body += b"".join(struct.pack("!i", len(arg)) + arg for arg in arguments)
    return message(b"F", body + struct.pack("!h", 1))


def extended(sql, values=(), **kw):
    """A whole request without its Sync."""
    return parse(sql) + bind(values, **kw) + describe() + execute()


# ---- readers

def error_fields(body):
    """{'S': severity, 'V': severity not localised, 'C': SQLSTATE, 'M': message, …}"""
    return {part[:1].decode(): part[1:].decode(errors="replace") for part in body.split(b"\0") if part}


def data_row(body):
    count, at, row = struct.unpack_from("!h", body)[0], 2, []
    for _ in range(count):
        length = struct.unpack_from("!i", body, at)[0]
        at += 4
        row.append(None if length < 0 else body[at:at + length].decode())
        at += max(length, 0)
    return tuple(row)


def column_names(body):
    count, at, names = struct.unpack_from("!h", body)[0], 2, []
    for _ in range(count):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode())
        at = end + 1 + 18
    return names


def rows(messages):
    return [data_row(body) for kind, body in messages if kind == b"D"]


def errors(messages):
    return [error_fields(body) for kind, body in messages if kind == b"E"]


def tags(messages):
    return [body[:-1].decode() for kind, body in messages if kind == b"C"]


def kinds(messages):
    """The types in a row, such as "12TDCZ", without what may come at any time (notices, parameters)."""
    return "".join(kind.decode() for kind, _ in messages if kind not in (b"N", b"S", b"A"))


# ---- the client

class Wire:
    def __init__(self, host, port, timeout=10.0, source=None):
        """`host` is an address or the directory of a Unix socket; `source` the address to come from."""
        self.timeout = timeout
        self.parameters = {}
        self.pid = self.key = None
        self.notices = []
        self.negotiation = None
        self.status = None
        self.user = None
        self.buffer = b""
        if host.startswith("/"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(f"{host}/.s.PGSQL.{port}")
        else:
            self.socket = socket.create_connection((host, port), timeout, (source, 0) if source else None)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Closes the socket without a word; `terminate()` takes leave properly."""
        with contextlib.suppress(OSError):
            self.socket.close()

    def reset(self):
        """Closes the socket with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def terminate(self):
        with contextlib.suppress(OSError):
            self.send_raw(terminate())
        self.close()

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    # ---- out

    def send_raw(self, data):
        self.socket.settimeout(self.timeout)
        self.socket.sendall(data)

    def send(self, kind, body=b""):
        self.send_raw(message(kind, body))

    def send_split(self, data, chunk=1, pause=0.0):
        """In pieces of `chunk` bytes, each its own packet as far as the kernel lets us."""
        for at in range(0, len(data), chunk):
            self.send_raw(data[at:at + chunk])
            if pause:
                time.sleep(pause)

    def ssl_request(self):
        """The one-byte answer."""
        self.send_raw(struct.pack("!ii", 8, SSL_REQUEST))
        return self.recv_bytes(1)

    def gssenc_request(self):
        self.send_raw(struct.pack("!ii", 8, GSSENC_REQUEST))
        return self.recv_bytes(1)

    def cancel_request(self, pid, key):
        """On a connection that has said nothing yet. Returns when the peer has closed it."""
        self.send_raw(struct.pack("!iii", 12 + len(key), CANCEL_REQUEST, pid) + key)
        return self.eof()

    # ---- in

    def _fill(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing came for {self.timeout} s; {len(self.buffer)} bytes of a message are here")
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(262144)
        except socket.timeout:
            raise TimeoutError(f"nothing came; {len(self.buffer)} bytes of a message are here") from None
        except ConnectionError as error:
            raise Closed(str(error)) from None
        if not data:
            raise Closed(f"end of stream, {len(self.buffer)} bytes of a message before it")
        self.buffer += data

    def recv_bytes(self, count, timeout=None):
        deadline = time.monotonic() + (timeout or self.timeout)
        while len(self.buffer) < count:
            self._fill(deadline)
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def recv(self, timeout=None):
        """One message; what may come at any time is also remembered here."""
        deadline = time.monotonic() + (timeout or self.timeout)
        head = self.recv_bytes(5, timeout)
        kind, length = head[:1], struct.unpack("!i", head[1:])[0]
        assert length >= 4, f"length {length} in {kind!r}"
        parts, have = [self.buffer], len(self.buffer)
        self.buffer = b""
        while have < length - 4:
            self._fill(deadline)
            parts.append(self.buffer)
            have += len(self.buffer)
            self.buffer = b""
        body = b"".join(parts)
        body, self.buffer = body[:length - 4], body[length - 4:]
        if kind == b"S":
            name, value = body[:-1].split(b"\0")
            self.parameters[name.decode()] = value.decode()
        elif kind == b"K":
            self.pid, self.key = struct.unpack("!i", body[:4])[0], body[4:]
        elif kind == b"N":
            self.notices.append(error_fields(body))
        elif kind == b"Z":
            self.status = body.decode()
        elif kind == b"v":
            self.negotiation = body
        return kind, body

    def recv_until(self, kind=b"Z", timeout=None):
        """All messages up to and including the first of this type (or one of these types)."""
        found = []
        while True:
            found.append(self.recv(timeout))
            if found[-1][0] in kind:
                return found

    def recv_all(self, timeout=None):
        """All messages up to the end of the stream."""
        found = []
        with contextlib.suppress(Closed):
            while True:
                found.append(self.recv(timeout))
        return found

    def eof(self, timeout=None):
        """True when the peer closed without saying anything more; False when it says nothing or something."""
        try:
            self.recv_bytes(1, timeout)
        except Closed:
            return True
        except TimeoutError:
            return False
        return False

    def is_silent(self, duration=0.3):
        """Whether nothing comes for this long."""
        try:
            came = self.recv_bytes(len(self.buffer) + 1, duration)
            self.buffer = came + self.buffer
        except TimeoutError:
            return True
        except Closed:
            return False
        return False

    # ---- conversations

    def startup(self, user="app", database="app", protocol=PROTOCOL_3_0, **params):
        self.user = user
        self.send_raw(startup_packet(user, database, protocol, **params))
        return self

    def login(self, password=None):
        """Answers whatever is asked, up to ReadyForQuery; raises ServerError on refusal. Returns self."""
        password = password_of(self.user) if password is None else password
        exchange = None
        while True:
            kind, body = self.recv()
            if kind == b"E":
                raise ServerError(error_fields(body))
            if kind == b"Z":
                return self
            if kind != b"R":
                continue
            method = struct.unpack_from("!i", body)[0]
            if method == 3:
                self.send(b"p", cstring(password))
            elif method == 5:
                inner = hashlib.md5((password + self.user).encode()).hexdigest()
                self.send(b"p", cstring("md5" + hashlib.md5(inner.encode() + body[4:8]).hexdigest()))
            elif method == 10:
                assert b"SCRAM-SHA-256" in body[4:].split(b"\0")
                exchange = Scram(password)
                first = exchange.first()
                self.send(b"p", cstring("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first)
            elif method == 11:
                self.send(b"p", exchange.final(body[4:]))
            elif method == 12:
                assert exchange.is_proven(body[4:]), "the server does not know the password"
            else:
                assert method == 0, f"authentication method {method}"

    def asked_method(self):
        """The method of the first authentication request (0 trust, 3 plain, 5 md5, 10 SASL)."""
        while True:
            kind, body = self.recv()
            if kind == b"E":
                raise ServerError(error_fields(body))
            if kind == b"R":
                return struct.unpack_from("!i", body)[0]

    def query(self, sql, timeout=None):
        """All messages of the answer, ReadyForQuery included."""
        self.send_raw(query(sql))
        return self.recv_until(b"Z", timeout)

    def rows(self, sql, timeout=None):
        """The rows as tuples of texts; raises ServerError on an error."""
        answer = self.query(sql, timeout)
        for fields in errors(answer):
            raise ServerError(fields)
        return rows(answer)

    def value(self, sql, timeout=None):
        return self.rows(sql, timeout)[0][0]

    def dicts(self, sql, timeout=None):
        answer = self.query(sql, timeout)
        for fields in errors(answer):
            raise ServerError(fields)
        names = next((column_names(body) for kind, body in answer if kind == b"T"), [])
        return [dict(zip(names, row)) for row in rows(answer)]

    def backend_pid(self):
        return int(self.value("SELECT pg_backend_pid()"))


class Scram:
    """The client's side of SCRAM-SHA-256, RFC 5802 and 7677, without channel binding."""

    def __init__(self, password):
        self.password = password.encode()
        self.nonce = base64.b64encode(os.urandom(18)).decode()
        self.bare = f"n=,r={self.nonce}"
        self.signature = None

    def first(self):
        return f"n,,{self.bare}".encode()

    def final(self, challenge):
        fields = dict(part.split("=", 1) for part in challenge.decode().split(","))
        assert fields["r"].startswith(self.nonce) and len(fields["r"]) > len(self.nonce)
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(fields["s"]), int(fields["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={fields['r']}"
        signed = f"{self.bare},{challenge.decode()},{without_proof}".encode()
        client_signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, client_signature))
        self.signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def is_proven(self, answer):
        return answer == b"v=" + base64.b64encode(self.signature)
