"""HTTP routes beside the pages, for what is too big to pass through a widget.

`app.py` mounts `ROUTES`. A path must not start with `/_stcore`, which belongs to Streamlit.
"""

from starlette.routing import BaseRoute

ROUTES: list[BaseRoute] = []
