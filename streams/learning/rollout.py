"""From prompts to groups of completions: flat, or as TreePO's trees. Pure but for the engine.

TreePO: arXiv 2508.17445, Algorithm 1. Every random choice is keyed by the problem's seed and where
in its tree it is made, so trees that advance in one engine batch do not touch each other.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import TypeAdapter

from schemas.learning import Rollout
from streams.learning.engines import RolloutEngine, Row, Segment
from streams.learning.engines.counters import keyed

Stop = Literal["eos", "answer", "length", "depth", "repetition"]
Prompt = tuple[int, ...]

_FIRST, _CANDIDATE, _CUT, _BRANCH = range(4)
"""What a random number is for, so that no two uses share one."""
_REPEATED_CHARACTERS, _REPEATS = 32, 8


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """How one problem is rolled out; made by the algorithm. Tree fields as in TreePO, section 2.2.

    `width` completions (w), of `depth` (d) segments of `segment_tokens` (l) at most; the branching
    budget `branching` (N); the root is divided by a number drawn from `first_division`.
    """

    shape: Literal["flat", "tree"]
    width: int
    max_tokens: int
    segment_tokens: int = 1
    depth: int = 1
    branching: int = 2
    first_division: tuple[int, int] = (2, 2)
    fallback: bool = True
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends a completion: stop tokens, and for trees what its text shows.

    `text` decodes tokens; `answered` tells whether a text holds the answer already;
    `longest_token` is the most characters that one token can stand for.
    """

    tokens: Collection[int]
    text: Callable[[Sequence[int]], str] | None = None
    answered: Callable[[str], bool] | None = None
    longest_token: int = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """A completion that is not scored yet; fields as in `Rollout`."""

    tokens: list[int]
    logprobs: list[float]
    stop: Stop
    nodes: list[str] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)

    def scored(self, reward: float) -> Rollout:
        """The rollout with its reward."""
        return Rollout(
            tokens=self.tokens,
            logprobs=self.logprobs,
            reward=reward,
            stop=self.stop,
            nodes=self.nodes,
            cuts=self.cuts,
        )


_ROLLOUTS = TypeAdapter(list[Rollout])


def dump_rollouts(rollouts: list[Rollout]) -> bytes:
    """The rollouts of a group as the JSON of its object."""
    return _ROLLOUTS.dump_json(rollouts)


def load_rollouts(data: bytes) -> list[Rollout]:
    """The rollouts in a group's object; raises pydantic.ValidationError."""
    return _ROLLOUTS.validate_json(data)


def sample(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    plan: RolloutPlan,
    seeds: Sequence[Sequence[int]],
    ends: Ends,
) -> list[list[Draft]]:
    """The completions of each prompt by the plan; `seeds` has one seed a rollout of each prompt."""
    how = sample_tree if plan.shape == "tree" else sample_flat
    return how(engine, prompts, plan, seeds, ends)


def sample_flat(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    plan: RolloutPlan,
    seeds: Sequence[Sequence[int]],
    ends: Ends,
) -> list[list[Draft]]:
    """`width` independent completions of each prompt."""
    rows = [
        Row(prompt, seed, 0, _capped(engine, prompt, plan.max_tokens))
        for prompt, own in zip(prompts, seeds, strict=True)
        for seed in own[: plan.width]
    ]
    segments = engine.generate(rows, plan.temperature, plan.top_p, ends.tokens)
    drafts = [Draft(s.tokens, s.logprobs, "eos" if s.ended else "length") for s in segments]
    return [drafts[i : i + plan.width] for i in range(0, len(drafts), plan.width)]


def sample_tree(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    plan: RolloutPlan,
    seeds: Sequence[Sequence[int]],
    ends: Ends,
) -> list[list[Draft]]:
    """`width` completions of each prompt as the leaves of a tree, keyed by its first seed.

    Fewer only where nothing is active before the width is reached and the plan has no fallback.
    """
    trees = [
        _Tree(plan, prompt, own[0], _capped(engine, prompt, plan.max_tokens), ends)
        for prompt, own in zip(prompts, seeds, strict=True)
    ]
    while rows := [row for tree in trees for row in tree.rows()]:
        segments = iter(engine.generate(rows, plan.temperature, plan.top_p, ends.tokens))
        for tree in trees:
            tree.advance([next(segments) for _ in tree.paths])
    return [tree.leaves for tree in trees]


def _capped(engine: RolloutEngine, prompt: Prompt, tokens: int) -> int:
    room = engine.room()
    return tokens if room is None else min(tokens, room - len(prompt))


