"""The topics that the orchestrator needs beside the events: its name is part of theirs."""

from schemas import topics
from schemas.topics import Topic

APP = "orchestrator"
"""The name of the consumer group, of the producer, and the prefix of its changelogs."""
TABLE = "missions"

INPUTS = (topics.MISSIONS, topics.EVALUATIONS, topics.WEIGHT_VERSIONS, topics.MISSION_RESULTS)
"""What the orchestrator folds into the state of missions."""

CHANGELOG = Topic(f"{APP}-{TABLE}-changelog", events=(), compacted=True)
"""One partition, whatever the inputs have: one instance owns all missions, and a single partition
keeps the table's changes in the order in which they were made."""


def extra_topics() -> tuple[Topic, ...]:
    """What must be provisioned beside `schemas.topics.TOPICS`; names are without namespace."""
    return (CHANGELOG,)
