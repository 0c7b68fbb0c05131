"""How to measure: every option once, with its name, type, default, check and help.

Keywords of `xsp.measure`, `xsp.profile` and `xsp.sweep`, the command line, the pytest plugin and
the notebook's magics all read this list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import partial
from numbers import Integral, Real
from typing import Any, TypedDict

from xsp.capture.run import Run
from xsp.doubts import Stopped
from xsp.errors import SettingError, TargetError, XspError
from xsp.settings import Setting, check_names, setting
from xsp.types import DEFAULT_LEVELS, Level
from xsp.words.levels import parse_levels

BUDGET_S = 30.0

RANK_TIMEOUT = "rank_timeout_s"

OTHER_SETTINGS = ("database", "log", RANK_TIMEOUT)
"""What can be set once for every profile (`xsp.settings`) and is no option of one."""

NESTED, SEPARATE = LADDERS = ("nested", "separate")
"""Ladders: `xsp.measuring.ladder.rungs_for`."""

Stop = Callable[[Sequence[Run]], "Stopped | str | None"]
"""Given all runs so far, after a whole round: None to go on, or why enough is known, as a sentence
or as a `Stopped`.
"""


CapturedFrom = tuple[tuple[Any, Callable[..., Any]], ...]
"""Functions that were captured, each with its `torch.cuda.CUDAGraph`, None where it is not said."""


class Keywords(TypedDict, total=False):
    """The options as they may be given. What they mean is in `Options`; None is the default."""

    levels: str | Iterable[Level | str] | None
    iterations: int | None
    warmup: int | None
    budget_s: float | None
    seed: int
    progress: bool | None
    serialize: bool | None
    stop: Stop | None
    metrics: str | Iterable[str]
    caches: str
    ladder: str
    nvtx: bool
    ranges_as_layers: bool
    accept_changed: bool
    restore: Any
    captured_from: Any
    alone: bool


def _whole(least: float, name: str, value: Any) -> int:
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
        return int(value)
    rule = "a whole number" + (f" >= {least:.0f}" if least > float("-inf") else "")
    raise _refused(name, rule, value)


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, Real) and not isinstance(value, bool) and float(value) >= 0:
        return float(value)
    raise _refused(name, "a number of seconds >= 0", value)


def _switch(name: str, value: Any) -> bool:
    # numpy's own kind of truth value is called so too, or `bool_`.
    if type(value).__name__ in {"bool", "bool_"}:
        return bool(value)
    raise _refused(name, "True or False", value)


def _rule(name: str, value: Any) -> Any:
    if callable(value):
        return value
    raise _refused(name, "a function of the runs so far", value)


def _levels(_name: str, value: Any) -> tuple[Level, ...]:
    return parse_levels(value)


def _metrics(_name: str, value: Any) -> tuple[str, ...]:
    from xsp.levels.counters.metrics import parse_metrics

    return parse_metrics(value)


def _caches(_name: str, value: Any) -> str:
    from xsp.levels.counters.metrics import parse_caches

    return parse_caches(value)


def _ladder(name: str, value: Any) -> str:
    if value in LADDERS:
        return str(value)
    raise _refused(name, " or ".join(repr(each) for each in LADDERS), value)


def _captured_from(name: str, value: Any) -> CapturedFrom:
    if isinstance(value, Mapping):
        pairs = [(graph, function) for graph, function in value.items()]
    else:
        every = value if isinstance(value, list | tuple) else (value,)
        pairs = [(None, function) for function in every]
    if all(callable(function) for _, function in pairs):
        return tuple(pairs)
    raise _refused(name, "a function without arguments, several, or {graph: function}", value)


def _objects(_name: str, value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _refused(name: str, rule: str, value: Any) -> TargetError:
    return TargetError(f"{name} must be {rule}, not {value!r}; leave it out for the default")


def _told(
    check: Callable[[str, Any], Any], help_text: str, reads: type | None = None
) -> Mapping[str, Any]:
    """What is known of an option: how a value is checked, one sentence of help, and the type that a
    command line reads, None where an option is not text.
    """
    return {"check": check, "help": help_text, "reads": reads}


_ANY = float("-inf")


@dataclass(frozen=True)
class Options:
    """Checked options; made by `Options.of`."""

    levels: tuple[Level, ...] = field(
        default=DEFAULT_LEVELS,
        metadata=_told(
            _levels,
            'levels to trace, such as "M/L/K" or ["LAYER"]; by default all but operators, which '
            '"M/L/O" and "M/L/O/Lib/K" trace too.',
            str,
        ),
    )
    iterations: int | None = field(
        default=None,
        metadata=_told(
            partial(_whole, 1),
            "rounds, each with one timed run per rung; by default as many as it takes to know the "
            "model latency to within 1 % (95 %), at most `budget_s` seconds.",
            int,
        ),
    )
    warmup: int | None = field(
        default=None,
        metadata=_told(
            partial(_whole, 0),
            "warm-up runs; by default until the latency has settled.",
            int,
        ),
    )
    budget_s: float = field(
        default=BUDGET_S,
        metadata=_told(
            _seconds,
            "seconds for everything, from warm-up to the fit of costs, when neither `iterations` "
            "nor `stop` is given: within 10 % or two rounds, which are made in any case; "
            f"{BUDGET_S:.0f} by default. What `serialize`, `metrics` and `nvtx` ask for comes on "
            "top.",
            float,
        ),
    )
    seed: int = field(
        default=0,
        metadata=_told(partial(_whole, _ANY), "seed of the order of rungs within rounds.", int),
    )
    progress: bool | None = field(
        default=None,
        metadata=_told(
            _switch,
            "show a progress bar; by default only when it takes long and someone can see it.",
        ),
    )
    serialize: bool | None = field(
        default=None,
        metadata=_told(
            _switch,
            "also run with the device synchronised after every layer, so that no two layers "
            "overlap (`Profile.serialized`); by default only where kernels of different layers "
            "were seen to overlap.",
            bool,
        ),
    )
    stop: Stop | None = field(
        default=None,
        metadata=_told(
            _rule,
            "a stopping rule instead of `iterations`: given all runs so far, after a whole round, "
            "None to go on or a sentence that says why enough is known. `xsp.measuring.stopping` "
            "has those that are used by default.",
        ),
    )
    metrics: tuple[str, ...] = field(
        default=(),
        metadata=_told(
            _metrics,
            'hardware counters to collect for every kernel, in runs of their own: groups ("flops", '
            '"dram", "occupancy", "tensor", "l2") and CUPTI metrics such as '
            '"dram__bytes_read.sum", separated by commas; none by default.',
            str,
        ),
    )
    caches: str = field(
        default="in place",
        metadata=_told(
            _caches,
            'while counters are collected, "in place" (a kernel finds the caches as in the '
            'program) or "flushed" (empty, as Nsight Compute has them unless told otherwise).',
            str,
        ),
    )
    ladder: str = field(
        default=NESTED,
        metadata=_told(
            _ladder,
            'what the timed runs trace: "nested", each rung one level more than the one before, or '
            "\"separate\", one level each, so that no level's times hold what another's tracing "
            "costs; what belongs to what then comes from runs of all levels, by order.",
            str,
        ),
    )
    nvtx: bool = field(
        default=False,
        metadata=_told(
            _switch,
            'execute the target once more, untimed, with NVTX ranges of domain "xsp" around model '
            "calls and layers, for Nsight Systems and Compute.",
            bool,
        ),
    )
    ranges_as_layers: bool = field(
        default=False,
        metadata=_told(
            _switch,
            "take the target's own ranges (NVTX, record_function) as layers, for code without "
            "modules.",
            bool,
        ),
    )

    accept_changed: bool = field(
        default=False,
        metadata=_told(
            _switch,
            "continue where the re-runs cannot repeat the original call exactly, because an "
            "argument cannot be copied or a layer differs; the profile then says so. By default "
            "that is refused.",
            bool,
        ),
    )

    restore: tuple[Any, ...] = field(
        default=(),
        metadata=_told(
            _objects,
            "what a step changes, such as `(model, optimizer, scheduler)`: put back before every "
            "run and after the last, with the random state; by default a plain callable's changes "
            "stay.",
        ),
    )

    captured_from: CapturedFrom = field(
        default=(),
        metadata=_told(
            _captured_from,
            "what the CUDA graphs that the target replays were captured from: a function without "
            "arguments, a list of them, or {graph: function}. Each is called a few times, without "
            "a graph, and kernels of replays that are equal to its own belong to its layers.",
        ),
    )

    alone: bool = field(
        default=False,
        metadata=_told(
            _switch,
            "this rank profiles by itself although torch.distributed is initialised; by default "
            "all ranks profile together and agree on the number of runs.",
            bool,
        ),
    )

    @property
    def refused(self) -> dict[Level, str]:
        """Levels that cannot be traced as these options have it, each with the reason."""
        if self.ladder == NESTED:
            return {}
        return {
            Level.OP: "operators are not traced on a separate ladder; use ladder='nested' with them"
        }

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Checked options from keywords; what is None or left out has its default.

        Raises LevelError for unknown levels, metrics or caches, TargetError for an option that does
        not exist or a value that it cannot have.
        """
        known = {each.name: each for each in fields(cls)}
        if unknown := [name for name in given if name not in known]:
            raise TargetError(
                f"there is no option {unknown[0]!r}; the options of xsp.measure are "
                f"{', '.join(known)}"
            )
        if given.get("stop") is not None and given.get("iterations") is not None:
            raise TargetError(
                f"stop={given['stop']!r} and iterations={given['iterations']!r} exclude each "
                "other: give only one"
            )
        checked = {
            name: known[name].metadata["check"](name, value)
            for name, value in given.items()
            if value is not None
        }
        return cls(**checked)

    @classmethod
    def taken(cls, keywords: dict[str, Any]) -> Options:
        """Options out of a call's keywords; the others, which are the target's, stay there."""
        return cls.asked(**{name: keywords.pop(name) for name in names() if name in keywords})

    @classmethod
    def asked(cls, **given: Any) -> Options:
        """Options that a user asks for: what is None or left out is as it is set once for every
        profile (`xsp.settings`), else has its default.

        Raises what `of` raises, and SettingError for a setting that cannot be.
        """
        check_names((*textual(), "progress", *OTHER_SETTINGS))
        own = {name: value for name, value in given.items() if value is not None}
        return cls.of(**(_set_once(own) | own))


