"""An arm, its policies and its release machine, in control steps and without a process."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from infra.memory.store import MemoryStore
from schemas.acting import FusedState, Golden, PolicyRef, Release
from schemas.control import ControllerSpec, ReleaseGate
from schemas.fusion import FusionSpec
from schemas.ids import digest
from schemas.policies import PolicyConfig
from schemas.robot_file import RobotFile
from schemas.robots import ChannelSpec, DriverChoice, DriverSpec, SetPointField
from streams.acting.control.observation import ARM_NAMES
from streams.acting.control.policy import load_policy
from streams.acting.release.admission import Fetch
from streams.acting.release.candidate import Moment, Workshop
from streams.acting.release.folder import PolicyFolder
from streams.acting.release.machine import Releases
from streams.learning.control.mlp import Floats

ARM = DriverSpec(
    name="arm",
    channels=[
        ChannelSpec(name="joints", kind="joints", fields=["a", "b", "c", "d"], rate_hz=50),
        ChannelSpec(name="target", kind="target", fields=["x_m", "y_m"], rate_hz=50),
        ChannelSpec(name="reward", kind="other", fields=["reward", "episode"], rate_hz=50),
    ],
    set_point=[SetPointField(name=f"torque_{i}", low=-1, high=1) for i in (1, 2)],
    rest=[0.0, 0.0],
)
TRACKER = PolicyRef(policy="tracker", version=0, sha256=digest(b"tracker"))
GATE = ReleaseGate(
    shadow_steps=3, probation_steps=6, wait_safe_steps=8, return_steps=3, return_drop_max=0.25
)
ROBOT, POLICY = "arm-1", "reach"
CONFIG = PolicyConfig(
    environment="Reacher-v5",
    observation=list(ARM_NAMES),
    action=["torque_1", "torque_2"],
    low=[-1.0, -1.0],
    high=[1.0, 1.0],
    hidden=[8, 8],
    explores=False,
)
SEEN = np.linspace(-1, 1, len(ARM_NAMES), dtype=np.float32)


def tensors(seed: int, config: PolicyConfig = CONFIG) -> dict[str, Any]:
    """Random tensors of a policy, as `schemas.policies` names them."""
    source = np.random.default_rng(seed)
    sizes = [len(config.observation), *config.hidden, len(config.action)]
    found: dict[str, Any] = {}
    for kind, outputs in (("actor", sizes[-1]), ("critic", 1)):
        shapes = list(zip([*sizes[1:-1], outputs], sizes[:-1], strict=True))
        for i, (rows, columns) in enumerate(shapes):
            found[f"{kind}.{i}.weight"] = source.normal(size=(rows, columns)).astype(np.float32)
            found[f"{kind}.{i}.bias"] = source.normal(size=rows).astype(np.float32)
    inputs = len(config.observation)
    found["log_std"] = np.full(len(config.action), -0.5, np.float32)
    found["obs_mean"] = source.normal(size=inputs).astype(np.float32)
    found["obs_var"] = np.ones(inputs, np.float32)
    found["obs_count"] = np.ones(1, np.float32)
    return found


def files(seed: int, config: PolicyConfig = CONFIG, **changes: Any) -> dict[str, bytes]:
    """The files of a policy; `changes` replace tensors ("actor.0.bias" as actor_0_bias)."""
    named = {name.replace(".", "_"): name for name in tensors(seed, config)}
    values = tensors(seed, config) | {named[key]: value for key, value in changes.items()}
    text = json.dumps(config.model_dump(mode="json")).encode()
    return {"config.json": text, "model.safetensors": save(values)}


def golden(content: Mapping[str, bytes], rows: int = 3) -> Golden:
    """Golden inputs, and what the policy in these files answers."""
    policy = load_policy(POLICY, 0, content)
    inputs = np.random.default_rng(1).normal(size=(rows, SEEN.size)).astype(np.float32)
    return Golden(inputs=inputs.tolist(), outputs=policy.mean(inputs).tolist())


def sha_of(content: Mapping[str, bytes]) -> str:
    """The hash of the policy in these files, as it acts."""
    return load_policy(POLICY, 0, content).ref.sha256


def offer(
    store: MemoryStore,
    version: int,
    content: Mapping[str, bytes] | None = None,
    answers: Golden | None = None,
    **fields: Any,
) -> Release:
    """An offer of a version whose files are in the store."""
    content = files(version) if content is None else content
    refs = {name: store.put(f"w/{version}/{name}", data) for name, data in content.items()}
    return Release(
        release_id=f"r{version}",
        robot_id=ROBOT,
        policy=POLICY,
        version=version,
        stage="OFFERED",
        files=refs,
        golden=answers or golden(content),
        wall_ms=0.0,
        **fields,
    )


class Inline(Executor):
    """Does a job at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def workshop(
    folder: PolicyFolder,
    fetch: Fetch,
    gate: ReleaseGate = GATE,
    point: Callable[[str], None] = lambda name: None,
    driver: DriverSpec = ARM,
) -> Workshop:
    return Workshop(gate, driver, list(ARM_NAMES), folder, fetch, Inline(), point)


