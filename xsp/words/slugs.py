"""Each warning ends with a slug, the name of its paragraph in docs/warnings.md."""

from __future__ import annotations


def with_slug(slug: str, sentence: str) -> str:
    """The sentence with its slug:
    `the latency had not settled after 50 warm-up runs [unsettled]`.
    """
    return f"{sentence} [{slug}]"


def slug_of(sentence: str) -> str:
    """The slug at the end of a warning, empty where it has none."""
    _, _, last = sentence.rpartition(" [")
    return last.removesuffix("]") if last.endswith("]") else ""
