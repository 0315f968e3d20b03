"""A Markdown extension for these pages: LaTeX between dollar signs becomes MathML, which browsers draw by themselves.

So a page needs neither a script nor fonts from elsewhere. `$...$` stands in a line, `$$...$$` on lines of its own.
"""

from __future__ import annotations

import re

from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from math_core import LatexToMathML

DISPLAYED = r"\$\$(.+?)\$\$"
IN_LINE = r"(?<![\w\\$])\$(?!\s)([^$]+?)(?<!\s)\$(?![\w$])"  # not the prices in "$5 or $6"
AFTER_CODE = 188  # priorities: `code` is 190, the escapes that would take LaTeX's backslashes are 180


class Formula(InlineProcessor):
    def __init__(self, pattern: str, markdown: Markdown, *, displayed: bool) -> None:
        super().__init__(pattern, markdown)
        self._displayed = displayed
        self._mathml = LatexToMathML()

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:
        """The formula; raises LatexError, which ends the build, for what is no LaTeX."""
        made = self._mathml.convert_with_local_state(m.group(1).strip(), displaystyle=self._displayed)
        return self.md.htmlStash.store(made), m.start(0), m.end(0)


class Formulas(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(Formula(DISPLAYED, md, displayed=True), "displayed formula", AFTER_CODE + 1)
        md.inlinePatterns.register(Formula(IN_LINE, md, displayed=False), "formula", AFTER_CODE)
