"""A relay between a client and a server that can lose what one of them sends."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


class Relay:
    """Passes bytes between whoever connects to `port` and a server of this machine.

    `on_request` and `on_answer` see each piece before it is passed on, and decide: what they return
    is passed on, and None cuts both ends' connections without passing it.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.on_request: Callable[[bytes], bytes | None] = bytes
        self.on_answer: Callable[[bytes], bytes | None] = bytes
        self.keeps_server = False
        """Whether the server's side stays open when the client's is cut."""
        self.kept: list[socket.socket] = []
        self._ends = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._ends += [client, server]
                for ends in (
                    (client, server, lambda data: self.on_request(data)),
                    (server, client, lambda data: self.on_answer(data)),
                ):
                    thread = threading.Thread(target=self._pass, args=(client, server, *ends))
                    thread.start()
                    self._threads.append(thread)

    def _pass(
        self,
        client: socket.socket,
        server: socket.socket,
        source: socket.socket,
        target: socket.socket,
        judge: Callable[[bytes], bytes | None],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                passed = judge(data)
                if passed is None:
                    break
                target.sendall(passed)
        if self.keeps_server and source is client:
            self.kept.append(server)
            _cut(client)
            return
        _cut(client)
        if server not in self.kept:
            _cut(server)

    def close(self) -> None:
        """Ends everything."""
        _cut(self._listener)
        self._threads[0].join()
        for end in self._ends:
            _cut(end)
        for thread in self._threads:
            thread.join()


def _cut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextlib.contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    """A relay to this port, closed at the end."""
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.close()
