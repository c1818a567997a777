"""Sensor fusion: a robot's readings become one state, whatever order they arrive in."""

from streams.acting.fusion.model import FusionError
from streams.acting.fusion.offline import fuse
from streams.acting.fusion.processor import SensorFusion

__all__ = ["FusionError", "SensorFusion", "fuse"]
