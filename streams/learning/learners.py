"""Which learner a mission needs: the one of completions, or the one of episodes."""

from schemas.missions import Mission
from streams.learning.learner import Learner


def new_learner(mission: Mission) -> Learner:
    """A learner for this mission that holds nothing yet."""
    if mission.acts:
        from streams.learning.control.learner import EpisodeLearner

        return EpisodeLearner()
    return Learner()


class Learners:
    """The learners of one policy, kept from upload to upload."""

    def __init__(self) -> None:
        self._kept: dict[bool, Learner] = {}

    def of(self, mission: Mission) -> Learner:
        """The learner of what this mission learns from."""
        if mission.acts not in self._kept:
            self._kept[mission.acts] = new_learner(mission)
        return self._kept[mission.acts]
