"""What one browser tab remembers, and how the URL says it.

One `Session` per tab, under one key of `st.session_state`, touched by this module alone. The view is in the URL, so a
link, a refresh or a second tab shows the same thing:

=============  =======================  ==========================================================================
URL            Session                  changed with
=============  =======================  ==========================================================================
``?file=``     ``source, opened``       `open_sample()`, `open_path(text)`, `open_upload(name, data)`
``?tensor=``   ``chosen``               `choose_tensor(name)`
``?config=``   ``config``               `choose_config(config)`: the one configuration under consideration
``?compare=``  ``compare`` (repeated)   `choose_compare(configs)`: the two to four set side by side
``?over=``     ``over``                 `choose_over(tensors)`: compare over all tensors or a glob; None: over one
``?job=``      ``job``                  `choose_job(job_id)`: a sweep that runs, has run or is kept; None forgets it
``?rule=``     ``rules`` (repeated)     `choose_rules(rules)`: what an export does otherwise than `config`, `GLOB=SLUG`
``?export=``   ``export``               `choose_export(job_id)`: an export that runs or has run; None forgets it
``?audit=``    ``audit``                `choose_audit(job_id)`: an audit that runs or has run; None forgets it
``?pin=``      ``pins`` (repeated)      `choose_pins(pins)`: what a plan gives to tensors whatever is best, `GLOB=SLUG`
=============  =======================  ==========================================================================

Anything else a page wants in the URL (its tab, a log switch) is a widget with ``bind="query-params"`` and a key that is
none of the names above. `recall` and `remember` keep what those say, so that Back and the links return to the view that
was left: Streamlit leaves them out of the entry that it makes in the browser's history when it switches pages.

For pages::

    session = require_checkpoint()      # Session with an open checkpoint, or the page says why not and stops
    session = require_weights()         # the same, with a tensor of it that can be quantized
    session = current()                 # whatever there is
    session.checkpoint, session.tensor, session.spec    # an error with a sentence where there is none
    session.key                         # (path, size, mtime_ns): what caches are keyed by, with tensor and slug
    session.title                       # "Silero VAD (sample)", "model.safetensors"

    go_to("compare", tensor=..., config=..., compare=[...], over=..., job=...)   # changes what is given, opens the page
    st.page_link(page_path("export"), query_params=link(config=...))   # the same as a link, for the browser's own tab

`restore()` is called once per run, by `main.py`, before the page. What the URL says wins over what the session
remembers; what the URL leaves out is written back into it. A name in the URL that means nothing is answered by a
sentence (`Session.notices`) and the view goes on without it. Every function that opens something raises a
`QuantlabError` and leaves the session as it was.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import streamlit as st

from quantlab.core.config import PRESETS, QuantConfig
from quantlab.errors import CheckpointError, ConfigError, QuantlabError
from quantlab.formats import Checkpoint, TensorSpec
from quantlab.planning.wishes import Pin, parse_pin
from quantlab.shipping.recipe import Rule
from quantlab.ui import cache, sources, text

Parsed = TypeVar("Parsed")
# The file and the job that a page was about, and what its widgets said: name in the URL -> values.
View = tuple[str, str | None, dict[str, str | list[str]]]

PAGES = ("open", "inspect", "sweep", "plan", "compare", "export", "audit")
# The names in the URL that are no page's own.
OWN = ("file", "tensor", "config", "compare", "over", "job", "rule", "export", "audit", "pin")
COMPARED = 4  # most configurations side by side
FIRST_CONFIG = PRESETS["int8_symmetric"]

_KEY = "quantlab"
_PAGES_DIR = Path(__file__).resolve().parents[2] / "pages"


@dataclass
class Session:
    """What one browser tab remembers. Change it through the functions of this module, which keep the URL in step."""

    source: str = field(default_factory=sources.first)
    opened: tuple[cache.Key, Checkpoint] | None = None
    chosen: str | None = None  # the current tensor, if there is one
    config: QuantConfig = FIRST_CONFIG
    compare: tuple[QuantConfig, ...] = ()
    over: str | None = None  # what is compared over in place of the current tensor: all tensors, or those of a glob
    job: str | None = None
    rules: tuple[Rule, ...] = ()
    export: str | None = None
    audit: str | None = None
    pins: tuple[Pin, ...] = ()
    problem: str | None = None  # why there is no checkpoint, in a sentence
    notices: list[str] = field(default_factory=list)  # what the URL asked for and did not get; shown once
    refusal: str | None = None  # why the last attempt to open something else failed
    folder: str | None = None  # the folder whose files are listed
    uploads: int = 0  # files uploaded so far; each gets a fresh uploader
    forms: dict[str, tuple[str, str]] = field(default_factory=dict)  # form -> slugs it was given and said last
    ticked: tuple[str, ...] = ()  # configurations of the sweep that are kept for Compare, by their slugs
    clears: int = 0  # times that all of these were let go
    page: str = ""  # the one that was drawn last
    views: dict[str, View] = field(default_factory=dict)  # page -> what its widgets said in the URL

    @property
    def key(self) -> cache.Key:
        """(path, size in bytes, mtime in ns) of the open file; CheckpointError when none is open."""
        return self._opened()[0]

    @property
    def checkpoint(self) -> Checkpoint:
        """The open file; CheckpointError when none is open."""
        return self._opened()[1]

    @property
    def tensor(self) -> str:
        """The current tensor's name; ConfigError when there is none."""
        if self.chosen is None:
            raise ConfigError(f"{self.title} holds no tensor: open another file")
        return self.chosen

    @property
    def spec(self) -> TensorSpec:
        """What the file says about the current tensor."""
        return self.checkpoint.spec(self.tensor)

    def _opened(self) -> tuple[cache.Key, Checkpoint]:
        if self.opened is None:
            raise CheckpointError(self.problem or "no file is open: choose one on the Open page")
        return self.opened

    @property
    def title(self) -> str:
        """What people call the open file."""
        return sources.title(self.source)


