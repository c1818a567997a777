"""One breach each, to be planted in the valid log of robots; the audit must name it alone."""

from collections.abc import Callable

from acting_books import (
    REACH_1,
    REACH_2,
    TRACKER,
    ActingLog,
    command,
    feedback,
    frame,
    outcome,
    release,
    safety,
    state,
)

from schemas.missions import RobotMissionResult

Plant = Callable[[ActingLog], None]


def frame_missing(log: ActingLog) -> None:
    log.log("x", frame(4, "b2"), 2060)


def first_frame_missing(log: ActingLog) -> None:
    log.log("x", frame(1, "b3"), 2060)


def frame_with_two_contents(log: ActingLog) -> None:
    log.log("x", frame(2, "b2", readings=[]), 2060)


def state_of_another_topic(log: ActingLog) -> None:
    log["y1"].edit(source={"samples-0": (0, 1)})


def state_of_frames_to_come(log: ActingLog) -> None:
    log["y1"].edit(source={"sensor-frames-0": (7, 99)})


def states_overlap(log: ActingLog) -> None:
    log["x4"].edit(source={"sensor-frames-0": (1, 6)})


def frame_between_states(log: ActingLog) -> None:
    log.log("x", frame(3, "b2"), 2060)
    log.log("y3", state(log["x"], log["x"].offset), 2065)


def state_of_another_frame(log: ActingLog) -> None:
    log["y1"].edit(frame_seq=0)


def state_of_another_boot(log: ActingLog) -> None:
    log["y1"].edit(boot_id="b1")


def command_without_claim(log: ActingLog) -> None:
    log.log("x", command(log["stop"], 0, log["y1"]), 12_100)


def command_of_the_claim_of_another(log: ActingLog) -> None:
    log.log("x", command(log["oc1"], 0, log["y1"]), 12_100)


def command_with_two_contents(log: ActingLog) -> None:
    log.log("x", log["l3"].event.model_copy(update={"set_point": [9.0, 9.0]}), 12_100)


def command_of_no_state(log: ActingLog) -> None:
    log["l3"].edit(source={"fused-states-0": (5, 5)})


def outcome_of_no_command(log: ActingLog) -> None:
    log["d1"].event.outcomes.append(outcome(log["l0"], "expired", at=log["stop"].at))


def outcome_of_the_command_of_another(log: ActingLog) -> None:
    log["d1"].event.outcomes.append(outcome(log["ok0"], "expired"))


def outcome_with_another_deadline(log: ActingLog) -> None:
    _replace(log, "d1", 0, deadline_ms=9000.0)


def outcome_with_another_policy(log: ActingLog) -> None:
    _replace(log, "d1", 0, policy=REACH_1)


def executed_twice(log: ActingLog) -> None:
    log["b1"].edit(outcomes=[outcome(log["k1"]), outcome(log["k1-again"])])
    log["b1-again"].event = log["b1"].event


def executed_again_later(log: ActingLog) -> None:
    log.log("x", feedback(4, outcome(log["l2"]), boot="b2", commands_next=12), 13_100)


def executed_late(log: ActingLog) -> None:
    _replace(log, "d1", 0, at_ms=log["l0"].event.deadline_ms + 0.1)


def executed_in_another_boot(log: ActingLog) -> None:
    log["l0"].edit(boot_id="b1")


def executed_from_an_older_epoch(log: ActingLog) -> None:
    _replace(log, "d1", 1, outcome="applied")


def executed_from_an_older_epoch_after_a_boot(log: ActingLog) -> None:
    late = log["l1"].event.model_copy(update={"boot_id": "b3", "seq": 4})
    log.log("x", late, 12_500)
    log.log("y", feedback(0, outcome(log["x"]), boot="b3", commands_next=12), 13_100)


def passed_without_outcome(log: ActingLog) -> None:
    log["d1"].event.outcomes.pop(1)


def forgotten(log: ActingLog) -> None:
    log.logged_ms["d2"] += 10_000


def acts_unreleased(log: ActingLog) -> None:
    log["l3"].edit(policy=REACH_1.model_copy(update={"sha256": "9" * 64}))


def acts_before_its_swap(log: ActingLog) -> None:
    log.logged_ms["k2"] -= 200


def acts_after_it_was_rolled_back(log: ActingLog) -> None:
    log["l3"].edit(policy=REACH_2)


def another_robot_acts_by_it(log: ActingLog) -> None:
    log["ok0"].edit(policy=REACH_1)
    log.logged_ms["ok0"] += 5000


def is_said_to_act_unreleased(log: ActingLog) -> None:
    log["d2"].edit(policy=TRACKER.model_copy(update={"version": 1}))


