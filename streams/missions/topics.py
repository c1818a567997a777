"""The topics of the orchestrator, and the names by which Kafka knows it."""

from schemas import topics

APP = "orchestrator"
"""The name of the consumer group and of the producer, and the prefix of the changelog."""
TABLE = "missions"

INPUTS = (topics.MISSIONS, topics.EVALUATIONS, topics.WEIGHT_VERSIONS, topics.MISSION_RESULTS)
"""What the orchestrator folds into the state of missions."""

CHANGELOG = topics.MISSION_TABLE
"""One partition, whatever the inputs have: one instance owns all missions."""
