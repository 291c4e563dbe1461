"""The documents are true: their code runs, their commands exist, their links lead somewhere, their numbers are ours."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import quantlab as ql
from quantlab.cli import parser
from quantlab.core.granularity import PIECE
from quantlab.formats import FORMATS
from quantlab.ui.exports import BUDGET, KEPT

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "quantlab/samples/README.md"]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
MAP_COLUMN = 58  # of the drawing, from which on it says what a room is for
README, CONTRIBUTING = TEXTS["README.md"], TEXTS["CONTRIBUTING.md"]


def blocks(text, language):
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text):
    """The lines of shell blocks, without their comments."""
    lines = "\n".join(blocks(text, "sh")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def quantlab_commands(text):
    return [words[1:] for words in commands(text) if words[0].endswith("/quantlab") and words[1] != "--help"]


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = {}
    for block in blocks(README, "python"):
        exec(compile(block, "README.md", "exec"), found)
    assert found["restored"].shape == found["x"].shape
    assert f"{len(found['table'])}/{len(found['table'])}" in capsys.readouterr().out


@pytest.mark.parametrize("words", quantlab_commands(README), ids=" ".join)
def test_a_command_of_the_readme_is_one(words):
    assert parser().parse_args(words).command == words[0]


def test_the_commands_of_the_readme_do_what_they_say(sample_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(sample_path.read_bytes())
    for words in quantlab_commands(README):
        if "model.safetensors" in words and not any(
            "lm_head" in word for word in words
        ):  # of which the sample has none
            assert ql.cli.main(words) == 0, words
    assert ql.load_packed("model-int4.safetensors")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_within_the_repository_leads_to_a_file(name):
    targets = re.findall(r"\]\(([^)]+)\)", TEXTS[name])
    assert [to for to in targets if "://" not in to and not ((ROOT / name).parent / to).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_exists(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"`[^`]+`|^make .*$", TEXTS[name], re.MULTILINE))))
    assert named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_the_map_of_the_house_names_every_room_and_no_other():
    drawing = CONTRIBUTING.partition("## Map of the house")[2].partition("```\n")[2].partition("```")[0]
    paths = set()
    for line in drawing.splitlines():
        first, *others = line[:MAP_COLUMN].split()  # the others lie beside the first
        paths |= {first, *(f"{first.rstrip('/').rpartition('/')[0]}/{name}".lstrip("/") for name in others)}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    house = ROOT / "quantlab"
    rooms = {f"{init.parent.relative_to(ROOT)}/" for init in house.glob("**/__init__.py")} - {"quantlab/"}
    rooms -= {room for room in rooms if room.startswith("quantlab/sweeping/")}  # of which cluster/ is a part
    assert rooms - paths == set()
    assert {f"quantlab/{path.name}" for path in house.glob("*.py")} - paths == {
        "quantlab/__init__.py", "quantlab/__main__.py", "quantlab/cluster.py"
    }  # fmt: skip


def test_the_readme_lists_the_formats_that_there_are():
    opens = README.partition("Open your own by upload")[2].partition("without copying")[0]
    assert set(re.findall(r"`(\.\w+)`", opens)) >= {known.suffix for known in FORMATS.values() if known.open}
    table = README.partition("| `--format` |")[2].partition("\n\n")[0]
    written = {name for row in table.splitlines()[2:] for name in re.findall(r"`([\w-]+)`", row.split("|")[1])}
    assert written == {name for name, known in FORMATS.items() if known.writable}
    choices = README.partition("| dtype |")[2].partition("\n")[0]
    assert {name for name, kind in ql.DTYPES.items() if not kind.configurable} <= set(re.findall(r"`(\w+)`", choices))


def test_the_limits_of_the_readme_are_those_of_the_code():
    limits = README.partition("## Limits")[2]
    upload = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["server"]["maxUploadSize"]
    assert f"more than {PIECE:,} rows" in limits
    assert f"{upload} MB at most" in limits
    assert f"The newest {KEPT} exports" in limits
    assert f"up to {BUDGET >> 30} GiB together" in limits
