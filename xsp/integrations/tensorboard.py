"""TensorBoard: a profile as scalars and text."""

from __future__ import annotations

from torch.utils.tensorboard import SummaryWriter

from xsp.integrations.numbers import numbers
from xsp.profiles import Profile


def log_profile(prof: Profile, writer: SummaryWriter, *, step: int = 0) -> None:
    """Write the numbers as scalars `xsp/…` and the summary, as it is in a terminal, as the text
    `xsp/summary`.
    """
    for name, value in numbers(prof).items():
        writer.add_scalar(name, value, step)
    shown = "\n".join(f"    {line}" for line in str(prof).splitlines())
    # Indented, which Markdown shows as it is.
    writer.add_text("xsp/summary", shown, step)
