"""A hook of mkdocs: links to files of the repository, which the site does not have, become the
files' paths.
"""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[[^\]]*\]\(\.\./([^)#]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace `[text](../examples/demo.py)` by `examples/demo.py`."""
    return _OUTSIDE.sub(r"`\1`", markdown)
