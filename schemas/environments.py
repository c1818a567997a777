"""Environments as a source of problems: what `problems.args` says where the source is gymnasium."""

import json
import re

from pydantic import Field, JsonValue, field_validator

from schemas.base import Strict

OWN_MODULES = ("producers.",)
"""Environments of these modules may be named as `module:Id` wherever this program runs."""

_ID = re.compile(r"(?:(?P<module>[A-Za-z_][\w.]*):)?[\w./-]+")


class EnvironmentTask(Strict):
    """One task of a control policy: a Gymnasium environment with its arguments."""

    id: str = Field(description="a Gymnasium id, or `module:Id` of a module that registers it")
    make: dict[str, JsonValue] = Field({}, description="arguments of `gymnasium.make`")

    @field_validator("id")
    @classmethod
    def _is_id(cls, name: str) -> str:
        if not _ID.fullmatch(name):
            raise ValueError(f"{name!r} is no Gymnasium id, such as Reacher-v5 or my_module:My-v0")
        return name

    @property
    def module(self) -> str | None:
        """The module that registers it, where the id names one."""
        match = _ID.fullmatch(self.id)
        return match["module"] if match else None

    @property
    def text(self) -> str:
        """The task in one canonical line: equal tasks have equal texts."""
        return f"{self.id} {json.dumps(self.make, sort_keys=True)}" if self.make else self.id


class TaskChoice(Strict):
    """One of several environments: what is given here replaces what all of them have."""

    id: str | None = None
    make: dict[str, JsonValue] = {}


class EnvironmentArgs(Strict):
    """`problems.args` of the source gymnasium; `problems.name` is the environment's id."""

    make: dict[str, JsonValue] = Field({}, description="arguments of `gymnasium.make`")
    tasks: list[TaskChoice] = Field([], description="several environments at once, of equal spaces")
    family: dict[str, tuple[float, float]] = Field(
        {}, description="arguments of make that are drawn from [low, high], a task each"
    )
    family_size: int = Field(16, ge=1, description="how many tasks are drawn of the family")
    success_return: float | None = Field(
        None, description="an episode of this return at least counts as solved"
    )
