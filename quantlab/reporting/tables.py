"""A table as HTML and as Markdown, from one description, so that both say the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from .text import code_in_markdown, in_html, in_markdown


@dataclass(frozen=True)
class Table:
    """Headers, and rows of text as it is to be read.

    Attributes
    ----------
    numbers : which columns are numbers, and stand at the right. names : which are names, and stand as code.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    names: frozenset[int] = frozenset()

    def html(self) -> str:
        """The table, in a box that scrolls where a screen is narrow."""
        head = "".join(self._cell("th", i, in_html(text)) for i, text in enumerate(self.headers))
        body = "".join(f"<tr>{''.join(map(self._data, range(len(row)), row))}</tr>\n" for row in self.rows)
        return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'

    def _data(self, column: int, text: str) -> str:
        words = in_html(text)
        return self._cell("td", column, f"<code>{words}</code>" if column in self.names and text else words)

    def _cell(self, tag: str, column: int, words: str) -> str:
        return f'<{tag} class="n">{words}</{tag}>' if column in self.numbers else f"<{tag}>{words}</{tag}>"

    def markdown(self) -> str:
        """The table in GitHub's and Hugging Face's dialect."""
        lines = [
            [in_markdown(text) for text in self.headers],
            ["--:" if i in self.numbers else "---" for i in range(len(self.headers))],
            *([self._words(i, text) for i, text in enumerate(row)] for row in self.rows),
        ]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def _words(self, column: int, text: str) -> str:
        return code_in_markdown(text) if column in self.names and text else in_markdown(text)
