"""The licences in the wheel: of Longshore, of ONNX Runtime and of all crates."""

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest


def texts():
    """The licence files of the installed wheel, by name."""
    files = importlib.metadata.files("longshore")
    return {file.name: file.read_text() for file in files if "licenses" in file.parts}


@pytest.fixture
def licences():
    """The script that collects the licences of crates."""
    path = Path(__file__).parents[2] / "scripts/licences.py"
    spec = importlib.util.spec_from_file_location("licences", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def crate(folder, name, licence, files):
    for file in files:
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"The licence of {name}")
    return {"name": name, "version": "1.0", "license": licence, "manifest_path": str(folder / name / "Cargo.toml")}


def test_the_wheel_has_the_notices_of_crates_and_of_the_c_code_in_them():
    found = texts()
    assert set(found) == {"LICENSE", "ThirdPartyNotices.txt", "crates.txt"}
    crates = found["crates.txt"]
    for notice in ["Tokio Contributors", "Jason Evans", "Meta Platforms", "Unicode, Inc."]:
        assert notice in crates, notice
    # The test tools are not in the program.
    assert "proptest" not in crates
    for name in ["tokio", "tikv-jemalloc-sys", "zstd-sys"]:
        assert f"\n{name} " in crates, name


def test_licence_files_of_a_crate_and_of_the_code_in_it_are_found(licences, tmp_path):
    packages = [
        crate(tmp_path, "a", "MIT", ["LICENSE-MIT", "src/licence.rs", "tests/LICENSE"]),
        crate(tmp_path, "b-sys", "MIT", ["license.md", "vendor/COPYING"]),
    ]
    found = sorted(name for _, names in licences.collect(packages).values() for name in names)
    assert found == ["a 1.0: LICENSE-MIT", "b-sys 1.0: license.md", "b-sys 1.0: vendor/COPYING"]


@pytest.mark.parametrize(
    "licence, is_enough",
    [
        ("Apache-2.0", True),
        ("MIT OR Apache-2.0", True),
        ("MIT/Apache-2.0", True),
        ("(MIT OR Apache-2.0) AND Apache-2.0", True),
        ("MIT", False),
        ("Apache-2.0 AND ISC", False),
        ("(Apache-2.0 OR MIT) AND Unicode-3.0", False),
        (None, False),
    ],
)
def test_a_crate_without_a_text_that_its_licence_demands_is_an_error(licences, tmp_path, licence, is_enough):
    packages = [crate(tmp_path, "bare", licence, [])]
    if is_enough:
        assert licences.collect(packages) == {}
    else:
        with pytest.raises(ValueError, match="bare 1.0"):
            licences.collect(packages)
