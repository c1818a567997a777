"""An event in one line, for a person who looks for the one that matters."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.acting import Command, Feedback, FusedState, Release, SafetyEvent, SensorFrame
from schemas.base import Event
from schemas.learning import (
    DeadLetter,
    Evaluation,
    GradientUpload,
    Problem,
    SampleGroup,
    WeightVersion,
)

LENGTH = 160
"""A longer line is cut."""


def one_line(event: Event) -> str:
    """What the event says, in short; its key and its type are not repeated."""
    of = _LINES.get(type(event), _any)
    text = " ".join(of(event).split())
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"


def numbers(values: Sequence[float]) -> str:
    """A short list of numbers; of a long one the first."""
    more = ", …" if len(values) > 6 else ""
    return f"[{', '.join(f'{value:.4g}' for value in values[:6])}{more}]"


def _any(event: Event) -> str:
    """Every field that is short, and how much is in the others."""
    hidden = {"type", "schema_version", event.key_field}
    fields = event.model_dump(mode="json", exclude_none=True, exclude=hidden)
    parts = (_field(name, value) for name, value in fields.items())
    return " ".join(part for part in parts if part)


def _field(name: str, value: Any) -> str:
    match value:
        case "" | [] | {}:
            return ""
        case dict():
            return f"{name}={{{len(value)}}}"
        case list():
            return f"{name}=[{len(value)}]"
        case float():
            return f"{name}={value:.6g}"
    return f"{name}={value}"


def _problem(event: Problem) -> str:
    return f"#{event.index} epoch {event.epoch}: {event.question!r} → {event.answer!r}"


def _group(event: SampleGroup) -> str:
    who = f"use {event.use}, by version {event.version}"
    if event.outcome == "cancelled":
        return f"{who}: cancelled"
    if event.episodes:
        return f"{who}: {event.size} episodes, return {_spread(event.episodes.returns)}"
    if not event.rollouts:
        return f"{who}: its rollouts are an object"
    return f"{who}: {event.size} rollouts, reward {_spread([r.reward for r in event.rollouts])}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "of none"
    return f"{statistics.fmean(values):.3f} ({min(values):.3g} to {max(values):.3g})"


def _upload(event: GradientUpload) -> str:
    dropped = f", {len(event.dropped)} dropped" if event.dropped else ""
    return (
        f"{event.upload_id[:12]}: {event.kind} on version {event.base_version} of "
        f"{len(event.groups)} groups{dropped}, {event.count('chunks')} chunks, "
        f"weight {event.weight:g}"
    )


def _version(event: WeightVersion) -> str:
    origin = "" if event.parent is None else f" of {event.parent}"
    refused = f", {event.count('refused')} refused" if event.count("refused") else ""
    step = event.step
    how = f", gradient norm {step.grad_norm:.4g}, rate {step.learning_rate:.3g}" if step else ""
    why = f": {event.reason}" if event.reason else ""
    return (
        f"version {event.version} ({event.kind}{origin}){why}: {event.count('uploads')} uploads"
        f"{refused}{how}, {event.totals.samples:,} samples so far"
    )


def _evaluation(event: Evaluation) -> str:
    final = ", final" if event.final else ""
    return (
        f"version {event.version}: accuracy {event.accuracy:.3f} ({event.correct} of "
        f"{event.total}), reward {event.reward:.3f}{final}"
    )


def _letter(event: DeadLetter) -> str:
    return f"{event.reason}, by {event.processor}: {event.detail}"


def _frame(event: SensorFrame) -> str:
    channels = Counter(reading.channel for reading in event.readings)
    what = ", ".join(f"{n} {name}" for name, n in channels.items())
    lost = f", {event.dropped} dropped so far" if event.dropped else ""
    return f"#{event.seq} at {event.stamp_ms:.0f} ms of {event.boot_id[:8]}: {what}{lost}"


def _state(event: FusedState) -> str:
    mean = ", ".join(
        f"{name} {value:.3f}" for name, value in zip(event.names, event.mean, strict=False)
    )
    return f"frame {event.frame_seq} at {event.stamp_ms:.0f} ms: {mean}"


def _command(event: Command) -> str:
    policy = f"{event.policy.policy}@{event.policy.version}"
    return (
        f"{event.controller_epoch}.{event.seq} by {policy}: {numbers(event.set_point)} until "
        f"{event.deadline_ms:.0f} ms of {event.boot_id[:8]}, from frame {event.frame_seq}"
    )


def _feedback(event: Feedback) -> str:
    outcomes = Counter(outcome.outcome for outcome in event.outcomes)
    what = ", ".join(f"{n} {name}" for name, n in outcomes.items())
    return f"#{event.seq} {event.mode}: does {numbers(event.applied)}{', ' * bool(what)}{what}"


def _safety(event: SafetyEvent) -> str:
    return f"#{event.seq} {event.before} → {event.after}: {event.cause} {event.detail}"


def _release(event: Release) -> str:
    return f"{event.policy}@{event.version} {event.stage}: {event.reason or event.release_id}"


_LINES: Mapping[type[Event], Callable[[Any], str]] = {
    Problem: _problem,
    SampleGroup: _group,
    GradientUpload: _upload,
    WeightVersion: _version,
    Evaluation: _evaluation,
    DeadLetter: _letter,
    SensorFrame: _frame,
    FusedState: _state,
    Command: _command,
    Feedback: _feedback,
    SafetyEvent: _safety,
    Release: _release,
}
