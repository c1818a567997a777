"""`ralo doctor`: what RALO needs on this machine, whether it is there, and how to mend it."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import psutil
import typer

from infra.embedded import health, kafka
from infra.embedded.go import find_go
from infra.embedded.jars import KAFKA_VERSION, is_complete, read_lock
from infra.embedded.minio import MINIO
from infra.embedded.stack import Stack
from infra.embedded.state import StackError, is_free
from infra.settings import Settings, SettingsError, kafka_bootstrap, s3_endpoint, settings

DISK_FREE_MIN_GB = 5.0
MEMORY_FREE_MIN_GB = 2.0
PINS = Path(__file__).resolve().parents[2] / "pins.txt"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `ok`, `note` (works, or will once needed) or `bad`, and the remedy."""

    what: str
    level: str
    found: str
    remedy: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Check what RALO needs, and say how to mend what is missing; exit 1 if something is."""
    findings = []
    for finding in examine(settings()):
        findings.append(finding)
        if not as_json:
            print(f"{finding.level:4}  {finding.what:8}  {finding.found}", flush=True)
            if finding.remedy:
                print(f"{'':16}-> {finding.remedy}")
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.level == "bad" for finding in findings):
        raise typer.Exit(1)


def examine(config: Settings) -> Iterator[Finding]:
    """Yield every finding about this machine under `config`."""
    yield check_python()
    yield check_pins(PINS)
    if not config.kafka.bootstrap_servers:
        yield check_java()
        yield check_jars(config)
    if not config.s3.endpoint:
        yield check_minio(config)
    yield check_disk("state", config.state_dir)
    yield check_disk("cache", config.cache_dir)
    yield check_memory()
    yield from check_ports(config)
    yield check_server("kafka", lambda: _try_kafka(config))
    yield check_server("store", lambda: _try_store(config))


def check_python() -> Finding:
    """Look at the interpreter; one that is too old could not have installed this."""
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def check_pins(pins: Path) -> Finding:
    """Compare the installed packages with pins.txt."""
    if not pins.exists():
        return Finding("packages", "note", "not a checkout: no pins.txt to compare with")
    wrong = list(differing(pins.read_text().splitlines()))
    if not wrong:
        return Finding("packages", "ok", "as pinned in pins.txt")
    shown = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    return Finding("packages", "bad", shown, "delete .venv and run ./ralo: it installs the pins")


def differing(lines: list[str]) -> Iterator[str]:
    """Yield `name version, pinned version` for each pin of this platform that is not installed."""
    from packaging.requirements import Requirement

    for line in lines:
        pin = Requirement(line)
        if pin.marker is not None and not pin.marker.evaluate():
            continue
        try:
            version = metadata.version(pin.name)
        except metadata.PackageNotFoundError:
            version = "missing"
        if version == "missing" or not pin.specifier.contains(version, prereleases=True):
            yield f"{pin.name} {version} (pinned {pin.specifier})"


def check_java() -> Finding:
    """Look for a Java runtime that starts."""
    try:
        java = kafka.find_java()
    except StackError as error:
        return Finding("java", "bad", "none", str(error))
    major = kafka.java_major(java)
    if major < kafka.JAVA_MAJOR_MIN:
        remedy = "put a Java 17 or later on PATH, or delete .venv and run ./ralo"
        return Finding("java", "bad", f"{java} does not run, or is version {major}", remedy)
    return Finding("java", "ok", f"version {major} at {java}")


def check_jars(config: Settings) -> Finding:
    """Look for Kafka's jars in the cache."""
    home = config.cache_dir / f"kafka-{KAFKA_VERSION}"
    if is_complete(home, read_lock()):
        return Finding("jars", "ok", f"Kafka {KAFKA_VERSION} in {home}")
    return Finding("jars", "note", f"Kafka {KAFKA_VERSION} is fetched by `ralo up` (45 MB)")


def check_minio(config: Settings) -> Finding:
    """Look for a MinIO binary, else for the Go toolchain that builds one."""
    binary = MINIO.find(config.cache_dir)
    if binary is not None:
        return Finding("minio", "ok", str(binary))
    try:
        go = find_go(MINIO)
        done = subprocess.run([go, "version"], capture_output=True, text=True, check=True)
    except (StackError, OSError, subprocess.CalledProcessError) as error:
        return Finding("minio", "bad", f"no MinIO, and no Go that runs ({error})", str(error))
    return Finding("minio", "note", f"`ralo up` builds it once, with {done.stdout.strip()}")


def check_disk(what: str, path: Path) -> Finding:
    """Look at the free disk space where `path` is or will be."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    found = f"{free_gb:.1f} GB free for {path}"
    if free_gb >= DISK_FREE_MIN_GB:
        return Finding(what, "ok", found)
    variable = f"RALO_{what.upper()}_DIR"
    return Finding(what, "bad", found, f"free {DISK_FREE_MIN_GB:.0f} GB, or set {variable}")


def check_memory() -> Finding:
    """Look at the memory that programs could get now."""
    free_gb = psutil.virtual_memory().available / 1e9
    found = f"{free_gb:.1f} GB available"
    if free_gb >= MEMORY_FREE_MIN_GB:
        return Finding("memory", "ok", found)
    return Finding("memory", "bad", found, f"close programs: {MEMORY_FREE_MIN_GB:.0f} GB are used")


def check_ports(config: Settings) -> Iterator[Finding]:
    """Look at the remembered ports of servers that are not running."""
    stack = Stack(config)
    for server in stack.status():
        if server.state not in ("stopped", "dead") or server.address is None:
            continue
        port = int(server.address.rpartition(":")[2])
        if is_free(config.bind_host, port):
            yield Finding("ports", "ok", f"{port} is free for {server.name}")
        else:
            remedy = "nothing to do: `ralo up` chooses another"
            yield Finding("ports", "note", f"{port} of {server.name} is taken", remedy)


def check_server(what: str, attempt: Callable[[], str]) -> Finding:
    """Use a server for what it is for."""
    try:
        return Finding(what, "ok", attempt())
    except SettingsError as error:
        return Finding(what, "note", "not running", str(error))
    except StackError as error:
        return Finding(what, "bad", str(error), "run `ralo up`; its logs are under the state dir")


def _try_kafka(config: Settings) -> str:
    bootstrap = kafka_bootstrap(config)
    health.check_kafka(bootstrap, config.kafka.extra, limit_s=5.0)
    return f"a record went through {bootstrap}"


def _try_store(config: Settings) -> str:
    endpoint = s3_endpoint(config)
    health.check_s3(endpoint)
    return f"an object went through {endpoint.address}"
