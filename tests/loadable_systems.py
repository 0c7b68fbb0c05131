"""Systems under load, for tests of scenarios: each made in the process that is measured."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from xsp.evaluation.scenarios.scenario import System


def ready() -> System:
    """Answers at once."""

    def answer(indices: Sequence[int]) -> None:
        assert all(index >= 0 for index in indices)

    return answer


def sleeping(seconds: float) -> System:
    """Sleeps so long for each call."""

    def answer(indices: Sequence[int]) -> None:
        time.sleep(seconds)

    return answer


def raising(after: int, kind: type[BaseException] = ValueError) -> System:
    """Raises in every call after so many."""
    calls = iter(range(10**9))

    def answer(indices: Sequence[int]) -> None:
        if next(calls) >= after:
            raise kind("broken weights")

    return answer


def hanging(after: int) -> System:
    """Never returns from the call after so many."""
    calls = iter(range(10**9))

    def answer(indices: Sequence[int]) -> None:
        if next(calls) >= after:
            threading.Event().wait()

    return answer


def dying(after: int, by: int = signal.SIGKILL) -> System:
    """Ends its process in the call after so many."""
    calls = iter(range(10**9))

    def answer(indices: Sequence[int]) -> None:
        if next(calls) >= after:
            os.write(1, b"the last line\n")
            os.kill(os.getpid(), by)

    return answer


def signalled_once(after: int) -> System:
    """Sends its own process SIGINT in the call after so many."""
    calls = iter(range(10**9))

    def answer(indices: Sequence[int]) -> None:
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGINT)

    return answer


def noting_and_hanging(path: str) -> System:
    """Writes the number of its process to a file and never answers."""

    def answer(indices: Sequence[int]) -> None:
        Path(path).write_text(f"{os.getpid()}\n")
        threading.Event().wait()

    return answer


def noting(path: str, fails_at: int = 10**9) -> System:
    """Appends the number of its process to a file when it is made; raises in one call."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    calls = iter(range(10**9))

    def answer(indices: Sequence[int]) -> None:
        if next(calls) == fails_at:
            raise ValueError("broken weights")

    return answer


def noting_threads(path: str) -> System:
    """Appends the number of the thread of each call to a file."""

    def answer(indices: Sequence[int]) -> None:
        with Path(path).open("a") as file:
            file.write(f"{threading.get_native_id()}\n")

    return answer


def telling(path: str) -> System:
    """Appends what there is in its process to a file, as JSON, when it is made."""
    import numpy as np

    torch = sys.modules.get("torch")
    untouched = torch is not None and not torch.cuda.is_initialized()
    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "torch": "imported, without CUDA" if untouched else str(torch),
        "drawn": np.random.random(),
        "value": os.environ.get("XSP_TEST_VALUE"),
    }
    with Path(path).open("a") as file:
        file.write(json.dumps(found) + "\n")
    return ready()


def holding_the_lock(path: str) -> System:
    """Writes the number of its process to a file and hangs in C with Python's lock held, so that no
    thread of the process runs any more.
    """

    def answer(indices: Sequence[int]) -> None:
        Path(path).write_text(f"{os.getpid()}\n")
        ctypes.PyDLL(None).pause()

    return answer


def writing(path: str) -> System:
    """Appends the number of samples of each call to a file."""

    def answer(indices: Sequence[int]) -> None:
        with Path(path).open("a") as file:
            file.write(f"{len(indices)}\n")

    return answer


def impossible() -> System:
    """Cannot be made."""
    raise FileNotFoundError("weights.pt")


def multiplying(side: int) -> System:
    """A product of matrices on the GPU for each call."""
    import torch

    matrix = torch.rand(side, side, device="cuda")

    def answer(indices: Sequence[int]) -> None:
        torch.mm(matrix, matrix)
        torch.cuda.synchronize()

    return answer
