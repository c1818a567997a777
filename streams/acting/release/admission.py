"""What an offered policy must be before it is even tried beside the acting one."""

from collections.abc import Callable, Sequence

import numpy as np

from schemas.acting import Golden, Release
from schemas.ids import digest
from schemas.robots import DriverSpec
from schemas.tensors import ObjectRef
from streams.acting.control.policy import Policy, PolicyError
from streams.acting.release.folder import Installed, PolicyFolder
from streams.learning.control.mlp import Floats

Fetch = Callable[[ObjectRef], bytes]
_SLACK = 1e-6
"""Ranges are float32 in one place and float64 in another."""


def fetch_files(offer: Release, fetch: Fetch, folder: PolicyFolder) -> dict[str, str]:
    """Get all files of an offer into the folder, each checked; raises `PolicyError`."""
    if not offer.files:
        raise PolicyError("the offer names no files")
    files = {}
    for name, ref in offer.files.items():
        data = fetch(ref)
        if digest(data) != ref.sha256:
            raise PolicyError(f"{name}: the bytes of {ref.key} have another hash than the offer")
        files[name] = folder.put(data)
    return files


def admit(
    offer: Release,
    files: dict[str, str],
    folder: PolicyFolder,
    driver: DriverSpec,
    observation: Sequence[str],
) -> tuple[Policy, Installed]:
    """The policy in these files, fit for this robot; raises `PolicyError`.

    It answers the golden inputs as it did where it was learnt, and its actions are this robot's.
    """
    policy = folder.load(offer.policy, offer.version, files)
    _check_robot(policy, driver, observation)
    _check_golden(policy, offer.golden)
    return policy, Installed(ref=policy.ref, files=files)


def _check_robot(policy: Policy, driver: DriverSpec, observation: Sequence[str]) -> None:
    config, names = policy.config, [field.name for field in driver.set_point]
    if config.action != names:
        raise PolicyError(f"its actions are {config.action}, set-points here are {names}")
    if observation and list(observation) != config.observation:
        raise PolicyError(f"it observes {config.observation}, this robot's file says {observation}")
    for field, low, high in zip(driver.set_point, config.low, config.high, strict=True):
        if low < field.low - _SLACK or high > field.high + _SLACK:
            raise PolicyError(
                f"{field.name} is to be within [{low}, {high}], here it is [{field.low}, "
                f"{field.high}]"
            )


def _check_golden(policy: Policy, golden: Golden | None) -> None:
    if golden is None or not golden.inputs:
        raise PolicyError("the offer has no golden inputs")
    inputs, outputs = _rows(golden.inputs), _rows(golden.outputs)
    wanted = len(golden.inputs), len(policy.config.action)
    if inputs.shape != (wanted[0], len(policy.config.observation)) or outputs.shape != wanted:
        raise PolicyError(f"golden inputs {inputs.shape} and outputs {outputs.shape} do not fit it")
    error = np.abs(policy.mean(inputs) - outputs)
    worst = float(error.max())
    if not worst <= golden.tolerance:  # NaN is no less than anything
        raise PolicyError(
            f"its answers to golden inputs differ by {worst:.3g}, {golden.tolerance:g} is allowed"
        )


def _rows(rows: Sequence[Sequence[float]]) -> Floats:
    if len({len(row) for row in rows}) > 1:
        raise PolicyError("the golden rows are of different lengths")
    return np.array(rows, np.float32)
