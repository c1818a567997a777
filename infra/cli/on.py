"""`ralo --on compose VERB`: which stack a verb talks to, without spelling its addresses out.

The compose stack's ports and keys are read as compose itself reads them: from the environment,
else from `.env` (or the files that COMPOSE_ENV_FILES names), else as in `.env.example`, which lists
the defaults of `docker-compose.yml`. Compose ignores a key that none of its files reads: one that
was misspelt is refused here, by name.
Looked at before any verb is imported, so this module imports nothing that takes time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "RALO_ON"
COMPOSE = "compose"


OF_THIS_MACHINE = ("up", "down", "supervise", "scale", "logs")
"""Verbs that start and stop what `docker compose` starts and stops there."""


class NotHere(Exception):
    """There is no stack of that name, or the verb is not for it; the message says what is."""


def take_on(argv: list[str], environ: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """Split `--on NAME` (anywhere; else RALO_ON) from the arguments; raises `NotHere`."""
    name, rest, words = environ.get(VARIABLE) or None, list[str](), iter(argv)
    for word in words:
        if word == "--on":
            name = next(words, "")
        elif word.startswith("--on="):
            name = word.removeprefix("--on=")
        else:
            rest.append(word)
    if name not in (None, COMPOSE):
        raise NotHere(f"--on {name}: there is only {COMPOSE}")
    verb = next((word for word in rest if not word.startswith("-")), "")
    if name and verb in OF_THIS_MACHINE:
        raise NotHere(f"{verb} is not for the compose stack: use `docker compose` itself")
    return name, rest


def is_elsewhere() -> bool:
    """Whether the processors of the chosen stack are not this command's to start and stop."""
    return os.environ.get(VARIABLE) == COMPOSE


def compose_environ(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The settings with which this machine reaches the compose stack of the checkout at `root`.

    Raises `NotHere` for a value that compose would expand, and for a key without effect.
    """
    files = [root / f for f in (environ.get("COMPOSE_ENV_FILES") or ".env").split(",")]
    example = dotenv(root / ".env.example")
    known = {*example, "COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES"}
    values = dict(_given(example))
    for file in files:
        values.update(_given(dotenv(file)))
    values.update(_given(environ))
    known |= _read_by_compose(root, values.get("COMPOSE_FILE", "docker-compose.yml"))
    for file in files:
        _refuse_without_effect(file, dotenv(file), known)
    host = "127.0.0.1" if values["BIND_HOST"] == "0.0.0.0" else values["BIND_HOST"]
    return {
        VARIABLE: COMPOSE,
        "RALO_KAFKA__BOOTSTRAP_SERVERS": f"{host}:{values['KAFKA_PORT']}",
        "RALO_S3__ENDPOINT": f"http://{host}:{values['MINIO_PORT']}",
        "RALO_S3__ACCESS_KEY": values["MINIO_ROOT_USER"],
        "RALO_S3__SECRET_KEY": values["MINIO_ROOT_PASSWORD"],
        "RALO_S3__BUCKET": values["BUCKET"],
        "RALO_S3__REGION": values["REGION"],
        "RALO_NAMESPACE": values.get("NAMESPACE", ""),
        "RALO_POLICY": values["RALO_POLICY"],
    }


def _read_by_compose(root: Path, files: str) -> set[str]:
    paths = (root / file for file in files.split(os.pathsep))
    return {name for p in paths if p.is_file() for name in re.findall(r"\$\{(\w+)", p.read_text())}


def _refuse_without_effect(path: Path, names: Iterable[str], known: set[str]) -> None:
    """Refuse what looks like a key that compose reads, and settings that it hands on to nobody."""
    for name in sorted({*names} - known):
        # Imported here: most files have no such key.
        from difflib import get_close_matches

        near = get_close_matches(name, sorted(known), n=1, cutoff=0.85)
        if near:
            raise NotHere(f"{path}: no compose file reads {name}: did you mean {near[0]}?")
        if name.startswith("RALO_"):
            handed_on = ", ".join(sorted(k for k in known if k.startswith("RALO_")))
            raise NotHere(f"{path}: no compose file reads {name}: containers get {handed_on} only")


def _given(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    # Compose takes the default for a value that is empty.
    return ((name, value) for name, value in values.items() if value)


def dotenv(path: Path) -> dict[str, str]:
    """The values of a file of `NAME=value` lines; none where there is no file."""
    from dotenv import dotenv_values

    found = {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}
    for name, value in found.items():
        if "$" in value:
            raise NotHere(f"{path}: {name} holds a $, which compose expands: take another value")
    return found
