"""Finding the function that `xsp profile TARGET` names."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from xsp.errors import TargetError

DEFAULT_FUNCTION = "target"


@dataclass(frozen=True)
class TargetName:
    """A target as the user wrote it, taken apart: a Python file or a module, and a
    function in it.
    """

    text: str
    place: str
    function_name: str

    @classmethod
    def parsed(cls, text: str) -> TargetName:
        """Take `place[:function]` apart. Raises TargetError if it names no file that exists and no
        module.
        """
        place, colon, function = text.rpartition(":")
        if not colon:
            place, function = text, DEFAULT_FUNCTION
        found = cls(text, place, function)
        if found.is_file:
            if not Path(place).is_file():
                raise TargetError(
                    f"there is no file {place!r}; give file.py, file.py:function or module:function"
                )
        elif not all(part.isidentifier() for part in place.split(".")):
            raise TargetError(
                f"{text!r} names neither a Python file nor a module; give file.py:function"
            )
        if not function.isidentifier():
            raise TargetError(
                f"{function!r} in {text!r} is not a valid function name; give file.py:function"
            )
        return found

    @property
    def is_file(self) -> bool:
        """Whether the place is a path rather than a dotted module name."""
        return self.place.endswith(".py") or "/" in self.place

    @property
    def label(self) -> str:
        """A file name's stem for what this target produces."""
        stem = Path(self.place).stem if self.is_file else self.place.rpartition(".")[2]
        return stem if self.function_name == DEFAULT_FUNCTION else f"{stem}-{self.function_name}"

    def function(self) -> Callable[[], Any]:
        """Import the place and find the function.

        Raises TargetError if there is no such module or function, and whatever the module raises
        when imported, with a note that says so.
        """
        module = _imported(self._from_file if self.is_file else self._from_path, self.text)
        found = getattr(module, self.function_name, None)
        if callable(found):
            return found  # type: ignore[no-any-return] # checked by measuring what it returns
        name, place = self.function_name, self.place
        if found is None:
            as_it_is = f"xsp run {place}" if self.is_file else f"xsp run -m {place}"
            raise TargetError(
                f"{place!r} has no function {name!r}; {_functions(module, place)}. To profile "
                f"the program as it is, along its own calls: {as_it_is}"
            )
        raise TargetError(f"{name!r} in {place!r} is a {type(found).__name__}, not a function")

    def _from_file(self) -> ModuleType:
        """Run the file as an importable module, its neighbours importable too, as `python file.py`
        would have them.
        """
        path = Path(self.place).resolve()
        name = _free_module_name(path)
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise TargetError(f"{self.place!r} is not a Python file: its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and pickle look their module up while it is being executed.
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def _from_path(self) -> ModuleType:
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(self.place)
        except ModuleNotFoundError as error:
            # A module that the target itself fails to import is the user's error and keeps its
            # traceback.
            if error.name and f"{self.place}.".startswith(f"{error.name}."):
                raise TargetError(
                    f"there is no module {error.name!r} here or on sys.path; for a file write "
                    f"{self.place}.py"
                ) from None
            raise


def _free_module_name(path: Path) -> str:
    """A name for the file's module that hides no module which the file, or torch, imports."""
    stem = path.stem
    if not stem.isidentifier() or stem in sys.modules:
        return f"xsp_target_{stem.replace('.', '_')}"
    spec = importlib.util.find_spec(stem)
    return stem if spec is None or spec.origin == str(path) else f"xsp_target_{stem}"


def _imported(load: Callable[[], ModuleType], text: str) -> ModuleType:
    try:
        return load()
    except TargetError:
        raise
    except Exception as error:
        from xsp.measuring.switching import add_note

        add_note(error, f"xsp: raised while {text!r} was imported")
        raise


def _functions(module: ModuleType, place: str) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if _is_own_function(value, module) and not name.startswith("_")
    ]
    if not own:
        return "there are no functions in it; write one that returns (model, inputs)"
    return f"the functions there are {', '.join(sorted(own))}: for example {place}:{sorted(own)[0]}"


def _is_own_function(value: Any, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__
