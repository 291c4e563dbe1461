"""The HTML around a report: one file, which asks nobody for anything and runs nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from .text import in_html

# Whatever a name in it might say, a browser loads and runs nothing for this file.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark; --ink: #1c2530; --soft: #5d6b78; --rule: #d9dfe5; --ground: #ffffff; --card: #f5f7f9;
  --blue: #1f77ad; --ochre: #8a6d12; --orange: #c25e12; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf0; --soft: #9aa8b5; --rule: #36414c; --ground: #12181f; --card: #1b232c;
    --blue: #4fa9dd; --ochre: #c9a63c; --orange: #e8893f; }
}
@media print { :root { --ink: #000; --soft: #444; --rule: #ccc; --ground: #fff; --card: #fff; --blue: #1f77ad;
  --ochre: #8a6d12; --orange: #c25e12; color-scheme: light; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .wide { overflow: visible; } svg, tr { break-inside: avoid; } h2 { break-after: avoid; } body { font-size: 10pt; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--ground);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { margin: .5rem 0; max-width: 46rem; text-wrap: pretty; } .soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem; margin: 1.2rem 0; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.25rem; font-weight: 600; } .card span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .9rem; } th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
table, pre { overflow-wrap: normal; } td code { white-space: nowrap; } pre { overflow-x: auto; }
a { color: var(--blue); }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, monospace; }
summary { cursor: pointer; color: var(--blue); margin: .6rem 0; }
svg { display: block; width: 100%; height: auto; fill: var(--ink); font-size: 12px; }
svg .grid { stroke: var(--rule); } svg .tick { fill: var(--soft); font-size: 11.5px; } svg .axis { font-size: 12.5px; }
svg .name { font-size: 11px; } svg .line { fill: none; stroke: var(--blue); stroke-width: 2; }
svg .dot { fill: var(--ground); stroke: var(--ochre); stroke-width: 1.8; }
svg .plan { fill: var(--orange); stroke: var(--ground); stroke-width: 1.5; }
svg .cell { fill: var(--blue); } svg .bits { font-size: 11px; paint-order: stroke; stroke: var(--ground);
  stroke-width: 2.5px; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a report: a heading and HTML."""

    title: str
    body: str


def paragraph(text: str, kind: str = "") -> str:
    """A sentence or several."""
    return f'<p class="{kind}">{in_html(text)}</p>' if kind else f"<p>{in_html(text)}</p>"


def cards(entries: Sequence[tuple[str, str]]) -> str:
    """Figures with a word below each."""
    inner = "".join(f'<div class="card"><b>{in_html(a)}</b><span>{in_html(b)}</span></div>' for a, b in entries)
    return f'<div class="cards">{inner}</div>'


def folded(summary: str, body: str) -> str:
    """What is long, behind a line that opens it; in print it is open."""
    return f"<details><summary>{in_html(summary)}</summary>{body}</details>"


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole file."""
    body = "\n".join(f"<section><h2>{in_html(one.title)}</h2>\n{one.body}\n</section>" for one in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{in_html(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{in_html(title)}</h1>
{lead}
{body}
</body>
</html>
"""
