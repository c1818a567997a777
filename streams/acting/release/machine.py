"""The way of weight versions into one robot, in control steps.

    OFFERED → FETCHED → STAGED → WAIT_SAFE → SWAPPED → PROBATION → COMMITTED | ROLLED_BACK

SWAPPED is announced at a safe moment, and the swap is made when it was read back from the log,
with all before it: whatever acts is on the log, and while the log is away nothing is swapped. Until
then a way lives in memory and in the log alone: after a kill it begins again with its files. From
the swap on it is in the robot's folder: what the folder says acts, and how its probation ends is
written there first; the log is told of it afterwards, again if need be. A probation that was cut
short counts anew, and rolls back where that happened too often, for it may be the policy's doing. A
newer offer supersedes those that were not swapped in; a version does not go down, except where the
offer says why (`reason`: an operator's) or by rolling back.
"""

from collections.abc import Callable

import numpy as np

from schemas.acting import MODES, STAGES, PolicyRef, Release, SafetyEvent, Stage
from streams.acting.control.policy import Policy, PolicyError
from streams.acting.release.candidate import Candidate, Moment, Workshop
from streams.acting.release.folder import Current, Installed
from streams.acting.release.returns import Returns, worse
from streams.acting.release.sayings import Sayings
from streams.acting.release.ways import Ways

STARTS_MAX = 3
"""Controllers that may die in one probation before the policy is taken for the reason."""
SAFE_FOR_STEPS = 5
"""A moment stays safe for so many steps: in so few the log says that it has the announcement."""
NOT_ITS_DOING = ("operator", "silence", "stale-source", "driver", "loop-stall")
"""Causes of safety events that no set-point brings about."""


