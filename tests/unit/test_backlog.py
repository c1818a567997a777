"""What is on its way, read off the ends of the log, is what a reading of all of it gives."""

import random
from pathlib import Path

import pytest
from loop_world import POLICY, Loop

from consumers import backlog
from consumers.backlog import Backlog, backlogs
from consumers.progress import TOPICS, Progress
from consumers.read import read
from infra.envelope import message
from schemas.learning import CloseStep
from schemas.missions import Mission, MissionControl


def read_whole(loop: Loop, mission: str) -> dict[str, int]:
    progress = Progress(mission=mission)
    for topic in TOPICS:
        for record in read(topic.name, log=loop.log):
            progress.observe(record)
    return progress.in_flight


def append(loop: Loop, *events: Mission | MissionControl) -> None:
    loop.log.append([message(event) for event in events])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_ends_say_what_the_whole_log_says(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looks further and further back for the aggregator's newest event.
    monkeypatch.setattr(backlog, "FIRST_LOOK", 1)
    loop, draw = Loop(tmp_path), random.Random(seed)
    training = {"uploads_per_step": 2}
    # The other policy's problems lie between ours; nobody samples them.
    append(loop, loop.mission("n", problems=8, policy="other"))
    append(loop, loop.mission("m", problems=60, max_in_flight=24, training=training))
    seen = set[tuple[bool, ...]]()
    for turn in range(150):
        loop.drivers[draw.choice(list(loop.drivers))].step()
        found = backlogs(loop.log, [POLICY], 0).get("m", Backlog())
        assert found.in_flight == read_whole(loop, "m"), turn
        assert found.lag["trainer"] <= found.groups
        seen.add(tuple(count > 0 for count in found.lag.values()))
    assert (True, True, True) in seen, "the steps of this seed never have all of them behind"
    assert backlogs(loop.log, ["other"], 0) == {"n": Backlog(problems=8)}
    append(loop, MissionControl(mission_id="m", action="cancel"))
    loop.run()
    # As the provider does once all has stood still for seconds.
    loop.submit(CloseStep(policy=POLICY, mission_id="m"))
    assert backlogs(loop.log, [POLICY], 0) == {}
    assert backlogs(loop.log, [POLICY, "other"], 0) == {"n": Backlog(problems=8)}
