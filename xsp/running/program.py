"""Running a script or a module as Python itself runs it."""

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from xsp.errors import TargetError

MAIN = "__main__"
RAISED = 1
"""Exit status of a program that raised, as Python has it."""


@dataclass(frozen=True)
class Ended:
    """How a program ended: by `error`, None where it came to its end. A SystemExit is an end too,
    with a status of its own.
    """

    error: BaseException | None

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end, by itself or by `sys.exit`."""
        return self.error is None or isinstance(self.error, SystemExit)


@dataclass(frozen=True)
class Program:
    """What `python PLACE ARGUMENTS` runs, or `python -m PLACE ARGUMENTS`."""

    place: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    @property
    def label(self) -> str:
        """A name for it, without folders and suffix."""
        return self.place.rpartition(".")[2] if self.is_module else Path(self.place).stem

    def run(self) -> Ended:
        """Run it in this process, as `__main__`, which it stays afterwards: what it registers for
        the interpreter's exit finds its names.

        Raises TargetError where there is no such script or module; nothing has run then.
        """
        if self.is_module:
            _put_first(os.getcwd())
            name, path, code = _module(self.place)
            sys.argv = [path, *self.arguments]
        else:
            name, path, code = None, str(Path(self.place).absolute()), _script(self.place)
            _put_first(str(Path(path).resolve().parent))
            sys.argv = [self.place, *self.arguments]
        main = _main(name, path)
        return Ended(_raised(lambda: exec(code(), vars(main))))  # noqa: S102 # the user's program


def _raised(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except BaseException as error:
        return error
    return None


def _script(path: str) -> Callable[[], CodeType]:
    """What compiles it: a SyntaxError is the program's own."""
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        raise TargetError(
            f"the script {path!r} cannot be read ({error.strerror}); give a Python file, or a "
            "module after -m"
        ) from None
    name = str(Path(path).absolute())
    return lambda: compile(source, name, "exec", dont_inherit=True)


def _module(name: str) -> tuple[str, str, Callable[[], CodeType]]:
    """The module's full name, its file, and what compiles it; of a package, its `__main__`."""
    spec = _found(name)
    if spec is not None and spec.submodule_search_locations is not None:
        name = f"{name}.{MAIN}"
        spec = _found(name)
    loader = None if spec is None else spec.loader
    if spec is None or not isinstance(loader, importlib.machinery.SourceFileLoader):
        raise TargetError(
            f"there is no module {name!r} here or on sys.path that can be run; for a script give "
            "its file, without -m"
        )
    code = loader.get_code
    return name, str(spec.origin), lambda: _code_of(code(name), name)


def _code_of(code: CodeType | None, name: str) -> CodeType:
    if code is None:
        raise TargetError(f"the module {name!r} has no code that can be run")
    return code


def _found(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        return None


def _main(name: str | None, path: str) -> ModuleType:
    """A new `__main__`. Processes that multiprocessing spawns import it again by its name or its
    file, and so run the program without xsp.
    """
    main = ModuleType(MAIN)
    main.__file__ = path
    vars(main)["__builtins__"] = builtins
    if name is None:
        main.__loader__ = importlib.machinery.SourceFileLoader(MAIN, path)
    else:
        main.__spec__ = importlib.util.find_spec(name)
        main.__loader__ = main.__spec__.loader if main.__spec__ else None
        main.__package__ = name.rpartition(".")[0]
    sys.modules[MAIN] = main
    return main


def _put_first(folder: str) -> None:
    """Where the program's neighbours are imported from, in place of where xsp's own were."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder


def show(error: BaseException) -> None:
    """The traceback as Python shows it: without what ran the program."""
    trace = _of_the_program(error.__traceback__)
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def flush_output() -> None:
    """Write what the program has printed; it may have closed its output."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def _of_the_program(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace
