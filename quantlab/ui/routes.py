"""HTTP routes beside the pages, for what is too big to pass through a widget.

`app.py` mounts `ROUTES`. A path must not start with `/_stcore`, which belongs to Streamlit.
"""

import os

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from quantlab.ui import exports

HEADERS = {
    # Streamlit compresses every response that has no encoding yet: half a gigabyte of codes, for a percent.
    "Content-Encoding": "identity",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


async def download(request: Request) -> Response:
    """An exported file, in pieces from the disk. The id is looked up and never part of a path."""
    path = exports.store().find(request.path_params["id"])
    try:
        status = os.stat(path) if path else None
    except FileNotFoundError:  # removed since: there are newer ones
        status = None
    if path is None or status is None:
        return PlainTextResponse("This file is no longer kept. Export it again.", 404)
    return FileResponse(
        path, filename=path.name, media_type="application/octet-stream", headers=HEADERS, stat_result=status
    )


ROUTES: list[BaseRoute] = [Route(f"/{exports.ROUTE}/{{id}}", download, methods=["GET"])]
