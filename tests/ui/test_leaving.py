"""Closed tabs: what they held is given back while nobody comes."""

import asyncio
import time
import weakref
from types import SimpleNamespace

import pytest
from streamlit.runtime.memory_session_storage import MemorySessionStorage

from quantlab.ui import leaving
from tests.loops import alone

TTL = 0.05


class Session:
    """A session that refers to itself, as some do."""

    def __init__(self, id):
        self.id, self.upload, self.itself = id, bytearray(1000), self

    def shutdown(self):
        self.upload = None


@pytest.fixture
def storage(monkeypatch):
    """Streamlit's own storage of sessions whose tabs are closed."""
    storage = MemorySessionStorage(ttl_seconds=TTL)
    server = SimpleNamespace(_session_mgr=SimpleNamespace(_session_storage=storage))
    monkeypatch.setattr(leaving.runtime, "get_instance", lambda: server)
    return storage


def leave(storage, id):
    session = Session(id)
    storage.save(SimpleNamespace(session=session))
    return weakref.ref(session)


def test_what_a_closed_tab_held_is_given_back_and_not_before_its_time(storage):
    session = leave(storage, "a")
    assert leaving.forget_ended() == 0
    time.sleep(TTL)
    assert session() is not None  # nobody else would look
    assert leaving.forget_ended() == 1
    assert session() is None


def test_it_goes_on_for_as_long_as_the_server_runs(storage):
    async def serve():
        task = asyncio.create_task(leaving.give_back(every=0.01))
        for id in ("a", "b"):
            session = leave(storage, id)
            while session() is not None:
                await asyncio.sleep(0.01)
        task.cancel()

    alone(serve())


def test_another_streamlit_is_said_once(storage, caplog):
    del storage._cache
    alone(leaving.give_back(every=0))
    assert "at the next visit only" in caplog.text
