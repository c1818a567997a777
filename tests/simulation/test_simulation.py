"""Thousands of worlds in which everything goes wrong, and the books of each balance in the end."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from sim_points import yields
from sim_seeds import Outcome, run_seed
from simulation_report import PROPERTY

BLOCKS, SEEDS = 50, 100
FEW = 5


def run_all(seeds: Iterable[int], record_property: Any) -> None:
    """Run seeds, add them to the session's report, and fail with how to repeat what failed."""
    outcomes = [run_seed(seed) for seed in seeds]
    record_property(PROPERTY, json.dumps(summed(outcomes)))
    failed = [one for one in outcomes if one.tally.breaches]
    assert not failed, "\n".join(
        f"seed {one.seed} ({one.scenario}): {'; '.join(one.tally.breaches)}\n"
        f"    repeat it with: ./ralo test tests/simulation --seed {one.seed}"
        for one in failed
    )


def summed(outcomes: list[Outcome]) -> dict[str, Any]:
    """What the report needs of these seeds."""
    counters = {
        name: sum((getattr(one.tally, name) for one in outcomes), Counter[str]())
        for name in ("passed", "killed", "faults")
    }
    return {
        **counters,
        "yields": sorted(yields()),
        "scenarios": Counter(one.scenario for one in outcomes),
        "events": sum(one.events for one in outcomes),
        "events_max": max(one.events for one in outcomes),
        "cpu_s": sum(one.cpu_s for one in outcomes),
    }


def test_a_few_seeds(record_property: Any) -> None:
    run_all(range(FEW), record_property)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_block_of_seeds(block: int, record_property: Any) -> None:
    run_all(range(FEW + block * SEEDS, FEW + (block + 1) * SEEDS), record_property)


def test_the_seed(pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> None:
    """`--seed N`: that seed alone, with all that happened in it."""
    outcome = run_seed(pytestconfig.getoption("--seed"), details=True)
    with capsys.disabled():
        print(f"\nseed {outcome.seed}: {outcome.scenario}, {outcome.events} events")
        print("\n".join(outcome.tally.history))
        print(f"log sha256 {outcome.log_sha256}")
    assert not outcome.tally.breaches, "; ".join(outcome.tally.breaches)
