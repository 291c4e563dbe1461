"""Text of strangers in HTML and in Markdown: as it is, on one line, and never as markup."""

import html
import re

PLAIN = re.compile(r"[\w./:@+ -]+", re.ASCII)
# What Markdown may take for its own inside of a line, and what GitHub's makes links of.
SIGNS = re.compile(r"([\\`*_\[\]<>|&~$#]|:(?=//)|(?<=www)\.|@)")


def one_line(text: object) -> str:
    """Text without what is no letter: line ends, control characters, marks that turn the direction of writing."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text))


def in_html(text: object) -> str:
    """Text as it may stand in an element or in a quoted attribute."""
    return html.escape(one_line(text), quote=True)


def in_markdown(text: object) -> str:
    r"""Text as it may stand within a line: every sign of Markdown's is one of the text's.

    >>> print(in_markdown("a|b<c> http://x"))
    a\|b\<c\> http\://x
    """
    return SIGNS.sub(r"\\\1", one_line(text))


def code_in_markdown(text: object) -> str:
    r"""A name: as code where that cannot go wrong.

    >>> print(code_in_markdown("int4-sym-g32"), code_in_markdown("a`b"))
    `int4-sym-g32` a\`b
    """
    line = one_line(text)
    return f"`{line}`" if PLAIN.fullmatch(line) and line == line.strip() else in_markdown(line)
