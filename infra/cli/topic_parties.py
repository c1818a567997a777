"""Who writes each topic and who reads it, for people; a test holds it to the processors' inputs."""

from collections.abc import Mapping
from dataclasses import dataclass

ALL_READ = "on demand: `ralo cat`, `tail`, `trace`, `audit`, `record`, `replay`"


@dataclass(frozen=True, slots=True)
class Parties:
    """Who writes a topic, and which processors read it."""

    written_by: tuple[str, ...]
    read_by: tuple[str, ...]


PARTIES: Mapping[str, Parties] = {
    "missions": Parties(
        ("people (ralo mission, HTTP)", "provider", "orchestrator", "controller"),
        (
            *("provider", "sampler", "trainer", "aggregator", "evaluator"),
            *("gate", "orchestrator", "controller"),
        ),
    ),
    "problems": Parties(("provider",), ("sampler", "provider")),
    "samples": Parties(("sampler",), ("trainer",)),
    "gradient-chunks": Parties(
        ("trainer", "provider", "people (ralo weights rollback)"), ("aggregator",)
    ),
    "weight-versions": Parties(
        ("aggregator",),
        (
            *("provider", "sampler", "trainer", "aggregator", "evaluator"),
            *("gate", "orchestrator"),
        ),
    ),
    "weight-heads": Parties(("aggregator",), ("every processor that starts",)),
    "evaluations": Parties(("evaluator",), ("evaluator", "gate", "orchestrator")),
    "mission-results": Parties(
        ("orchestrator", "controller"), ("orchestrator", "gate", "controller")
    ),
    "releases": Parties(("gate", "controller"), ("gate", "controller")),
    "sensor-frames": Parties(("actuator",), ("fusion",)),
    "fused-states": Parties(("fusion",), ("fusion", "controller")),
    "commands": Parties(("controller", "people (ralo robot)"), ("actuator",)),
    "feedback": Parties(("actuator",), ("controller", "actuator")),
    "safety-events": Parties(("actuator",), ("controller",)),
    "dead-letters": Parties(
        ("every transactional processor", "people (ralo dlq)"), ("provider", "people (ralo dlq)")
    ),
}
