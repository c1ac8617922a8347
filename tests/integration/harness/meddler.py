"""A relay that knows the messages of PostgreSQL and changes them on their way to pgkeel."""
import contextlib
import socket
import struct
import threading
import time

from harness.relay import Relay
from harness.wire import CANCEL_REQUEST


class Link:
    """One connection of pgkeel through a Meddler."""

    def __init__(self, sock):
        self.sock, self.mutex = sock, threading.Lock()
        self.is_ready = False  # PostgreSQL said so at least once
        self.is_quiet = False  # the last that it said was ReadyForQuery

    def say(self, data, chop=None):
        with self.mutex:
            for piece in chop(data) if chop else [data]:
                self.sock.sendall(piece)
                if chop:
                    time.sleep(0.0001)  # so that each is likely to be read by itself

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.shutdown(socket.SHUT_RDWR)


class Meddler(Relay):
    """`edit(link, kind, body)` makes the bytes that pgkeel gets for a message of PostgreSQL, `chop(data)` cuts them into
    pieces, `latency` passes before each piece in either direction. Cancel requests wait until `may_cancel` is set."""

    def __init__(self, target, edit=None, chop=None, latency=0.0):
        self.edit, self.chop, self.latency = edit, chop, latency
        self.links, self.cancels = [], 0
        self.may_cancel = threading.Event()
        self.may_cancel.set()
        super().__init__(target)

    def quiet_links(self):
        return [link for link in self.links if link.is_quiet]

    def _pass_on(self, client, login):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        packet = client.recv(8, socket.MSG_WAITALL)
        is_cancel = len(packet) == 8 and struct.unpack("!ii", packet)[1] == CANCEL_REQUEST
        if is_cancel:
            self.cancels += 1
            self.may_cancel.wait(30)
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.sendall(packet)
            back = threading.Thread(target=self._copy, args=(client, server), daemon=True)
            back.start()
            self._meddle(server, Link(client), login, is_cancel)
            for sock in (client, server):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            back.join()

    def _copy(self, source, sink, login=None):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self.latency)
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _meddle(self, server, link, login, is_cancel):
        if not is_cancel:
            self.links.append(link)
        tail = b""
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                time.sleep(self.latency)
                edited, tail = self._edited(link, tail + data)
                if link.is_ready:
                    self._end(login)
                link.say(edited, self.chop)
        if link in self.links:
            self.links.remove(link)

    def _edited(self, link, data):
        """Whole messages as they are to be, and the beginning of one that is not complete."""
        parts, at = [], 0
        while len(data) - at >= 5:
            kind, end = data[at:at + 1], at + 1 + struct.unpack_from("!i", data, at + 1)[0]
            if end > len(data):
                break
            parts.append(self.edit(link, kind, data[at + 5:end]) if self.edit else data[at:end])
            link.is_quiet = kind == b"Z"
            link.is_ready = link.is_ready or link.is_quiet
            at = end
        return b"".join(parts), data[at:]
