"""What the command line says: which baselines, and what makes a test fail. Imports nothing that
takes time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from xsp.errors import BudgetError

MAIN = "main"
"""Name of the baseline that is meant where none is named."""
MAX_SLOWDOWN = 1.05

SLOWDOWN, GREW, SHRANK, REFUSED, NEW, UNDECIDED, UNCHECKED = (
    "slowdown",
    "grew",
    "shrank",
    "refused",
    "new",
    "undecided",
    "unchecked",
)
RULES = {
    SLOWDOWN: "significantly slower than the baseline by more than the threshold",
    GREW: "more kernels, copies, library calls, synchronisations, layers, allocated bytes or graph "
    "breaks",
    REFUSED: "the baseline cannot be compared, for example because the inputs have other shapes",
    SHRANK: "fewer of what `grew` counts",
    NEW: "no baseline of this test for this machine",
    UNDECIDED: "noise too large to tell, even after more rounds",
    UNCHECKED: "a budget for a level that cannot be traced here",
}
"""What can make a test fail, apart from a broken budget, which always does."""
DEFAULT_RULES = (SLOWDOWN, GREW, REFUSED)
NOTHING = "nothing"

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
    rules: frozenset[str] = field(default=frozenset(DEFAULT_RULES))
    max_slowdown: float | None = None

    @classmethod
    def of(
        cls,
        save: str | None,
        compare: str | None,
        fail: Iterable[str],
        *,
        update: bool,
        disable: bool,
        add: str | None = None,
    ) -> Options:
        """Checked options. A baseline that is being saved is compared with only if that is asked
        for.

        Raises BudgetError for impossible options.
        """
        rules, slowdown = parsed_rules(fail)
        if add is not None:
            if save is not None or compare is not None or update:
                raise BudgetError(
                    "--xsp-add cannot be combined with the other baseline options: it compares "
                    "with the baseline that it adds to"
                )
            name = checked_name("--xsp-add", add)
            return cls(name, name, add=True, disable=disable, rules=rules, max_slowdown=slowdown)
        against = (
            checked_name("--xsp-compare", compare)
            if compare is not None
            else (MAIN if save is None else None)
        )
        saved = None if save is None else checked_name("--xsp-save", save)
        if update:
            if saved is not None:
                raise BudgetError(
                    "--xsp-update and --xsp-save exclude each other: the former saves what it "
                    "compared"
                )
            saved = against
        return cls(
            against, saved, update=update, disable=disable, rules=rules, max_slowdown=slowdown
        )


def checked_name(option: str, name: str) -> str:
    """The name of a baseline.

    Raises BudgetError for a path and for the name of something that exists here: pytest takes
    `--xsp-save test_a.py` for a name, saves under it, and finds no baseline in any later run.
    """
    is_path = name.endswith(".py") or (name != MAIN and Path(name).exists())
    if is_path or not _NAME.fullmatch(name) or name in {".", ".."}:
        rule = "is a path" if is_path else "must be letters, digits and .+-_ only"
        raise BudgetError(
            f"{option}={name!r} cannot be a baseline's name: it {rule}. If it says which tests to "
            f"run, write {option}=NAME, or put {option} after it"
        )
    return name


def parsed_rules(texts: Iterable[str]) -> tuple[frozenset[str], float | None]:
    """What fails a test, and the threshold if there is one: `slowdown:5%` is 1.05.

    Rules add to the default ones; `nothing` clears all that come before it. Raises BudgetError for
    unknown rules.
    """
    rules, threshold = set(DEFAULT_RULES), None
    for word in (part.strip() for text in texts for part in text.split(",")):
        name, given, limit = word.partition(":")
        if name == NOTHING and not given:
            rules.clear()
        elif name in RULES and (not given or name == SLOWDOWN):
            rules.add(name)
            threshold = parsed_slowdown(limit) if given else threshold
        else:
            every = ", ".join([f"{SLOWDOWN}:5%", *RULES, NOTHING])
            raise BudgetError(
                f"--xsp-fail={word!r} is unknown; the choices are {every}, separated by commas"
            )
    return frozenset(rules), threshold


def parsed_slowdown(text: str) -> float:
    """`5%` as 1.05, and `0.05` too. Raises BudgetError for what is not a positive share."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share < 100:
        raise BudgetError(
            "the threshold of --xsp-fail=slowdown must be a share > 0, such as slowdown:5%, not "
            f"{text!r}"
        )
    return 1 + share
