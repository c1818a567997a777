"""Compose tests need an engine with the images; where there is none, they say why they skip."""

import subprocess

import pytest
from containers import services, why_not


@pytest.fixture(scope="session")
def engine() -> None:
    """A container engine, its compose plugin, and all images of the default profile."""
    if reason := why_not():
        pytest.skip(reason)
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker has no compose plugin: see infra/images/engine")
    image = services()["sampler"]["image"]
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode:
        pytest.skip(f"image {image} is not built: see infra/images/build")