def current() -> Session:
    """This tab's session."""
    return st.session_state.setdefault(_KEY, Session())


def require_checkpoint() -> Session:
    """The session with its open checkpoint; without one the page says why and stops."""
    session = current()
    if session.opened is None:
        say_why_none(session)
        st.stop()
    return session


def say_why_none(session: Session) -> None:
    """Why there is no checkpoint, and where to choose one."""
    st.error(text.sentence(session.problem or "no file is open"), icon=":material/folder_off:")
    st.page_link(page_path("open"), label="Choose a file", icon=":material/folder_open:")


def require_weights() -> Session:
    """The session with its open checkpoint and a tensor of weights; without them the page says why and stops."""
    session = require_checkpoint()
    if session.chosen is None:
        st.info(f"{text.plain(session.title)} holds no tensor.", icon=":material/inbox:")
        st.page_link(page_path("open"), label="Choose another file", icon=":material/folder_open:")
        st.stop()
    if not holds_weights(session.spec):
        what = f"{session.spec.dtype} values, and only floats are quantized" if session.spec.size else "no elements"
        st.info(f"{text.plain(session.tensor)} has {what}: choose another tensor.", icon=":material/pin:")
        st.stop()
    return session


def holds_weights(spec: TensorSpec) -> bool:
    """Whether a tensor has values that can be quantized, as far as the file says."""
    return "float" in spec.dtype and spec.size > 0


def open_sample() -> None:
    """Open the model that ships with quantlab."""
    _open(sources.SAMPLE)


def open_path(text: str) -> None:
    """Open a file, or a folder that is one model, on the server's computer; QuantlabError when it is refused."""
    _open(str(sources.resolve_path(text)))


def open_upload(name: str, data: bytes | memoryview) -> None:
    """Open an uploaded file; QuantlabError when it is refused."""
    _open(sources.keep_upload(name, data))


def open_source(source: str) -> None:
    """Open what a source word names, unless it is open; QuantlabError when it is refused."""
    if source != current().source or current().opened is None:
        _open(source)


def choose_tensor(name: str) -> None:
    """Make `name` the current tensor; ConfigError when the checkpoint has no such tensor."""
    session = current()
    if session.opened is None or name not in session.checkpoint.names:
        raise ConfigError(f"{session.title} has no tensor {name!r}: choose one on the Open page")
    session.chosen = name
    _publish(session)


def follow_tensor(name: str) -> None:
    """`choose_tensor` for callbacks: nothing where a file without such a tensor was opened in the same moment."""
    session = current()
    if session.opened is not None and name in session.checkpoint.names:
        choose_tensor(name)


def neighbour(session: Session, step: int) -> str | None:
    """The tensor of weights that comes `step` places after the current one in the file; None beyond either end."""
    checkpoint = session.checkpoint
    names = [n for n in checkpoint.names if n == session.chosen or holds_weights(checkpoint.spec(n))]
    at = names.index(session.tensor) + step
    return names[at] if 0 <= at < len(names) else None


def choose_config(config: QuantConfig) -> None:
    """Make `config` the configuration under consideration."""
    current().config = config
    _publish(current())


def choose_compare(configs: Iterable[QuantConfig]) -> None:
    """Set the configurations side by side: the first four different ones."""
    current().compare = tuple(dict.fromkeys(configs))[:COMPARED]
    _publish(current())


