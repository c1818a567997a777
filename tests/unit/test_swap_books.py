"""The books of `ralo bench swaps`: each breach that they are for is found."""

from collections.abc import Callable
from typing import Any

import pytest

from infra.cli.swap_books import swap_books
from infra.cli.swap_offers import POLICY, fault_of, make_offer, policy_files
from infra.envelope import message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from schemas.acting import STAGES, CommandOutcome, Feedback, PolicyRef, Release
from schemas.base import Event
from schemas.topics import FEEDBACK, RELEASES
from streams.acting.control.policy import load_policy

ROBOT = "arm"
SHA = "0" * 64
TRACKER = PolicyRef(policy="tracker", version=0, sha256=SHA)


def ref(version: int) -> PolicyRef:
    return load_policy(POLICY, version, policy_files(version)).ref


def way(store: MemoryStore, version: int, *stages: Any) -> list[Event]:
    offer = make_offer(store, "x", ROBOT, version)
    rest = [
        offer.model_copy(update={"stage": stage, "files": {}, "acting": ref(version)})
        for stage in stages or STAGES[1:-1]
    ]
    return [offer, *rest]


def applied(*refs: PolicyRef) -> Feedback:
    outcomes = [
        CommandOutcome(
            controller_epoch=0,
            seq=seq,
            outcome="applied",
            at="commands[0]@0",
            at_ms=0,
            deadline_ms=1,
            policy=policy,
        )
        for seq, policy in enumerate(refs)
    ]
    return Feedback(
        robot_id=ROBOT,
        boot_id="b",
        seq=0,
        stamp_ms=0,
        wall_ms=0,
        mode="NORMAL",
        applied=[],
        outcomes=outcomes,
    )


def breaches(make: Callable[[MemoryStore], list[Event]]) -> list[str]:
    log, store = MemoryLog(), MemoryStore()
    log.provision([RELEASES, FEEDBACK])
    log.append([message(event) for event in make(store)])
    return swap_books(log, store, ROBOT).breaches


def test_whole_policies_in_their_turn_are_no_breach() -> None:
    acts = applied(TRACKER, ref(0), ref(0), ref(1))
    assert breaches(lambda store: [*way(store, 0), *way(store, 1), acts]) == []


@pytest.mark.parametrize(
    ("acts", "what"),
    [
        ([PolicyRef(policy=POLICY, version=0, sha256=SHA)], "which nobody offered"),
        ([ref(2)], "which nobody offered"),
        ([ref(1), ref(0)], "was not its turn"),
        ([ref(0), ref(1), ref(0)], "was not its turn"),
    ],
)
def test_what_acted_without_being_whole_or_in_turn_is_found(
    acts: list[PolicyRef], what: str
) -> None:
    found = breaches(lambda store: [*way(store, 0), *way(store, 1), applied(*acts)])
    assert any(what in breach for breach in found)


@pytest.mark.parametrize(
    "stages", [("FETCHED", "SWAPPED", "ROLLED_BACK"), ("FETCHED", "STAGED"), ("COMMITTED",)]
)
def test_a_way_that_skips_a_stage_or_has_no_end_is_found(stages: Any) -> None:
    [breach] = breaches(lambda store: way(store, 0, *stages))
    assert stages[-1] in breach


def test_a_policy_that_was_refused_may_not_act() -> None:
    version = next(v for v in range(100) if fault_of(v) == "golden")

    def make(store: MemoryStore) -> list[Event]:
        offer, fetched, ended = way(store, version, "FETCHED", "ROLLED_BACK")
        assert isinstance(ended, Release)
        return [
            offer,
            fetched,
            ended.model_copy(update={"acting": TRACKER}),
            applied(ref(version)),
        ]

    [breach] = breaches(make)
    assert "was not its turn" in breach
