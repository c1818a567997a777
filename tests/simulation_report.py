"""What the seeds of the simulation came to, summed over all workers of a test run."""

import json
from collections import Counter
from collections.abc import Set
from typing import Any

import pytest

PROPERTY = "simulation"
_NAMED = 8


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print it, where any seed was run."""
    blocks = [
        json.loads(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    if blocks:
        terminalreporter.section("simulation")
        for line in _lines(blocks):
            terminalreporter.line(line)


def _lines(blocks: list[dict[str, Any]]) -> list[str]:
    def total(name: str) -> Counter[str]:
        return sum((Counter(block[name]) for block in blocks), Counter[str]())

    passed, killed, faults = total("passed"), total("killed"), total("faults")
    scenarios = total("scenarios")
    yields = set(blocks[0]["yields"])
    reached = yields & {point.partition(": ")[2] for point in killed}
    lines = [
        f"{scenarios.total():,} seeds ({_listed(scenarios)}), "
        f"{sum(block['events'] for block in blocks):,} events, "
        f"at most {max(block['events_max'] for block in blocks)} a seed, "
        f"{sum(block['cpu_s'] for block in blocks):,.0f} s of CPU",
        f"{killed.total():,} crashes at {len(killed)} distinct points of the "
        f"{len(passed | killed)} that processes came by",
        f"of the {len(yields)} yields of effects in the code of processors, crashed at "
        f"{len(reached)}",
        f"other faults: {_listed(faults)}",
    ]
    lines += _never("no crash at", passed.keys() - killed.keys())
    lines += _never("no crash at the yields", yields - reached)
    return lines


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


def _never(what: str, points: Set[str]) -> list[str]:
    names = sorted(points)
    if not names:
        return []
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"{what}: {', '.join(names[:_NAMED])}{rest}"]
