"""`xsp run`: a script or module as it is, profiled along the way, with the summary at its end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xsp.cli.keeping import keep, new_file, new_folder
from xsp.cli.options import Force, Output, Quiet, with_measuring_options
from xsp.measuring.options import Options
from xsp.running.first_import import when_imported
from xsp.running.launched import LaunchedRank, is_launched, launched_rank, start_ranks
from xsp.running.program import RAISED, Ended, Program, flush_output, show

if TYPE_CHECKING:
    from xsp.capture.file import Capture
    from xsp.profiles import Profile
    from xsp.running.watcher import Found, Watcher

run = typer.Typer(add_completion=False)


@run.command(
    "run",
    # What comes after the program is the program's.
    context_settings={"allow_interspersed_args": False},
)
@with_measuring_options
def _run(
    program: Annotated[
        list[str],
        typer.Argument(
            help="A script, or a module with -m, and what it finds in sys.argv.",
            metavar="PROGRAM [ARGS]...",
        ),
    ],
    module: Annotated[
        bool, typer.Option("-m", help="PROGRAM is a module, as for `python -m`.")
    ] = False,
    output: Output = None,
    force: Force = False,
    quiet: Quiet = False,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Start so many ranks with torchrun; -o is a folder for their rank<N>.xsp then.",
        ),
    ] = None,
    *,
    options: Options,
) -> None:
    """Run a script as it is and profile it along: each step of its training loop, or each call of
    its largest model. What xsp says goes to standard error; the exit status is the program's.
    """
    rank = launched_rank()
    if ranks is not None and not is_launched():
        start_ranks(ranks, sys.argv[1:])
    path = None if output is None else _new_file(output, force, rank)
    ran = _Run(Program(program[0], tuple(program[1:]), is_module=module), options)
    ended = ran.ended()
    if not ended.is_whole and ended.error is not None:
        show(ended.error)
    flush_output()
    _tell(ran.found(ended), path, rank, quiet=quiet)
    _leave(ended)


def _new_file(output: Path, force: bool, rank: LaunchedRank | None) -> Path:
    """The file to write, one for each rank of a job. Raises what `new_file` does, and WriteError
    where the folder of the ranks' files cannot be made.
    """
    if rank is None:
        return new_file(output, force)
    path = rank.own_path(output)
    new_folder(path.parent)
    return new_file(path, force)


class _Run:
    """One run of a program, watched from its first import of torch on."""

    def __init__(self, program: Program, options: Options) -> None:
        self._program, self._options = program, options
        self._watcher: Watcher | None = None

    def ended(self) -> Ended:
        """Run it to its end."""
        stop = when_imported("torch", self._watch)
        try:
            return self._program.run()
        finally:
            stop()

    def _watch(self) -> None:
        from xsp.running.watcher import Watcher

        self._watcher = Watcher(self._options)
        self._watcher.start()

    def found(self, ended: Ended) -> Found | None:
        """What was profiled; None where the program never imported torch."""
        if self._watcher is None:
            return None
        interrupted = isinstance(ended.error, KeyboardInterrupt)
        return self._watcher.finish(whole=ended.is_whole, interrupted=interrupted)


def _tell(
    found: Found | None, path: Path | None, rank: LaunchedRank | None, *, quiet: bool
) -> None:
    if found is None:
        _say("the program did not import torch, so nothing was profiled", rank)
        return
    for sentence in found.said:
        _say(sentence, rank)
    is_shown = not quiet and (rank is None or rank.tells)
    for what, capture in found.captures.items():
        _show(what, capture, path, rank, is_shown=is_shown)
        # Other kinds of steps are shown, and not written: a file has one profile.
        path = None


def _show(
    what: str, capture: Capture, path: Path | None, rank: LaunchedRank | None, *, is_shown: bool
) -> None:
    from rich.console import Console

    from xsp.cli.report import print_profile
    from xsp.profiles import Profile

    prof: Profile = Profile(capture)
    written = None if path is None else keep(prof.save, path)
    if is_shown:
        console = Console(stderr=True)
        console.print()
        if what:
            _say(f"steps of another kind: {what}", rank)
        print_profile(prof, console)
    if written is not None:
        _say(f"capture written to {written}", rank)


def _say(sentence: str, rank: LaunchedRank | None) -> None:
    """One line of standard error, which all ranks of a job share."""
    who = "" if rank is None else f"rank {rank.rank}: "
    sys.stderr.write(f"xsp: {who}{sentence}\n")


def _leave(ended: Ended) -> None:
    """With the program's own exit status."""
    error = ended.error
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, KeyboardInterrupt):
        # As Python leaves: by the signal itself, so that a shell sees what happened.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    if error is not None:
        raise SystemExit(RAISED)
