"""An evaluation run again from its record alone, and compared with it."""

from __future__ import annotations

import io
import os

from xsp.database.store import Store
from xsp.evaluation.artifacts.gathering import code_in
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.records.comparison import Comparison, compare, sessions_like
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.records.reading import code_of, read
from xsp.evaluation.running import evaluated, record


def repeat(
    id: str,  # noqa: A002 - what it is called everywhere
    *,
    database: Store | str | os.PathLike[str] | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    trace: str = "NONE",
    allow_code: bool = False,
    allow_fetch: bool = False,
) -> tuple[Evaluation, Comparison]:
    """Evaluate once more what a record specifies, keep it, and compare the two.

    The record has the whole manifest and its Python; artifacts come from the artifact store by
    their checksums, or again from where the manifest says: packages, and servers where fetching is
    allowed. Arguments and errors are those of `evaluate`.
    """
    store = database if isinstance(database, Store) else Store(database)
    try:
        kept = ArtifactStore(artifacts)
        before = read(store, id)
        _restore_code(before, store, kept)
        after = evaluated(
            before.manifest,
            kept,
            trace=trace,
            allow_code=allow_code,
            allow_fetch=allow_fetch,
            labels=before.system.get("labels", {}),
            again=before.id,
        )
        sessions = sessions_like(store, before)
        record(store, after, kept)
        return after, compare(before, after, sessions=sessions)
    finally:
        if store is not database:
            store.close()


def _restore_code(evaluation: Evaluation, store: Store, artifacts: ArtifactStore) -> None:
    for code in code_in(evaluation.manifest):
        if code.sha256 is None or artifacts.get(code.sha256) is not None:
            continue
        content = code_of(store, code.sha256)
        if content is not None:
            artifacts.put(io.BytesIO(content), code.sha256, what=f"the code {code.function!r}")
