"""Files on web servers, by HTTP ranges: from servers that may answer anything, send without end, or not at all.

Of every answer the status, the range, the length and the encoding are checked before its body is read; of that no
more is read than was asked for, and one byte, which is one too many. Whatever takes longer than `patience` ends.
Redirects are followed three times at most, never from https to http, and never to another kind of address than the
one that was opened: else a public server could have us read from our own network.
"""

import base64
import io
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from ...core import pool
from ...errors import check_number

PATIENCE_VARIABLE = "QUANTLAB_HTTP_SECONDS"
PATIENCE = 10.0  # seconds to connect, until an answer begins, and for every PIECE of it
PIECE = 1 << 16  # bytes
PART = 8 << 20  # bytes per request of a large read: 0.1 s of a fast line, so that a request's latency is lost in it
REDIRECTS = 3
KEPT = 16  # connections kept for the next request
IDLE = 3.0  # seconds for which they are: servers close them after five or more
_PLAIN = "%/:@!$&'()*+,;=~-._"  # what a URL's path may hold as it is
VERSION = ("ETag", "Last-Modified")  # headers that tell one version of a file from the next


class Refused(Exception):
    """An answer that asking again would not mend."""


class Changed(Exception):
    """The file is another one than it was."""


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class WebFile:
    """A file on a web server.

    Its methods raise FileNotFoundError, PermissionError or Refused for what is final, and OSError or HTTPException for
    what may pass.
    """

    tells_changes = True  # every answer says which version it is of

    def __init__(self, url: str) -> None:
        self._url, self._size, self._version, self._kind = url, -1, ("", ""), ""

    def look(self) -> dict[str, Any]:
        """Its size and what tells its version, as they are now."""
        found: dict[str, Any] = {}
        _together([partial(self._look, found)])
        self._size, self._version = found["size"], tuple(found[name] for name in VERSION)
        return found

    def fetch(self, offset: int, out: memoryview) -> None:
        """Fill `out` from `offset`, by requests that run at the same time. Cancelled as the pool's limits say.

        Raises Changed if it is not the file that was looked at.
        """
        starts = range(0, len(out), PART)
        _together([partial(self._fill, offset + at, out[at : at + PART]) for at in starts])

    def _look(self, found: dict[str, Any], wires: "list[_Wire]") -> None:
        wire, answer = self._get(0, 0, wires)
        size = _total(answer)
        if answer.status == HTTPStatus.PARTIAL_CONTENT:
            _read(wire, answer, memoryview(bytearray(1)))
        found |= {"size": size, **{name: answer.headers.get(name, "") for name in VERSION}}

    def _fill(self, offset: int, out: memoryview, wires: "list[_Wire]") -> None:
        wire, answer = self._get(offset, offset + len(out) - 1, wires)
        version = tuple(answer.headers.get(name, "") for name in VERSION)
        if (_total(answer), version) != (self._size, self._version):
            raise Changed
        _read(wire, answer, out)

    def _get(self, first: int, last: int, wires: "list[_Wire]") -> "tuple[_Wire, HTTPResponse]":
        """The answer that has the bytes from `first` to `last`, its body not yet read."""
        url = self._url
        for _ in range(REDIRECTS + 1):
            parts = _split(url)
            wire = _wire(_origin(parts), self._kind)
            wires.append(wire)
            answer = wire.get(_target(parts), {"Range": f"bytes={first}-{last}", **self._login(parts)})
            self._kind = wire.kind
            if answer.status not in (301, 302, 303, 307, 308):
                _check(answer, first, last)
                return wire, answer
            url = _redirected(url, answer)
            wire.finish(answer)
        raise Refused(f"the server redirects more than {REDIRECTS} times")

    def _login(self, parts: SplitResult) -> dict[str, str]:
        """User and password, where the URL that was given names them, for its own server alone."""
        own = _split(self._url)
        if own.username is None or _origin(own) != _origin(parts):
            return {}
        login = f"{unquote(own.username)}:{unquote(own.password or '')}"
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def patience() -> float:
    """Seconds to wait for a server: QUANTLAB_HTTP_SECONDS, or `PATIENCE`. ConfigError if that is no such number."""
    named = os.environ.get(PATIENCE_VARIABLE, "").strip()
    if not named:
        return PATIENCE
    try:
        return check_number(PATIENCE_VARIABLE, float(named), 0.1, 3600)
    except ValueError:
        return check_number(PATIENCE_VARIABLE, named, 0.1, 3600)


