"""What the command line says: which baselines, and what makes a test fail. Imports nothing that
takes time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xsp.errors import BudgetError
from xsp.regression.outcome import State

MAIN = "main"
"""Name of the baseline that is meant where none is named."""
MAX_SLOWDOWN = 1.05

UNCHECKED = "unchecked"
"""The rule that a budget for a level that cannot be traced here fails a test."""
RULES = (*(str(state) for state in State if state.value.fails is not None), UNCHECKED)
"""What can make a test fail, apart from a broken budget, which always does."""
DEFAULT_RULES = frozenset(str(state) for state in State if state.value.fails)
NOTHING = "nothing"
_SLOWDOWN = str(State.REGRESSION)
"""The rule that takes a threshold."""
_ABOUT_TIMES = (_SLOWDOWN, str(State.UNDECIDED))
_OLDER_WORDS = {"slowdown": _SLOWDOWN}
CHOICES = ", ".join([f"{_SLOWDOWN}:5%", *RULES, NOTHING])
"""What `--xsp-fail` takes, as users read it."""

_NAME = re.compile(r"[\w.+\-]{1,80}")


@dataclass(frozen=True)
class Options:
    """How a test run compares: the baseline compared with (None for no comparison), the one saved
    (None for none), what fails a test, the threshold given on the command line, and whether
    measuring is off. With `add`, what is saved is one more session of the program that the baseline
    was measured from.
    """

    compare: str | None = MAIN
    save: str | None = None
    update: bool = False
    add: bool = False
    disable: bool = False
    rules: frozenset[str] = DEFAULT_RULES
    max_slowdown: float | None = None

    @property
    def need_times(self) -> bool:
        """Whether times are saved, or can fail a test."""
        saved = self.save is not None or self.update or self.add
        return saved or not self.rules.isdisjoint(_ABOUT_TIMES)

    @classmethod
    def of(cls, given: Any) -> Options:
        """Checked options; `given` has the command line's as attributes `xsp_save`, `xsp_compare`
        and so on.

        Raises BudgetError for impossible options.
        """
        names = {
            option: _checked_name(f"--xsp-{option}", getattr(given, f"xsp_{option}"))
            for option in ("save", "compare", "add")
        }
        compare, save = _baselines(names, update=given.xsp_update)
        rules, max_slowdown = parse_rules(given.xsp_fail)
        return cls(
            compare,
            save,
            update=given.xsp_update,
            add=names["add"] is not None,
            disable=given.xsp_disable,
            rules=rules,
            max_slowdown=max_slowdown,
        )


def _baselines(names: dict[str, str | None], *, update: bool) -> tuple[str | None, str | None]:
    """The baseline to compare with and the one to save. A baseline that is being saved is compared
    with only if that is asked for.
    """
    save, compare, add = names["save"], names["compare"], names["add"]
    if add is not None:
        if save is not None or compare is not None or update:
            raise BudgetError(
                "--xsp-add cannot be combined with the other baseline options: it compares "
                "with the baseline that it adds to"
            )
        return add, add
    if compare is None and save is None:
        compare = MAIN
    if not update:
        return compare, save
    if save is not None:
        raise BudgetError(
            "--xsp-update and --xsp-save exclude each other: the former saves what it compared"
        )
    return compare, compare


def _checked_name(option: str, name: str | None) -> str | None:
    """The name of a baseline.

    Raises BudgetError for a path and for the name of something that exists here: pytest takes
    `--xsp-save test_a.py` for a name, saves under it, and finds no baseline in any later run.
    """
    if name is None:
        return None
    is_path = name.endswith(".py") or (name != MAIN and Path(name).exists())
    if is_path or not _NAME.fullmatch(name) or name in {".", ".."}:
        rule = "is a path" if is_path else "must be letters, digits and .+-_ only"
        raise BudgetError(
            f"{option}={name!r} cannot be a baseline's name: it {rule}. If it says which tests to "
            f"run, write {option}=NAME, or put {option} after it"
        )
    return name


def parse_rules(texts: Iterable[str]) -> tuple[frozenset[str], float | None]:
    """What fails a test, and the threshold if there is one: `regression:5%` is 1.05.

    Rules add to the default ones; `nothing` clears all that come before it. Raises BudgetError for
    unknown rules.
    """
    rules, threshold = set(DEFAULT_RULES), None
    for word in (part.strip() for text in texts for part in text.split(",")):
        name, given, limit = word.partition(":")
        rule = _OLDER_WORDS.get(name, name)
        if rule == NOTHING and not given:
            rules.clear()
        elif rule in RULES and (not given or rule == _SLOWDOWN):
            rules.add(rule)
            threshold = _parsed_slowdown(limit) if given else threshold
        else:
            raise BudgetError(
                f"--xsp-fail={word!r} is unknown; the choices are {CHOICES}, separated by commas"
            )
    return frozenset(rules), threshold


def _parsed_slowdown(text: str) -> float:
    """`5%` as 1.05, and `0.05` too. Raises BudgetError for what is not a positive share."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share < 100:
        raise BudgetError(
            f"the threshold of --xsp-fail={_SLOWDOWN} must be a share > 0, such as "
            f"{_SLOWDOWN}:5%, not {text!r}"
        )
    return 1 + share
