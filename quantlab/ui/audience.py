"""Who can reach this server: its own computer alone, or others too."""

import ipaddress
from collections.abc import Iterable

import streamlit as st

# What a proxy adds to a request that it passes on.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via")


def alone() -> bool:
    """Whether nobody but this computer's own user is asking, as far as the settings and the visitor's request tell.

    The server must listen on loopback and answer to no other name; the visitor must come from there, and not through a
    proxy. What is not known counts as others.
    """
    address = st.config.get_option("server.address")
    hosts: Iterable[str] = st.config.get_option("server.allowedHosts") or ()
    names = [address, *hosts]
    # `uvicorn app:app --host 0.0.0.0` does not go by the settings: so the visitor's own address is looked at too.
    return len(names) > 1 and all(map(loopback, names)) and st.context.ip_address is None and not _passed_on()


def loopback(host: str | None) -> bool:
    """Whether a host name or address means this computer to itself."""
    if not host:
        return False
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _passed_on() -> bool:
    return any(name in st.context.headers for name in FORWARDED)
