"""`ralo --on compose VERB`: which stack a verb talks to, without spelling its addresses out.

The compose stack's ports and keys are read as compose itself reads them: from the environment,
else from `.env` (or the files that COMPOSE_ENV_FILES names), else as in `.env.example`, which lists
the defaults of `docker-compose.yml`.
Looked at before any verb is imported, so this module imports nothing that takes time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
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

    Raises `NotHere` for a value that compose would expand.
    """
    files = (environ.get("COMPOSE_ENV_FILES") or ".env").split(",")
    values = dict(_given(dotenv(root / ".env.example")))
    for file in files:
        values.update(_given(dotenv(root / file)))
    values.update(_given(environ))
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
