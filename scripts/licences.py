#!/usr/bin/env python3
"""Prints the licences of all crates that are linked into the program, for scripts/wheel and the image.

    scripts/licences.py [TARGET]     for a target such as aarch64-unknown-linux-gnu (this machine's)

Most licences demand that copies of the program contain their text and the names of the authors. Cargo
names the crates, and the texts are in their packages. Equal texts are printed once. A crate without
such a text is an error, unless Apache-2.0 is enough for it: Longshore's own licence is that text.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LICENCE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)\b.*(?<!\.rs)", re.IGNORECASE | re.DOTALL)
RULE = "=" * 80


def linked(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """The packages in `metadata` that the program needs at run time, without the program itself."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found: set[str] = set()
    waiting = [metadata["resolve"]["root"]]
    while waiting:
        package = waiting.pop()
        if package not in found:
            found.add(package)
            # Dependencies of builds and of tests have a kind.
            needed = (need for need in nodes[package]["deps"] if any(kind["kind"] is None for kind in need["dep_kinds"]))
            waiting += [need["pkg"] for need in needed]
    packages = [package for package in metadata["packages"] if package["id"] in found and package["source"]]
    return sorted(packages, key=lambda package: (package["name"], package["version"]))


def files(folder: Path) -> Iterator[Path]:
    """The licence files of a package, also those of C code and of other crates in it."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in ("benches", "examples", "tests"))
        yield from (Path(place) / name for name in sorted(names) if LICENCE.fullmatch(name))


def is_apache(licence: str) -> bool:
    """Whether Apache-2.0 alone is enough: each part of an expression such as `(A OR B) AND C` has it."""
    parts = re.split(r"\bAND\b", licence)
    return all("Apache-2.0" in re.split(r"\bOR\b|[\s()/]+", part) for part in parts)


def collect(packages: list[dict[str, Any]]) -> dict[str, tuple[str, list[str]]]:
    """Each text, by its words, with the files that have it."""
    texts: dict[str, tuple[str, list[str]]] = {}
    missing = []
    for package in packages:
        label = f"{package['name']} {package['version']}"
        folder = Path(package["manifest_path"]).parent
        found = list(files(folder))
        for file in found:
            text = file.read_text(encoding="utf-8", errors="replace").strip()
            texts.setdefault(" ".join(text.split()), (text, []))[1].append(f"{label}: {file.relative_to(folder)}")
        licence = package["license"] or "no named licence"
        if not found and not is_apache(licence):
            missing.append(f"{label} ({licence})")
    if missing:
        raise ValueError(
            "these crates have no licence file in their packages, and their licences demand a copy: "
            f"{', '.join(missing)}; use other releases of them, or other crates"
        )
    return texts


def main() -> None:
    version = subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout
    host = next(line.removeprefix("host: ") for line in version.splitlines() if line.startswith("host: "))
    target = sys.argv[1] if len(sys.argv) > 1 else host
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    metadata = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout
    packages = linked(json.loads(metadata))
    try:
        texts = collect(packages)
    except ValueError as error:
        sys.exit(f"scripts/licences.py: {error}")
    print(f"The program longshore for {target} contains these crates, and Rust's standard library (MIT OR Apache-2.0).")
    print("Their licences follow. The text of Apache-2.0 is also in Longshore's own licence.\n")
    for package in packages:
        print(f"{package['name']} {package['version']}: {package['license']}")
    for text, names in texts.values():
        print("\n".join(["", RULE, *names, RULE, "", text]))


if __name__ == "__main__":
    main()
