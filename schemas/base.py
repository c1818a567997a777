"""What every event shares: strict numbers, a type discriminator in the value, a schema version."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

Sources = dict[str, tuple[int, int]]
"""Where an event came from: {"samples-0": (from, to)}, half-open ranges of log offsets."""


class Model(BaseModel):
    """Part of an event: immutable, ignores unknown fields, refuses NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Strict(BaseModel):
    """Part of a mission: immutable and refuses unknown fields, for a misspelt setting is a bug."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Event(Model):
    """One record of the log; the value is this model as JSON."""

    topic: ClassVar[str]
    """The topic that carries this event, without the namespace."""
    key_field: ClassVar[str]
    """The field whose text is the record's key."""

    type: str
    schema_version: int = 1

    @property
    def key(self) -> str:
        """The record key: what decides the partition, so the order."""
        return str(getattr(self, self.key_field))

    def to_bytes(self) -> bytes:
        """The record value: compact UTF-8 JSON."""
        return self.model_dump_json(exclude_none=True).encode()
