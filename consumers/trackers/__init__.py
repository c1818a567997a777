"""Experiment trackers as consumers of the log: scalars by weight version."""
