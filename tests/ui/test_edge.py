"""The edge of the app: on every route it answers to its own name and its own pages, and asks nobody on the internet."""

import http.client
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import streamlit as st
from starlette.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from quantlab.ui import edge

from ..serving import ROOT, served

# Everything that the server's process connects to, or looks up, that is not this computer: into a file.
WATCH = """
import os, socket
def watched(name, place):
    real = getattr(place, name)
    def call(*args, **options):
        where = args[1] if name.startswith("connect") else args[0]
        if not str(where[0] if isinstance(where, tuple) else where).startswith(("127.", "localhost", "::1", "None")):
            with open(os.environ["OUTSIDE"], "a") as file:
                file.write(f"{name} {where}\\n")
        return real(*args, **options)
    setattr(place, name, call)
watched("getaddrinfo", socket)
watched("connect", socket.socket)
watched("connect_ex", socket.socket)
"""
TRUSTED = "https://quantlab.example.com"
PATHS = ["/", "/sweep", "/exports/x", "/_stcore/health", "/_stcore/host-config", "/_stcore/nothing", "/static/x.js"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(host and port, the file of what it asked outside)."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "sitecustomize.py").write_text(WATCH)
    outside = folder / "outside"
    paths = os.pathsep.join(filter(None, [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with served(
        {"PYTHONPATH": paths, "OUTSIDE": str(outside), "STREAMLIT_SERVER_CORS_ALLOWED_ORIGINS": TRUSTED}
    ) as address:
        yield urlsplit(address).netloc, outside


def ask(place, path, method="GET", **headers):
    connection = http.client.HTTPConnection(place, timeout=20)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def websocket(place, origin):
    """None, or the status that it is refused with."""
    try:
        with connect(f"ws://{place}/_stcore/stream", origin=origin, subprotocols=["streamlit"], proxy=None):
            return None
    except InvalidStatus as error:
        return error.response.status_code


@pytest.mark.parametrize("path", PATHS)
def test_it_answers_to_its_own_name_alone(server, path):
    place, _ = server
    for host in (
        "evil.com",
        f"evil.com:{place.rpartition(':')[2]}",
        "169.254.169.254",
        "localhost.evil.com",
        "",
        "a@b",
    ):
        answer, body = ask(place, path, Host=host)
        assert answer.status == 403
        assert b"server.allowedHosts" in body
    answer, _ = ask(place, path, Host=f"localhost:{place.rpartition(':')[2]}")
    assert answer.status in (200, 404)


@pytest.mark.parametrize("path", PATHS)
def test_it_answers_its_own_pages_alone(server, path):
    place, _ = server
    for origin in ("http://evil.com", "http://127.0.0.1:3000", "http://localhost:3000", "null", f"file://{place}"):
        for method in ("GET", "POST", "OPTIONS", "PUT"):
            answer, body = ask(place, path, method, Origin=origin)
            assert answer.status == 403
            assert b"server.corsAllowedOrigins" in body
    for origin in (f"http://{place}", TRUSTED):
        assert ask(place, path, Origin=origin)[0].status in (200, 404)


def test_a_websocket_is_opened_for_its_own_pages_alone(server):
    place, _ = server
    port = place.rpartition(":")[2]
    for origin in ("http://evil.com", "http://localhost:3000", f"http://localhost:{port}", "null"):
        assert websocket(place, origin) == 403
    for origin in (f"http://{place}", TRUSTED, None):  # None: no browser
        assert websocket(place, origin) is None


@pytest.mark.parametrize("path", [*PATHS, "/_stcore/metrics"])
def test_every_answer_says_that_it_is_not_framed_nor_guessed_at(server, path):
    for headers in ({}, {"Host": "evil.com"}, {"Origin": "http://evil.com"}):
        answer, _ = ask(server[0], path, **headers)
        for name, value in edge.HEADERS.items():
            assert answer.headers.get_all(name) == [value]


def test_nobody_reads_the_metrics(server):
    assert ask(server[0], "/_stcore/metrics")[0].status == 404


def test_nobody_on_the_internet_was_asked(server):
    place, outside = server
    for origin in ("http://evil.com", TRUSTED, "http://10.0.0.1"):
        websocket(place, origin)
        ask(place, "/_stcore/health", Origin=origin)
        ask(place, "/_stcore/upload_file/a/b", "PUT", Origin=origin)
    assert not outside.exists() or outside.read_text() == ""


@pytest.mark.parametrize(
    ("allowed", "host", "ours"),
    [
        ([], "anything.example", True),
        (["localhost"], "LOCALHOST:8501", True),
        (["localhost"], "localhost.:8501", True),
        (["*.example.com"], "a.example.com", True),
        (["*.example.com"], "example.com", False),
        (["*.example.com"], "badexample.com", False),
        (["*"], "x", True),
        (["::1"], "[::1]:8501", True),
        (["localhost"], "localhost:http", False),
        (["localhost"], "localhost:99999", False),
        (["localhost"], "evil.com#localhost", False),
        (["localhost"], "user@localhost", False),
        (["localhost"], "local\thost", False),
        ([], "", False),
    ],
)
def test_which_names_are_ours(monkeypatch, allowed, host, ours):
    monkeypatch.setattr(st, "get_option", {"server.allowedHosts": allowed}.get)
    assert edge.is_ours(host) is ours


def test_several_hosts_or_origins_are_none(monkeypatch):
    host, origin = (b"host", b"localhost"), (b"origin", b"http://localhost")
    monkeypatch.setattr(st, "get_option", {"server.enableCORS": True}.get)
    assert edge.refusal(Headers(raw=[host, origin])) == ""
    assert "name" in edge.refusal(Headers(raw=[host, host]))
    assert "name" in edge.refusal(Headers(raw=[origin]))
    assert "pages" in edge.refusal(Headers(raw=[host, origin, origin]))


def test_the_settings_that_the_sentences_name_are_in_the_file():
    settings = (Path(ROOT) / ".streamlit" / "config.toml").read_text()
    assert "allowedHosts" in settings and "corsAllowedOrigins" in settings
