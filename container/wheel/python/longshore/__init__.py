"""Longshore: a server of ONNX models, and SageMaker's API on one machine.

The package installs the command `longshore`. `longshore.testing` starts a local endpoint for tests.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["executable"]


def executable() -> Path:
    """Returns the path of the program `longshore`.

    The variable `LONGSHORE` names another program, such as a build of a checkout. Otherwise it is the
    program of this package, and without one the first `longshore` in `PATH`.
    """
    chosen = os.environ.get("LONGSHORE")
    if chosen:
        path = Path(chosen)
        if not _is_program(path):
            raise FileNotFoundError(f"LONGSHORE={chosen} is not a program; unset it, or set it to the path of longshore")
        return path
    for path in _candidates():
        if _is_program(path):
            return path.resolve()
    raise FileNotFoundError("the program longshore is not installed here: run pip install --force-reinstall longshore-....whl")


def _candidates() -> Iterator[Path]:
    """The places where installers put the program of this package."""
    # The installer's own record is exact, except after `pip install --target`, which moves files.
    try:
        files = importlib.metadata.files("longshore") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "longshore" and file.parent.name == "bin":
            yield Path(str(file.locate()))
    yield Path(__file__).parent.parent / "bin" / "longshore"
    for folder in (sysconfig.get_path("scripts"), os.path.join(site.getuserbase(), "bin"), os.path.dirname(sys.executable)):
        yield Path(folder) / "longshore"
    found = shutil.which("longshore")
    if found:
        yield Path(found)


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
