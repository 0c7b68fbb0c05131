"""A profile on a terminal: the lines of `print(prof)` with colours, which say nothing that the text does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from xsp.render.table import ROWS, TableLine, laid_out
from xsp.render.text import NARROW, WIDE, footer_lines, header_lines

if TYPE_CHECKING:
    from xsp.profiles import Profile

_BY_LEVEL = {"MODEL": "bold", "MODULE": "", "LAYER": "", "LIBRARY": "cyan", "KERNEL": "magenta", "header": "bold"}
_BY_COLUMN = {"bar": "blue", "±": "dim", "shape": "dim", "type": "dim"}
_HEADING = 10


def print_profile(prof: Profile, console: Console, rows: int = ROWS, depth: int | None = None) -> None:
    """Print header, table and footnote at the console's width, 80 to 120 characters."""
    width = min(max(console.width, NARROW), WIDE)
    table = laid_out(prof, width, rows, depth)
    lines = [*_header(header_lines(prof, width)), Text()]
    lines += [_line(table.header), *(_line(line) for line in table.lines), Text()]
    lines += [Text(line, style="dim") for line in footer_lines(prof, table, width)]
    for line in lines:
        # Never wrapped or cut: in a narrower terminal the terminal does it, in a pipe nobody should.
        console.print(line, soft_wrap=True, highlight=False)


def _header(lines: list[str]) -> list[Text]:
    name, *facts = lines
    coloured = [Text(name, style="bold")]
    for fact in facts:
        style = "bold yellow" if fact.startswith("warning") else "dim"
        coloured.append(Text.assemble((fact[:_HEADING], style), fact[_HEADING:]))
    return coloured


def _line(line: TableLine) -> Text:
    style = "dim" if line.is_fold else _BY_LEVEL.get(line.level, "")
    text = Text("  ").join(Text(cell, style=_BY_COLUMN.get(name, style)) for name, cell in line.cells.items())
    text.rstrip()
    return text
