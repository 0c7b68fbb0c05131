"""A PostgreSQL server of the tests' own, where PostgreSQL is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def running(folder_of_programs: Path) -> Iterator[str]:
    """The URL of a server that ends with the block."""
    folder = Path("/tmp") / f"xsp-postgres-{os.getpid()}"
    folder.mkdir()
    # The server refuses to run as root.
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    as_user = as_user if os.getuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres", "postgres")
    run: dict[str, Any] = {"check": True, "capture_output": True, "cwd": folder}
    data = str(folder / "data")
    control = [*as_user, str(folder_of_programs / "pg_ctl")]
    initialise = [*as_user, str(folder_of_programs / "initdb"), "-D", data, "-U", "xsp"]
    subprocess.run([*initialise, "-A", "trust", "--no-sync"], **run)
    options = f"-k {folder} -c listen_addresses= -c fsync=off"
    subprocess.run(
        [*control, "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start"], **run
    )
    try:
        yield f"postgresql+psycopg://xsp@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "-D", data, "-m", "immediate", "stop"], **run)
        shutil.rmtree(folder)
