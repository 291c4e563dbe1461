"""What `streamlit run app.py` and `uvicorn app:app` start.

The pages lie beside this file, and Streamlit would serve them without their entry script until somebody has opened
`/`. Naming the entry script here, and the pages by absolute path there, makes every first link work.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from quantlab.ui.edge import Edge
from quantlab.ui.exports import forget_exports, sweep_exports
from quantlab.ui.leaving import give_back
from quantlab.ui.routes import ROUTES
from quantlab.ui.sources import forget_uploads, sweep_uploads
from quantlab.ui.warm import warm_up

HEAD_START = 1.0  # seconds: enough to load compiled kernels, or to find their cache damaged; compiling takes longer


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Warm the kernels while the server already answers; give back what visitors leave, all of it when it stops."""
    # A daemon: Ctrl-C ends the server at once, warm or not.
    warming = threading.Thread(target=warm_up, name="warm-up", daemon=True)
    warming.start()
    await asyncio.to_thread(warming.join, HEAD_START)
    await asyncio.to_thread(sweep_uploads)
    await asyncio.to_thread(sweep_exports)
    giving_back = asyncio.create_task(give_back())
    yield
    giving_back.cancel()
    forget_uploads()
    forget_exports()


app = st.App(
    Path(__file__).resolve().parent / "quantlab" / "ui" / "main.py",
    routes=ROUTES,
    middleware=[Middleware(Edge)],
    lifespan=lifespan,
)
