"""`ralo provision`: make the topics and the bucket on the cluster and store that are set."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer

from infra.cli.run import for_restart_policies
from infra.log import LogUnavailable
from infra.patience import Patience, Vain
from infra.settings import kafka_bootstrap, settings
from infra.store import StoreUnavailable


def provision(
    patience_s: Annotated[float, typer.Option(help="How long to wait for the servers.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Make what is missing of the topics and the bucket; safe to run twice.

    Exits 75 when the broker or the store stays away.
    """
    from infra.provision import provision as make

    with for_restart_policies():
        config = settings()
        vain = Patience("provision", patience_s).wait(f"the broker {kafka_bootstrap(config)}")
        created = _until_made(lambda: make(config), vain)
        if as_json:
            print(json.dumps({"created": created, "bucket": config.s3.bucket}))
        else:
            print(f"{len(created)} topics made" if created else "all topics are there")


def _until_made(make: Callable[[], list[str]], vain: Vain) -> list[str]:
    while True:
        try:
            return make()
        except (LogUnavailable, StoreUnavailable) as error:
            vain(error)
