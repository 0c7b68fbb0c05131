"""An evaluation run again from its record alone, and compared with it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping

from xsp.database.store import Store
from xsp.evaluation.artifacts.gathering import code_in
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.dispatch.requirements import check_here
from xsp.evaluation.dispatch.worker import offer
from xsp.evaluation.records.comparison import Comparison, compare, sessions_like
from xsp.evaluation.records.differing import LABELS, other_machine
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.records.reading import code_of, read
from xsp.evaluation.running import evaluated, facts_here, record


def repeat(
    id: str,  # noqa: A002 - what it is called everywhere
    *,
    database: Store | str | os.PathLike[str] | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    trace: str = "NONE",
    allow_code: bool = False,
    allow_fetch: bool = False,
    labels: Mapping[str, str] | None = None,
) -> tuple[Evaluation, Comparison]:
    """Evaluate once more what a record specifies, keep it, and compare the two.

    The record has the whole manifest and its Python; artifacts come from the artifact store by
    their checksums, or again from where the manifest says: packages, and servers where fetching is
    allowed. This machine must be what the record's manifest asks for; where it is another one than
    the record's, the comparison says in what, and doubts its verdict.

    Arguments and errors are those of `evaluate`. `labels` are what is true of this machine: those
    of the record by default, if the two are one machine as far as facts tell, else none.
    """
    store = database if isinstance(database, Store) else Store(database)
    try:
        before = read(store, id)
        told = _labels_here(before) if labels is None else labels
        check_here(before.manifest, offer("here", None, told))
        kept = ArtifactStore(artifacts)
        _restore_code(before, store, kept)
        after = evaluated(
            before.manifest,
            kept,
            trace=trace,
            allow_code=allow_code,
            allow_fetch=allow_fetch,
            labels=told,
            again=before.id,
        )
        sessions = sessions_like(store, before)
        record(store, after, kept)
        return after, compare(before, after, sessions=sessions)
    finally:
        if store is not database:
            store.close()


def _labels_here(before: Evaluation) -> Mapping[str, str]:
    """Labels are what somebody said of a machine, which says nothing of another."""
    if other_machine(before.system, facts_here()):
        return {}
    labels: Mapping[str, str] = before.system.get(LABELS) or {}
    return labels


def _restore_code(evaluation: Evaluation, store: Store, artifacts: ArtifactStore) -> None:
    for code in code_in(evaluation.manifest):
        if code.sha256 is None or artifacts.get(code.sha256) is not None:
            continue
        content = code_of(store, code.sha256)
        if content is not None:
            artifacts.put(io.BytesIO(content), code.sha256, what=f"the code {code.function!r}")
