"""`ralo health`: whether the processor in this container gets on; for container health checks."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Annotated

import typer

from infra.settings import SettingsError, settings

ANSWER_LIMIT_S = 5.0
LAST_TURN = "ralo_last_turn_timestamp_seconds"
"""When the processor last finished a batch, or found that there was none: the driver's metric."""


class Unhealthy(Exception):
    """The processor does not answer, or does not get on."""


def health(
    limit_s: Annotated[
        float, typer.Option(help="How long one piece of work may take.", min=1)
    ] = 120.0,
) -> None:
    """Say whether the processor here gets on; exits 1 if not.

    It does when it finished a piece of work, or found nothing to do, within the limit. Asked are
    its metrics (RALO_METRICS_PORT), or the orchestrator's own view (RALO_HTTP_PORT).
    """
    config = settings()
    if config.http_port:
        print(_views(config.http_port))
    elif config.metrics_port:
        print(_turns(config.metrics_port, limit_s))
    else:
        raise SettingsError("nothing to ask: set RALO_METRICS_PORT, or RALO_HTTP_PORT")


def _views(port: int) -> str:
    found = json.loads(_get(f"http://127.0.0.1:{port}/health"))
    if found["status"] != "ok":
        raise Unhealthy(f"the orchestrator is {found['status']}")
    return f"ok: lag {found['lag']}"


def _turns(port: int, limit_s: float) -> str:
    turns = [
        float(line.split()[-1])
        for line in _get(f"http://127.0.0.1:{port}/metrics").splitlines()
        if line.startswith(f"{LAST_TURN}{{")
    ]
    if not any(turns):
        raise Unhealthy("the processor has not begun")
    ago_s = time.time() - max(turns)
    if ago_s > limit_s:
        raise Unhealthy(f"the last turn of its loop ended {ago_s:.0f} s ago, above {limit_s:g} s")
    return f"ok: turned {ago_s:.1f} s ago"


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_LIMIT_S) as answer:
            text: str = answer.read().decode()
            return text
    except OSError as error:
        raise Unhealthy(f"{url}: {error}") from error
