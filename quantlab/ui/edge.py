"""What every request passes before it reaches Streamlit or a route of ours: whom it asks, and from which page it comes.

A web page that a visitor has open elsewhere can make the browser send requests here. Streamlit looks at WebSockets
alone, takes every port of localhost for its own, and asks the internet for its own address before it refuses.
"""

from urllib.parse import urlsplit

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METRICS = "/_stcore/metrics"  # of the server's work and sessions; nobody here reads them
HEADERS = {
    # Nobody lays this app, invisible, over a page of their own.
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
}


class Edge:
    """ASGI middleware. Refuses requests for other hosts and from other origins; adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        why = refusal(Headers(scope=scope))
        if why and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # a 403, before anything is opened
        elif why:
            await PlainTextResponse(why, 403)(scope, receive, guarded)
        elif scope["path"].endswith(METRICS):
            await PlainTextResponse("There is nothing here.", 404)(scope, receive, guarded)
        else:
            await self.app(as_own(scope), receive, guarded)


def refusal(headers: Headers) -> str:
    """Why a request is not answered, in a sentence; "" if it is."""
    hosts, origins = headers.getlist("host"), headers.getlist("origin")
    if len(hosts) != 1 or not is_ours(hosts[0]):
        return "This server does not answer to that name: see server.allowedHosts in .streamlit/config.toml."
    if origins and not (len(origins) == 1 and (is_same(origins[0], hosts[0]) or is_trusted(origins[0]))):
        return (
            "This server does not answer other sites' pages: see server.corsAllowedOrigins in .streamlit/config.toml."
        )
    return ""


def is_ours(host: str) -> bool:
    """Whether a Host, such as localhost:8501, is one of server.allowedHosts; of any, where that is empty."""
    allowed = [pattern.strip().lower().rstrip(".") for pattern in st.get_option("server.allowedHosts") or ()]
    try:
        parts = urlsplit(f"//{host}")
        name, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return False
    if not name or parts.netloc != host or "@" in host:
        return False
    return not allowed or any(
        pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:])) for pattern in allowed
    )


def is_same(origin: str, host: str) -> bool:
    """Whether a page comes from the server that it asks, its port included."""
    scheme, _, place = origin.partition("://")
    return scheme in ("http", "https") and place.lower() == host.lower()


def is_trusted(origin: str) -> bool:
    """Whether an origin is one of server.corsAllowedOrigins."""
    trusted = {place.strip().lower().rstrip("/") for place in st.get_option("server.corsAllowedOrigins") or ()}
    return origin.lower() in trusted or not st.get_option("server.enableCORS")


def as_own(scope: Scope) -> Scope:
    """The request with an origin of its own server, so that Streamlit need not ask the internet about a trusted one."""
    headers = Headers(scope=scope)
    if "origin" not in headers or is_same(headers["origin"], headers["host"]):
        return scope
    own = f"http://{headers['host']}".encode("latin-1")
    return {**scope, "headers": [(name, own if name == b"origin" else value) for name, value in scope["headers"]]}
