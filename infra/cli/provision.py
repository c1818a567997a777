"""`ralo provision`: make the topics and the bucket on the cluster and store that are set."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from infra.cli.run import for_restart_policies, until_there
from infra.patience import Patience
from infra.settings import kafka_bootstrap, s3_endpoint, settings


def provision(
    patience_s: Annotated[float, typer.Option(help="How long to wait for each server.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Make what is missing of the topics and the bucket; safe to run twice.

    Exits 75 when the broker or the store stays away, and names which.
    """
    from infra.provision import make_bucket, make_topics

    with for_restart_policies():
        config = settings()
        patience = Patience("provision", patience_s)
        store, broker = s3_endpoint(config).address, kafka_bootstrap(config)
        # The bucket first: whoever finds the topics may begin to work.
        until_there(patience, f"the store {store}", lambda: make_bucket(config))
        created = until_there(patience, f"the broker {broker}", lambda: make_topics(config))
        if as_json:
            print(json.dumps({"created": created, "bucket": config.s3.bucket}))
        else:
            print(f"{len(created)} topics made" if created else "all topics are there")
