"""`ralo config show`: every setting, its value and where it comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer
from pydantic import BaseModel, SecretStr

from infra.cli import PLAIN
from infra.settings import (
    OTHER_VARIABLES,
    PREFIX,
    Settings,
    remembered,
    settings,
    state_file,
)

app = typer.Typer(no_args_is_help=True, **PLAIN)

MASK = "********"
SECRET_WORDS = ("password", "secret", "key.pem", "token", "jaas")


class Row(NamedTuple):
    """One setting as it is shown."""

    variable: str
    value: Any
    source: str


@app.callback()
def config() -> None:
    """Show every setting and where it comes from."""


@app.command()
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Print every setting with its variable, value and source; secrets are masked."""
    listed = list(rows(settings()))
    if as_json:
        print(json.dumps([row._asdict() for row in listed], default=str))
        return
    width = max(len(row.variable) for row in listed)
    for row in listed:
        value = "-" if row.value is None else row.value
        print(f"{row.variable:{width}}  {value}  ({row.source})")
    print("\nOther variables:")
    for name, meaning in OTHER_VARIABLES.items():
        print(f"{name:{width}}  {meaning}")


def rows(config: Settings) -> Iterator[Row]:
    """Yield every setting of `config`, with the embedded stack's addresses where none is set."""
    embedded = {"KAFKA__BOOTSTRAP_SERVERS": "kafka", "S3__ENDPOINT": "minio"}
    for row in walk(config, PREFIX):
        server = embedded.get(row.variable.removeprefix(PREFIX))
        address = remembered(config, server) if server and row.value is None else None
        yield Row(row.variable, address, str(state_file(config))) if address else row


def walk(model: BaseModel, prefix: str) -> Iterator[Row]:
    """Yield the settings of one model and of those nested in it."""
    for name in type(model).model_fields:
        value, variable = getattr(model, name), f"{prefix}{name.upper()}"
        if isinstance(value, BaseModel):
            yield from walk(value, f"{variable}__")
        else:
            yield Row(variable, masked(value), source_of(variable))


def source_of(variable: str) -> str:
    """Return where a setting's value comes from."""
    given = any(
        value and (name == variable or name.startswith(f"{variable}__"))
        for name, value in os.environ.items()
    )
    return "environment" if given else "default"


def masked(value: Any) -> Any:
    """Return a value that may be shown: secrets become asterisks."""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, dict):
        return {k: MASK if any(w in k for w in SECRET_WORDS) else v for k, v in value.items()}
    return value
