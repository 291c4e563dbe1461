"""Downloads are streamed from the disk, whole and as they are, to those who know the id; nobody else gets anything."""

import gzip
import io
import os
import tracemalloc
import zipfile

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from quantlab.ui import exports, routes
from tests.loops import alone

LARGE = 500 * 10**6  # bytes; the file is sparse, so it takes no room
PIECE = 1 << 20

# Streamlit puts the same middleware around every route.
APP = Starlette(routes=routes.ROUTES, middleware=[Middleware(GZipMiddleware)])


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of the test's own."""
    folder = tmp_path / "exports"
    folder.mkdir()
    own = exports.Store(folder, kept=3, budget=10_000)
    monkeypatch.setattr(exports, "store", lambda: own)
    return own


def added(store: exports.Store, name: str, content: bytes = b"x" * 100) -> str:
    download, path = store.place(name)
    path.write_bytes(content)
    store.add(download, path)
    return download


class Answer:
    """What a request to the app got: status, headers by lower-case name, and of the body what `keep` bytes hold."""

    def __init__(self, keep: int) -> None:
        self.status, self.headers, self.body, self.size, self._keep = 0, {}, b"", 0, keep

    async def take(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            piece = message.get("body", b"")
            assert len(piece) <= PIECE
            self.size += len(piece)
            self.body = (self.body + piece)[: self._keep]


def get(path: str, keep: int = 1 << 20, method: str = "GET", **headers: str) -> Answer:
    """Ask the app, as a server would."""
    answer = Answer(keep)
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "scheme": "http",
    }  # fmt: skip

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    alone(APP(scope, receive, answer.take))
    return answer


def test_a_download_is_the_file_under_its_own_name(store):
    content = os.urandom(5000)
    answer = get(f"/exports/{added(store, 'weights.npz', content)}", accept_encoding="gzip")
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["content-disposition"] == 'attachment; filename="weights.npz"'
    assert answer.headers["content-length"] == "5000"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


def test_a_folder_is_an_archive_of_its_files(store):
    download, folder = store.place("model-int4")
    files = {"config.json": b"{}", "model.safetensors": os.urandom(3 * PIECE + 5), "inner/empty": b""}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    store.add(download, folder)
    answer = get(f"/exports/{download}", keep=10 * PIECE)
    assert answer.status == 200 and answer.headers["content-encoding"] == "identity"
    assert answer.headers["content-disposition"] == 'attachment; filename="model-int4.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(f"model-int4/{name}") for name in files} == files
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    assert get(f"/exports/{download}", method="HEAD").size == 0
    store.drop(download)
    assert get(f"/exports/{download}").status == 404


def test_half_a_gigabyte_passes_in_pieces_and_uncompressed(store):
    download, path = store.place("large.safetensors")
    with path.open("wb") as file:
        file.truncate(LARGE)
    store.add(download, path)
    tracemalloc.start()
    try:
        answer = get(f"/exports/{download}", keep=0, accept_encoding="gzip")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (answer.status, answer.size) == (200, LARGE)
    assert answer.headers.get("content-encoding") == "identity"
    assert peak < 8 * PIECE


def test_what_the_middleware_would_do_to_it_otherwise(store, monkeypatch):
    # The test above can fail: without the header, this body is compressed.
    monkeypatch.delitem(routes.HEADERS, "Content-Encoding")
    answer = get(f"/exports/{added(store, 'weights.npz', bytes(5000))}", accept_encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == bytes(5000)


def test_a_download_can_be_continued(store):
    content = os.urandom(5000)
    answer = get(f"/exports/{added(store, 'weights.npz', content)}", range="bytes=4000-")
    assert (answer.status, answer.body) == (206, content[4000:])


def test_the_head_alone_can_be_asked_for(store):
    answer = get(f"/exports/{added(store, 'weights.npz')}", method="HEAD")
    assert (answer.status, answer.size, answer.headers["content-length"]) == (200, 0, "100")


@pytest.mark.parametrize(
    "path",
    [
        "nope",
        "",
        "..",
        "../..",
        "..%2f..%2fetc%2fpasswd",
        "../../etc/passwd",
        "//etc/passwd",
        "\\..\\x",
        "{folder}",
        "{id}/x",
        "{id}x",
    ],
)
def test_what_is_not_an_id_is_not_found(store, path):
    download = added(store, "weights.npz")
    asked = path.replace("{id}", download).replace("{folder}", str(store.folder))
    answer = get(f"/exports/{asked}")
    assert answer.status == 404
    assert b"root" not in answer.body


def test_nothing_can_be_sent_to_the_route(store):
    assert get(f"/exports/{added(store, 'weights.npz')}", method="PUT").status == 405


def test_a_file_that_is_gone_is_not_found(store):
    download = added(store, "weights.npz")
    store.find(download).unlink()
    answer = get(f"/exports/{download}")
    assert answer.status == 404
    assert b"Export it again" in answer.body


@pytest.mark.parametrize(
    "name", ["=HYPERLINK(1).npz", "../../x.npz", "a\r\nSet-Cookie: x.npz", "größe\u202e.npz", '".npz', "x" * 5000]
)
def test_a_strangers_name_does_no_harm_in_a_header(store, name):
    disposition = get(f"/exports/{added(store, name)}").headers["content-disposition"]
    assert disposition.startswith('attachment; filename="')
    assert disposition.isascii()
    assert len(disposition) < 200
    assert "\r" not in disposition and "/" not in disposition