@dataclass(frozen=True, slots=True)
class _Path:
    """From the root to where the next segment begins."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    nodes: tuple[str, ...] = ()
    cuts: tuple[int, ...] = ()

    def grown(self, segment: Segment, node: str) -> "_Path":
        """This path with one more segment."""
        tokens = (*self.tokens, *segment.tokens)
        logprobs = (*self.logprobs, *segment.logprobs)
        return _Path(tokens, logprobs, (*self.nodes, node), (*self.cuts, len(tokens)))

    def cut(self, segments: int) -> "_Path":
        """The first so many segments of it."""
        end = self.cuts[segments - 1] if segments else 0
        return _Path(
            self.tokens[:end], self.logprobs[:end], self.nodes[:segments], self.cuts[:segments]
        )

    def leaf(self, stop: Stop) -> Draft:
        """The completion that ends here."""
        return Draft(
            list(self.tokens), list(self.logprobs), stop, list(self.nodes), list(self.cuts)
        )


class _Tree:
    """The rollout of one problem: its active paths and finished leaves."""

    def __init__(
        self, plan: RolloutPlan, prompt: Prompt, seed: int, max_tokens: int, ends: Ends
    ) -> None:
        self._plan, self._prompt, self._seed, self._ends = plan, prompt, seed, ends
        self._max_tokens = max_tokens
        self._step = 0
        self._names: dict[tuple[str, tuple[int, ...]], str] = {}
        self._finished: list[_Path] = []
        self.leaves: list[Draft] = []
        self.paths: list[_Path] = self._divided()

    def rows(self) -> list[Row]:
        """One row a path; its seed is its place in the tree: step and slot."""
        return [
            Row(
                (*self._prompt, *path.tokens),
                keyed(self._seed, _BRANCH, self._step, slot),
                len(path.tokens),
                min(self._plan.segment_tokens, self._max_tokens - len(path.tokens)),
            )
            for slot, path in enumerate(self.paths)
        ]

    def advance(self, segments: Sequence[Segment]) -> None:
        """Take in the segment of each path, then branch; or fall back where nothing is active."""
        active: list[_Path] = []
        for slot, (path, segment) in enumerate(zip(self.paths, segments, strict=True)):
            grown = path.grown(segment, self._name(path, segment, slot))
            stop = self._stop(grown, segment)
            if stop is None:
                active.append(grown)
                continue
            self.leaves.append(grown.leaf(stop))
            if stop in ("eos", "answer"):
                self._finished.append(grown)
        finished = len(segments) - len(active)
        self._step += 1
        if active:
            remaining = self._plan.width - len(self.leaves)
            copies = transfer(len(active), finished, remaining, self._plan.branching)
            self.paths = [p for p, n in zip(active, copies, strict=True) for _ in range(n)]
        else:
            self.paths = self._fallback()

    def _name(self, path: _Path, segment: Segment, slot: int) -> str:
        """The node of a segment: where it was sampled first, so equal prefixes share nodes."""
        parent = path.nodes[-1] if path.nodes else "root"
        place = (parent, tuple(segment.tokens))
        return self._names.setdefault(place, f"{parent}/{self._step}-{slot}")

    def _stop(self, path: _Path, segment: Segment) -> Stop | None:
        """Why the path ends here, in the paper's order, or None while it is active."""
        ends, plan = self._ends, self._plan
        text = self._text(path)
        if ends.answered is not None and ends.answered(text):
            return "answer"
        if segment.ended:
            return "eos"
        if len(path.tokens) >= self._max_tokens:
            return "length"
        if len(path.cuts) >= plan.depth:
            return "depth"
        return "repetition" if repeats(text) else None

    def _text(self, path: _Path) -> str:
        """The text so far; empty where it is too short to matter, for decoding takes time."""
        ends = self._ends
        shortest = _REPEATED_CHARACTERS + _REPEATS - 1
        short = len(path.tokens) * ends.longest_token < shortest
        if ends.text is None or (short and ends.answered is None):
            return ""
        return ends.text(path.tokens)

    def _divided(self) -> list[_Path]:
        low, high = self._plan.first_division
        count = low + keyed(self._seed, _FIRST) % (high - low + 1)
        return [_Path()] * min(count, self._plan.width)

    def _fallback(self) -> list[_Path]:
        """New paths from random cuts of finished leaves, or from the root where none finished."""
        budget = self._plan.width - len(self.leaves)
        if budget <= 0 or not self._plan.fallback:
            return []
        if not self._finished:
            return [_Path()] * min(self._plan.branching, budget)
        order = sorted(
            range(len(self._finished)), key=lambda i: keyed(self._seed, _CANDIDATE, self._step, i)
        )
        paths: list[_Path] = []
        for i in order:
            leaf = self._finished[i]
            kept = keyed(self._seed, _CUT, self._step, i) % len(leaf.cuts)
            paths += [leaf.cut(kept)] * min(self._plan.branching, budget - len(paths))
        return paths


def transfer(active: int, finished: int, remaining: int, branching: int) -> list[int]:
    """Branching budget transfer: how many copies each active path gets.

    `finished` of this step hand their budget on; `remaining` leaves are wanted still. The last
    path also gets the remainder. TreePO, section 2.2.
    """
    total = max(min(max(remaining, 0), branching * (finished + active)), active)
    copies = [total // active] * active
    copies[-1] += total % active
    return copies


def repeats(text: str) -> bool:
    """Whether some substring of 32 characters occurs 8 times or more, overlaps included."""
    counts: dict[str, int] = {}
    for i in range(len(text) - _REPEATED_CHARACTERS + 1):
        piece = text[i : i + _REPEATED_CHARACTERS]
        counts[piece] = counts.get(piece, 0) + 1
        if counts[piece] >= _REPEATS:
            return True
    return False
