"""What stands between pgkeel and PostgreSQL in tests of outages: it counts, delays, drops, or answers by itself."""
import contextlib
import socket
import threading
import time

READY = b"Z\x00\x00\x00\x05I"


def fatal(sqlstate, text):
    """A FATAL ErrorResponse, as PostgreSQL sends it."""
    fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": text}
    body = b"".join(name.encode() + value.encode() + b"\0" for name, value in fields.items()) + b"\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


class Login:
    """One connection to the relay until PostgreSQL said that it is ready, or it ended."""

    def __init__(self):
        self.began, self.ended = time.monotonic(), None


class Relay:
    """Listens on `port` and passes bytes to `target` (a port of 127.0.0.1).

    `delay`: pause before each connection is passed on. `drop(n)`: whether the n-th is closed at once.
    `answer`: bytes that are sent instead of passing anything on, once the startup packet is there.
    """

    def __init__(self, target=None, delay=0.0, drop=None, answer=None):
        self.target, self.delay, self.drop, self.answer = target, delay, drop, answer
        self.logins, self.most_at_a_time = [], 0
        self._mutex, self._open = threading.Lock(), set()
        self._listener = None
        self.port = None
        self.listen()

    def listen(self):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port or 0))
        listener.listen(256)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self):
        """New connections are refused from now on; those that are open live on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # close() alone would leave the thread in accept() listening on.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def close(self):
        self.refuse()
        with self._mutex:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def forget(self):
        """Counts anew."""
        with self._mutex:
            self.logins, self.most_at_a_time = [], 0

    def _accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._mutex:
                login = Login()
                self.logins.append(login)
                number = len(self.logins)
                now = sum(other.ended is None for other in self.logins)
                self.most_at_a_time = max(self.most_at_a_time, now)
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client, login, number), daemon=True).start()

    def _end(self, login):
        with self._mutex:
            login.ended = login.ended or time.monotonic()

    def _serve(self, client, login, number):
        try:
            with client:
                time.sleep(self.delay)
                if self.drop is not None and self.drop(number):
                    return
                if self.answer is not None:
                    client.recv(65536)
                    client.sendall(self.answer)
                elif self.target is not None:
                    self._pass_on(client, login)
        except OSError:
            pass
        finally:
            self._end(login)
            with self._mutex:
                self._open.discard(client)

    def _pass_on(self, client, login):
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            back = threading.Thread(target=self._copy, args=(client, server), daemon=True)
            back.start()
            self._copy(server, client, login)
            back.join()

    def _copy(self, source, sink, login=None):
        tail = b""
        try:
            while data := source.recv(65536):
                # A login that is over must not count when its client can know that already.
                tail = (tail + data)[-65536 - len(READY):]
                if login is not None and login.ended is None and READY in tail:
                    self._end(login)
                sink.sendall(data)
        except OSError:
            pass
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
