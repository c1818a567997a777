"""Log → world; public for notebooks: `consumers.read(topic, mission=…)`."""

from consumers.read import read

__all__ = ["read"]
