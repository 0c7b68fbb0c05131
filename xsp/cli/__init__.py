"""The command line. One module per subcommand."""

from __future__ import annotations

import sys

from xsp.errors import XspError

USAGE_ERROR = 2
"""Exit status when xsp cannot do what was asked, as the shell's own tools use it."""


def main() -> None:
    """Run the command line; a deliberate error becomes one line on stderr and exit status 2.

    What the profiled program raises is not caught: its traceback is the user's.
    """
    from xsp.cli.application import app

    try:
        app(prog_name="xsp")
    except XspError as error:
        sys.stderr.write(f"xsp: {error}\n")
        sys.exit(USAGE_ERROR)