class Killed(BaseException):
    """The process ended at a named point."""


@dataclass
class Arm:
    """A robot whose controller may be killed and started again; what it said is its log."""

    folder: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    gate: ReleaseGate = GATE
    log: list[Release] = field(default_factory=list)
    acted: list[PolicyRef] = field(default_factory=list)
    kill_at: Callable[[str], bool] = lambda name: False
    points: list[str] = field(default_factory=list)
    fetch: Fetch | None = None
    loses: Callable[[Release], bool] = lambda release: False

    def start(self) -> Releases:
        """A new process, which knows what is in the log and in the folder."""
        folder = PolicyFolder(self.folder, self._point)
        self.machine = Releases(
            ROBOT,
            POLICY,
            TRACKER,
            workshop(folder, self.fetch or self.store.get, self.gate, self._point),
            lambda: 0.0,
        )
        for release in self.log:
            self.machine.known(release)
        return self.machine

    def _point(self, name: str) -> None:
        self.points.append(name)
        if self.kill_at(name):
            raise Killed(name)

    def offer(self, release: Release) -> None:
        self.log.append(release)
        self.machine.known(release)

    def step(self, reward: float | None = None, safe: bool = True, seen: Any = SEEN) -> Any:
        """One control step; answers the set-point, None where the tracker acts."""

        def observe(names: Any) -> Floats | None:
            return None if seen is None else np.asarray(seen, np.float32)

        moment = Moment(observe, True, safe, reward)
        out = self.machine.step(moment)
        set_point, more = self.machine.action(moment, ROBOT, len(self.acted))
        self._publish([*out, *more])
        self.acted.append(self.machine.ref if set_point is not None else TRACKER)
        return set_point

    def _publish(self, out: list[Release]) -> None:
        """To the log and back, until there is nothing more to say."""
        while out:
            for release in out:
                if not self.loses(release):
                    self.offer(release)
            out = self.machine.due()

    def steps(self, count: int, reward: float | None = None, **more: Any) -> None:
        for _ in range(count):
            self.step(reward, **more)

    def stages(self, version: int) -> list[str]:
        """The stages of a version as the log has them."""
        return [release.stage for release in self.log if release.version == version]

    def reason(self, version: int) -> str:
        """Why a version was rolled back."""
        return next(r.reason for r in self.log if r.version == version and r.stage == "ROLLED_BACK")


def robot_file(**fields: Any) -> RobotFile:
    """The file of the arm."""
    return RobotFile(
        robot_id=ROBOT,
        driver=DriverChoice(name="arm"),
        fusion=FusionSpec(filter="joints", channels={}),
        controller=ControllerSpec(policy=POLICY, release=GATE, **fields),
    )


def state(seq: int, episode: int = 0, reward: float = -0.1, **fields: Any) -> FusedState:
    """A fused state of the arm, 20 ms after the one before."""
    given: dict[str, Any] = {
        "robot_id": ROBOT,
        "boot_id": "b",
        "stamp_ms": 20.0 * seq,
        "wall_ms": 20.0 * seq,
        "frame_seq": seq,
        "filter": "joints",
        "names": ["angle_1_rad", "angle_2_rad", "velocity_1_radps", "velocity_2_radps"],
        "mean": [0.1 * seq, -0.3, 0.5, -0.5],
        "covariance": [],
        "held": {"target": [0.1, 0.05], "reward": [reward, float(episode)]},
        "source": {"sensor-frames-0": (seq, seq + 1)},
    }
    return FusedState(**{**given, **fields})
