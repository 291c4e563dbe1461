"""The parts of the Open page: where a file comes from, and what it is as a whole."""

import fnmatch
from collections.abc import Callable, Iterable
from pathlib import Path

import streamlit as st

from quantlab.errors import CheckpointError, QuantlabError
from quantlab.formats import Checkpoint
from quantlab.planning.roles import role_of
from quantlab.planning.targets import TARGETS
from quantlab.samples import SAMPLE_DESCRIPTION, SAMPLE_NAME
from quantlab.ui import cache, jobs, sources, state, text
from quantlab.wording import counted

WAYS = ("Upload", "On this computer", "Sample")


def choose_source(session: state.Session) -> None:
    """Upload a file, name one on this computer, or take the sample; a refusal is said in place."""
    with st.container(border=True):
        left, right = st.columns([2, 3], gap="medium")
        way = left.segmented_control(
            "Open a file", WAYS, default=WAYS[0], required=True, key="from", on_change=_forget, bind="query-params"
        )
        with right:
            {"Upload": _upload, "On this computer": _path, "Sample": _sample}[way](session)
        if session.refusal:
            st.error(text.sentence(session.refusal), icon=":material/block:")


def summary(session: state.Session) -> None:
    """What is open, in one line, and what comes next."""
    checkpoint = session.checkpoint
    specs = [checkpoint.spec(name) for name in checkpoint.names]
    facts = [
        checkpoint.format,
        counted(len(specs), "tensor"),
        f"{text.count(sum(spec.size for spec in specs))} values",
        text.size(sum(spec.nbytes for spec in specs)),
        ", ".join(sorted({spec.dtype for spec in specs})),
    ]
    told, further = st.columns(2, vertical_alignment="center")
    told.subheader(text.plain(session.title), anchor=False)
    told.caption(" · ".join(facts))
    if limited := cache.limits_of(session.key, checkpoint):
        st.caption(f":material/info: {text.sentence(limited)}")
    if session.chosen is not None and state.holds_weights(session.spec):
        with further.container(horizontal=True, horizontal_alignment="right", vertical_alignment="bottom"):
            _next_steps(session)


def _next_steps(session: state.Session) -> None:
    """Where the way leads: to a plan for the program that is to load the model, or to all figures."""
    target = st.selectbox(
        "Program that will load it", list(TARGETS), list(TARGETS).index(suited(session.checkpoint)), key="plan-for",
        format_func=lambda name: TARGETS[name].label, width=250,
    )  # fmt: skip
    if st.button(
        "Plan", type="primary", icon=":material/route:",
        help="The best configuration for every tensor, in the size that you choose.",
    ):  # fmt: skip
        state.go_to_plan(target)
    if st.button("Sweep", icon=":material/grid_on:", help="What every configuration of a grid costs and hurts."):
        state.go_to_sweep(scope="Weights")


def suited(checkpoint: Checkpoint) -> str:
    """The program that most load such a file with: its format says it, or that it holds a model of language."""
    if of_format := {"gguf": "llama.cpp", "onnx": "onnxruntime"}.get(checkpoint.format):
        return of_format
    return "vllm" if any(role_of(name).kind in ("q", "qkv") for name in checkpoint.names) else "any"


def matching(names: Iterable[str], query: str) -> list[str]:
    """Names that contain `query`, whatever its case; with `*`, `?` or `[` in it, names that match it as a pattern.

    >>> matching(["a.weight", "a.bias", "b.weight"], "WEIGHT"), matching(["a.weight", "b.weight"], "a.*")
    (['a.weight', 'b.weight'], ['a.weight'])
    """
    wanted = query.strip().lower()
    if any(c in wanted for c in "*?["):
        return [name for name in names if fnmatch.fnmatchcase(name.lower(), wanted)]
    return [name for name in names if wanted in name.lower()]


def _upload(session: state.Session) -> None:
    key = f"upload-{session.uploads}"

    def opened() -> None:
        file = st.session_state[key]
        if file is not None and _try(lambda: state.open_upload(file.name, file.getbuffer())):
            # A fresh uploader lets go of the bytes, which are on disk now.
            session.uploads += 1

    st.file_uploader(
        "A checkpoint or an array", type=[suffix[1:] for suffix in sources.SUFFIXES], key=key, on_change=opened,
        help="Nothing in the file is executed. It is kept on the server's disk until the server stops. "
        f"What is larger opens by its path: choose {WAYS[1]}.",
    )  # fmt: skip


def _path(session: state.Session) -> None:
    def named() -> None:
        session.folder = None
        _try(lambda: _open_or_list(session, st.session_state["path"]))

    allowed = ", ".join(map(text.plain, sources.roots()))
    st.text_input(
        "Path of a file or a folder",
        key="path",
        on_change=named,
        placeholder=str(sources.roots()[0] / "model.safetensors"),
        help=f"Under {allowed}. For other folders start quantlab with the environment variable QUANTLAB\\_ROOTS.",
    )
    if session.folder is not None:
        _files_of(Path(session.folder))


def _files_of(folder: Path) -> None:
    files = {str(path.relative_to(folder)): path for path in sources.candidates(folder)}
    chosen = st.selectbox(
        f"{len(files):,} files", list(files), index=None, placeholder="Choose one", key="file-in-folder"
    )
    if chosen and st.button("Open", type="primary") and _try(lambda: state.open_path(str(files[chosen]))):
        st.rerun()


def _open_or_list(session: state.Session, path: str) -> None:
    """Open a file, or a folder that is one model; list the files of any other folder."""
    if not path.strip():
        return
    try:
        state.open_path(path)
    except CheckpointError:
        found = sources.resolve_path(path)
        if not (found.is_dir() and sources.candidates(found)):
            raise
        session.folder = str(found)
        if any(found.glob("*.index.json")):  # it is meant to be one model, so what is wrong with it matters
            raise


def _sample(session: state.Session) -> None:
    st.markdown(f"**{SAMPLE_NAME}.** {SAMPLE_DESCRIPTION}")
    is_open = session.source == sources.SAMPLE and session.opened is not None
    label = "The sample is open" if is_open else "Open the sample"
    st.button(label, disabled=is_open, icon=":material/deployed_code:", on_click=_open_sample)


def _forget() -> None:
    state.current().refusal = None


def _open_sample() -> None:
    _try(state.open_sample)


def _try(action: Callable[[], None]) -> bool:
    """Whether `action` succeeded; its refusal is kept for the page to show."""
    session = state.current()
    session.refusal = None
    try:
        action()
    except (QuantlabError, OSError, MemoryError) as error:
        session.refusal = jobs.sentence(error)
    return session.refusal is None
