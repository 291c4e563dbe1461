"""Coroutines in tests."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def alone(coroutine: Coroutine[Any, Any, object], seconds: float = 30) -> object:
    """What a coroutine returns, run in a thread of its own: a browser test leaves its loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(asyncio.wait_for(coroutine, seconds))).result()
