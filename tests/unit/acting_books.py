"""A small valid log of two robots, built by hand, in which tests then plant one breach each.

`rover` is in partition 0 of all topics, with `other`, whose records lie between. Its actuator was
started again: boots b1 and b2. Its controller was replaced: the claims c1 and c2.
"""

from typing import Any

from audit_books import BookLog, Slot

from consumers.audit import AuditReport, NoObjects, audit
from schemas.acting import (
    Command,
    CommandOutcome,
    ControllerClaim,
    Feedback,
    FusedState,
    OperatorOrder,
    PolicyRef,
    Reading,
    Release,
    SafetyEvent,
    SensorFrame,
)
from schemas.base import Event
from schemas.missions import Patrol, RobotMission, RobotMissionResult
from schemas.records import Record

WALL_MS = 1_800_000_000_000
TRACKER = PolicyRef(policy="tracker", version=0, sha256="0" * 64)
REACH_1 = PolicyRef(policy="reach", version=1, sha256="1" * 64)
REACH_2 = PolicyRef(policy="reach", version=2, sha256="2" * 64)


class ActingLog(BookLog):
    """Slots that also have a time in the log; partitions can be asked for one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.logged_ms: dict[str, int] = {}

    def log(self, name: str, event: Event | bytes, at_ms: float = 0, topic: str = "") -> Slot:
        self.logged_ms[name] = int(WALL_MS + at_ms)
        return self.put(name, event, topic=topic)

    def records(self) -> dict[str, list[Record]]:
        """As `consumers.audit.Records` wants them: by topic, and by partition."""
        found: dict[str, list[Record]] = {}
        for slot in self.slots.values():
            logged_ms = self.logged_ms.get(slot.name, 0)
            record = Record(slot.partition, slot.offset, b"k", slot.value, timestamp_ms=logged_ms)
            for name in (slot.partition.topic, str(slot.partition)):
                found.setdefault(name, []).append(record)
        return found

    def audit(self, **options: Any) -> AuditReport:
        return audit(self.records(), NoObjects(), **options)


def frame(seq: int, boot: str = "b1", robot: str = "rover", **more: Any) -> SensorFrame:
    reading = Reading(channel="odometry", seq=seq, stamp_ms=20.0 * seq, values=[0.5, 0.0])
    fields: dict[str, Any] = {
        "robot_id": robot,
        "boot_id": boot,
        "seq": seq,
        "stamp_ms": 20.0 * seq,
        "wall_ms": WALL_MS + 20.0 * seq,
        "readings": [reading],
    }
    return SensorFrame(**(fields | more))


def state(of: Slot, start: int) -> FusedState:
    """The state after this frame, of a source that begins at `start`."""
    event: SensorFrame = of.event
    return FusedState(
        robot_id=event.robot_id,
        boot_id=event.boot_id,
        stamp_ms=event.stamp_ms,
        wall_ms=event.wall_ms,
        frame_seq=event.seq,
        filter="planar",
        names=["x_m"],
        mean=[0.0],
        covariance=[1.0],
        source={str(of.partition): (start, of.offset + 1)},
    )


def command(epoch: Slot, seq: int, of: Slot, policy: PolicyRef = TRACKER) -> Command:
    """The command that follows from this fused state."""
    event: FusedState = of.event
    return Command(
        robot_id=event.robot_id,
        boot_id=event.boot_id,
        controller_epoch=epoch.offset,
        seq=seq,
        stamp_ms=event.stamp_ms,
        deadline_ms=event.stamp_ms + 150.0,
        frame_seq=event.frame_seq,
        set_point=[0.5, 0.0],
        policy=policy,
        source={str(of.partition): (of.offset, of.offset + 1)},
    )


def outcome(of: Slot, what: Any = "applied", **more: Any) -> CommandOutcome:
    event: Command = of.event
    fields: dict[str, Any] = {
        "controller_epoch": event.controller_epoch,
        "seq": event.seq,
        "outcome": what,
        "at": of.at,
        "at_ms": event.stamp_ms + 5.0,
        "deadline_ms": event.deadline_ms,
        "policy": event.policy,
    }
    return CommandOutcome(**(fields | more))


def feedback(seq: int, *outcomes: CommandOutcome, boot: str = "b1", **more: Any) -> Feedback:
    fields: dict[str, Any] = {
        "robot_id": "rover",
        "boot_id": boot,
        "seq": seq,
        "stamp_ms": 50.0 * seq,
        "wall_ms": WALL_MS + 50.0 * seq,
        "mode": "NORMAL",
        "applied": [0.5, 0.0],
        "outcomes": list(outcomes),
    }
    return Feedback(**(fields | more))


def safety(seq: int, before: Any, after: Any, boot: str = "b1", **more: Any) -> SafetyEvent:
    fields: dict[str, Any] = {"robot_id": "rover", "cause": "silence", "wall_ms": WALL_MS + seq}
    return SafetyEvent(
        boot_id=boot, seq=seq, stamp_ms=float(seq), before=before, after=after, **(fields | more)
    )


def release(id_: str, stage: Any, version: int, acting: PolicyRef | None = None) -> Release:
    return Release(
        release_id=id_,
        robot_id="rover",
        policy="reach",
        version=version,
        stage=stage,
        acting=acting,
        wall_ms=WALL_MS,
    )


def valid() -> ActingLog:
    """Version 1 acts from 1000 ms on and is kept; version 2 from 2000 ms to 2500, rolled back."""
    log = ActingLog()
    _missions(log)
    _releases(log)
    _safety(log)
    _frames(log)
    _states(log)
    _commands(log)
    _feedback(log)
    return log


def _missions(log: ActingLog) -> None:
    patrol = Patrol(waypoints=[(1.0, 0.0)])
    log.log("m1", RobotMission(mission_id="m1", robots={"rover": patrol, "other": patrol}))
    done = RobotMissionResult(mission_id="m1", robot_id="rover", outcome="done", waypoints=1)
    log.log("done", done)
    log.log("other-done", done.model_copy(update={"robot_id": "other"}))


def _releases(log: ActingLog) -> None:
    for stage in ("OFFERED", "FETCHED", "STAGED", "WAIT_SAFE"):
        log.log(f"r1-{stage}", release("r1", stage, 1), 900)
    log.log("r1-again", release("r1", "WAIT_SAFE", 1), 900)
    log.log("r1-SWAPPED", release("r1", "SWAPPED", 1, REACH_1), 1000)
    for stage in ("PROBATION", "COMMITTED"):
        log.log(f"r1-{stage}", release("r1", stage, 1, REACH_1), 1100)
    for stage in ("OFFERED", "FETCHED", "STAGED", "WAIT_SAFE"):
        log.log(f"r2-{stage}", release("r2", stage, 2), 1900)
    log.log("r2-SWAPPED", release("r2", "SWAPPED", 2, REACH_2), 2000)
    log.log("r2-PROBATION", release("r2", "PROBATION", 2, REACH_2), 2000)
    log.log("r2-ROLLED_BACK", release("r2", "ROLLED_BACK", 2, REACH_1), 2500)
    log.log("r3-OFFERED", release("r3", "OFFERED", 3), 2600)
    log.log("r3-ROLLED_BACK", release("r3", "ROLLED_BACK", 3), 2600)


def _safety(log: ActingLog) -> None:
    log.log("s0", safety(0, "NORMAL", "HOLD"))
    log.log("s1", safety(1, "HOLD", "SAFE_STOP"))
    log.log("s1-again", log["s1"].event)
    log.log("s2", safety(2, "SAFE_STOP", "NORMAL", "b2", cause="reset"))
    log.log("s3", safety(3, "NORMAL", "TERMINATED", "b2", cause="operator"))
    log.log("s4", safety(4, "TERMINATED", "TERMINATED", "b2"))


def _frames(log: ActingLog) -> None:
    log.log("f0", frame(0), 0)
    log.log("of0", frame(0, robot="other"), 0)
    log.log("f1", frame(1), 20)
    log.log("f1-again", log["f1"].event, 20)
    log.log("f2", frame(2), 40)
    # Frame 3 found no room, which the next one counts.
    log.log("f4", frame(4, dropped=1), 80)
    log.log("g0", frame(0, "b2"), 2000)
    log.log("g1", frame(1, "b2"), 2020)
    log.log("g2", frame(2, "b2"), 2040)


def _states(log: ActingLog) -> None:
    log.log("x0", state(log["f0"], 0), 5)
    log.log("ox0", state(log["of0"], 0), 5)
    log.log("x1", state(log["f1"], 1), 25)
    log.log("x1-again", log["x1"].event, 25)
    log.log("x4", state(log["f4"], 3), 85)
    # A new fusion began after g0: that frame has no state.
    log.log("y1", state(log["g1"], log["g1"].offset), 2025)


def _commands(log: ActingLog) -> None:
    log.log("c1", ControllerClaim(robot_id="rover", controller_id="one"))
    log.log("k0", command(log["c1"], 0, log["x0"]), 10)
    log.log("oc1", ControllerClaim(robot_id="other", controller_id="one"))
    log.log("ok0", command(log["oc1"], 0, log["ox0"]), 10)
    log.log("k1", command(log["c1"], 1, log["x1"]), 30)
    log.log("k1-again", log["k1"].event, 30)
    log.log("k2", command(log["c1"], 2, log["x4"], REACH_1), 1050)
    log.log("stop", OperatorOrder(robot_id="rover", order_id="o1", action="stop"))
    log.log("c2", ControllerClaim(robot_id="rover", controller_id="two"))
    log.log("l0", command(log["c2"], 0, log["y1"], REACH_2), 2030)
    log.log("l1", command(log["c1"], 3, log["y1"]), 2030)
    log.log("l2", command(log["c2"], 1, log["y1"], REACH_1), 2600)
    log.log("l3", command(log["c2"], 2, log["y1"], REACH_1), 12_000)


def _feedback(log: ActingLog) -> None:
    log.log("b0", feedback(0, outcome(log["k0"]), policy=TRACKER, commands_next=2), 50)
    both = outcome(log["k1"]), outcome(log["k1-again"], "duplicate")
    log.log("b1", feedback(1, *both, commands_next=6), 100)
    log.log("b1-again", log["b1"].event, 100)
    lost = outcome(log["k2"], "lost", at_ms=9.0)
    log.log("d0", feedback(0, lost, boot="b2", mode="HOLD"), 2000)
    here = outcome(log["l0"]), outcome(log["l1"], "old-epoch"), outcome(log["l2"])
    log.log("d1", feedback(1, *here, boot="b2", policy=REACH_1, commands_next=12), 2650)
    log.log("d2", feedback(3, boot="b2", commands_next=12), 13_000)
