"""What to measure: the bricks of models at some granularities, and who needs which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from xsp.brickwork.cutting import Brick, Decomposition, decomposed, pairs, whole
from xsp.brickwork.model import Model
from xsp.brickwork.modules import cut_along_modules
from xsp.brickwork.samples import (
    CPU,
    DRIVER,
    EAGER,
    NETWORK,
    PAPER,
    TRAINED,
    WALL,
    algorithm_of,
)
from xsp.errors import XspError


@dataclass(frozen=True)
class Options:
    """How bricks are measured.

    Args:
        granularity: how many layers a brick has at most; several are measured together.
        statistics: "paper" for 100 rounds, or "driver" until every sum is known to 1 %.
        budget_s: seconds after which no further round is begun; two are run however few there are.
        whole: also measure the models whole, in turn with their bricks.
        overlap: also measure each layer together with its predecessor.
        modules: also take models apart into calls of their own modules, with the Python in them.
        bracket: also measure warm and cold loops, which lie below and above.
        threads: of torch, and CPUs that the process keeps to; as they are by default.
        clock: "wall", or "cpu" for the time for which the thread has a CPU: on a machine that other
            programs use as well, with one thread and no GPU.
        progress: show a bar; None for only where somebody watches.

    Raises XspError for other values.

    """

    granularity: tuple[int, ...] = (1,)
    statistics: str = DRIVER
    budget_s: float | None = None
    whole: bool = True
    overlap: bool = False
    modules: bool = False
    bracket: bool = False
    threads: int | None = None
    clock: str = WALL
    progress: bool | None = None

    def __post_init__(self) -> None:
        if not self.granularity or min(self.granularity) < 1:
            raise XspError(
                f"granularity must be whole numbers >= 1, not {self.granularity}: such as 1,3,5,10"
            )
        if self.statistics not in {PAPER, DRIVER}:
            raise XspError(f"statistics must be {PAPER!r} or {DRIVER!r}, not {self.statistics!r}")
        if self.threads is not None and self.threads < 1:
            raise XspError(f"threads must be a whole number >= 1, not {self.threads}")
        if self.clock not in {WALL, CPU}:
            raise XspError(f"clock must be {WALL!r} or {CPU!r}, not {self.clock!r}")
        if self.clock == CPU and self.threads != 1:
            raise XspError(
                f"clock={CPU!r} counts the calling thread only, and threads is {self.threads}: "
                "give threads=1, or use the wall clock"
            )


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with everything that is measured of it."""

    model: Model
    decompositions: dict[int, Decomposition]
    pairs: list[Brick | None]
    whole: Brick | None
    clock: str = WALL
    modular: dict[int, Decomposition] = field(default_factory=dict)

    @property
    def algorithm(self) -> str:
        """How its bricks are timed: NETWORK, or TRAINED for a model in training mode."""
        return algorithm_of(TRAINED if self.model.work.grad else NETWORK, self.clock)

    @property
    def whole_algorithm(self) -> str:
        """How it is timed itself."""
        return algorithm_of(EAGER, self.clock)

    @property
    def segments(self) -> list[list[Brick]]:
        """Bricks that follow each other in the model: those of each granularity, of operators and
        of modules, pairs, and all of it.
        """
        every = [*self.decompositions.values(), *self.modular.values()]
        cut = [list(each.bricks) for each in every]
        paired = [brick for brick in self.pairs if brick is not None]
        return [*cut, paired, [self.whole] if self.whole is not None else []]

    @property
    def bricks(self) -> list[Brick]:
        """Every brick, however often it occurs."""
        return [brick for segment in self.segments for brick in segment]


@dataclass(eq=False)
class Prepared:
    """Models as subjects, and why others are none: sentences by name."""

    subjects: list[Subject] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def prepared(models: Iterable[Model], options: Options) -> Prepared:
    """Every model taken apart; one that cannot be is a failure, and the rest goes on."""
    found = Prepared()
    for model in models:
        try:
            found.subjects.append(subject_of(model, options))
        except XspError as error:
            found.failures[model.name] = str(error)
    return found


def subject_of(model: Model, options: Options) -> Subject:
    """A model taken apart. Raises GraphError where it cannot be, XspError for a clock that is not
    that of its device.
    """
    # Corrections for overlaps need single layers to take away.
    wanted = {*options.granularity, *({1} if options.overlap else ())}
    if options.clock == CPU and model.device != "cpu":
        raise XspError(f"{model.name} is on a GPU, whose time is not the CPU's; use the wall clock")
    cut = {each: decomposed(model, each) for each in sorted(wanted)}
    paired = pairs(model) if options.overlap else []
    all_of_it = whole(model) if options.whole and not model.stands_in else None
    modular = {}
    if options.modules and model.traced.calls:
        modular = {
            each: cut_along_modules(model, each) for each in sorted(set(options.granularity))
        }
    return Subject(model, cut, paired, all_of_it, options.clock, modular)


def sums(subjects: Sequence[Subject]) -> list[Counter[str]]:
    """For each model and way to take it apart, how often it has each brick (by digest)."""
    every = [segment for subject in subjects for segment in subject.segments[:-1]]
    return [Counter(brick.layer.digest for brick in bricks) for bricks in every if bricks]