def kind(address: str) -> str:
    """What an IP address is an address of: "loopback", "link-local", "private" or "public".

    >>> kind("8.8.8.8"), kind("::ffff:10.0.0.1"), kind("169.254.169.254"), kind("0.0.0.0")
    ('public', 'private', 'link-local', 'loopback')
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else ip)
    if ip.is_loopback or ip.is_unspecified:  # Linux connects 0.0.0.0 to itself
        return "loopback"
    if ip.is_link_local:
        return "link-local"
    return "public" if ip.is_global else "private"


# -- what is asked, and of whom


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise Refused("it is no URL of a web server") from error


def _origin(parts: SplitResult) -> _Origin:
    try:
        scheme, host = parts.scheme.lower(), (parts.hostname or "").encode("idna").decode()
        port = parts.port or {"http": 80, "https": 443}[scheme]
    except (KeyError, ValueError) as error:
        raise Refused("it is no URL of a web server") from error
    if not host:
        raise Refused("the URL names no server")
    return _Origin(scheme, host, port)


def _target(parts: SplitResult) -> str:
    """What to ask the server for. What is quoted already stays as it is."""
    path, query = quote(parts.path, safe=_PLAIN) or "/", quote(parts.query, safe=_PLAIN + "?")
    return f"{path}?{query}" if query else path


def _redirected(url: str, answer: HTTPResponse) -> str:
    try:
        there = urljoin(url, answer.headers.get("Location", ""))
    except ValueError as error:
        raise Refused("the server redirects to what is no URL") from error
    before, after = (_split(place).scheme.lower() for place in (url, there))
    if after not in (before, "https"):
        raise Refused(f"the server redirects from {before} to something else than http and https")
    return there


# -- what is answered


def _check(answer: HTTPResponse, first: int, last: int) -> None:
    """Raise unless an answer is to have the bytes from `first` to `last`, and no more."""
    status, range = answer.status, answer.headers.get("Content-Range", "").strip()
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise FileNotFoundError
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise PermissionError
    if status == HTTPStatus.OK:
        raise Refused("the server only sends whole files (it has no HTTP ranges); download it first")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        if range == "bytes */0":
            return  # an empty file
        raise Changed  # it had these bytes
    if status != HTTPStatus.PARTIAL_CONTENT:
        passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
        raise (ConnectionError if passing else Refused)(f"the server answers {_status(status)}")
    if answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise Refused("the server sends it compressed; download it first")
    if answer.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise Refused("the server sends it in an encoding that nobody asked for; download it first")
    if not re.fullmatch(rf"bytes {first}-{last}/([0-9]{{1,18}}|\*)", range):
        raise Refused(f"the server was asked for bytes {first} to {last}, and does not say that it sends them")
    count = last + 1 - first
    if answer.length is not None and answer.length != count:
        raise Refused(f"the server was asked for {count} bytes, and sent {answer.length}")


def _total(answer: HTTPResponse) -> int:
    """Bytes of the whole file."""
    total = answer.headers["Content-Range"].strip().rpartition("/")[2]
    if total == "*":
        raise Refused("the server does not say how long it is; download it first")
    return int(total)


def _status(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def _read(wire: "_Wire", answer: HTTPResponse, out: memoryview) -> None:
    """Fill `out` with the body, which must end with it."""
    done = 0
    while done < len(out):
        got = wire.read_into(answer, out[done : done + PIECE])
        if not got:
            raise ConnectionError(f"the server was asked for {len(out)} bytes, and sent {done}")
        done += got
    if wire.read_into(answer, memoryview(bytearray(1))):
        raise Refused(f"the server was asked for {len(out)} bytes, and sends more")
    wire.finish(answer)


# -- connections


class _Deadline:
    """When to stop waiting, and the words for it."""

    def __init__(self) -> None:
        self.start("")

    def start(self, what: str) -> None:
        """Wait from now on, for `patience` seconds."""
        self._what, self._seconds = what, patience()
        self._end = time.monotonic() + self._seconds

    def left(self) -> float:
        """Seconds. TimeoutError if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.over()
        return left

    def over(self) -> TimeoutError:
        """The error that says so."""
        return TimeoutError(f"{self._what} within {self._seconds:g} seconds")


