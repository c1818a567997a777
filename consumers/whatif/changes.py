"""The mission as it would have been: with other settings, as far as they matter to a replay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consumers.whatif.errors import BadWhatIf
from schemas.missions import Mission, parse_mission

_MATTER = ("algorithm", "training", "evaluate_every", "keep")
"""What of a mission trainer, aggregator and evaluator go by."""
_RECORDED = ("groups_per_upload", "shard_bytes")
"""What of `training` the recorded samples and their base model have settled."""


@dataclass(frozen=True)
class Changed:
    """The mission with other settings: what differs, as `field: old -> new`, and what was let go.

    `dropped`: settings of the recorded algorithm that the other one does not have.
    """

    mission: Mission
    differences: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def changed(mission: Mission, settings: Mapping[str, Any]) -> Changed:
    """The mission with these fields in place of its own; `algorithm` may be a name alone.

    Another algorithm keeps those of the recorded settings that it has too, so that nothing else
    differs. Raises pydantic.ValidationError for what is no mission, `BadWhatIf` for a field that
    changes nothing of what is replayed, and what the algorithm raises of its settings.
    """
    from streams.learning.algorithms import algorithm_of

    document, wanted = mission.model_dump(mode="json"), dict(settings)
    if isinstance(wanted.get("algorithm"), str):
        wanted["algorithm"] = {"name": wanted["algorithm"]}
    dropped = _of_algorithm(document, wanted.get("algorithm"))
    made = parse_mission(merged(document, wanted))
    _must_matter(mission, made)
    algorithm_of(made)
    before, after = flat(mission.model_dump(mode="json")), flat(made.model_dump(mode="json"))
    gone = {f"algorithm.settings.{name}" for name in dropped}
    names = [n for n in {**before, **after} if n not in gone and before.get(n) != after.get(n)]
    lines = [f"{name}: {before.get(name, '-')} -> {after.get(name, '-')}" for name in names]
    return Changed(made, tuple(lines), dropped)


def merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the changes in it, mappings field by field."""
    result = dict(document)
    for name, value in changes.items():
        old = result.get(name)
        inner = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[name] = merged(old or {}, value) if inner else value
    return result


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a document by their dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in document.items():
        inner = isinstance(value, Mapping)
        leaves |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return leaves


def _of_algorithm(document: dict[str, Any], wanted: Any) -> tuple[str, ...]:
    """Leave to another algorithm the settings that it knows; answers those that it does not."""
    from streams.learning.algorithms.registry import find

    own = document["algorithm"]
    name = wanted.get("name") if isinstance(wanted, Mapping) else None
    if not isinstance(name, str) or name == own["name"]:
        return ()
    known = find(name).settings_class.model_fields
    unknown = tuple(setting for setting in own["settings"] if setting not in known)
    kept = {key: value for key, value in own["settings"].items() if key in known}
    document["algorithm"] = {"name": name, "settings": kept}
    return unknown


def _must_matter(mission: Mission, made: Mission) -> None:
    idle = [
        name
        for name in Mission.model_fields
        if name not in _MATTER and getattr(mission, name) != getattr(made, name)
    ]
    idle += [
        f"training.{name}"
        for name in _RECORDED
        if getattr(mission.training, name) != getattr(made.training, name)
    ]
    if idle:
        raise BadWhatIf(
            f"{', '.join(idle)}: the recorded samples have settled that; to a replay matter "
            f"{', '.join(_MATTER)} (of training not {' and '.join(_RECORDED)})"
        )
