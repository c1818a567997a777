"""An offer until it is swapped in: fetched, checked, run in the shadow, waiting for its moment."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np

from schemas.acting import Release, Stage
from schemas.control import ReleaseGate
from schemas.robots import DriverSpec
from streams.acting.control.policy import Policy, PolicyError
from streams.acting.release.admission import Fetch, admit, fetch_files
from streams.acting.release.folder import Installed, Point, PolicyFolder
from streams.learning.control.mlp import Floats


@dataclass(frozen=True)
class Moment:
    """What a control step is for releases."""

    observe: Callable[[Sequence[str]], Floats | None]
    """The observation of these names; None while some of it is not known."""
    in_force: bool
    """The learnt policy drives, in a mode in which the robot moves."""
    is_safe: bool
    """The robot may be given another policy now."""
    reward: float | None = None
    """Of the step before this one."""


@dataclass(frozen=True)
class Workshop:
    """What it takes to try a policy; `executor` does what a control step must not wait for."""

    gate: ReleaseGate
    driver: DriverSpec
    observation: Sequence[str]
    folder: PolicyFolder
    fetch: Fetch
    executor: Executor
    point: Point


class Candidate:
    """One offer under way; `step` raises `PolicyError` where it must not get in."""

    def __init__(self, offer: Release, shop: Workshop) -> None:
        self.offer, self._shop = offer, shop
        self.policy: Policy | None = None
        self.installed: Installed | None = None
        self.waits = False
        """It has shown all there is to show, and waits for a safe moment."""
        self.steps = 0
        """Control steps in the shadow run, or since it waits."""
        self._blind = 0
        self._phase: Literal["fetch", "check", "try"] = "fetch"
        shop.point("offered")
        self._job: Future[Any] = shop.executor.submit(fetch_files, offer, shop.fetch, shop.folder)

    def step(self, moment: Moment, acting: Policy | None) -> Iterator[Stage]:
        """One control step before the swap; the stages that it comes to."""
        if self.waits:
            self._wait()
        elif self._phase == "try":
            yield from self._shadow(moment, acting)
        elif self._job.done() and self._phase == "fetch":
            yield from self._fetched()
        elif self._job.done():
            self.policy, self.installed = self._result()
            self._phase = "try"

    def _result(self) -> Any:
        """What the job in the background found."""
        try:
            return self._job.result()
        except PolicyError:
            raise
        except Exception as error:  # of the store, the disk: it failed, whatever it was
            raise PolicyError(f"{type(error).__name__}: {error}") from error

    def _fetched(self) -> Iterator[Stage]:
        files, shop = self._result(), self._shop
        shop.point("fetched")
        yield "FETCHED"
        arguments = (self.offer, files, shop.folder, shop.driver, shop.observation)
        self._job, self._phase = shop.executor.submit(admit, *arguments), "check"

    def _shadow(self, moment: Moment, acting: Policy | None) -> Iterator[Stage]:
        """It answers what the acting one is asked, and nothing is done with it but looking."""
        assert self.policy is not None
        names = self.policy.config.observation
        seen = moment.observe(names)
        if seen is None:
            self._blind += moment.in_force
            if self._blind > self._shop.gate.wait_safe_steps:
                raise PolicyError(f"not all of {', '.join(names)} is seen here")
            return
        mean = self.policy.mean(seen)
        if not np.isfinite(mean).all() or mean.shape != (len(self._shop.driver.set_point),):
            raise PolicyError(f"shadow run: it answers {mean.tolist()}")
        self._compare(mean, moment, acting)
        self.steps += 1
        if self.steps >= self._shop.gate.shadow_steps:
            self.waits, self.steps = True, 0
            self._shop.point("staged")
            yield "STAGED"
            self._shop.point("wait_safe")
            yield "WAIT_SAFE"

    def _compare(self, mean: Floats, moment: Moment, acting: Policy | None) -> None:
        limit = self._shop.gate.output_distance_max
        seen = moment.observe(acting.config.observation) if acting else None
        if limit is None or acting is None or seen is None:
            return
        distance = sqrt(float(np.mean((mean - acting.mean(seen)) ** 2)))
        if not distance <= limit:
            raise PolicyError(f"shadow run: {distance:.3g} from the acting one, at most {limit:g}")

    def _wait(self) -> None:
        self.steps += 1
        if self.steps > self._shop.gate.wait_safe_steps:
            raise PolicyError(f"no safe moment in {self._shop.gate.wait_safe_steps} steps")
