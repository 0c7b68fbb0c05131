"""Optimizers as parts of a step: each one's step, with its parameter groups and its closure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from xsp.levels.layer.parts import CLOSURE, Part, Told

_Groups = list[dict[str, Any]]

HookResult = tuple[tuple[Any, ...], dict[str, Any]] | None
"""What a hook before a step wants it to be called with, None for what it was."""


class Numbers:
    """Numbers of optimizers among those of their class, in the order in which they are asked for;
    the first has 0.
    """

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        # With the optimizers: another one could have the id of one that is gone.
        self._known: dict[int, tuple[Optimizer, int]] = {}

    def of(self, optimizer: Optimizer) -> int:
        """The optimizer's number."""
        known = self._known.get(id(optimizer))
        if known is None:
            kind = type(optimizer).__name__
            known = self._known[id(optimizer)] = optimizer, self._kinds[kind]
            self._kinds[kind] += 1
        return known[1]


def part_name(optimizer: Optimizer, method: str, number: int) -> str:
    """`SGD.step`, `SGD.step_1` for the second of its class."""
    name = f"{type(optimizer).__name__}.{method}"
    return f"{name}_{number}" if number else name


FOLLOWED: list[Optimizer] = []
"""Optimizers whose steps a loop tells of itself."""


class GroupsInTurn(list[dict[str, Any]]):
    """An optimizer's parameter groups; while they are iterated over, each is a part."""

    def __init__(self, groups: _Groups, parts: Sequence[Part], told: Told) -> None:
        super().__init__(groups)
        self._parts, self._told = parts, told

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for place, group in enumerate(list.__iter__(self)):
            if place >= len(self._parts):
                yield group
                continue
            self._told.part_begins(self._parts[place])
            try:
                yield group
            finally:
                self._told.part_ends(self._parts[place])


class StepHook:
    """A hook of torch's around optimizers' steps, which can be taken out and put in again."""

    def __init__(self, handle: RemovableHandle, hook: Callable[..., Any]) -> None:
        self._handle, self._hook = handle, hook
        self._table: dict[int, Callable[..., Any]] | None = handle.hooks_dict_ref()
        self._is_out = False

    def remove(self) -> None:
        """It is never called again."""
        self._table = None
        self._handle.remove()

    def take_out(self) -> None:
        """It is not called from now on. It stays where the program has hooks too: this may be
        called by one of them, and torch be going through the table.
        """
        if self._table is not None and len(self._table) == 1:
            self._is_out = self._table.pop(self._handle.id, None) is not None

    def put_in(self) -> None:
        """It is called again."""
        if self._table is not None and self._is_out:
            self._table[self._handle.id] = self._hook
        self._is_out = False


class OptimizerWatch:
    """Tells of the steps of one optimizer; `number` is its number among those of its class."""

    def __init__(self, optimizer: Optimizer, number: int, told: Told) -> None:
        self.optimizer, self._told = optimizer, told
        name = part_name(optimizer, "step", number)
        self.part = Part(name, "optimizer", is_call=True)
        self._closure = Part(f"{name}.closure", CLOSURE, is_call=True)
        self._parts: dict[str, Part] = {}
        self._hooks: list[StepHook] = []
        self._own: _Groups | None = None
        self._given: GroupsInTurn | None = None
        self._depth = 0

    def watch(self) -> Callable[[], None]:
        """Watch until what is returned is called."""
        before = StepHook(self.optimizer.register_step_pre_hook(self.begins), self.begins)
        after = StepHook(self.optimizer.register_step_post_hook(self.ends), self.ends)
        self._hooks = [before, after]
        undo = ExitStack()
        undo.callback(self.put_back)
        undo.callback(before.remove)
        undo.callback(after.remove)
        undo.callback(self._hooks.clear)
        undo.callback(added(FOLLOWED, self.optimizer))
        return undo.close

    def take_out(self) -> None:
        """Have the optimizer as it is without this watch: compiled code must not see any of it."""
        for each in self._hooks:
            each.take_out()
        self._swap(self._given, self._own)

    def put_in(self) -> None:
        """Undo a `take_out`."""
        for each in self._hooks:
            each.put_in()
        self._swap(self._own, self._given)

    def put_back(self) -> None:
        """Give the optimizer its own list of groups again, with what was added meanwhile; also
        where its step raised.
        """
        self._swap(self._given, self._own)
        self._own = self._given = None
        self._depth = 0

    def _swap(self, now: _Groups | None, then: _Groups | None) -> None:
        if now is not None and then is not None and self.optimizer.param_groups is now:
            then[:] = list.__iter__(now)
            self.optimizer.param_groups = then

    def begins(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> HookResult:
        """The step begins; a hook of torch's."""
        self._depth += 1
        if self._depth > 1:
            # A subclass called the step of its base: torch runs the hooks of both.
            return None
        self._told.part_begins(self.part)
        if len(self.optimizer.param_groups) > 1:
            self._own = self.optimizer.param_groups
            self._given = GroupsInTurn(self._own, self._groups(self._own), self._told)
            self.optimizer.param_groups = self._given
        return self._with_closure(args, kwargs)

    def ends(self, *_: Any) -> None:
        """It ends."""
        self._depth -= 1
        if self._depth > 0:
            return
        if self._given is not None:
            self.put_back()
        self._told.part_ends(self.part)

    def _groups(self, groups: _Groups) -> list[Part]:
        names = [str(group.get("name", f"group_{place}")) for place, group in enumerate(groups)]
        return [self._group(name) for name in names]

    def _group(self, name: str) -> Part:
        if name not in self._parts:
            self._parts[name] = Part(f"{self.part.name}.{name}", "parameters")
        return self._parts[name]

    def _with_closure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> HookResult:
        """The same with a closure, if it has one, that is a part."""
        if len(args) == 1 and not kwargs:
            return None
        if callable(kwargs.get("closure")):
            return args, kwargs | {"closure": self._as_part(kwargs["closure"])}
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._as_part(args[1]), *args[2:]), kwargs
        return None

    def _as_part(self, closure: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self._told.part_begins(self._closure)
            try:
                return closure(*args, **kwargs)
            finally:
                self._told.part_ends(self._closure)

        return called


def is_followed(optimizer: Optimizer) -> bool:
    """Whether a loop tells of this optimizer's steps itself."""
    return bool(FOLLOWED) and any(each is optimizer for each in FOLLOWED)


def added(to: list[Any], value: Any) -> Callable[[], None]:
    """Have the very value in a list until what is returned is called."""
    to.append(value)

    def remove() -> None:
        place = next((place for place, each in enumerate(to) if each is value), None)
        if place is not None:
            del to[place]

    return remove
