"""A small web server on loopback, which serves a folder as a real one would: with HTTP ranges, or without."""

import contextlib
import re
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
        if self.server.failures:
            self.server.failures -= 1
            return self.head(500, 0)
        if not path.is_file():
            return self.head(404, 0)
        size = path.stat().st_size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.server.ranges else None
        first, last = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, size - 1)
        count = last + 1 - first - (self.server.cut if body else 0)
        self.head(206 if wanted else 200, count, {"ETag": f'"{path.stat().st_mtime_ns}"'})
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
