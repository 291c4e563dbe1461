"""Web servers that lie, stall, or never end: one sentence, in bounded time and memory, and nothing said on the side."""

import io
import os
import shutil
import ssl
import subprocess
import threading
import tracemalloc
import zlib

import numpy as np
import pytest

from quantlab.core import pool
from quantlab.errors import Cancelled, CheckpointError
from quantlab.formats import open_checkpoint
from quantlab.formats.input import remote, web

from ...webserver import Stranger, serving

VALUES = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)
MORE = b"0" * (1 << 16)


def content():
    file = io.BytesIO()
    np.save(file, VALUES)
    return file.getvalue()


CONTENT = content()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Deadlines that a test can wait for; requests that fail are made again at once."""
    monkeypatch.setenv(web.PATIENCE_VARIABLE, "0.3")
    monkeypatch.setattr(remote, "PAUSES", (0, 0))
    web._kept.clear()


@pytest.fixture
def stranger():
    """Starts servers, which end with the test."""
    started = []

    def start(behave=None, **options):
        server = Stranger(CONTENT, None, **options)
        server.behave = behave(server) if behave else server.honest
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


def said(server):
    """What is said of a server's file; no more memory than the file's twice over, and nothing on the terminal."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught, open_checkpoint(server.url) as found:
            found.raw("x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(CONTENT) + (8 << 20)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- servers that lie, at once or once they are trusted: what each does, and a part of the sentence


def endless(server):
    def behave(send, head):
        send(server.partial(head, "Transfer-Encoding: chunked"))
        while True:
            send(b"%x\r\n%b\r\n" % (len(MORE), MORE))

    return behave


def endless_without_a_length(server):
    def behave(send, head):
        send(server.partial(head))
        while True:
            send(MORE)

    return behave


def terabyte(server):
    def behave(send, head):
        send(server.partial(head, f"Content-Length: {1 << 40}"))
        while True:
            send(MORE)

    return behave


def silent(server):
    return lambda send, head: server.pause(60)


def slow_header(server):
    def behave(send, head):
        for byte in server.partial(head, "X: " + "y" * 5000):
            send(bytes([byte]))
            server.pause(0.05)

    return behave


def endless_header(server):
    def behave(send, head):
        send(b"HTTP/1.1 206 Partial Content\r\nX: ")
        while True:
            send(MORE)

    return behave


def many_headers(server):
    return lambda send, head: send(server.partial(head, *["X: y"] * 1000))


def endless_continue(server):
    def behave(send, head):
        while True:
            send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    return behave


def drip(server):
    def behave(send, head):
        first, last = server.range(head)
        send(server.partial(head, f"Content-Length: {last + 1 - first}"))
        server.pause(0.15)
        for _ in range(last - first):
            send(b"0")
            server.pause(0.05)
        server.pause(60)

    return behave


def hangs_up(server):
    def behave(send, head):
        first, last = server.range(head)
        send(server.partial(head, f"Content-Length: {last + 1 - first}") + b"0" * ((last + 1 - first) // 2))

    return behave


def redirects(location):
    def behaviour(server):
        place = location.replace("{own}", server.url)
        return lambda send, head: send(f"HTTP/1.1 302 Found\r\nLocation: {place}\r\n\r\n".encode())

    return behaviour


def encoded(*lines):
    bomb = zlib.compress(bytes(64 << 20), wbits=31)
    return lambda server: lambda send, head: send(server.partial(head, *lines, f"Content-Length: {len(bomb)}") + bomb)


def ranges(line):
    answer = f"HTTP/1.1 206 Partial Content\r\n{line}\r\nContent-Length: 1\r\n\r\n0".encode()
    return lambda server: lambda send, head: send(answer)


def whole(server):
    def behave(send, head):
        send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 40))
        while True:
            send(MORE)

    return behave


def says(answer):
    return lambda server: lambda send, head: send(answer)


def chunks(size):
    def behaviour(server):
        def behave(send, head):
            send(server.partial(head, "Transfer-Encoding: chunked") + size + b"\r\n" + MORE)

        return behave

    return behaviour


LIES = {
    "endless": (endless, "and sends more"),
    "endless without a length": (endless_without_a_length, "and sends more"),
    "a terabyte": (terabyte, "bytes, and sent 1099511627776"),
    "silent": (silent, "the server did not answer within 0.3 seconds"),
    "slow header": (slow_header, "the server did not answer within 0.3 seconds"),
    "endless header": (endless_header, "is not HTTP"),
    "many headers": (many_headers, "is not HTTP"),
    "endless continue": (endless_continue, "did not answer within 0.3 seconds"),
    "drip": (drip, "sent less than 64 KiB within 0.3 seconds"),
    "hangs up": (hangs_up, "and sent "),
    "redirects to itself": (redirects("{own}"), "redirects more than 3 times"),
    "redirects nowhere": (redirects("http://[::1"), "no URL"),
    "redirects to a file": (redirects("file:///etc/passwd"), "something else than http and https"),
    "redirects to ftp": (redirects("ftp://127.0.0.1/x"), "something else than http and https"),
    "redirects to a secret": (redirects("http://me:secret@127.0.0.1:1/x?key=secret"), "cannot"),
    "gzip": (encoded("Content-Encoding: gzip"), "sends it compressed"),
    "gzip on the way": (encoded("Transfer-Encoding: gzip, chunked"), "in an encoding that nobody asked for"),
    "another range": (ranges("Content-Range: bytes 5-5/9999999"), "does not say that it sends them"),
    "a huge number": (ranges(f"Content-Range: bytes 0-0/{'9' * 5000}"), "does not say that it sends them"),
    "no range": (ranges("X: y"), "does not say that it sends them"),
    "several ranges": (ranges("Content-Type: multipart/byteranges"), "does not say that it sends them"),
    "whole": (whole, "only sends whole files"),
    "no HTTP": (says(b"SSH-2.0-OpenSSH_9.2\r\n" * 100), "is not HTTP"),
    "nothing": (says(b""), "cannot"),
    "teapot": (says(b"HTTP/1.1 418 I'm a\x1b[31m teapot\r\n\r\n"), "the server answers 418"),
    "status 999": (says(b"HTTP/1.1 999 x\r\n\r\n"), "the server answers 999"),
    "busy": (says(b"HTTP/1.1 503 no\r\n\r\n"), "the server answers 503 (Service Unavailable)"),
    "chunk of a negative size": (chunks(b"-5"), "cannot"),
    "chunk of no size": (chunks(b"zz"), "and sent 0"),
    "chunk of all sizes": (chunks(b"f" * 70_000), "and sent 0"),
}


@pytest.mark.parametrize("after", [0, 2], ids=["at once", "once trusted"])
@pytest.mark.parametrize("lie", LIES)
def test_whatever_a_server_answers_is_one_sentence(stranger, lie, after, capfd):
    behave, words = LIES[lie]
    server = stranger(behave, after=after)
    if after and lie == "redirects to itself":
        server.url += "?token=secret"
    sentence = said(server)
    assert words in sentence
    assert "secret" not in sentence
    assert server.sent < 64 << 20  # what fits the buffers of connections that are closed unread
    assert tuple(capfd.readouterr()) == ("", "")


def test_an_honest_server_is_read_and_asked_for_plain_bytes(stranger):
    server = stranger()
    with open_checkpoint(server.url) as found:
        assert np.array_equal(found.raw("x"), VALUES)
    assert all("Accept-Encoding: identity\r\n" in head for head in server.heads)
    assert "Range: bytes=0-0\r\n" in server.heads[0]


def test_another_total_later_is_another_file(stranger):
    server = stranger(after=2)
    server.behave = lambda send, head: send(server.partial(head).replace(b"/%d" % len(CONTENT), b"/%d" % (1 << 50)))
    assert "was changed by another program" in said(server)


def test_a_name_without_an_address_and_a_port_without_a_server(stranger):
    server = stranger()
    server.close()
    assert "refused" in said(server)
    server.url = "http://nothing.invalid/x.npy"
    assert "cannot open 'http://nothing.invalid/x.npy': " in said(server)


@pytest.mark.parametrize(
    "url", ["http:///x", "http://[::1", "file://[::1", "https://a:b/x", "http://h:99999/x", "http://\udcff/x"]
)
def test_what_is_no_url_is_said(url):
    with pytest.raises(CheckpointError, match="URL"):
        open_checkpoint(url)


def test_a_number_of_seconds_that_is_none_is_said(stranger, monkeypatch):
    monkeypatch.setenv(web.PATIENCE_VARIABLE, "soon")
    with pytest.raises(ValueError, match="QUANTLAB_HTTP_SECONDS is 'soon': give a number from"):
        open_checkpoint(stranger().url)


def test_cancel_does_not_wait_for_a_server(stranger, monkeypatch):
    monkeypatch.setenv(web.PATIENCE_VARIABLE, "3600")
    asked = threading.Event()

    def behave(server):
        return lambda send, head: (asked.set(), server.pause(3600))

    with pool.limits(cancel=asked.is_set), pytest.raises(Cancelled):
        open_checkpoint(stranger(behave).url)


# -- redirects


def kinds(monkeypatch, **others):
    """Let addresses of loopback pass for others."""
    real = web.kind
    monkeypatch.setattr(web, "kind", lambda address: others.get(f"at_{address.rpartition('.')[2]}") or real(address))


@pytest.mark.parametrize("location", ["http://127.0.0.1:{port}/x.npy", "/other/x.npy"])
def test_a_redirect_to_the_same_kind_of_address_is_followed(stranger, location):
    there = stranger()

    def behave(server):
        port = there.address[1]
        place = location.format(port=port)
        answer = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {place}\r\nContent-Length: 5\r\n\r\nthere".encode()
        return lambda send, head: server.honest(send, head) if "/other/" in head else send(answer)

    server = stranger(behave)
    server.url = server.url.replace("http://", "http://me:secret@")
    with open_checkpoint(server.url) as found:
        assert np.array_equal(found.raw("x"), VALUES)
    assert all("Authorization: Basic bWU6c2VjcmV0\r\n" in head for head in server.heads)
    assert not any("Authorization" in head for head in there.heads)


@pytest.mark.parametrize("before", ["public", "private", "link-local"])
def test_a_redirect_to_another_kind_of_address_is_not_followed(stranger, monkeypatch, before):
    kinds(monkeypatch, at_1=before)
    inner = stranger(address="127.0.0.2")
    sentence = said(stranger(redirects(inner.url)))
    assert f"it leads to a loopback address, and what was opened has a {before} one" in sentence
    assert inner.heads == []


def test_a_name_that_later_leads_elsewhere_is_not_followed(stranger, monkeypatch):
    """DNS rebinding: the name is asked for again at every connection."""
    kinds(monkeypatch, at_1="public")
    server, inner = stranger(), stranger(address="127.0.0.2")
    server.url = f"http://rebound.example:{server.address[1]}/x.npy"
    places = iter([server.address, server.address])
    real = web.socket.getaddrinfo
    monkeypatch.setattr(
        web.socket, "getaddrinfo", lambda host, port, **options: real(*next(places, inner.address), **options)
    )
    assert "it leads to a loopback address, and what was opened has a public one" in said(server)
    assert inner.heads == []


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("10.1.2.3", "private"),
        ("192.168.0.1", "private"),
        ("172.31.255.255", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("::ffff:10.0.0.1", "private"),
        ("93.184.215.14", "public"),
        ("2606:2800:21f:cb07::1", "public"),
    ],
)
def test_kinds_of_addresses(address, found):
    assert web.kind(address) == found


