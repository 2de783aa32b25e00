"""A door that actions knock at: they say who they are and wait for an answer. So a scenario knows what runs at this very
moment, and that it goes on running until the scenario has done what it came for.

Of an action it takes a shell with `/dev/tcp` or anything else that opens a connection, and the permission to use the network:

    exec 3<>/dev/tcp/127.0.0.1/PORT; echo NAME >&3; read -r answer <&3
"""

import queue
import select
import socket
import threading

from cask_server import Failure, expect

KNOCK_SECONDS_MAX = 90
GONE_SECONDS_MAX = 30


class Gate:
    """Listens on a port that the kernel chose until `close`."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._knocks = queue.Queue()
        # All that ever came, in order.
        self.names = []
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _listen(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection):
        with connection.makefile("r", errors="replace") as words:
            name = words.readline().strip()
        # One that ended before it said a word.
        if name:
            self.names.append(name)
            self._knocks.put(Knock(name, connection))

    def knock(self):
        """The next one to come, or that came already."""
        try:
            return self._knocks.get(timeout=KNOCK_SECONDS_MAX)
        except queue.Empty:
            raise Failure(f"nobody knocked for {KNOCK_SECONDS_MAX} s; these did before: {self.names}")


class Knock:
    """An action that waits for an answer, with nothing but the answer to end it."""

    def __init__(self, name, connection):
        self.name, self._connection = name, connection

    def answer(self, words="go"):
        self._connection.sendall(words.encode() + b"\n")
        self._connection.close()

    def expect_gone(self):
        """The process at the other end is no more, nor any that inherited the connection."""
        expect(first_gone([self]), f"{self.name} still runs after {GONE_SECONDS_MAX} s")


def first_gone(knocks):
    """The first of several whose process is no more, or None."""
    by_connection = {knock._connection: knock for knock in knocks}
    # The other end says one line only: what can be read is its end.
    readable, _, _ = select.select(list(by_connection), [], [], GONE_SECONDS_MAX)
    return by_connection[readable[0]] if readable else None
