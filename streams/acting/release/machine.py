"""The way of weight versions into one robot, in control steps.

    OFFERED → FETCHED → STAGED → WAIT_SAFE → SWAPPED → PROBATION → COMMITTED | ROLLED_BACK

Up to WAIT_SAFE a way lives in memory and in the log alone: after a kill it begins again with its
files. From SWAPPED on it is in the robot's folder, which is written first: what the folder says
acts, and the log is told of it afterwards, again if need be. A probation that was cut short counts
anew, and rolls back where that happened too often, for it may be the policy's doing. A newer offer
supersedes those that have not come to SWAPPED; a version does not go down, except where the offer
says why (`reason`: an operator's) or by rolling back.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Literal

import numpy as np

from schemas.acting import MODES, STAGES, PolicyRef, Release, SafetyEvent, Stage
from schemas.control import ReleaseGate
from schemas.robots import DriverSpec
from streams.acting.control.policy import Policy, PolicyError
from streams.acting.release.admission import Fetch, admit, fetch_files
from streams.acting.release.folder import Current, Installed, Point, PolicyFolder
from streams.acting.release.returns import Returns, worse
from streams.learning.control.mlp import Floats

STARTS_MAX = 3
"""Controllers that may die in one probation before the policy is taken for the reason."""
NOT_ITS_DOING = ("operator", "silence", "stale-source", "driver", "loop-stall")
"""Causes of safety events that no set-point brings about."""
_TERMINAL = {"COMMITTED", "ROLLED_BACK"}


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


@dataclass
class _Way:
    """One release, as far as the log or this process has it."""

    offer: Release
    stages: set[Stage] = field(default_factory=set)


@dataclass
class _Candidate:
    """The offer under way, not swapped in yet."""

    way: _Way
    phase: Literal["fetch", "check", "shadow", "wait"]
    job: "Future[Any]"
    policy: Policy | None = None
    installed: Installed | None = None
    steps: int = 0
    blind: int = 0


class Releases:
    """The release state machine of one robot, and the policy that acts there."""

    def __init__(
        self,
        robot_id: str,
        policy: str,
        gate: ReleaseGate,
        driver: DriverSpec,
        observation: Sequence[str],
        tracker: PolicyRef,
        folder: PolicyFolder,
        fetch: Fetch,
        executor: Executor,
        wall_ms: Callable[[], float],
        point: Point = lambda name: None,
    ) -> None:
        self._robot_id, self._policy, self._gate = robot_id, policy, gate
        self._driver, self._observation, self._tracker = driver, observation, tracker
        self._folder, self._fetch, self._executor = folder, fetch, executor
        self._wall_ms, self._point = wall_ms, point
        self._ways: dict[str, _Way] = {}
        self._out: list[Release] = []
        self._candidate: _Candidate | None = None
        self._current: Current | None = None
        self._previous: Policy | None = None
        self._resumed = False
        self._alarm = ""
        self._trial_steps = 0
        self._returns = Returns(self._block())
        self.acting: Policy | None = None
        """The learnt policy that acts; None while the tracker does."""

    # -- what it is told ----------------------------------------------------------------------

    def known(self, release: Release) -> None:
        """Take in a record of `releases`, of the past or new, this process's own included."""
        if release.policy != self._policy or release.robot_id != self._robot_id:
            return
        way = self._ways.get(release.release_id)
        if release.stage == "OFFERED" and (way is None or not way.offer.files):
            stages = way.stages if way else set()
            self._ways[release.release_id] = _Way(release, stages)
        self._ways.setdefault(release.release_id, _Way(release)).stages.add(release.stage)

    def note_safety(self, event: SafetyEvent) -> None:
        """An alarm while a policy is on probation is held against it, where it may be its doing."""
        before, after = MODES.index(event.before), MODES.index(event.after)
        stops = after > before and after >= MODES.index("HOLD")
        if self._on_probation and stops and event.cause not in NOT_ITS_DOING:
            self._alarm = f"safety: {event.cause} {event.detail}".strip()

    # -- what it answers ----------------------------------------------------------------------

    @property
    def ref(self) -> PolicyRef:
        """What acts."""
        return self.acting.ref if self.acting else self._tracker

    @property
    def wants_rest(self) -> bool:
        """No safe moment came by itself for half of the time: the robot should stop for one."""
        candidate = self._candidate
        if candidate is None or candidate.phase != "wait":
            return False
        return candidate.steps > self._gate.wait_safe_steps // 2

    def step(self, moment: Moment) -> list[Release]:
        """One control step, before its action; what is to be published first because of it."""
        if not self._resumed:
            self._resume()
        ended_block = self._returns.add(moment.reward) if moment.in_force else False
        if self._on_probation:
            self._try(moment, ended_block)
        if not self._on_probation:
            self._choose()
            if self._candidate is not None:
                self._advance(self._candidate, moment)
        return self._drain()

    def action(self, moment: Moment, *key: object) -> tuple[list[float] | None, list[Release]]:
        """The set-point of the policy that acts; None where there is none that can say.

        An answer that is not finite ends a probation at once: the policy before it answers then.
        """
        while self.acting is not None:
            policy = self.acting
            seen = moment.observe(policy.config.observation)
            if seen is None:
                break
            mean = policy.mean(seen)
            set_point = policy.set_point(mean, *key)
            if np.isfinite(mean).all() and np.isfinite(set_point).all():
                return set_point, self._drain()
            if not self._on_probation:
                break
            self._roll_back("its action is not finite")
        return None, self._drain()

    # -- from offer to swap -------------------------------------------------------------------

    def _choose(self) -> None:
        """Take up the newest open offer; older ones are over."""
        current = self._current.release_id if self._current else ""
        waiting = [way for id_, way in self._ways.items() if _is_open(way) and id_ != current]
        for way in waiting[:-1]:
            newest = waiting[-1].offer.version
            self._emit(way.offer, "ROLLED_BACK", f"superseded by version {newest}")
        if not waiting:
            self._candidate = None
        elif self._candidate is None or self._candidate.way is not waiting[-1]:
            self._take_up(waiting[-1])

    def _take_up(self, way: _Way) -> None:
        offer, acting = way.offer, self.acting
        self._candidate = None
        if acting and offer.version <= acting.ref.version and not offer.reason:
            why = f"version {offer.version} is not above {acting.ref.version}, which acts"
            self._emit(offer, "ROLLED_BACK", why)
            return
        self._point("offered")
        job = self._executor.submit(fetch_files, offer, self._fetch, self._folder)
        self._candidate = _Candidate(way, "fetch", job)

    def _advance(self, candidate: _Candidate, moment: Moment) -> None:
        try:
            match candidate.phase:
                case "fetch":
                    self._fetched(candidate)
                case "check":
                    self._checked(candidate)
                case "shadow":
                    self._shadow(candidate, moment)
                case "wait":
                    self._wait(candidate, moment)
        except PolicyError as error:
            self._give_up(candidate, str(error))

    def _give_up(self, candidate: _Candidate, reason: str) -> None:
        self._point("given_up")
        self._candidate = None
        self._emit(candidate.way.offer, "ROLLED_BACK", reason)

    def _result(self, candidate: _Candidate) -> Any:
        """What the job in the background found; raises `PolicyError` where it failed."""
        try:
            return candidate.job.result()
        except PolicyError:
            raise
        except Exception as error:  # of the store, the disk: it failed, whatever it was
            raise PolicyError(f"{type(error).__name__}: {error}") from error

    def _fetched(self, candidate: _Candidate) -> None:
        if not candidate.job.done():
            return
        files = self._result(candidate)
        offer = candidate.way.offer
        self._point("fetched")
        self._emit(offer, "FETCHED")
        arguments = (offer, files, self._folder, self._driver, self._observation)
        candidate.job = self._executor.submit(admit, *arguments)
        candidate.phase = "check"

    def _checked(self, candidate: _Candidate) -> None:
        if candidate.job.done():
            candidate.policy, candidate.installed = self._result(candidate)
            candidate.phase = "shadow"

    def _shadow(self, candidate: _Candidate, moment: Moment) -> None:
        """It answers what the acting one is asked, and nothing is done with it but looking."""
        assert candidate.policy is not None
        seen = moment.observe(candidate.policy.config.observation)
        if seen is None:
            candidate.blind += moment.in_force
            if candidate.blind > self._gate.wait_safe_steps:
                raise PolicyError(f"not all of {candidate.policy.config.observation} is seen here")
            return
        mean = candidate.policy.mean(seen)
        if not np.isfinite(mean).all() or mean.shape != (len(self._driver.set_point),):
            raise PolicyError(f"shadow run: it answers {mean.tolist()}")
        self._compare(mean, moment)
        candidate.steps += 1
        if candidate.steps >= self._gate.shadow_steps:
            self._point("staged")
            self._emit(candidate.way.offer, "STAGED")
            self._point("wait_safe")
            self._emit(candidate.way.offer, "WAIT_SAFE")
            candidate.phase, candidate.steps = "wait", 0

    def _compare(self, mean: Floats, moment: Moment) -> None:
        limit = self._gate.output_distance_max
        if limit is None or self.acting is None:
            return
        seen = moment.observe(self.acting.config.observation)
        if seen is not None:
            distance = sqrt(float(np.mean((mean - self.acting.mean(seen)) ** 2)))
            if not distance <= limit:
                raise PolicyError(
                    f"shadow run: {distance:.3g} from the acting one, at most {limit:g}"
                )

    def _wait(self, candidate: _Candidate, moment: Moment) -> None:
        candidate.steps += 1
        if moment.is_safe:
            self._swap(candidate)
        elif candidate.steps > self._gate.wait_safe_steps:
            raise PolicyError(f"no safe moment in {self._gate.wait_safe_steps} steps")

    # -- from swap to the end -----------------------------------------------------------------

    @property
    def _on_probation(self) -> bool:
        return self._current is not None and self._current.stage == "PROBATION"

    def _swap(self, candidate: _Candidate) -> None:
        """From here on the new policy acts: first on disk, then in memory, then in the log."""
        assert candidate.policy is not None
        offer, acting = candidate.way.offer, self.acting
        # The tracker's reward is no yardstick: a first policy that knows nothing has to act.
        same = acting is not None and acting.ref.policy == offer.policy
        current = Current(
            release_id=offer.release_id,
            policy=offer.policy,
            version=offer.version,
            stage="PROBATION",
            acting=candidate.installed,
            previous=self._installed() if acting else None,
            baseline=list(self._returns.blocks) if same else [],
        )
        self._point("swapping")
        self._folder.write(current)
        self._candidate = None
        self._previous, self.acting = acting, candidate.policy
        self._begin_probation(current)

    def _begin_probation(self, current: Current) -> None:
        self._current, self._trial_steps, self._alarm = current, 0, ""
        self._returns = Returns(self._block())
        self._point("swapped")
        self._tell_again(current)

    def _try(self, moment: Moment, ended_block: bool) -> None:
        """One step on probation."""
        assert self._current is not None
        self._point("probation")
        self._trial_steps += moment.in_force
        reason = self._alarm
        if not reason and ended_block:
            blocks, before = list(self._returns.blocks), self._current.baseline
            reason = worse(blocks, before, self._gate.return_drop_max) or ""
        if reason:
            self._roll_back(reason)
        elif self._trial_steps >= self._gate.probation_steps:
            self._commit()

    def _commit(self) -> None:
        assert self._current is not None
        update = {
            "stage": "COMMITTED",
            "previous": None,
            "baseline": list(self._returns.blocks),
            "metrics": self._metrics(),
        }
        current = self._current.model_copy(update=update)
        self._point("committing")
        self._folder.write(current)
        self._current, self._previous = current, None
        self._point("committed")
        self._emit(self._offer(), "COMMITTED")
        self._folder.sweep(set(current.acting.files.values()) if current.acting else ())

    def _roll_back(self, reason: str) -> None:
        """What acted before acts again, at once: that is never less safe than what failed."""
        assert self._current is not None
        update = {
            "stage": "ROLLED_BACK",
            "acting": self._current.previous,
            "previous": None,
            "reason": reason,
            "metrics": self._metrics(),
        }
        current = self._current.model_copy(update=update)
        self._point("rolling_back")
        self._folder.write(current)
        self._returns = Returns(self._block(), self._current.baseline)
        self._current, self.acting, self._previous = current, self._previous, None
        self._point("rolled_back")
        self._emit(self._offer(), "ROLLED_BACK", reason)

    # -- after a start ------------------------------------------------------------------------

    def _resume(self) -> None:
        """Go on from the folder, and tell the log what a kill kept from it."""
        self._resumed = True
        self._current = self._folder.read()
        if self._current is None:
            self._offer_again("nothing is installed here")
            return
        self.acting, lost = self._reloaded(self._current.acting)
        self._previous, _ = self._reloaded(self._current.previous)
        if self._current.stage == "PROBATION":
            self._resume_probation(lost)
        elif lost:
            self._reinstall(lost)
        else:
            self._returns = Returns(self._block(), self._current.baseline)
            self._tell_again(self._current)

    def _resume_probation(self, lost: str) -> None:
        assert self._current is not None
        current = self._current.model_copy(update={"starts": self._current.starts + 1})
        if lost or current.starts > STARTS_MAX:
            self._roll_back(lost or f"{current.starts} controllers ended in its probation")
            return
        self._folder.write(current)
        self._begin_probation(current)

    def _reinstall(self, lost: str) -> None:
        """A policy that was installed is damaged: the tracker acts until it is fetched again."""
        self._current = None
        self._offer_again(lost)

    def _offer_again(self, reason: str) -> None:
        """Where nothing is installed, the last that was committed goes its way once more."""
        ways = list(self._ways.values())
        done = [way.offer for way in ways if "COMMITTED" in way.stages and way.offer.files]
        if done and not any(_is_open(way) for way in ways):
            again = f"{done[-1].release_id}+{len(ways)}"
            update = {"release_id": again, "reason": reason, "wall_ms": self._wall_ms()}
            offer = done[-1].model_copy(update=update)
            self._ways[again] = _Way(offer, {"OFFERED"})
            self._out.append(offer)

    def _tell_again(self, current: Current) -> None:
        """Say the stages that the log has not got, in their order."""
        if current.stage != "ROLLED_BACK":
            for stage in STAGES[1 : STAGES.index(current.stage)]:
                self._emit(self._offer(), stage)
        self._emit(self._offer(), current.stage, current.reason)

    def _reloaded(self, installed: Installed | None) -> tuple[Policy | None, str]:
        if installed is None:
            return None, ""
        try:
            return self._folder.reload(installed), ""
        except PolicyError as error:
            return None, f"what was installed is damaged: {error}"

    # -- what it says -------------------------------------------------------------------------

    def _emit(self, offer: Release, stage: Stage, reason: str = "") -> None:
        """Say a stage once; SWAPPED and what follows says what acts now."""
        way = self._ways.setdefault(offer.release_id, _Way(offer))
        if stage in way.stages:
            return
        way.stages.add(stage)
        is_current = bool(self._current and self._current.release_id == offer.release_id)
        self._out.append(
            Release(
                release_id=offer.release_id,
                robot_id=self._robot_id,
                policy=offer.policy,
                version=offer.version,
                stage=stage,
                previous=self._previous.ref if self._previous else None,
                acting=self.ref,
                reason=reason,
                metrics=self._current.metrics if is_current and self._current else {},
                wall_ms=self._wall_ms(),
            )
        )

    def _drain(self) -> list[Release]:
        out, self._out = self._out, []
        return out

    def _offer(self) -> Release:
        """The release that current is about, as far as the log has it."""
        assert self._current is not None
        current = self._current
        way = self._ways.get(current.release_id)
        return (
            way.offer
            if way
            else Release(
                release_id=current.release_id,
                robot_id=self._robot_id,
                policy=current.policy,
                version=current.version,
                stage="OFFERED",
                wall_ms=self._wall_ms(),
            )
        )

    def _installed(self) -> Installed | None:
        return self._current.acting if self._current else None

    def _block(self) -> int:
        return max(1, min(self._gate.return_steps, self._gate.probation_steps))

    def _metrics(self) -> dict[str, float]:
        """What probation showed."""
        assert self._current is not None
        found = {"steps": float(self._trial_steps)}
        for name, blocks in (("reward", self._returns.blocks), ("before", self._current.baseline)):
            if blocks:
                found[name] = sum(blocks) / len(blocks)
        return found


def _is_open(way: _Way) -> bool:
    return way.offer.stage == "OFFERED" and not way.stages & _TERMINAL
