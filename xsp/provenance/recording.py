"""Writing down what Inductor's kernels stand for while their code is generated."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from xsp.machine import compiler_internals as compiler
from xsp.machine.torch_internals import Place
from xsp.provenance.origins import Origin, origins_of


@dataclass(frozen=True)
class Record:
    """What one launch stands for. `name` is None where Inductor does not say it (mix-order
    reductions); `kind` is "extern", "template" or "fused".
    """

    name: str | None
    kind: str
    origins: tuple[Origin, ...]


class Recorder:
    """Records of the graphs whose code is generated while this is on.

    `failed` says what could not be recorded; recording never disturbs a compilation.
    """

    def __init__(self) -> None:
        self._records: dict[int, list[Record]] = {}
        # What Inductor makes cannot be a key: it compares by value.
        self._by_identity: dict[int, list[Record]] = {}
        self.failed: list[str] = []
        self._announcing = False

    def of_graph_in_work(self, graph: Any) -> list[Record]:
        """Records of a graph while its code is being generated."""
        return self._records.get(id(graph), [])

    def of_compiled(self, handle: Any) -> list[Record] | None:
        """Records of what was compiled while this was on, None for what was not."""
        return self._by_identity.get(id(handle))

    @contextmanager
    def on(self) -> Iterator[None]:
        """Record during the block."""
        with ExitStack() as undo:
            self._install(undo)
            yield

    @contextmanager
    def on_when_compiling(self) -> Iterator[None]:
        """Record what is compiled during the block. The compiler is imported by the program alone:
        until then there is nothing to watch.
        """
        with ExitStack() as undo:
            installed = False

            def begins() -> None:
                nonlocal installed
                if installed or not compiler.is_loaded():
                    return
                installed = True
                try:
                    self._install(undo)
                except Exception as error:
                    self.failed.append(_said(error))

            try:
                undo.enter_context(compiler.told_of_compilations(begins))
            except compiler.MovedError as error:
                self.failed.append(_said(error))
            yield

    def _install(self, undo: ExitStack) -> None:
        for place in compiler.announcements():
            undo.callback(place.replace(self._announcing_method(place)))
        made = compiler.graph_made()
        undo.callback(made.replace(self._made_method(made)))

    def _announcing_method(self, place: Place) -> Callable[..., Any]:
        method = place.value

        def announced(owner: Any, *arguments: Any, **keywords: Any) -> Any:
            outermost, self._announcing = not self._announcing, True
            try:
                if outermost:
                    self._note(owner, arguments, keywords)
                return method(owner, *arguments, **keywords)
            finally:
                if outermost:
                    self._announcing = False

        return announced

    def _note(self, owner: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        try:
            said = compiler.announced(owner, arguments, keywords)
            origins = origins_of(said.nodes, compiler.main_origins(said))
            records = self._records.setdefault(id(compiler.graph_in_work()), [])
            records.append(Record(said.name, said.kind, origins))
        except Exception as error:
            self.failed.append(_said(error))

    def _made_method(self, place: Place) -> Callable[..., Any]:
        method = place.value

        def made(owner: Any, *arguments: Any, **keywords: Any) -> None:
            method(owner, *arguments, **keywords)
            graph = keywords.get(compiler.GRAPH_OF_NEW)
            if graph is None and len(arguments) > 1:
                graph = arguments[1]
            records = self._records.pop(id(graph), None)
            if records is not None:
                self._by_identity[id(owner)] = records
                weakref.finalize(owner, self._by_identity.pop, id(owner), None)

        return made


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
