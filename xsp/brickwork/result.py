"""What `xsp.bricks` gives: the data, with pages and packages made of it."""

from __future__ import annotations

import os
from pathlib import Path

from xsp.brickwork.bricks_data import BricksData


class Bricks(BricksData):
    """Models as bricks and their constructed latencies on one machine, to read and to pass on."""

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page with the tables and the paper's figures.

        Raises WriteError where it cannot be written.
        """
        from xsp.brickwork.page import write_page

        return write_page(self, path)

    def sections(self) -> list[tuple[str, str, str]]:
        """The same as sections for `Profile.to_html(path, more=...)`."""
        from xsp.brickwork.page import sections

        return sections(self)

    def export(self, folder: str | os.PathLike[str], *, shuffled: bool = False) -> Path:
        """Write every brick as a package that runs with torch only: `package.write_bricks`."""
        from xsp.brickwork.package import write_bricks

        return write_bricks(self, folder, shuffled=shuffled)
