"""Policies swapped into a robot whose controller, a real process, is killed at every stage."""

from pathlib import Path

import pytest

from infra.cli.bench_swaps import POINTS, SwapRun
from infra.cli.swap_offers import BAD
from infra.embedded.stack import Endpoints
from infra.settings import KafkaSettings, S3Settings, Settings

pytestmark = [pytest.mark.stack, pytest.mark.slow]
SWAPS, KILLS = 50, 2


def test_50_swaps_with_kills_at_every_stage_and_never_a_torn_policy(
    stack: Endpoints, namespace: str, tmp_path: Path
) -> None:
    s3 = stack.s3
    config = Settings(
        state_dir=tmp_path,
        namespace=namespace,
        kafka=KafkaSettings(bootstrap_servers=stack.kafka),
        s3=S3Settings.model_validate(
            {
                "endpoint": s3.address,
                "access_key": s3.access_key,
                "secret_key": s3.secret_key,
                "bucket": s3.bucket,
            }
        ),
    )
    run = SwapRun(config, SWAPS, KILLS, 0, print)
    try:
        figures = run.run()
    finally:
        run.clean()
    print(figures)
    assert figures["breaches"] == []
    assert figures["swaps"] >= SWAPS
    assert all(figures["kills"].get(stage, 0) == KILLS for stage in (*POINTS, "any"))
    # Each kind of bad policy was offered and refused, and all that was good got in.
    counts, refused = figures["counts"], figures["rolled_back_for"]
    assert counts["OFFERED"] == counts["COMMITTED"] + counts["ROLLED_BACK"]
    assert len(refused) >= len(BAD)
    assert counts["policies that acted"] >= 0.9 * SWAPS
