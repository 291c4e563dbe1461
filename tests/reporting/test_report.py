"""A report is one file that asks nobody for anything, says what the tables say, and takes names for names."""

import base64
import html.parser
import json
import math
import re

import numpy as np
import pytest
from markdown_it import MarkdownIt

import quantlab as ql
from quantlab.planning.planfile import load_plan
from quantlab.reporting import report
from quantlab.reporting.svg import linear, logarithmic

from .models import HOSTILE, layers, measured, write

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "section", "h1", "h2", "p", "div", "b", "span", "a", "pre"),
    *("table", "thead", "tbody", "tr", "th", "td", "code", "details", "summary"),
    *("svg", "g", "path", "circle", "rect", "text"),
}
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "style", "download", "href", "aria-label"}
ATTRIBUTES |= {"role", "viewbox", "d", "cx", "cy", "r", "x", "y", "width", "height", "text-anchor", "transform"}
ATTRIBUTES |= {"data-x", "data-y", "data-bits"}


class Parsed(html.parser.HTMLParser):
    """Elements with their attributes, the text, and tables as lists of rows."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.tables, self.open = [], "", [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "path", "circle", "rect"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if tag not in ("path", "circle", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def table(self, header):
        """The rows of the table whose first header is this one."""
        return next(rows[1:] for rows in self.tables if rows[0][0] == header)

    def of(self, kind):
        """Attributes of all elements of a class."""
        return [attrs for _, attrs in self.elements if attrs.get("class") == kind]


@pytest.fixture(scope="module", params=["layers", "hostile"])
def made(request, tmp_path_factory):
    """(report, checkpoint, table, problem, plan) of a decoder, and of a model of hostile names."""
    names = layers() if request.param == "layers" else HOSTILE
    path = write(tmp_path_factory.mktemp("model") / "model.safetensors", names)
    checkpoint, table, problem = measured(path)
    with checkpoint:
        plan = problem.solve("6bpw")
        yield report(checkpoint, table, plan, problem=problem), checkpoint, table, problem, plan


def test_nothing_is_loaded_and_nothing_runs(made):
    found = Parsed(made[0].html)
    assert {tag for tag, _ in found.elements} <= TAGS
    assert {name for _, attrs in found.elements for name in attrs} <= ATTRIBUTES
    assert all(a["href"].startswith("data:application/json;base64,") for _, a in found.elements if "href" in a)
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    outside = re.sub(r"http(://evil\.example)", r"\1", made[0].html)  # that of a name, which is text
    assert not re.search(r"https?:|@import|url\(|<script|srcset|\bsrc=(?!x)", outside)
    assert found.open == [] and made[0].nbytes == len(made[0].html.encode()) < 200_000


def test_names_are_names(made):
    made, *_, plan = made
    found = Parsed(made.html)
    for name in plan.choices:
        line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
        assert line in [row[0] for row in found.table("tensor")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", made.html + made.markdown)


def test_the_figure_of_the_sweep_has_the_numbers_of_the_table(made):
    made, _, table, problem, _ = made
    totals = ql.total(table).set_index("config")
    dots = [(float(a["data-x"]), float(a["data-y"])) for a in Parsed(made.html).of("dot") if "data-x" in a]
    expected = set(zip(totals["bits_per_weight"].tolist(), totals["sqnr_db"].tolist(), strict=True))
    assert expected <= set(dots)
    for row in Parsed(made.html).table("configuration"):
        if row[0] in totals.index and len(row) == 7:
            assert row[1] == f"{totals.loc[row[0], 'bits_per_weight']:.3f}"
            assert row[3] == f"{totals.loc[row[0], 'sqnr_db']:.2f}" and row[6] != ""
    assert {(float(one.nbytes), one.damage) for one in problem.uniform} <= set(dots)


def test_dots_lie_where_their_numbers_say(made):
    """Bits are linear along x and damage logarithmic along y, in each of the figures by itself."""
    for picture in re.findall(r"<svg.*?</svg>", made[0].html, re.DOTALL):
        dots = [a for a in Parsed(picture).of("dot") + Parsed(picture).of("plan") if "data-x" in a]
        if len(dots) < 3:
            continue
        y = np.array([float(a["data-y"]) for a in dots])
        y = np.log10(y) if "damage" in picture[:400] else y
        for numbers, pixels in ((np.array([float(a["data-x"]) for a in dots]), "cx"), (y, "cy")):
            at = np.array([float(a[pixels]) for a in dots])
            slope, start = np.polyfit(numbers, at, 1)
            assert np.abs(slope * numbers + start - at).max() < 0.02  # pixels: rounded to hundredths
            assert (slope > 0) == (pixels == "cx")


def test_the_plan_is_told_as_it_is(made):
    made, checkpoint, table, _, plan = made
    found = Parsed(made.html)
    assert f"{plan.nbytes:,} bytes" in found.text and "that is proved" in found.text
    assert "no model was run" in found.text and f"{100 * plan.nbytes / checkpoint.files[0].size:.1f} %" in found.text
    rows = table.set_index(["tensor", "config"])
    becomes = {row[0]: row[2:] for row in found.table("tensor")}
    for name, word in plan.choices.items():
        line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
        figures = rows.loc[(name, word)]
        assert becomes[line] == [word, f"{int(figures['nbytes']):,}", f"{figures['sqnr_db']:.2f}"]
    own = next(a for a in found.of("plan") if "data-x" in a)
    assert (float(own["data-x"]), float(own["data-y"])) == (plan.nbytes, plan.damage)
    counts = {row[0]: int(row[1]) for row in found.table("configuration") if len(row) == 5}
    assert counts == plan.counts


def test_the_plan_itself_is_in_the_file(made, tmp_path):
    made, checkpoint, *_, plan = made
    data = re.search(r'href="data:application/json;base64,([^"]+)"', made.html)[1]
    (tmp_path / "plan.json").write_bytes(base64.b64decode(data))
    found = load_plan(tmp_path / "plan.json")
    assert found.choices == plan.choices and found.source["sha256"] == checkpoint.sha256()
    assert checkpoint.sha256() in Parsed(made.html).text


def test_the_card_is_markdown_with_the_same_figures(made):
    made, checkpoint, *_, plan = made
    parsed = MarkdownIt("gfm-like", {"linkify": False}).parse(made.markdown)
    inner = [child for token in parsed for child in token.children or ()]
    assert {token.type for token in inner} <= {"text", "code_inline", "softbreak"}
    assert [token.tag for token in parsed if token.type == "heading_open"] == ["h2"]
    assert sum(token.type == "table_open" for token in parsed) == 2
    assert not [token for token in parsed if token.type in ("html_block", "list_item_open", "blockquote_open")]
    words = " ".join(token.content for token in inner)
    assert checkpoint.sha256() in words and f"{plan.nbytes:,} bytes" in words
    counted = {row[0]: int(row[1].replace(",", "")) for row in cells(parsed) if row[0] in plan.counts}
    assert counted == plan.counts


def cells(parsed):
    """The rows of all tables of a parsed Markdown text."""
    row, inside = [], False
    for token in parsed:
        inside = (inside or token.type in ("td_open", "th_open")) and token.type not in ("td_close", "th_close")
        if token.type == "tr_open":
            row = []
        elif token.type == "inline" and inside:
            row.append("".join(child.content for child in token.children))
        elif token.type == "tr_close":
            yield row


def test_a_table_alone_makes_a_report_and_a_card(tmp_path):
    checkpoint, table, _ = measured(write(tmp_path / "model.safetensors", [*HOSTILE, *layers(1)]))
    with checkpoint:
        made = report(checkpoint, table)
    found = Parsed(made.html)
    assert len(found.table("configuration")) == 4 and not found.of("plan")
    parsed = MarkdownIt("gfm-like", {"linkify": False}).parse(made.markdown)
    assert {child.type for token in parsed for child in token.children or ()} <= {"text", "code_inline", "softbreak"}
    assert sum(len(row) == 7 for row in cells(parsed)) >= 2


def test_what_refuses_a_tensor_is_not_among_the_totals_and_that_is_said(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, a=np.ones((4, 33), np.float32), b=np.ones((4, 64), np.float32))
    checkpoint, table, _ = measured(path, ("q4_0", "int8-sym-ch0-minmax"))
    with checkpoint:
        found = Parsed(report(checkpoint, table).html)
    assert [row[0] for row in found.table("configuration")] == ["int8-sym-ch0-minmax"]
    assert "Not among the totals: q4_0" in found.text


def test_neither_a_table_nor_a_plan_is_refused_and_so_is_another_models_plan(tmp_path):
    checkpoint, _, problem = measured(write(tmp_path / "model.safetensors", layers(1)))
    other, table, _ = measured(write(tmp_path / "other.safetensors", layers(2)))
    with checkpoint, other:
        with pytest.raises(ql.ConfigError, match="give at least one"):
            report(checkpoint)
        with pytest.raises(ql.CheckpointError, match="make a plan of this one"):
            report(other, table, problem.solve("6bpw"))


@pytest.mark.parametrize(
    "values", [[1.0, 2.0], [4.1, 4.125], [0.0], [5.0], [1e6, 3.3e9], [-3.0, 40.0], [1e-12, 1e-9], [7.0, 7.0]]
)
def test_axes_take_in_all_values_with_a_few_round_ticks(values):
    for axis in [linear("", values), *([logarithmic("", values)] if min(values) > 0 else [])]:
        assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)
        assert all(-1e-6 <= axis.place(value) <= 1 + 1e-6 and math.isfinite(value) for value, _ in axis.ticks)
        assert 1 <= len(axis.ticks) <= 14
    assert logarithmic("", [0.0, *map(abs, values)]).place(0.0) == 0.0


def test_thousands_of_tensors_are_told_to_be_more_than_are_shown(monkeypatch, tmp_path):
    monkeypatch.setattr("quantlab.reporting.plans.SHOWN", 5)
    monkeypatch.setattr("quantlab.reporting.reports.LARGEST", 1000)
    checkpoint, table, problem = measured(write(tmp_path / "model.safetensors", layers()))
    with checkpoint:
        found = Parsed(report(checkpoint, table, problem.solve("6bpw"), problem=problem).html)
    assert len(found.table("tensor")) == 5 and "The first 5 of 12; the plan's own file has all." in found.text
    assert "The plan's own file is not in this one" in found.text and not [a for _, a in found.elements if "href" in a]


def test_the_front_of_another_problem_is_not_the_plans(tmp_path):
    checkpoint, table, problem = measured(write(tmp_path / "model.safetensors", layers()))
    with checkpoint:
        plan = problem.solve("6bpw")
        other = ql.problem(table, checkpoint, prior=False)
        assert "What every size buys" in report(checkpoint, table, plan, problem=problem).html
        assert "What every size buys" not in report(checkpoint, table, plan, problem=other).html


def test_a_report_says_nothing_of_the_user_or_the_host(made, monkeypatch):
    import getpass
    import platform

    text = Parsed(made[0].html).text
    assert platform.node() not in text or len(platform.node()) < 4
    assert str(made[1].path.parent) not in text + made[0].markdown
    assert f"/{getpass.getuser()}" not in text
    assert json.dumps(made[0].markdown)


def test_what_stays_as_it_is_is_told_to(tmp_path):
    checkpoint, table, _ = measured(write(tmp_path / "model.safetensors", layers()))
    with checkpoint:
        pinned = ql.problem(table, checkpoint, pins=["*layers.0.*=copy"])
        plan = pinned.solve("16bpw")
        found = Parsed(report(checkpoint, table, plan, problem=pinned, notes=["Measured <b>elsewhere</b>."]).html)
        free = Parsed(report(checkpoint, table, plan, problem=ql.problem(table, checkpoint)).html)
    assert [row[2] for row in found.table("tensor")[:4]] == ["as it is"] * 4
    copies = next(row for row in found.table("configuration") if row[0] == "as it is")
    assert copies[1:3] == ["4", f"{4 * 96 * 256:,}"] and copies[4] == ""
    assert "Measured <b>elsewhere</b>." in found.text
    assert "without this one's pins" in free.text and "without this one's pins" not in found.text
