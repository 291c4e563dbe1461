"""A small web server on loopback, which serves a folder as a real one would: with HTTP ranges, or without."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Server(ThreadingHTTPServer):
    """Serves `folder`; counts the bytes it sent and the requests it answered."""

    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges = folder, ranges
        self.sent = self.requests = 0
        self.failures = 0  # answers to come that are errors of the server
        self.cut = 0  # bytes that every answer lacks at its end
        self.redirect = ""  # where to send everybody

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.requests += 1
        path = self.server.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if self.server.redirect:
            return self.head(302, 0, {"Location": self.server.redirect})
        if self.server.failures:
            self.server.failures -= 1
            return self.head(500, 0)
        if not path.is_file():
            return self.head(404, 0)
        size = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.server.ranges else None
        first, last = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, size - 1)
        count = last + 1 - first - (self.server.cut if body else 0)
        headers = {"ETag": f'"{path.stat().st_mtime_ns}"'}
        if wanted and first >= size:
            return self.head(416, 0, {"Content-Range": f"bytes */{size}"})
        if wanted:
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self.head(206 if wanted else 200, count, headers)
        if not body:
            return None
        with path.open("rb") as file, contextlib.suppress(OSError):  # the reader may have had enough
            file.seek(first)
            for start in range(0, count, 1 << 20):
                self.server.sent += self.wfile.write(file.read(min(1 << 20, count - start)))
        return None

    def head(self, status: int, count: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(count), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(folder: Path, ranges: bool = True) -> Iterator[Server]:
    """A running server."""
    server = Server(folder, ranges)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Stranger:
    """A server that does as `behave(send, head)` says with every request from the `after`th on; honest before.

    `send(data)` sends bytes, and ends the answer once nobody listens; `head` is the request's, as text.
    """

    def __init__(self, content: bytes, behave, after: int = 0, address: str = "127.0.0.1") -> None:
        self.content, self.behave, self.after = content, behave, after
        self.heads: list[str] = []
        self.sent = 0
        self._listening = socket.create_server((address, 0))
        self.address = self._listening.getsockname()
        self.url = f"http://{address}:{self.address[1]}/x.npy"
        self._ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        def send(data: bytes) -> None:
            connection.sendall(data)
            self.sent += len(data)

        with connection, contextlib.suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += connection.recv(1) or b"\r\n\r\n"
            self.heads.append(head.decode())
            (self.behave if len(self.heads) > self.after else self.honest)(send, head.decode())

    def honest(self, send, head: str) -> None:
        """The bytes that are asked for."""
        first, last = self.range(head)
        part = self.content[first : last + 1]
        send(self.partial(head, f"Content-Length: {len(part)}", "Connection: close") + part)

    def partial(self, head: str, *lines: str) -> bytes:
        """The head of an honest answer, with more lines."""
        first, last = self.range(head)
        about = f"Content-Range: bytes {first}-{min(last, len(self.content) - 1)}/{len(self.content)}"
        return "\r\n".join(["HTTP/1.1 206 Partial Content", about, *lines, "", ""]).encode()

    @staticmethod
    def range(head: str) -> tuple[int, int]:
        """What is asked for."""
        found = re.search(r"Range: bytes=(\d+)-(\d+)", head)
        return int(found[1]), int(found[2])

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the test."""
        if self._ended.wait(seconds):
            raise OSError("the test is over")

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._listening.close()
