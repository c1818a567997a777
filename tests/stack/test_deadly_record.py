"""A problem whose verifier kills the sampler: one dead letter, and all others are learnt from."""

import base64
from pathlib import Path
from typing import Any

import pytest
from running import running, small_mission
from test_loop import assert_clean

from consumers.read import read
from infra.embedded.stack import Endpoints
from producers.problems.split import epoch_order, load_split
from schemas.learning import DeadLetter, GradientUpload, Problem
from schemas.topics import decode

pytestmark = [pytest.mark.chaos, pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(600)]

BUDGET = 48
EARLY = 5
"""Which of the mission's problems is deadly: one of its second batch."""
VERIFIER = """
import os
import signal

from producers.problems.verifiers import positional


def verify(problem, completion, finished):
    # The provider tries the first questions with their own answers.
    if problem.answer == problem.verifier.args["deadly"] and completion != problem.answer:
        os.kill(os.getpid(), signal.SIGKILL)
    return positional(problem, completion, finished)
"""


def deadly_mission(folder: Path) -> Any:
    """A mission and the answer at which its verifier kills its own process."""
    (folder / "deadly_verifier.py").write_text(VERIFIER)
    verifier: dict[str, Any] = {"name": "deadly_verifier:verify"}
    changes: dict[str, Any] = {
        "rollout": {"problems_per_batch": 4},
        "training": {"groups_per_upload": 4},
        "budget": {"problems": BUDGET},
        "problems": {"verifier": verifier},
    }
    mission = small_mission("deadly", folder, **changes)
    train = load_split(mission.problems).train
    assert len(train) > BUDGET
    answer = train[epoch_order(mission.seed, 0, len(train))[EARLY]].answer
    verifier["args"] = {"deadly": answer}
    return small_mission("deadly", folder, **changes), answer


def test_a_deadly_problem_is_one_dead_letter_and_the_others_are_learnt_from(
    stack: Endpoints, namespace: str, tmp_path: Path
) -> None:
    mission, answer = deadly_mission(tmp_path)
    environ = {"PYTHONPATH": str(tmp_path), "RALO_ALLOW_LOCAL_CODE": "1"}
    with running(stack, namespace, tmp_path, environ=environ) as loop:
        loop.submit(mission)
        result = loop.until_result("deadly", 300)
    assert_clean(loop, "deadly")
    assert (result.outcome, result.problems) == ("budget", BUDGET)
    problems = {
        r.at: r.event for r in read("problems", log=loop.log) if isinstance(r.event, Problem)
    }
    (deadly,) = (at for at, problem in problems.items() if problem.answer == answer)
    (letter,) = (r.event for r in read("dead-letters", log=loop.log))
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.processor, letter.at) == ("deadly", "sampler", deadly)
    assert decode("problems", base64.b64decode(letter.value_base64)) == problems[deadly]
    uploads = [r.event for r in read("gradient-chunks", log=loop.log)]
    learnt = [u.group_id for e in uploads if isinstance(e, GradientUpload) for u in e.groups]
    assert len(learnt) == len(set(learnt)) == len(problems) - 1 == BUDGET - 1
