"""Kafka's jars: pinned by SHA-256 in `kafka.lock`, fetched with jgo, kept in the user's cache.

`python -m infra.embedded.jars` resolves `COORDINATES` anew and rewrites the lock (a maintainer's
act, after changing the version). The directory of jars appears by a rename: it is whole or absent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.embedded.state import Report, StackError, locked

KAFKA_VERSION = "4.0.2"
"""Not a later one: from 4.1 on a broker that is alone and dies may leave a transaction
open for ever (KAFKA-20734; `tests/stack/test_transactions_killed.py` fails with 4.3.1)."""
COORDINATES = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
LOCK = Path(__file__).with_name("kafka.lock")


@dataclass(frozen=True)
class Jar:
    """One line of the lock: what, how long, and which bytes."""

    group: str
    artifact: str
    version: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Return the jar's name in a directory of jars."""
        return f"{self.artifact}-{self.version}.jar"


def read_lock(path: Path = LOCK) -> list[Jar]:
    """Read the lock: `sha256 size group:artifact:version` a line."""
    return [_parse(line) for line in path.read_text().splitlines() if line]


def _parse(line: str) -> Jar:
    sha256, size, coordinate = line.split()
    group, artifact, version = coordinate.split(":")
    return Jar(group, artifact, version, int(size), sha256)


def install_jars(cache: Path, report: Report, lock: Path = LOCK) -> list[Path]:
    """Return the class path, fetching the jars if they are not all there; raises `StackError`.

    Jars of another lock than the broker's lie beside them, in a folder named after their lock.
    """
    suffix = "" if lock == LOCK else f"-{lock.stem}"
    jars, home = read_lock(lock), cache / f"kafka-{KAFKA_VERSION}{suffix}"
    if not is_complete(home, jars):
        with locked(cache / "kafka.lock", report):
            if not is_complete(home, jars):
                _fetch_all(jars, home, report)
    return [home / jar.file_name for jar in jars]


def is_complete(home: Path, jars: Iterable[Jar]) -> bool:
    """Return whether every jar is there with its full length."""
    paths = ((home / jar.file_name, jar.size_bytes) for jar in jars)
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _fetch_all(jars: list[Jar], home: Path, report: Report) -> None:
    total_mb = sum(jar.size_bytes for jar in jars) / 1e6
    if home.exists():
        report(f"{home} is incomplete: fetching it again")
        shutil.rmtree(home)
    report(f"fetching Apache Kafka {KAFKA_VERSION} ({len(jars)} jars, {total_mb:.0f} MB)")
    # What an interrupted fetch left; nobody else is in here, the lock is held.
    for leftover in home.parent.glob("maven-*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix="maven-", dir=home.parent) as scratch:
        whole = Path(scratch, "whole")
        whole.mkdir()
        context = _maven(Path(scratch, "repository"))
        done_mb = 0.0
        with ThreadPoolExecutor(8) as pool:
            for number, jar in enumerate(pool.map(lambda jar: _fetch(context, jar, whole), jars)):
                done_mb += jar.size_bytes / 1e6
                if number % 12 == 11:
                    report(f"  {number + 1} of {len(jars)} jars, {done_mb:.0f} MB")
        whole.rename(home)


def _maven(repository: Path) -> Any:
    import jgo
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    # jgo's HTTP client trusts its own certificates unless told; Go and uv heed SSL_CERT_FILE.
    if "SSL_CERT_FILE" in os.environ:
        os.environ.setdefault("REQUESTS_CA_BUNDLE", os.environ["SSL_CERT_FILE"])
    # A mirror named in the user's own jgo configuration comes first, as with any use of jgo.
    remotes = {**GlobalSettings.load().repositories, "central": jgo.MAVEN_CENTRAL_URL}
    return MavenContext(repo_cache=repository, remote_repos=remotes, timeout=60)


def _fetch(context: Any, jar: Jar, target: Path) -> Jar:
    coordinate = f"{jar.group}:{jar.artifact}:{jar.version}"
    component = context.project(jar.group, jar.artifact).at_version(jar.version)
    try:
        path: Path = component.artifact().resolve()
    except Exception as error:
        remedy = "is there a network? Behind a TLS proxy set SSL_CERT_FILE to its certificates"
        raise StackError(f"cannot fetch {coordinate} ({error}): {remedy}") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != jar.sha256:
        raise StackError(f"{coordinate} has SHA-256 {digest}, but {LOCK.name} pins {jar.sha256}")
    path.rename(target / jar.file_name)
    return jar


def rewrite_lock() -> None:
    """Resolve `COORDINATES` and write the lock."""
    import jgo

    artifacts = [(artifact, artifact.resolve()) for artifact in jgo.resolve(COORDINATES)]
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} "
        f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}\n"
        for artifact, path in artifacts
    ]
    LOCK.write_text("".join(sorted(lines, key=lambda line: line.split()[2])))


if __name__ == "__main__":
    rewrite_lock()