def choose_over(tensors: str | None) -> None:
    """Compare over all tensors, or those of a glob; None for the current tensor."""
    current().over = tensors
    _publish(current())


def choose_job(job_id: str | None) -> None:
    """Remember a job by its id, or none."""
    session = current()
    if job_id != session.job:
        session.ticked = ()
    session.job = job_id
    _publish(session)


def choose_rules(rules: Iterable[Rule]) -> None:
    """Remember which tensors an export treats otherwise."""
    current().rules = tuple(rules)
    _publish(current())


def choose_export(job_id: str | None) -> None:
    """Remember the job of an export by its id, or none."""
    current().export = job_id
    _publish(current())


def choose_audit(job_id: str | None) -> None:
    """Remember the job of an audit by its id, or none."""
    current().audit = job_id
    _publish(current())


def choose_pins(pins: Iterable[Pin]) -> None:
    """Remember what a plan gives to tensors whatever is best for them; of two pins of one pattern the later."""
    current().pins = tuple({pin.pattern: pin for pin in pins}.values())
    _publish(current())


def page_path(page: str) -> Path:
    """The script of a page, by its name in `PAGES`."""
    if page not in PAGES:
        raise ConfigError(f"unknown page {page!r}: choose one of {', '.join(PAGES)}")
    return _PAGES_DIR / f"{page}.py"


def link(
    *,
    tensor: str | None = None,
    config: QuantConfig | None = None,
    compare: Iterable[QuantConfig] | None = None,
    over: str | None = None,
    job: str | None = None,
) -> dict[str, str | list[str]]:
    """The URL parameters of the present view, with what is given in place of what is current."""
    session = current()
    view: dict[str, str | list[str]] = {"file": session.source}
    if tensor := tensor or session.chosen:
        view["tensor"] = tensor
    view["config"] = str(config or session.config)
    if compared := list(session.compare if compare is None else compare):
        view["compare"] = [str(config) for config in compared]
    if over := over or session.over:
        view["over"] = over
    if job := job or session.job:
        view["job"] = job
    if session.rules:
        view["rule"] = [str(rule) for rule in session.rules]
    if session.export:
        view["export"] = session.export
    if session.audit:
        view["audit"] = session.audit
    if session.pins:
        view["pin"] = [str(pin) for pin in session.pins]
    return view


def go_to(
    page: str,
    *,
    tensor: str | None = None,
    config: QuantConfig | None = None,
    compare: Iterable[QuantConfig] | None = None,
    over: str | None = None,
    job: str | None = None,
    view: Mapping[str, str] | None = None,
) -> NoReturn:
    """Open another page, on the present view or on what is given instead. Not for callbacks: it ends the run.

    Without `over` it is about the one tensor. `view` is what the page's own widgets are to say: name in the URL ->
    value.
    """
    current().over = over
    shared = link(tensor=tensor, config=config, compare=compare, over=over, job=job)
    st.switch_page(page_path(page), query_params=remembered(page) | dict(view or {}) | shared)


def go_to_sweep(scope: str, names: Iterable[str] = ()) -> NoReturn:
    """Open Sweep with these tensors chosen there, by one of its scopes. Not for callbacks: it ends the run."""
    chosen: dict[str, str | list[str]] = {"scope": scope} | ({"names": list(names)} if names else {})
    st.switch_page(page_path("sweep"), query_params=remembered("sweep") | link() | chosen)


def go_to_plan(target: str | None = None) -> NoReturn:
    """Open Plan, for a program of `planning.targets.TARGETS` if one is given. Not for callbacks: it ends the run."""
    go_to("plan", view={"target": target} if target else {})


def go_to_export(rules: Iterable[Rule], config: QuantConfig | None) -> NoReturn:
    """Open Export with these rules. Not for callbacks: it ends the run."""
    session = current()
    # Not published here: that would be an entry of this page in the browser's history, with the rules of the next.
    session.rules, session.config = tuple(rules), config or session.config
    go_to("export", over=session.over)


