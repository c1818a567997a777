"""The events of the learning loop, in the order in which they happen."""

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from schemas.base import Event, Model, Sources
from schemas.missions import AlgorithmSpec, Verifier
from schemas.tensors import DType, ObjectRef, Sha256, Spilled, TensorRef


class Problem(Event):
    """One question for one epoch of one mission, with all that is needed to score an answer."""

    topic: ClassVar[str] = "problems"
    key_field: ClassVar[str] = "problem_id"

    type: Literal["problem"] = "problem"
    problem_id: str
    mission_id: str
    policy: str
    epoch: int
    index: int = Field(description="the how-manieth problem of the mission, without gaps")
    question: str
    prompt: str = Field(description="what the model is given")
    answer: str
    verifier: Verifier
    metadata: dict[str, JsonValue] = {}


class Rollout(Model):
    """One completion: sampled tokens, their log-probabilities under the sampler, its reward.

    In a tree, `nodes` names the node of each segment and `cuts` where each segment ends; two
    leaves share a node if and only if they share that prefix.
    """

    tokens: list[int]
    logprobs: list[float]
    reward: float
    stop: Literal["eos", "answer", "length", "depth", "repetition"]
    nodes: list[str] = []
    cuts: list[int] = []


class EpisodesSummary(Model):
    """What the episodes of a group came to, so that nobody needs their object to know it."""

    task: str = Field(description="the environment and its arguments, in one line")
    returns: list[float] = Field(description="the sum of rewards of each episode, undiscounted")
    lengths: list[int] = Field(description="steps of each episode")
    terminated: int = Field(description="episodes that ended by themselves, not by the time limit")


class BatchRef(Model):
    """The sampler's batch: the groups with this id, by index, give the exact input again."""

    batch_id: str
    index: int
    size: int


class SampleGroup(Event):
    """All completions, or all episodes, of one problem, sampled under one weight version.

    Sampling takes seeds from (mission seed, problem_id, use, rollout index, position) alone.
    A group above 64 KiB has its rollouts in an object. Of origin `episode` it has none: what was
    seen and done is in the object at `episodes_ref`; streams/learning/control/episodes.py says how.
    """

    topic: ClassVar[str] = "samples"
    key_field: ClassVar[str] = "problem_id"

    type: Literal["sample-group"] = "sample-group"
    problem_id: str
    use: int = 0
    mission_id: str
    policy: str
    origin: Literal["problem", "episode"] = "problem"
    outcome: Literal["sampled", "cancelled"] = "sampled"
    prompt_tokens: list[int] = []
    rollouts: list[Rollout] = []
    rollouts_ref: ObjectRef | None = None
    episodes: EpisodesSummary | None = None
    episodes_ref: ObjectRef | None = None
    version: int = Field(description="the weight version that sampled all of it")
    seed: int = 0
    batch: BatchRef | None = None
    source: Sources

    @property
    def group_id(self) -> str:
        """The id of this use of the problem."""
        return f"{self.problem_id}.{self.use}"

    @property
    def size(self) -> int:
        """How many completions or episodes it has, as far as the event says."""
        return len(self.episodes.returns) if self.episodes else len(self.rollouts)


class GroupUse(Model):
    """One group of an upload, with where it lies in the log."""

    group_id: str
    at: str
    version: int
    rollouts: int


class Dropped(Model):
    """One input that an upload covers but did not learn from, and why."""

    group_id: str
    at: str
    reason: Literal["stale", "abandoned", "cancelled", "unreadable"]


class Spilling(Event):
    """An event whose longest fields move to an object where it would be above 64 KiB.

    A field that was moved is empty in the event: `count` says how many entries it has.
    """

    spills: ClassVar[tuple[str, ...]]
    """The fields that may move."""

    spilled: Spilled | None = None

    def count(self, name: str) -> int:
        """How many entries a field has, wherever it lies."""
        moved = self.spilled.counts if self.spilled else {}
        return moved.get(name, len(getattr(self, name)))


class LocalSteps(Model):
    """How a delta came about: optimizer steps on one batch, from the base version's weights.

    The optimizer is new for each upload, so nothing but the batch and the seed is behind it.
    """

    steps: int
    epochs: int
    minibatch: int = Field(description="environment steps in each of them; fewer in the last")
    seed: int = Field(description="of the order of the minibatches")
    optimizer: Literal["adamw"] = "adamw"
    learning_rate: float
    state: Literal["fresh"] = "fresh"