# -- https


@pytest.fixture
def certified(tmp_path, monkeypatch):
    """A server of a folder by https, whose certificate is trusted; http of the same beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    np.save(tmp_path / "x.npy", VALUES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(web, "_trust", lambda: trust)
    with serving(tmp_path) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.secure_url = server.url.replace("http://", "https://")
        yield server


def test_https_is_read(certified, monkeypatch):
    monkeypatch.setenv(web.PATIENCE_VARIABLE, "10")
    with open_checkpoint(f"{certified.secure_url}/x.npy") as found:
        assert np.array_equal(found.raw("x"), VALUES)


def test_a_certificate_that_nobody_vouches_for_is_refused(certified, monkeypatch):
    monkeypatch.setenv(web.PATIENCE_VARIABLE, "10")
    monkeypatch.setattr(web, "_trust", ssl.create_default_context)
    with pytest.raises(CheckpointError, match="certificate verify failed"):
        open_checkpoint(f"{certified.secure_url}/x.npy")


def test_https_is_not_left_for_http(stranger, certified, monkeypatch):
    monkeypatch.setenv(web.PATIENCE_VARIABLE, "10")
    plain = stranger()
    certified.redirect = plain.url
    with pytest.raises(CheckpointError, match="redirects from https to something else"):
        open_checkpoint(f"{certified.secure_url}/x.npy")
    assert plain.heads == []


# -- connections are kept


def test_connections_are_used_again_and_not_after_a_while(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", VALUES)
    opened = []
    real = web._connected
    monkeypatch.setattr(web, "_connected", lambda *args: (opened.append(args), real(*args))[1])
    monkeypatch.setattr(web, "IDLE", 60)
    with serving(tmp_path) as server, open_checkpoint(f"{server.url}/x.npy") as found:
        found.raw("x")
        assert len(opened) == 1 and server.requests > 2
        monkeypatch.setattr(web, "IDLE", 0)
        found.raw("x")
        assert len(opened) == 1 + (server.requests - 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes are copied")
def test_a_child_does_not_read_from_its_parents_connections(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "IDLE", 60)
    np.save(tmp_path / "x.npy", VALUES)
    with serving(tmp_path) as server:
        with open_checkpoint(f"{server.url}/x.npy"):
            pass
        (process, wire), *_ = web._kept
        assert process == os.getpid()
        monkeypatch.setattr(web.os, "getpid", lambda: process + 1)
        assert web._wire(wire.origin, wire.kind) is not wire
