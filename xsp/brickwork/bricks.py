"""`xsp.bricks`: models taken apart, their bricks measured, their latencies put together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from xsp.brickwork.model import Model, model_of_target
from xsp.brickwork.plan import Options, Prepared, prepared
from xsp.brickwork.result import Bricks
from xsp.brickwork.running import measure
from xsp.brickwork.samples import Done, stored
from xsp.brickwork.stand_in import model_of_graph
from xsp.database.store import Store
from xsp.errors import XspError
from xsp.graphs.graph import Graph, unique_names
from xsp.profiles import Profile


def bricks(
    *targets: Any,
    names: Sequence[str] | None = None,
    database: str | os.PathLike[str] | None = None,
    run: bool = True,
    seed: int = 0,
    **options: Any,
) -> Bricks:
    """Latencies of models from the benchmarks of their parts (DLBricks, ICPE 2020).

    Args:
        targets: each `(model, inputs)`, a module whose `forward` needs none, a `Graph`, or a
            `Profile`, of which there are layers only and nothing to compare with.
        names: of the targets; by default their types.
        database: where measurements are kept, as for `xsp.database.store.Store`.
        run: measure what the database lacks. Without it, latencies are constructed from what is
            there, and models are never run whole.
        seed: of the order in which bricks take turns.
        **options: granularity, statistics, budget_s, whole, overlap, modules, bracket, threads,
            progress:
            see `xsp.brickwork.plan.Options`.

    A target that cannot be taken apart is in `failures`, and a brick that raises is a row with what
    it raised; the rest goes on.

    Raises XspError for options that do not exist or have impossible values, and DatabaseError where
    the database cannot be used.

    """
    wanted = _options(options)
    titles = list(names) if names is not None else unique_names(_title(each) for each in targets)
    if len(titles) != len(targets):
        raise XspError(f"{len(titles)} names for {len(targets)} targets; give one for each")
    ready = _prepared(zip(targets, titles, strict=True), wanted)
    with Store(database) as store:
        done = measure(store, ready, wanted, seed) if run else _known(store, ready, wanted)
    return Bricks(
        subjects=tuple(ready.subjects),
        records=done.records,
        machine=done.machine,
        failures=ready.failures,
        notes=tuple(_notes(ready, done, wanted)),
    )


def _options(given: dict[str, Any]) -> Options:
    granularity = given.pop("granularity", (1,))
    sizes = (granularity,) if isinstance(granularity, int) else tuple(granularity)
    try:
        return Options(granularity=sizes, **given)
    except TypeError:
        known = ", ".join(Options.__dataclass_fields__)
        raise XspError(f"{', '.join(given)}: the options of xsp.bricks are {known}") from None


def _title(target: Any) -> str:
    if isinstance(target, Graph | Profile | Model):
        return target.name
    model = target[0] if isinstance(target, tuple) and target else target
    return type(model).__name__


def _prepared(targets: Iterable[tuple[Any, str]], options: Options) -> Prepared:
    failures: dict[str, str] = {}
    models = []
    for target, name in targets:
        try:
            models.append(replace(model_from(target, name), name=name))
        except XspError as error:
            failures[name] = str(error)
    found = prepared(models, options)
    found.failures.update(failures)
    return found


def model_from(target: Any, name: str) -> Model:
    """A target as a model. Raises GraphError or TargetError for what is none."""
    if isinstance(target, Model):
        return target
    if isinstance(target, Graph):
        return model_of_graph(target)
    if isinstance(target, Profile):
        from xsp.graphs.from_profile import graph_of_profile

        return model_of_graph(graph_of_profile(target))
    if isinstance(target, tuple) and target and isinstance(target[0], nn.Module):
        return model_of_target((target[0], target[1] if len(target) == 2 else target[1:]), name)
    return model_of_target(target, name)


def _known(store: Store, ready: Prepared, options: Options) -> Done:
    """What the database has, with nothing measured."""
    from xsp.brickwork.conditions import host_of
    from xsp.brickwork.rounds import settled

    device = ready.subjects[0].model.device if ready.subjects else "cpu"
    with settled(options.threads):
        machine = host_of(device)
    layers = {one.layer.digest: one.layer for each in ready.subjects for one in each.bricks}
    records = stored(store, machine, layers.values())
    return Done(machine, records, 0, len(records), 0, 0.0, precise=True)


def _notes(ready: Prepared, done: Done, options: Options) -> Iterable[str]:
    for subject in ready.subjects:
        for note in subject.model.traced.notes:
            yield f"{subject.model.name}: {note}"
    yield from done.notes
    if not done.precise and options.statistics != "paper":
        yield (
            f"{done.rounds} rounds were too few to know every latency to 1 %: intervals say how "
            "well each is known; a longer budget or a machine that does nothing else helps"
        )
    if done.failures:
        first = next(iter(done.failures.values()))
        yield f"{len(done.failures)} bricks could not be run, the first with {first}"