class GradientUpload(Spilling):
    """One gradient: hashed chunks of the flat vector in the layout of the base version's shards.

    Of kind `delta` it is a difference of weights instead: what local optimizer steps made of the
    base version on these groups, less that version; statistics of observations included.
    """

    spills: ClassVar[tuple[str, ...]] = ("chunks", "micro_batches")

    topic: ClassVar[str] = "gradient-chunks"
    key_field: ClassVar[str] = "policy"

    type: Literal["gradient-upload"] = "gradient-upload"
    upload_id: str
    policy: str
    mission_id: str
    kind: Literal["gradient", "delta"] = "gradient"
    base_version: int
    chunks: list[TensorRef]
    weight: float = Field(description="the weight of this upload in the fold: its tokens or steps")
    groups: list[GroupUse] = Field(description="what was learnt from, in batch order")
    dropped: list[Dropped] = []
    micro_batches: list[int] = Field([], description="rollouts in each backward pass")
    records_sha256: Sha256 = Field(description="over the raw records of `groups`, in order")
    local: LocalSteps | None = Field(None, description="of a delta")
    stats: dict[str, float] = {}
    trainer: str = ""
    deterministic: bool = False
    environment: "Environment | None" = None
    source: Sources


class RollbackRequest(Event):
    """An operator asks for a new version with the content of an old one."""

    topic: ClassVar[str] = "gradient-chunks"
    key_field: ClassVar[str] = "policy"

    type: Literal["rollback-request"] = "rollback-request"
    request_id: str
    policy: str
    to_version: int
    reason: str = ""


class CloseStep(Event):
    """Close the open step with what it has; the provider sends it when a mission runs dry."""

    topic: ClassVar[str] = "gradient-chunks"
    key_field: ClassVar[str] = "policy"

    type: Literal["close-step"] = "close-step"
    policy: str
    mission_id: str


class Environment(Model):
    """What must be equal for floating point to give the same bits."""

    torch: str
    threads: int
    cpu_capability: str
    device: str = "cpu"
    libraries: dict[str, str] = {}


class AppliedUpload(Model):
    """One upload in a step, in the order of the fold."""

    upload_id: str
    at: str
    record_sha256: Sha256
    base_version: int
    weight: float
    groups: int
    dropped: int


class RefusedUpload(Model):
    """One upload that no step will use, and why.

    `groups` and `dropped` are what it accounts for: of an overlap, what was not read before.
    """

    upload_id: str
    at: str
    reason: Literal["stale", "abandoned", "overlap", "layout", "unreadable", "empty"]
    detail: str = ""
    groups: int = 0
    dropped: int = 0


class Layout(Model):
    """The flat vector: the tensors of the weight shards in file order, cut into chunks."""

    parameters: int
    chunk_elements: int
    accumulation: DType = "float32"
    sha256: Sha256 = Field(description="over names, shapes and order")


class AdamStep(Model):
    """One step as it was taken.

    By `delta` the mean of the uploads' deltas was added, times `learning_rate`, the outer rate;
    moments and Adam's count `step` stay as they are, and `grad_norm` is the mean's, in which the
    count of observations is most of it.
    """

    rule: Literal["adamw", "delta"] = "adamw"
    step: int
    learning_rate: float
    grad_norm: float
    clip_factor: float


class Totals(Model):
    """Running counts of the policy, so that any version says how far the log was learnt from."""

    groups: int = 0
    """Groups accounted for: learnt from, dropped, or in a refused upload."""
    samples: int = 0
    """Rollouts in applied uploads."""
    uploads: int = 0
    dropped: int = 0
    refused: int = 0
    """Groups in refused uploads."""


