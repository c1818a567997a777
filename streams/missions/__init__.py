"""Missions from submission to result: the orchestrator and what it decides."""