class Releases:
    """The release state machine of one robot, and the policy that acts there."""

    def __init__(
        self,
        robot_id: str,
        policy: str,
        tracker: PolicyRef,
        shop: Workshop,
        wall_ms: Callable[[], float],
    ) -> None:
        self._robot_id, self._policy, self._tracker = robot_id, policy, tracker
        self._shop, self._gate, self._wall_ms = shop, shop.gate, wall_ms
        self._folder, self._point = shop.folder, shop.point
        self._ways = Ways()
        self._says = Sayings()
        self._since_safe = SAFE_FOR_STEPS + 1
        self._candidate: Candidate | None = None
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
        if release.policy == self._policy and release.robot_id == self._robot_id:
            self._ways.known(release)
            self._says.heard(release)

    def note_safety(self, event: SafetyEvent) -> None:
        """A stop while a policy is on probation is held against it, where it may be its doing."""
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
        waits = candidate is not None and candidate.waits
        return waits and candidate is not None and candidate.steps > self._gate.wait_safe_steps // 2

    def step(self, moment: Moment) -> list[Release]:
        """One control step, before its action; what is to be published first because of it."""
        if not self._resumed:
            self._resume()
        self._says.step()
        self._since_safe = 0 if moment.is_safe else self._since_safe + 1
        ended_block = self._returns.add(moment.reward) if moment.in_force else False
        if self._on_probation:
            self._try(moment, ended_block)
        if not self._on_probation:
            self._choose()
            if self._candidate is not None:
                self._advance(self._candidate, moment)
        return self.due()

    def due(self) -> list[Release]:
        """What is to be published now, some of it because the log has what was said before it."""
        return self._says.due()

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
                return set_point, self.due()
            if not self._on_probation:
                break
            self._roll_back("its action is not finite")
        return None, self.due()

    # -- from offer to swap -------------------------------------------------------------------

    def _choose(self) -> None:
        """Take up the newest open offer; older ones are over."""
        waiting = self._ways.open(without=self._current.release_id if self._current else "")
        for offer in waiting[:-1]:
            self._tell(offer, "ROLLED_BACK", f"superseded by version {waiting[-1].version}")
        taken = self._candidate.offer.release_id if self._candidate else ""
        if not waiting:
            self._candidate = None
        elif taken != waiting[-1].release_id:
            self._take_up(waiting[-1])

    def _take_up(self, offer: Release) -> None:
        self._candidate, acting = None, self.acting
        if acting and offer.version <= acting.ref.version and not offer.reason:
            why = f"version {offer.version} is not above {acting.ref.version}, which acts"
            self._tell(offer, "ROLLED_BACK", why)
            return
        self._candidate = Candidate(offer, self._shop)

    def _advance(self, candidate: Candidate, moment: Moment) -> None:
        try:
            if candidate.waits and self._is_announced(candidate, moment):
                self._swap(candidate)
                return
            if candidate.waits and not self._says.are_known:
                return  # It waits for the log, which is not to be held against it.
            for stage in candidate.step(moment, self.acting):
                self._tell(candidate.offer, stage)
        except PolicyError as error:
            self._point("given_up")
            self._candidate = None
            self._tell(candidate.offer, "ROLLED_BACK", str(error))

    def _is_announced(self, candidate: Candidate, moment: Moment) -> bool:
        """Whether the log has all up to SWAPPED, and the moment is safe still; else says so."""
        if not self._says.are_known:
            return False
        if moment.is_safe:
            assert candidate.policy is not None
            before, after = self.acting.ref if self.acting else None, candidate.policy.ref
            self._tell(candidate.offer, "SWAPPED", previous=before, acting=after)
        told = self._ways.told(candidate.offer, "SWAPPED")
        return told and self._says.are_known and self._since_safe <= SAFE_FOR_STEPS

    # -- from swap to the end -----------------------------------------------------------------

    @property
    def _on_probation(self) -> bool:
        return self._current is not None and self._current.stage == "PROBATION"

    def _swap(self, candidate: Candidate) -> None:
        """From here on the new policy acts: first on disk, then in memory; the log has it."""
        offer, acting = candidate.offer, self.acting
        # The tracker's reward is no yardstick: a first policy that knows nothing has to act.
        same = acting is not None and acting.ref.policy == offer.policy
        current = Current(
            release_id=offer.release_id,
            policy=offer.policy,
            version=offer.version,
            stage="PROBATION",
            acting=candidate.installed,
            previous=self._current.acting if self._current and acting else None,
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
        current = self._ended("COMMITTED", baseline=list(self._returns.blocks))
        self._point("committing")
        self._folder.write(current)
        self._current, self._previous = current, None
        self._point("committed")
        self._tell(self._offer(current), "COMMITTED")
        self._folder.sweep(set(current.acting.files.values()) if current.acting else ())

    def _roll_back(self, reason: str) -> None:
        """What acted before acts again, at once: that is never less safe than what failed."""
        assert self._current is not None
        current = self._ended("ROLLED_BACK", acting=self._current.previous, reason=reason)
        self._point("rolling_back")
        self._folder.write(current)
        self._returns = Returns(self._block(), current.baseline)
        self._current, self.acting, self._previous = current, self._previous, None
        self._point("rolled_back")
        self._tell(self._offer(current), "ROLLED_BACK", reason)

    def _ended(self, stage: Stage, **changes: object) -> Current:
        """What the folder is to say at the end of a probation, with what that showed."""
        assert self._current is not None
        metrics = {"steps": float(self._trial_steps)}
        for name, blocks in (("reward", self._returns.blocks), ("before", self._current.baseline)):
            if blocks:
                metrics[name] = sum(blocks) / len(blocks)
        update = {"stage": stage, "previous": None, "metrics": metrics}
        return self._current.model_copy(update={**update, **changes})

    # -- after a start ------------------------------------------------------------------------

    def _resume(self) -> None:
        """Go on from the folder, and tell the log what a kill kept from it."""
        self._resumed = True
        current = self._folder.read()
        if current is None:
            self._offer_again("nothing is installed here")
            return
        self.acting, lost = self._reloaded(current.acting)
        self._previous, _ = self._reloaded(current.previous)
        if current.stage == "PROBATION":
            self._resume_probation(current, lost)
        elif lost:
            self.acting = None
            self._offer_again(lost)
        else:
            self._current = current
            self._returns = Returns(self._block(), current.baseline)
            self._tell_again(current)

    def _resume_probation(self, current: Current, lost: str) -> None:
        self._current = current = current.model_copy(update={"starts": current.starts + 1})
        if lost or current.starts > STARTS_MAX:
            self._roll_back(lost or f"{current.starts} controllers ended in its probation")
            return
        self._folder.write(current)
        self._begin_probation(current)

    def _offer_again(self, reason: str) -> None:
        """Where nothing is installed, the last that was committed goes its way once more.

        Until it has, the tracker acts.
        """
        done = self._ways.last_committed()
        if done is not None and not self._ways.open(without=""):
            again = f"{done.release_id}+{len(self._ways)}"
            update = {"release_id": again, "reason": reason, "wall_ms": self._wall_ms()}
            offer = done.model_copy(update=update)
            self._ways.known(offer)
            self._says.add(offer)

    def _reloaded(self, installed: Installed | None) -> tuple[Policy | None, str]:
        if installed is None:
            return None, ""
        try:
            return self._folder.reload(installed), ""
        except PolicyError as error:
            return None, f"what was installed is damaged: {error}"

    # -- what it says -------------------------------------------------------------------------

    def _tell_again(self, current: Current) -> None:
        """Say the stages that the log has not got, in their order."""
        offer = self._offer(current)
        if current.stage != "ROLLED_BACK":
            for stage in STAGES[1 : STAGES.index(current.stage)]:
                self._tell(offer, stage)
        self._tell(offer, current.stage, current.reason)

    def _tell(
        self,
        offer: Release,
        stage: Stage,
        reason: str = "",
        previous: PolicyRef | None = None,
        acting: PolicyRef | None = None,
    ) -> None:
        """Say a stage once, and what acts then."""
        if not self._ways.tells(offer, stage):
            return
        current = self._current
        is_current = current is not None and current.release_id == offer.release_id
        if is_current and self._previous:
            previous = self._previous.ref
        self._says.add(
            Release(
                release_id=offer.release_id,
                robot_id=self._robot_id,
                policy=offer.policy,
                version=offer.version,
                stage=stage,
                previous=previous,
                acting=acting or self.ref,
                reason=reason,
                metrics=dict(current.metrics) if is_current and current else {},
                wall_ms=self._wall_ms(),
            )
        )

    def _offer(self, current: Current) -> Release:
        """The release that the folder is about, also where the log has lost its offer."""
        return self._ways.offer(current.release_id) or Release(
            release_id=current.release_id,
            robot_id=self._robot_id,
            policy=current.policy,
            version=current.version,
            stage="OFFERED",
            wall_ms=self._wall_ms(),
        )

    def _block(self) -> int:
        return max(1, min(self._gate.return_steps, self._gate.probation_steps))