class _Timed(io.RawIOBase):
    """What arrives at a socket until a deadline: a time limit of the socket's own begins anew with every byte."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock, self._deadline = sock, deadline
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open until the answer is read

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, out: Any) -> int | None:
        """As many bytes as are there."""
        self._sock.settimeout(self._deadline.left())
        try:
            return self._raw.readinto(out)
        except TimeoutError:
            raise self._deadline.over() from None

    def close(self) -> None:
        """Let the socket go."""
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """An answer that is read in time."""

    def __init__(self, deadline: _Deadline, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Timed(sock, deadline))


class _Wire(HTTPConnection):
    """A connection to a server of a kind ("": of any), which it then has."""

    def __init__(self, origin: _Origin, kind: str) -> None:
        super().__init__(origin.host, origin.port)
        self.origin, self.kind = origin, kind
        self.busy, self.since = True, 0.0
        self._socket: socket.socket | None = None  # `sock` is None as soon as an answer begins that will be the last
        self.default_port = {"http": 80, "https": 443}[origin.scheme]
        self.deadline = _Deadline()
        self.response_class = partial(_Response, self.deadline)  # type: ignore[assignment]

    def connect(self) -> None:
        """Connect to the first address of the right kind that can be reached."""
        self.deadline.start("the server could not be reached")
        self.kind, self.sock = _connected(self.origin, self.kind, self.deadline)
        if self.origin.scheme == "https":
            self.sock.settimeout(self.deadline.left())
            self.sock = _trust().wrap_socket(self.sock, server_hostname=self.origin.host)
        self._socket = self.sock

    def get(self, target: str, headers: dict[str, str]) -> HTTPResponse:
        """The answer to a request, up to its body."""
        self.busy, used_before = True, self.sock is not None
        try:
            return self._get(target, headers)
        except ConnectionError:
            if not used_before:
                raise
        self.close()  # the server had ended it meanwhile
        return self._get(target, headers)

    def _get(self, target: str, headers: dict[str, str]) -> HTTPResponse:
        try:
            if self.sock is None:
                self.connect()
            self.deadline.start("the server did not answer")
            self.sock.settimeout(self.deadline.left())
            self.request("GET", target, headers={"Accept-Encoding": "identity", "User-Agent": "quantlab", **headers})
            return self.getresponse()
        except TimeoutError:
            raise self.deadline.over() from None
        except HTTPException as error:
            if isinstance(error, ConnectionError):  # it hung up
                raise
            raise Refused("what the server answers is not HTTP") from error

    def read_into(self, answer: HTTPResponse, out: memoryview) -> int:
        """Up to len(out) bytes of a body: how many; 0 at its end, or where it is not what it says."""
        self.deadline.start(f"the server sent less than {PIECE >> 10} KiB")
        try:
            return answer.readinto(out)
        except HTTPException:
            return 0

    def finish(self, answer: HTTPResponse) -> None:
        """Keep the connection for another request, if the answer is read and the server agrees."""
        if answer.length is not None and answer.length <= PIECE:  # what a redirect says to people
            self.read_into(answer, memoryview(bytearray(PIECE)))
        self.busy = False
        if answer.isclosed() and self.sock is not None:
            _keep(self)
        else:
            self.hang_up()

    def hang_up(self) -> None:
        """End it, also while another thread waits for it."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self.close()


@cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads a few hundred certificates


def _connected(origin: _Origin, wanted: str, deadline: _Deadline) -> tuple[str, socket.socket]:
    found = [(kind(str(entry[4][0])), entry) for entry in _addresses(origin)]
    fitting = [(is_kind, entry) for is_kind, entry in found if wanted in ("", is_kind)]
    if not fitting:
        raise Refused(f"it leads to a {found[0][0]} address, and what was opened has a {wanted} one")
    failure: OSError = ConnectionError("the server has no address")
    for i, (is_kind, (family, type, protocol, _, address)) in enumerate(fitting):
        sock = socket.socket(family, type, protocol)
        try:
            sock.settimeout(deadline.left() / (len(fitting) - i))
            sock.connect(address)
            return is_kind, sock
        except OSError as error:
            sock.close()
            failure = deadline.over() if isinstance(error, TimeoutError) else error
    raise failure


def _addresses(origin: _Origin) -> list[tuple[Any, ...]]:
    return socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)


_kept: deque[tuple[int, _Wire]] = deque()  # with the process, since a child must not use what its parent reads from


def _wire(origin: _Origin, kind: str) -> _Wire:
    """A connection that was kept and is young enough, or a new one."""
    for _ in range(len(_kept)):
        try:
            process, wire = _kept.popleft()
        except IndexError:  # another thread was faster
            break
        young = time.monotonic() - wire.since < IDLE
        if (process, wire.origin, wire.kind, young) == (os.getpid(), origin, kind or wire.kind, True):
            return wire
        if young and process == os.getpid():
            _kept.append((process, wire))
        else:
            wire.close()
    return _Wire(origin, kind)


def _keep(wire: _Wire) -> None:
    wire.since = time.monotonic()
    _kept.append((os.getpid(), wire))
    while len(_kept) > KEPT:
        try:
            _kept.popleft()[1].close()
        except IndexError:
            break


class _Request(threading.Thread):
    """A request on a thread of its own. A daemon: a program that ends does not wait for a server."""

    def __init__(self, work: Callable[[list[_Wire]], None]) -> None:
        super().__init__(name="quantlab-http", daemon=True)
        self._work = work
        self._wires: list[_Wire] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do it."""
        try:
            self._work(self._wires)
        except BaseException as error:
            self.error = error
            self.stop()

    def stop(self) -> None:
        """Have it fail, wherever it is."""
        for wire in self._wires[-1:]:
            if wire.busy:  # else it may be another request's by now
                wire.hang_up()


def _together(work: list[Callable[[list[_Wire]], None]]) -> None:
    """Requests at the same time. The first error of one ends the others; so does Cancel."""
    requests = [_Request(one) for one in work]
    try:
        for request in requests:
            request.start()
        for request in requests:
            while request.is_alive():
                request.join(0.1)
                pool.check_cancel()
            if request.error is not None:
                raise request.error
    finally:
        for request in requests:
            request.stop()
            request.error = None  # its traceback holds what was to be filled
