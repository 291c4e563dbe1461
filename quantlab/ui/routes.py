"""HTTP routes: the frame of every page, and what is too big to pass through a widget.

`app.py` mounts `ROUTES`. A path must not start with `/_stcore`, which belongs to Streamlit.
"""

import os
from functools import cache
from pathlib import Path

import streamlit as st
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from quantlab.ui import exports
from quantlab.ui.state import PAGES
from quantlab.ui.zipping import zipped

HEADERS = {
    # Streamlit compresses every response that has no encoding yet: half a gigabyte of codes, for a percent.
    "Content-Encoding": "identity",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


# Without it, Streamlit's script looks for the server below each page first: two errors 404 in the console.
BASE = "<script>window.__streamlit = { BACKEND_BASE_URL: new URL('.', location).href };</script>"


@cache
def frame() -> str:
    """Streamlit's own page, which says where its server is."""
    html = (Path(st.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    return html.replace("<head>", "<head>" + BASE, 1)


async def page(request: Request) -> Response:
    """A page opened by its own address; Streamlit itself serves the first one."""
    return HTMLResponse(frame(), headers={"Cache-Control": "no-cache"})


async def download(request: Request) -> Response:
    """An exported file, in pieces from the disk; a folder as an archive.

    The id is looked up and never part of a path.
    """
    path = exports.store().find(request.path_params["id"])
    try:
        status = os.stat(path) if path else None
    except FileNotFoundError:  # removed since: there are newer ones
        status = None
    if path is not None and path.is_dir():
        named = {"Content-Disposition": f'attachment; filename="{path.name}.zip"'}
        pieces = zipped(path) if request.method == "GET" else []
        return StreamingResponse(pieces, media_type="application/zip", headers=HEADERS | named)
    if path is None or status is None:
        return PlainTextResponse("This file is no longer kept. Export it again.", 404)
    return FileResponse(
        path, filename=path.name, media_type="application/octet-stream", headers=HEADERS, stat_result=status
    )


ROUTES: list[BaseRoute] = [
    Route(f"/{exports.ROUTE}/{{id}}", download, methods=["GET"]),
    *(Route(f"/{name}", page, methods=["GET"]) for name in PAGES if name != "open"),
]
