"""Simulated robots: worlds in MuJoCo, drivers, sensor frames, and environments to learn in.

`specs`, `wire`, `simulated`, `frames` and `registry` import neither mujoco nor numpy, for the
actuator starts with them in under a second.
"""
