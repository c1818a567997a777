"""`ralo provision`: make the topics and the bucket on the cluster and store that are set."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from infra.cli.run import EXIT_TRY_AGAIN
from infra.log import LogUnavailable
from infra.patience import GaveUp, Patience
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

    config = settings()
    vain = Patience("provision", patience_s).wait(f"the broker {kafka_bootstrap(config)}")
    while True:
        try:
            created = make(config)
            break
        except (LogUnavailable, StoreUnavailable) as error:
            try:
                vain(error)
            except GaveUp as end:
                print(f"ralo: {end}", file=sys.stderr)
                raise typer.Exit(EXIT_TRY_AGAIN) from end
    if as_json:
        print(json.dumps({"created": created, "bucket": config.s3.bucket}))
    else:
        print(f"{len(created)} topics made" if created else "all topics are there")
