"""When is a process back? Once it has done work again: a criterion a kind, read from the log.

A record's timestamp is when its producer made it, so what a dead process left under way is not
taken for its successor's work.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from schemas.acting import Command, Feedback, FusedState, SensorFrame
from schemas.base import Event
from schemas.learning import Evaluation, GradientUpload, Problem, SampleGroup, WeightVersion
from schemas.records import Record
from schemas.topics import SAMPLES

WORDS: dict[str, str] = {
    "provider": "a problem made after it",
    "orchestrator": "its table is restored: /health says ok",
    "sampler": "sample groups made after it in every partition, its own ones among them",
    "trainer": "an upload of its name made after it",
    "aggregator": "a weight version made after it",
    "evaluator": "an evaluation made after it",
    "gate": "its group has committed an evaluation that came after it",
    "world": "a frame with readings taken after it",
    "actuator": "feedback of a new boot",
    "link": "feedback handed to the log after it",
    "fusion": "a fused state made after it",
    "controller": "a command made after it",
    "supervisor": "all learners run anew, and each policy has a version made after that",
    "kafka": "a sample group made after it is committed",
    "minio": "the third upload of two trainers made after it: the first ones' chunks may be older",
    "network": "a sample group made after its end is committed",
    "slow-store": "as after an outage of the store, from its end on",
}
"""What counts as recovered, for people."""

WORLD_LATE_MS = 500
"""A reading is in the log well within this; a world takes longer to start."""

Holds = Callable[[Event], bool]


@dataclass
class Evidence:
    """Waits for records made after a moment: some in each of these places."""

    since_ms: float
    holds: Holds
    places: Collection[object] = ("",)
    place_of: Callable[[Record], object] = field(default=lambda record: "")
    times: int = 1
    """How many in each place."""
    _found: dict[object, int] = field(default_factory=dict)

    def sees(self, record: Record) -> bool:
        """Take one decoded record in; whether that completes it."""
        event = record.event
        if event is None or record.timestamp_ms <= self.since_ms or not self.holds(event):
            return False
        place = self.place_of(record)
        self._found[place] = self._found.get(place, 0) + 1
        return all(self._found.get(wanted, 0) >= self.times for wanted in self.places)


def after_kill(kind: str, target: str, since_ms: float, boot_id: str = "") -> Evidence | None:
    """What shows that this process, killed at that moment, is back; None where the log cannot.

    `target` is as the supervisor names it: `sampler-1@words`, `fusion@arm-1`. `boot_id` is the
    actuator's that was killed.
    """
    name, _, whose = target.partition("@")
    number = name.rpartition("-")[2]
    match kind:
        case "provider":
            return Evidence(since_ms, lambda e: isinstance(e, Problem))
        case "sampler":
            return _in_every_partition(since_ms, whose)
        case "trainer":
            return Evidence(since_ms, lambda e: _is_upload_of(e, whose, number))
        case "aggregator":
            return Evidence(since_ms, lambda e: isinstance(e, WeightVersion) and e.policy == whose)
        case "evaluator":
            return Evidence(since_ms, lambda e: isinstance(e, Evaluation) and e.policy == whose)
        case _:
            return _of_robot(kind, since_ms, boot_id)


def _in_every_partition(since_ms: float, policy: str) -> Evidence:
    return Evidence(
        since_ms,
        lambda e: isinstance(e, SampleGroup) and e.policy == policy,
        places=range(SAMPLES.partitions),
        place_of=lambda record: record.partition.number,
    )


def _is_upload_of(event: Event, policy: str, number: str) -> bool:
    return (
        isinstance(event, GradientUpload)
        and event.policy == policy
        and event.trainer.endswith(f"-{number}")
    )


def _of_robot(kind: str, since_ms: float, boot_id: str) -> Evidence | None:
    match kind:
        case "world":
            late = since_ms + WORLD_LATE_MS
            return Evidence(late, lambda e: isinstance(e, SensorFrame) and bool(e.readings))
        case "actuator":
            return Evidence(since_ms, lambda e: isinstance(e, Feedback) and e.boot_id != boot_id)
        case "link":
            return Evidence(since_ms, lambda e: isinstance(e, Feedback))
        case "fusion":
            return Evidence(since_ms, lambda e: isinstance(e, FusedState))
        case "controller":
            return Evidence(since_ms, lambda e: isinstance(e, Command))
    return None


def after_outage(server: str, since_ms: float, policy: str, trainers: int) -> Evidence:
    """What shows that work goes on after this server was away from that moment on.

    `policy` is one with so many trainers: each may have stored one upload's chunks before.
    """
    if server == "kafka":
        return Evidence(since_ms, lambda e: isinstance(e, SampleGroup))
    return Evidence(
        since_ms,
        lambda e: isinstance(e, GradientUpload) and e.policy == policy and e.count("chunks") > 0,
        times=trainers + 1,
    )


def versions_of_all(policies: Collection[str], since_ms: float) -> Evidence:
    """A version of each policy made after a moment."""
    return Evidence(
        since_ms,
        lambda e: isinstance(e, WeightVersion),
        places=policies,
        place_of=lambda record: getattr(record.event, "policy", None),
    )
