"""Missions and what is wanted of them, appended to the log."""

from infra.log import Log, Message
from schemas.missions import Mission, MissionControl
from schemas.records import Record


def publish(log: Log, event: Mission | MissionControl) -> Record:
    """Append the event durably and answer where it lies; raises `LogUnavailable`."""
    headers = {"schema": event.type.encode(), "mission-id": event.mission_id.encode()}
    message = Message(event.topic, event.key.encode(), event.to_bytes(), headers)
    (record,) = log.append([message])
    return record