def _set_once(given: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (*textual(), "progress"):
        # A stopping rule and a number of rounds exclude each other.
        is_moot = name in given or (name == "iterations" and "stop" in given)
        if is_moot or (told := setting(name)) is None:
            continue
        value = _switched(told) if _is_switch(name) else _read_setting(name, told)
        try:
            Options.of(**{name: value})
        except XspError as error:
            raise SettingError(f"{told.place}: {error}") from error
        found[name] = value
    return found


def _is_switch(name: str) -> bool:
    return name == "progress" or textual()[name] is bool


def _read_setting(name: str, told: Setting) -> Any:
    """A text, from a variable or the table, as the command line reads it."""
    if not isinstance(told.value, str):
        return told.value
    try:
        return read(name, told.value)
    except TargetError as error:
        raise SettingError(f"{told.place}: {error}") from error


def _switched(told: Setting) -> bool:
    text = str(told.value).lower()
    if text not in _SWITCHES:
        raise SettingError(
            f"{told.place} is {told.value!r}; it must be one of {', '.join(_SWITCHES)}"
        )
    return _SWITCHES[text]


_SWITCHES = {"true": True, "false": False, "1": True, "0": False}


def names() -> tuple[str, ...]:
    """The options' names, in the order in which they are documented."""
    return tuple(each.name for each in fields(Options))


def textual() -> dict[str, type]:
    """The options that can be written as text, with what a command line reads for each."""
    return {each.name: reads for each in fields(Options) if (reads := each.metadata["reads"])}


def help_of(name: str) -> str:
    """What an option means, in a sentence."""
    text: str = _field(name).metadata["help"]
    return text


def default_of(name: str) -> Any:
    """The value of an option that is not given."""
    return _field(name).default


def read(name: str, text: str) -> Any:
    """The value that a text stands for; a switch is on by its name alone. Raises TargetError for a
    text that is not a number.
    """
    reads = _field(name).metadata["reads"]
    if reads is bool:
        return True
    try:
        return reads(text)
    except ValueError:
        raise _refused(name, "a number", text) from None


def _field(name: str) -> Field[Any]:
    return next(each for each in fields(Options) if each.name == name)