def restore() -> Session:
    """Bring session and URL into step at the start of a run; only `main.py` calls this."""
    session, url = current(), st.query_params
    source = url.get("file", session.source)
    session.notices = []
    if session.opened is None or source != session.source or cache.identity(session.source) != session.key:
        _reopen(session, source)
    if "tensor" in url:
        _restore_tensor(session, url["tensor"])
    if "config" in url:
        session.over = url.get("over")  # a link with a configuration is whole: what it leaves out is not there
        session.config = (_parse(session, QuantConfig.parse, [url["config"]]) or [session.config])[0]
    if "compare" in url:
        session.compare = tuple(_parse(session, QuantConfig.parse, url.get_all("compare")))[:COMPARED]
    if "rule" in url:
        session.rules = tuple(_parse(session, Rule.parse, url.get_all("rule")))
    if "pin" in url:
        session.pins = tuple(_parse(session, parse_pin, url.get_all("pin"), "pin"))
    session.job = url.get("job", session.job)
    session.export = url.get("export", session.export)
    session.audit = url.get("audit", session.audit)
    _publish(session)
    return session


def say_of_link(notice: str) -> None:
    """Have a sentence shown above the page, about what the link asks for and does not get."""
    current().notices.append(notice)


def tell_notices(place: Any) -> None:
    """Show what the link asked for and did not get, each sentence once."""
    notices = current().notices
    while notices:
        place.warning(text.sentence(notices.pop(0)), icon=":material/link_off:")


def remember(page: str) -> None:
    """Keep what the widgets of a page say in the URL."""
    session, url = current(), st.query_params
    said: dict[str, str | list[str]] = {name: url.get_all(name) for name in url if name not in OWN}
    session.page, session.views[page] = page, (session.source, session.job, said)


def remembered(page: str) -> dict[str, str | list[str]]:
    """What the widgets of a page said in the URL when it was left, unless that was about another file or sweep."""
    session = current()
    source, job, said = session.views.get(page, ("", None, {}))
    return said if (source, job) == (session.source, session.job) else {}


def recall(page: str) -> None:
    """On coming back to a page by the browser's history, go on where it was left.

    Links and `go_to` carry that already. The history's entry does not: `st.switch_page` leaves one without it behind.
    """
    missing = {name: values for name, values in remembered(page).items() if name not in st.query_params}
    if current().page not in ("", page) and missing:
        current().page = page
        st.query_params.update(missing)
        st.rerun()


def _restore_tensor(session: Session, name: str) -> None:
    if session.opened is None or name == session.chosen:
        return
    if name in session.checkpoint.names:
        session.chosen = name
    else:
        instead = f"; this is {session.chosen}" if session.chosen else ""
        session.notices.append(f"{session.title} has no tensor {name!r}{instead}.")


def _parse(
    session: Session, parse: Callable[[str], Parsed], words: Iterable[str], what: str = "configuration"
) -> list[Parsed]:
    """The configurations, or rules or pins with one, that can be read; a sentence for each that cannot."""
    found = []
    for word in words:
        try:
            found.append(parse(word))
        except ConfigError as error:
            session.notices.append(f"The link names a {what} that cannot be read: {error}.")
    return found


def _open(source: str) -> None:
    """Make `source` the open file, or raise and change nothing."""
    _set(current(), source, cache.checkpoint(source))
    _publish(current())


def _reopen(session: Session, source: str) -> None:
    """Open what the URL names, or the file that changed on disk; a failure becomes the session's problem."""
    tensor, job, export, audit = session.chosen, session.job, session.export, session.audit
    if source != session.source:
        job = export = audit = None
    try:
        _set(session, source, cache.checkpoint(source))
    except QuantlabError as error:
        gone = (
            session.opened is not None and source == session.source and isinstance(error.__cause__, FileNotFoundError)
        )
        problem = f"{session.title} is not there any more: choose a file" if gone else str(error)
        session.source, session.opened, session.problem = source, None, problem
    else:
        session.job, session.export, session.audit = job, export, audit
        if tensor in session.checkpoint.names:
            session.chosen = tensor


def _set(session: Session, source: str, opened: tuple[cache.Key, Checkpoint]) -> None:
    """Make a file the open one, with nothing left of the one before."""
    session.source, session.opened, session.problem = source, opened, None
    session.chosen = first_tensor(opened[1])
    session.job = session.export = session.audit = None
    session.rules, session.pins, session.ticked, session.over = (), (), (), None


def first_tensor(checkpoint: Checkpoint) -> str | None:
    """The tensor shown first: the largest that can be quantized, or the first of all, or None in an empty file."""
    floats = [name for name in checkpoint.names if "float" in checkpoint.spec(name).dtype]
    return max(floats or checkpoint.names[:1], key=lambda name: checkpoint.spec(name).size, default=None)


def _publish(session: Session) -> None:
    """Write the view into the URL, unless it is there already: every write is an entry in the browser's history."""
    view = link()
    url = st.query_params
    missing = {name: value for name, value in view.items() if url.get_all(name) != _as_list(value)}
    if missing:
        url.update(missing)
    for name in OWN:
        if name in url and name not in view:
            del url[name]


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
