"""Each warning ends with a slug, the name of its paragraph in docs/warnings.md."""

from __future__ import annotations


def tagged(slug: str, sentence: str) -> str:
    """The sentence with its slug:
    `the latency had not settled after 50 warm-up runs [unsettled]`.
    """
    return f"{sentence} [{slug}]"


def no_launch(orphans: int) -> list[str]:
    """The sentence about device activities that nothing on the host is known to have launched, if
    there are any.
    """
    sentence = f"{orphans} device activities had no launch record and are in no table"
    return [tagged("no-launch", sentence)] if orphans else []
