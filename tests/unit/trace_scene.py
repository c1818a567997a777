"""Logs built by hand, at the places where a real log puts the records; for tests of tracing."""

import base64
from typing import Any

from acting_books import (
    REACH_1,
    TRACKER,
    WALL_MS,
    command,
    feedback,
    frame,
    outcome,
    release,
    state,
)
from audit_books import (
    BookLog,
    Slot,
    applied,
    drop,
    evaluation,
    group,
    mission,
    problem,
    refused,
    upload,
    use,
    version,
)

from infra.envelope import message
from infra.log import Log, Message
from schemas.acting import ControllerClaim, OperatorOrder, SafetyEvent
from schemas.base import Event
from schemas.learning import (
    CloseStep,
    DeadLetter,
    DeadLetterResolution,
    Problem,
    RollbackRequest,
    Rollout,
    SampleGroup,
    UploadsRefused,
    VersionsExpired,
    WeightHead,
)
from schemas.missions import MissionReport, MissionResult, Patrol, RobotMission, RobotMissionResult
from schemas.topics import TOPICS

UPLOADS = "gradient-chunks"


class Scene(BookLog):
    """Slots that lie where this log put them."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log
        log.provision(list(TOPICS.values()))

    def put(
        self,
        name: str,
        event: Event | bytes,
        number: int = 0,
        topic: str = "",
        at_ms: int = 0,
        headers: dict[str, bytes] | None = None,
    ) -> Slot:
        """Append an event, or bytes with the name as their key."""
        raw = Message(topic, name.encode(), event) if isinstance(event, bytes) else message(event)
        stamp, more = WALL_MS + at_ms, {**raw.headers, **(headers or {})}
        placed = Message(raw.topic, raw.key, raw.value, more, stamp)
        record = self.log.append([placed])[0]
        self.slots[name] = Slot(name, record.partition, record.offset, event)
        return self.slots[name]

    def bury(self, name: str, origin: str, processor: str = "sampler") -> None:
        slot = self[origin]
        letter = DeadLetter(
            at=slot.at,
            origin_topic=slot.partition.topic,
            origin_partition=slot.partition.number,
            origin_offset=slot.offset,
            reason="undecodable",
            processor=processor,
            value_base64=base64.b64encode(slot.value).decode(),
        )
        self.put(name, letter)

    def answer(self, name: str, of: str, under: int, reward: float, **more: Any) -> Slot:
        """The group of two rollouts for a problem, from just its place."""
        slot = self[of]
        asked: Problem = slot.event
        rollout = Rollout(tokens=[1], logprobs=[-0.5], reward=reward, stop="eos")
        fields: dict[str, Any] = {"rollouts": [rollout, rollout], **more}
        source = (str(slot.partition), slot.offset, slot.offset + 1)
        event: SampleGroup = group(asked, under, source, **fields)
        return self.put(name, event)

    def learn(self, name: str, base: int, *groups: str, drops: tuple[str, ...] = ()) -> Slot:
        """An upload of these groups, its source their places."""
        source: dict[str, tuple[int, int]] = {}
        for slot in map(self.__getitem__, (*groups, *drops)):
            first, after = source.get(str(slot.partition), (slot.offset, 0))
            source[str(slot.partition)] = first, max(after, slot.offset + 1)
        event = upload(self, name, base, source)
        listed = {
            "groups": [use(self[one]) for one in groups],
            "dropped": [drop(self[one], "stale") for one in drops],
        }
        return self.put(name, event.model_copy(update=listed))

    def step(self, name: str, number: int, *uploads: str, **more: Any) -> Slot:
        """A version of these uploads, read up to the last of them."""
        last = self[more.pop("after", uploads[-1] if uploads else "")]
        fields = {
            "uploads": [applied(self[one]) for one in uploads],
            "resume": {str(last.partition): last.offset + 1},
            **more,
        }
        return self.put(name, version(self, number, **fields))


def learning(scene: Scene) -> Scene:
    """Two missions of `main`, of which m2 has bad rewards; a bad record, a refusal, a rollback.

    Version 1 is of u0 (g0, g1) and u1 (g4 of m2; g2 is dropped); u2 (g5) is refused. Version 2 goes
    back to 0, version 3 is closed with u3 (g6) alone. p3 was buried and sent again.
    """
    for id_ in ("m1", "m2"):
        scene.put(id_, mission(id_, "main"))
    scene.put("prepared", MissionReport(mission_id="m1", policy="main", stage="prepared"))
    for index in range(7):
        scene.put(f"p{index}", problem(index, mission_id="m2" if index == 4 else "m1"))
    scene.put("v0", version(scene, 0))
    scene.put("h0", WeightHead(policy="main", version=0))
    for index, reward in ((0, 1.0), (1, 0.5), (2, 0.25), (4, 0.0), (5, 1.0)):
        scene.answer(f"g{index}", f"p{index}", 0, reward)
    scene.put("corrupt", b"{no json", topic="samples")
    scene.bury("letter-corrupt", "corrupt", "trainer")
    scene.bury("letter", "p3")
    again = {"requeue-of": scene["letter"].at.encode()}
    scene.put("p3-again", scene["p3"].event, headers=again)
    scene.put("resolution", _resolution(scene))
    scene.answer("g3", "p3-again", 0, 0.75)
    _versions(scene)
    return scene


def _resolution(scene: Scene) -> DeadLetterResolution:
    letter, origin = scene["letter"].at, scene["p3"].at
    return DeadLetterResolution(letter=letter, origin=origin, action="requeued", run="r")


def _versions(scene: Scene) -> None:
    scene.learn("u0", 0, "g0", "g1")
    scene.learn("u1", 0, "g4", drops=("g2",))
    scene.step("v1", 1, "u0", "u1", staleness=0.5)
    scene.put("e1", evaluation(1))
    scene.learn("u2", 0, "g5")
    refusal = UploadsRefused(
        policy="main",
        head=1,
        refused=[refused(scene["u2"], "stale")],
        marks={},
        resume={str(scene["u2"].partition): scene["u2"].offset + 1},
        totals=scene["v1"].event.totals,
    )
    scene.put("refusal", refusal)
    scene.put("back", RollbackRequest(request_id="back", policy="main", to_version=0))
    scene.step("v2", 2, after="back", kind="rollback", parent=0)
    scene.answer("g6", "p6", 2, 0.5)
    scene.learn("u3", 2, "g6")
    scene.put("close", CloseStep(policy="main", mission_id="m1"))
    scene.step("v3", 3, "u3", after="close")
    scene.put("expired", VersionsExpired(policy="main", versions=[0, 1]))
    ends = MissionResult(mission_id="m1", policy="main", outcome="ended", final_version=3)
    scene.put("result", ends)


def acting(scene: Scene) -> Scene:
    """A rover whose tracker made k0 and k1 and whose learnt policy k2; stopped by an order.

    x0 is of frame f0; x1 of f1 and f2, between which lies one of another robot.
    """
    patrol = Patrol(waypoints=[(1.0, 0.0)])
    scene.put("patrol", RobotMission(mission_id="patrol", robots={"rover": patrol}))
    scene.put("v1", version(scene, 1, policy="reach", kind="step"))
    scene.put("h1", WeightHead(policy="reach", version=1))
    scene.put("e1", evaluation(1).model_copy(update={"policy": "reach"}))
    offer = release("r1", "OFFERED", 1).model_copy(update={"score": 0.5})
    scene.put("offer", offer)
    scene.put("swapped", release("r1", "SWAPPED", 1, REACH_1))
    for name, seq, robot in (
        ("f0", 0, "rover"),
        ("f1", 1, "rover"),
        ("o0", 0, "other"),
        ("f2", 2, "rover"),
    ):
        scene.put(name, frame(seq, robot=robot), at_ms=20 * seq)
    scene.put("x0", state(scene["f0"], scene["f0"].offset), at_ms=5)
    scene.put("x1", state(scene["f2"], scene["f1"].offset), at_ms=45)
    scene.put("claim", ControllerClaim(robot_id="rover", controller_id="one"))
    mine = {"mission_id": "patrol"}
    scene.put("k0", command(scene["claim"], 0, scene["x0"]).model_copy(update=mine), at_ms=10)
    scene.put("k1", command(scene["claim"], 1, scene["x1"], TRACKER), at_ms=46)
    scene.put("k2", command(scene["claim"], 2, scene["x1"], REACH_1), at_ms=47)
    both = outcome(scene["k0"]), outcome(scene["k1"], "superseded")
    scene.put("b0", feedback(0, *both, commands_next=scene["k2"].offset), at_ms=50)
    last = {"commands_next": scene["k2"].offset + 1}
    scene.put("b1", feedback(1, outcome(scene["k2"]), **last), at_ms=60)
    scene.put("order", OperatorOrder(robot_id="rover", order_id="halt-1", action="stop"), at_ms=70)
    scene.put("stop", _stop("stop by order halt-1: a person came near"), at_ms=71)
    done = RobotMissionResult(mission_id="patrol", robot_id="rover", outcome="done")
    scene.put("done", done, at_ms=80)
    return scene


def _stop(detail: str) -> SafetyEvent:
    return SafetyEvent(
        robot_id="rover",
        boot_id="b1",
        seq=0,
        stamp_ms=71.0,
        wall_ms=WALL_MS + 71.0,
        before="NORMAL",
        after="SAFE_STOP",
        cause="operator",
        detail=detail,
    )