def two_hashes(log: ActingLog) -> None:
    log["r1-PROBATION"].edit(acting=REACH_1.model_copy(update={"sha256": "9" * 64}))


def stage_left_out(log: ActingLog) -> None:
    log.remove("r2-STAGED")


def stage_gone_back(log: ActingLog) -> None:
    log.log("x", release("r1", "FETCHED", 1), 3000)


def rolled_back_unoffered(log: ActingLog) -> None:
    log.remove("r3-OFFERED")


def release_of_two_robots(log: ActingLog) -> None:
    log["r1-STAGED"].edit(robot_id="other")


def swapped_without_acting(log: ActingLog) -> None:
    log["r2-PROBATION"].edit(acting=None)


def swapped_for_another(log: ActingLog) -> None:
    log["r2-PROBATION"].edit(acting=REACH_1)


def safety_event_lost(log: ActingLog) -> None:
    log.log("x", safety(6, "TERMINATED", "TERMINATED", "b2"))


def first_safety_event_lost(log: ActingLog) -> None:
    log["s0"].edit(robot_id="other")


def safety_event_with_two_contents(log: ActingLog) -> None:
    log["s1-again"].edit(cause="tilt")


def mode_from_nowhere(log: ActingLog) -> None:
    log["s1"].edit(before="DEGRADED")
    log["s1-again"].edit(before="DEGRADED")


def mode_forgotten_by_a_boot(log: ActingLog) -> None:
    log["s2"].edit(before="NORMAL")


def left_a_stop_by_itself(log: ActingLog) -> None:
    log["s2"].edit(cause="cleared")


def alive_again(log: ActingLog) -> None:
    log["s4"].edit(after="NORMAL")


def result_of_no_mission(log: ActingLog) -> None:
    log["done"].edit(mission_id="m7")


def result_of_a_robot_unnamed(log: ActingLog) -> None:
    log.log("x", RobotMissionResult(mission_id="m1", robot_id="third", outcome="failed"))


def result_twice(log: ActingLog) -> None:
    log.log("x", log["done"].event)


def _replace(log: ActingLog, name: str, index: int, **update: object) -> None:
    outcomes = log[name].event.outcomes
    outcomes[index] = outcomes[index].model_copy(update=update)


BREACHES: list[tuple[str, Plant]] = [
    ("frame-sequence", frame_missing),
    ("frame-sequence", first_frame_missing),
    ("frame-sequence", frame_with_two_contents),
    ("fused-source-end", state_of_another_topic),
    ("fused-source-end", state_of_frames_to_come),
    ("fused-source-overlap", states_overlap),
    ("fused-source-gap", frame_between_states),
    ("fused-of-frame", state_of_another_frame),
    ("fused-of-frame", state_of_another_boot),
    ("command-epoch", command_without_claim),
    ("command-epoch", command_of_the_claim_of_another),
    ("command-id", command_with_two_contents),
    ("command-source-end", command_of_no_state),
    ("outcome-of-command", outcome_of_no_command),
    ("outcome-of-command", outcome_of_the_command_of_another),
    ("outcome-of-command", outcome_with_another_deadline),
    ("outcome-of-command", outcome_with_another_policy),
    ("command-once", executed_twice),
    ("command-once", executed_again_later),
    ("command-in-time", executed_late),
    ("command-in-time", executed_in_another_boot),
    ("command-epoch-order", executed_from_an_older_epoch),
    ("command-epoch-order", executed_from_an_older_epoch_after_a_boot),
    ("command-settled", passed_without_outcome),
    ("command-settled", forgotten),
    ("policy-released", acts_unreleased),
    ("policy-released", acts_before_its_swap),
    ("policy-released", acts_after_it_was_rolled_back),
    ("policy-released", another_robot_acts_by_it),
    ("policy-released", is_said_to_act_unreleased),
    ("policy-hash", two_hashes),
    ("release-step", stage_left_out),
    ("release-step", stage_gone_back),
    ("release-step", rolled_back_unoffered),
    ("release-step", release_of_two_robots),
    ("release-acting", swapped_without_acting),
    ("release-acting", swapped_for_another),
    ("safety-sequence", safety_event_lost),
    ("safety-sequence", first_safety_event_lost),
    ("safety-sequence", safety_event_with_two_contents),
    ("safety-mode", mode_from_nowhere),
    ("safety-mode", mode_forgotten_by_a_boot),
    ("safety-final", alive_again),
    ("safety-reset", left_a_stop_by_itself),
    ("robot-mission-known", result_of_no_mission),
    ("robot-mission-known", result_of_a_robot_unnamed),
    ("robot-result-once", result_twice),
]
