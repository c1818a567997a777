"""Plays a part of the log again: selected, checked, and copied into a sandbox at a chosen pace.

Every selected record reaches the sandbox once, in its partition's order, with its key, headers,
timestamp and partition; a replay that was cut off is taken up where it ended.
"""

from consumers.replay.errors import AlreadyThere, BadReplay, MissingReferences
from consumers.replay.pace import Pace, Punctuality
from consumers.replay.references import Check, Checked, check_references
from consumers.replay.sending import Sent, send
from consumers.replay.survey import Survey, needs_survey, survey, whole
from consumers.replay.target import copied_so_far, prepare, refuse_in_place, refuse_twice

__all__ = [
    "AlreadyThere",
    "BadReplay",
    "Check",
    "Checked",
    "MissingReferences",
    "Pace",
    "Punctuality",
    "Sent",
    "Survey",
    "check_references",
    "copied_so_far",
    "needs_survey",
    "prepare",
    "refuse_in_place",
    "refuse_twice",
    "send",
    "survey",
    "whole",
]
