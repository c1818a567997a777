"""Missions and what is wanted of them, appended to the log."""

from infra.envelope import message
from infra.log import Log
from schemas.missions import Mission, MissionControl, RobotMission
from schemas.records import Record


def publish(log: Log, event: Mission | RobotMission | MissionControl) -> Record:
    """Append the event durably and answer where it lies; raises `LogUnavailable`."""
    (record,) = log.append([message(event)])
    return record
