"""Models of manifests made ready beside one another, to be measured one after the other."""

from __future__ import annotations

import os
from collections.abc import Sequence

from xsp.errors import EvaluationError
from xsp.evaluation.artifacts.gathering import gather
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.model import Manifest
from xsp.evaluation.pipeline.system import MakeSystem
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.readying import make_ready


def prepare(
    manifests: Sequence[tuple[Manifest, MeasuredProcess]],
    batch_sizes: Sequence[int],
    *,
    artifacts: str | os.PathLike[str] | None = None,
    allow_code: bool = False,
    allow_fetch: bool = False,
    time_limit_s: float = 600.0,
) -> list[EvaluationError | None]:
    """Load models at the same time, each in the process beside it, and call each once with these
    numbers of samples, in their order, so that it is compiled for them. Nothing is measured.

    `evaluate(…, process=process)` with the same manifest, whatever its scenario, then finds the
    model there. Gives for each None, or why it could not be loaded or called. Arguments are those
    of `evaluate`; raises its errors where artifacts are not as the manifest says.
    """
    store = ArtifactStore(artifacts)
    systems = []
    for manifest, process in manifests:
        asked = gather(manifest, None, store, allow_fetch=allow_fetch)
        systems.append((process, MakeSystem.of(asked, store, allow_code=allow_code)))
    logs = store.folder / "logs"
    return make_ready(systems, batch_sizes, logs=logs, time_limit_s=time_limit_s)