class WeightVersion(Spilling):
    """A complete checkpoint: weights, optimizer, and where to resume reading.

    `previous` is N-1; `parent` is the version whose content it continues. `lineage` lists the
    nearest ancestors, parent first. `marks` is the high mark per partition of `samples`;
    `resume` where to read `gradient-chunks` on.
    """

    spills: ClassVar[tuple[str, ...]] = ("uploads", "refused", "shards", "optimizer", "lineage")

    topic: ClassVar[str] = "weight-versions"
    key_field: ClassVar[str] = "policy"

    type: Literal["weight-version"] = "weight-version"
    policy: str
    version: int
    previous: int | None = None
    parent: int | None = None
    parent_sha256: Sha256 | None = None
    kind: Literal["base", "step", "rollback"]
    mission_id: str
    algorithm: AlgorithmSpec
    code_sha256: Sha256
    files: dict[str, ObjectRef]
    shards: dict[str, ObjectRef]
    optimizer: dict[str, ObjectRef] = {}
    layout: Layout
    step: AdamStep | None = None
    uploads: list[AppliedUpload] = []
    refused: list[RefusedUpload] = []
    marks: dict[str, int] = {}
    resume: dict[str, int] = {}
    totals: Totals = Totals()
    lineage: list[int] = []
    mission_steps: dict[str, int] = Field(
        {}, description="steps of each mission along the parents, this one's last; for schedules"
    )
    staleness: float | None = Field(None, description="mean over the samples learnt from")
    reason: str = ""
    environment: Environment


class UploadsRefused(Event):
    """Uploads refused while no step was open; with the state needed to resume after them."""

    topic: ClassVar[str] = "weight-versions"
    key_field: ClassVar[str] = "policy"

    type: Literal["uploads-refused"] = "uploads-refused"
    policy: str
    head: int
    refused: list[RefusedUpload]
    marks: dict[str, int]
    resume: dict[str, int]
    totals: Totals


class VersionsExpired(Event):
    """The objects of these versions were swept; their events stay."""

    topic: ClassVar[str] = "weight-versions"
    key_field: ClassVar[str] = "policy"

    type: Literal["versions-expired"] = "versions-expired"
    policy: str
    versions: list[int]


class WeightHead(Event):
    """The newest version of a policy; compacted, for processes that start."""

    topic: ClassVar[str] = "weight-heads"
    key_field: ClassVar[str] = "policy"

    type: Literal["weight-head"] = "weight-head"
    policy: str
    version: int


class Evaluation(Event):
    """Greedy accuracy of one version on all held-out problems.

    Of a control policy: the mean return of stochastic episodes, as `reward`, and the share of them
    that was solved, as `accuracy`.
    """

    topic: ClassVar[str] = "evaluations"
    key_field: ClassVar[str] = "policy"

    type: Literal["evaluation"] = "evaluation"
    policy: str
    mission_id: str
    version: int
    accuracy: float
    correct: int
    total: int
    reward: float
    final: bool = False
    heldout_sha256: Sha256


class DeadLetter(Event):
    """A record that could not be used: where it was, why, and its original bytes (base64)."""

    topic: ClassVar[str] = "dead-letters"
    key_field: ClassVar[str] = "at"

    type: Literal["dead-letter"] = "dead-letter"
    at: str
    origin_topic: str
    origin_partition: int
    origin_offset: int
    reason: str
    detail: str = ""
    processor: str
    key_base64: str | None = None
    value_base64: str
    headers: dict[str, str] = {}
    timestamp_ms: int = 0


class DeadLetterResolution(Event):
    """What an operator did with a dead letter; in one transaction with the record sent again.

    Of a record that several processors buried, `requeued` settles all letters. A copy that becomes
    dead again has a letter of its own, whose header `requeue-of` names this `letter`.
    """

    topic: ClassVar[str] = "dead-letters"
    key_field: ClassVar[str] = "letter"

    type: Literal["dead-letter-resolution"] = "dead-letter-resolution"
    letter: str = Field(description="where the letter lies")
    origin: str = Field(description="where the dead record lies")
    action: Literal["requeued", "dropped"]
    run: str = Field(description="which run of `ralo dlq` did it")
    policy: str | None = Field(None, description="of the event that was sent again")
    mission_id: str | None = Field(None, description="of the event that was sent again")
    value_sha256: Sha256 | None = Field(None, description="over the value that was sent again")
    patch_sha256: Sha256 | None = Field(None, description="over the merge patch, as compact JSON")
    note: str = ""


GradientUpload.model_rebuild()
