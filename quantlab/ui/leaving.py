"""Give back what a closed tab has left behind, without waiting for the next visitor.

Streamlit forgets a session `server.disconnectedSessionTTL` seconds after its tab was closed, but only looks when
another tab is closed: until then its uploads, hundreds of megabytes, stay in memory.
"""

import asyncio
import gc
import logging

from streamlit import runtime

EVERY = 15.0  # seconds

log = logging.getLogger(__name__)


async def give_back(every: float = EVERY) -> None:
    """Look for sessions that have ended, for as long as the server runs."""
    while True:
        await asyncio.sleep(every)
        try:
            forget_ended()
        except AttributeError as error:  # of another version of Streamlit
            log.warning("sessions are given back at the next visit only: %s", error)
            return


def forget_ended() -> int:
    """End the sessions whose time is over, with their uploads. How many they were.

    To be called on the server's event loop, like all of Streamlit's own handling of sessions.
    """
    manager = runtime.get_instance()._session_mgr
    ended = manager._session_storage._cache.expire()  # type: ignore[attr-defined]
    count = len(ended)
    while ended:
        ended.pop()[1].session.shutdown()
    if count:
        gc.collect()  # pages, checkpoints and figures refer to each other
    return count
