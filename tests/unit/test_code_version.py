import os
from pathlib import Path

import pytest

from infra.code_version import PACKAGES, ROOT, fingerprint


@pytest.fixture
def installed(tmp_path: Path) -> tuple[Path, Path]:
    """A root with our packages and a site folder with one distribution."""
    root, site = tmp_path / "root", tmp_path / "site"
    (site / "torch-2.13.dist-info").mkdir(parents=True)
    for name in PACKAGES:
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep" / "a.py").write_text(f"name = {name!r}\n")
    return root, site


def test_the_time_of_a_file_does_not_matter(installed: tuple[Path, Path]) -> None:
    before = fingerprint(*installed)
    os.utime(installed[0] / "streams/deep/a.py", (1, 1))
    assert fingerprint(*installed) == before


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_counts(installed: tuple[Path, Path], package: str) -> None:
    before = fingerprint(*installed)
    path = installed[0] / package / "deep" / "a.py"
    path.write_text(path.read_text() + " ")
    assert fingerprint(*installed) != before


def test_new_removed_and_renamed_files_count(installed: tuple[Path, Path]) -> None:
    seen = {fingerprint(*installed)}
    folder = installed[0] / "infra"
    (folder / "b.py").write_text("")
    seen.add(fingerprint(*installed))
    (folder / "b.py").rename(folder / "c.py")
    seen.add(fingerprint(*installed))
    (folder / "deep" / "a.py").unlink()
    assert fingerprint(*installed) not in seen and len(seen) == 3


def test_an_upgraded_dependency_counts(installed: tuple[Path, Path]) -> None:
    before = fingerprint(*installed)
    (installed[1] / "torch-2.13.dist-info").rename(installed[1] / "torch-2.14.dist-info")
    assert fingerprint(*installed) != before


def test_it_looks_at_this_very_code() -> None:
    assert (ROOT / "infra" / "code_version.py").exists()
    assert fingerprint() == fingerprint()
