"""A pretrained network as an artifact, with requests and the answers of the package's own
pipeline.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

JSON = "application/json"
NPY = "application/x-npy"


@dataclass
class Case:
    """A request and the right answer, in one of the forms that the functions below make."""

    name: str
    content_type: str
    body: bytes
    expected: dict[str, Any]
    accept: str = JSON
    array: np.ndarray | None = None
    """The right answer, if it is a tensor."""
    tolerance: float = 1e-3
    """Tolerance of a score, or of a number in a tensor."""


@dataclass
class Network:
    """An artifact. Its files are texts, bytes, values for JSON, or paths of files to copy."""

    name: str
    package: str
    task: str
    files: dict[str, Any]
    cases: list[Case] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Writes the artifact `model`, `cases.json`, and the bodies and tensors that this names.
        """
        home = folder / self.name
        for name, content in self.files.items():
            file = home / "model" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, file)
            elif isinstance(content, bytes):
                file.write_bytes(content)
            else:
                file.write_text(json.dumps(content, indent=2))
        cases = []
        for number, case in enumerate(self.cases):
            body = f"{number}.body"
            (home / body).write_bytes(case.body)
            expected = case.expected
            if case.array is not None:
                expected = {"tensor": f"{number}.npy"}
                np.save(home / f"{number}.npy", np.ascontiguousarray(case.array))
            cases.append(
                {
                    "name": case.name,
                    "content_type": case.content_type,
                    "accept": case.accept,
                    "body": body,
                    "tolerance": case.tolerance,
                    "expected": expected,
                }
            )
        content = {"package": self.package, "task": self.task, "cases": cases}
        (home / "cases.json").write_text(json.dumps(content))


# Right answers


def scores(by_label: dict[str, float]) -> dict[str, Any]:
    """The score of every label; an answer may have only the first labels."""
    return {"scores": {label: float(score) for label, score in by_label.items()}}


def embeddings(rows: list[np.ndarray]) -> dict[str, Any]:
    """One label for each input."""
    return {"embeddings": [np.asarray(row, dtype=np.float64).tolist() for row in rows]}


def tokens(rows: dict[str, list[list[int]]]) -> dict[str, Any]:
    """Tensors of whole numbers, which must be equal."""
    return {"tokens": rows}


def boxes(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Detections: label, score and box of each."""
    return {"boxes": rows}


# Bodies


def inputs(value: Any) -> bytes:
    """A body as the clients of Hugging Face's containers write it."""
    return json.dumps({"inputs": value}).encode()
