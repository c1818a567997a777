"""Ranges, filters, expressions and the merge, on the memory log."""

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.selection import (
    BadExpression,
    BadRange,
    BadSelection,
    Expression,
    Selection,
    ends_of,
    merged,
    parse_range,
)
from consumers.selection.spans import AHEAD, Reading
from infra import envelope
from infra.log import Aborted, LogUnavailable, Message
from infra.memory.log import MemoryLog
from infra.memory.readers import MemoryStateReader
from schemas.learning import Evaluation, Rollout, SampleGroup
from schemas.missions import MissionControl
from schemas.records import Partition, Record
from schemas.topics import EVALUATIONS, MISSIONS, SAMPLES, TOPICS

SHA = "0" * 64
NOW_MS = 1_795_305_600_000
MAIN = Partition("missions", 0)


def evaluation(version: int, policy: str = "main", mission: str = "m1") -> Evaluation:
    return Evaluation(
        policy=policy,
        mission_id=mission,
        version=version,
        accuracy=version / 10,
        correct=version,
        total=10,
        reward=0.5,
        heldout_sha256=SHA,
    )


def group(problem: str, rollouts: int = 1, tokens: int = 4) -> SampleGroup:
    rollout = Rollout(tokens=[7] * tokens, logprobs=[-0.5] * tokens, reward=1.0, stop="eos")
    return SampleGroup(
        problem_id=problem,
        mission_id="m1",
        policy="main",
        rollouts=[rollout] * rollouts,
        version=3,
        source={"problems-0": (0, 1)},
    )


def control(n: int) -> MissionControl:
    return MissionControl(mission_id=f"m{n}", action="pause")


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog("ns.")
    log.provision([EVALUATIONS, MISSIONS, SAMPLES])
    return log


def put(log: MemoryLog, event: Evaluation | SampleGroup | MissionControl, at_ms: int) -> Record:
    message = envelope.message(event)
    stamped = Message(message.topic, message.key, message.value, message.headers, at_ms)
    (record,) = log.append([stamped])
    return record


def fill(log: MemoryLog, count: int, step_ms: int = 1000) -> None:
    """So many records in the one partition of missions, the last one at NOW_MS - step_ms."""
    for n in range(count):
        put(log, control(n), NOW_MS - (count - n) * step_ms)


def offsets(log: MemoryLog, words: str, topic: str = "missions") -> list[int]:
    selection = Selection((topic,), parse_range(words, NOW_MS))
    return [record.offset for record in selection.records(log)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("start", range(10)),
        ("end", ()),
        ("start:end", range(10)),
        (":", None),
        ("7", range(7, 10)),
        ("7:", range(7, 10)),
        (":3", range(3)),
        ("2:5", range(2, 5)),
        ("5:5", ()),
        ("+2", range(2, 10)),
        (":+2", range(2)),
        ("-3", range(7, 10)),
        ("-5:-2", range(5, 8)),
        (":-8", range(2)),
        ("+1:-1", range(1, 9)),
        ("-100", range(10)),
        ("100", ()),
        (":100", range(10)),
        ("@-3s", range(7, 10)),
        ("@-3s:end", range(7, 10)),
        ("@-3000ms", range(7, 10)),
        ("@-2500ms", range(8, 10)),
        ("@-5s:-2s", range(5, 8)),
        ("@-5s:2s", range(5, 7)),
        ("@:-8s", range(2)),
        ("@-1h", range(10)),
        ("@start:-8s", range(2)),
        (f"@{NOW_MS - 2000}", range(8, 10)),
        (f"@{NOW_MS // 1000 - 2}", range(8, 10)),
        ("@2026-11-21T23:59:58Z", range(8, 10)),
        ("@2026-11-21T23:59:58", range(8, 10)),
        ("@2026-11-22T01:59:58+02:00", range(8, 10)),
        ("@2026-11-21T23:59:57.500Z", range(8, 10)),
        ("@2026-11-21T23:59:50Z:2026-11-21T23:59:52Z", range(2)),
        ("@2026-11-21T23:59:1m", range(10)),
        ("@2026-11-21", range(10)),
        ("@2026-11-22", ()),
        ("@2026-11-21:1d", range(10)),
        ("@-1m30s:end", range(10)),
        ("@-3s:", range(7, 10)),
    ],
)
def test_the_words_of_a_range(log: MemoryLog, words: str, found: range | None) -> None:
    fill(log, 10)
    if found is None:
        with pytest.raises(BadRange):
            parse_range(words)
    else:
        assert offsets(log, words) == list(found)


@pytest.mark.parametrize(
    "words",
    ["", ":", "@", "@:", "begin", "1:2:3", "20:10", "-2:-5", "@-1h:-2h", "@-1", "1.5", "+", "-",
     "@2026-13-01", "@2026-11-22T25:00:00Z", "@1h", "@:1h", "@start:1h", "@end:start ", " start",
     "@-10q", "٣", "47-", "--3", "@12:34"],
)  # fmt: skip
def test_what_is_no_range_is_refused_with_what_is_allowed(words: str) -> None:
    with pytest.raises(BadRange, match="allowed are `start`"):
        parse_range(words)


@given(st.text(alphabet="startend0123456789+-:@TZhms. ", max_size=30))
def test_any_text_is_a_range_or_is_refused(words: str) -> None:
    log = MemoryLog()
    log.provision([MISSIONS])
    try:
        range_ = parse_range(words, NOW_MS)
    except BadRange:
        return
    assert ends_of(log, "missions", range_) == {MAIN: (0, 0)}


@given(
    st.integers(0, 20),
    st.integers(0, 20),
    st.one_of(st.none(), st.tuples(st.sampled_from(["", "+", "-"]), st.integers(0, 30))),
    st.one_of(st.none(), st.tuples(st.sampled_from(["", "+", "-"]), st.integers(0, 30))),
)
@settings(max_examples=200, deadline=None)
def test_offsets_cut_like_their_arithmetic(
    count: int, gone: int, first: tuple[str, int] | None, after: tuple[str, int] | None
) -> None:
    if first is None and after is None:
        return
    log = MemoryLog()
    log.provision([MISSIONS])
    fill(log, count)
    log.truncate(MAIN, min(gone, count))
    low, high = min(gone, count), count
    words = ("" if first is None else f"{first[0]}{first[1]}") + ":"
    words += "" if after is None else f"{after[0]}{after[1]}"
    place = {"": lambda n: n, "+": lambda n: low + n, "-": lambda n: high - n}
    begin = low if first is None else place[first[0]](first[1])
    until = high if after is None else place[after[0]](after[1])
    try:
        found = offsets(log, words)
    except BadRange:
        assert first is not None and after is not None and begin > until
        return
    assert found == [n for n in range(low, high) if begin <= n < until]


def test_a_truncated_topic_gives_what_is_left(log: MemoryLog) -> None:
    fill(log, 10)
    log.truncate(MAIN, 6)
    assert offsets(log, "start") == [6, 7, 8, 9]
    assert offsets(log, "+2") == [8, 9]
    assert offsets(log, ":8") == [6, 7]
    assert offsets(log, ":5") == []
    assert offsets(log, "@-5s") == [6, 7, 8, 9]


def test_offsets_are_per_partition(log: MemoryLog) -> None:
    for n in range(40):
        put(log, evaluation(n, policy=f"p{n}"), NOW_MS + n)
    spans = ends_of(log, "evaluations", parse_range("-2"))
    held = log.ends("evaluations")
    assert spans == {p: (max(first, end - 2), end) for p, (first, end) in held.items()}
    assert len(spans) == 4


def test_a_time_gives_the_first_offset_from_then_on_also_where_times_go_backward(
    log: MemoryLog,
) -> None:
    for n, at_ms in enumerate((1000, 5000, 2000, 6000)):
        put(log, control(n), at_ms)
    at = {"x": parse_range("@-4s:-1s", 7000), "y": parse_range("@-5s", 7000)}
    assert ends_of(log, "missions", at["x"])[MAIN] == (1, 3)
    assert ends_of(log, "missions", at["y"])[MAIN] == (1, 4)


def transact(log: MemoryLog, *events: MissionControl, abort: bool = False) -> None:
    writer = log.writer("t")
    log.faults.abort_next = int(abort)
    try:
        writer.publish([envelope.message(event) for event in events], {}, "g", None)
    except Aborted:
        assert abort


def test_markers_and_aborted_records_take_offsets_and_are_not_given(log: MemoryLog) -> None:
    transact(log, control(0), control(1))
    transact(log, control(2), abort=True)
    transact(log, control(3))
    assert log.ends("missions")[MAIN] == (0, 7)
    assert offsets(log, "start") == [0, 1, 5]
    assert offsets(log, "-2") == [5]
    assert offsets(log, "2:5") == []
    assert offsets(log, ":2") == [0, 1]


def test_the_end_is_that_of_the_call(log: MemoryLog) -> None:
    fill(log, 2)
    selection = Selection(("missions",))
    one_by_one, in_time = selection.records(log), merged(log, selection)
    fill(log, 3)
    assert len(list(one_by_one)) == len(list(in_time)) == 2


def test_an_open_transaction_is_waited_for_and_named_where_it_hangs(log: MemoryLog) -> None:
    fill(log, 2)
    writer = log.writer("t")

    def stop(point: str) -> None:
        if point == "sent_outputs":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.publish([envelope.message(control(9))], {}, "g", None, stop)
    reading = iter(Reading(log, MAIN, 0, 3, patience_s=0.0))
    assert [next(reading).offset, next(reading).offset] == [0, 1]
    with pytest.raises(LogUnavailable, match=r"missions\[0\]@2: .* before offset 3"):
        next(reading)


def test_filters(log: MemoryLog) -> None:
    put(log, evaluation(1), 0)
    put(log, evaluation(2, mission="m2"), 0)
    put(log, evaluation(3, policy="other"), 0)

    def found(**filters: object) -> list[int]:
        selection = Selection(("evaluations",), **filters)  # type: ignore[arg-type]
        return sorted(r.event.version for r in selection.records(log))  # type: ignore[union-attr]

    assert found(mission="m1") == [1, 3]
    assert found(policy="main") == [1, 2]
    assert found(key="other") == [3]
    assert found(key="oth") == []
    assert found(headers={"mission-id": "m2"}) == [2]
    assert found(headers={"mission-id": "m1", "policy": "other"}) == [3]
    assert found(headers={"nope": "m1"}) == []
    assert found(where=Expression("event.accuracy >= 0.2")) == [2, 3]
    assert found(where=Expression("event.accuracy >= 0.2"), policy="main") == [2]
    assert found(where=Expression("event.accuracy >= 0.2"), policy="main", raw=True) == [2]


def test_undecodable_records_pass_unless_a_filter_looks_inside(log: MemoryLog) -> None:
    log.append([Message("evaluations", b"main", b"{broken", {"who": b"x"})])
    put(log, evaluation(1), 0)

    def found(**filters: object) -> list[bool]:
        selection = Selection(("evaluations",), **filters)  # type: ignore[arg-type]
        return [r.event is None for r in selection.records(log)]

    assert found() == [True, False]
    assert found(key="main") == [True, False]
    assert found(headers={"who": "x"}) == [True]
    assert found(where=Expression("topic == 'evaluations'")) == [True, False]
    assert found(where=Expression("event.version >= 0")) == [False]
    assert found(where=Expression("!has(event.version)")) == [True]
    assert found(policy="main") == [False]
    assert found(mission="m1") == [False]
    assert found(raw=True) == [True, True]


def test_an_unknown_topic_is_named() -> None:
    with pytest.raises(BadSelection, match=r"no topic 'evals': there are missions, problems"):
        Selection(("evals",))
    with pytest.raises(BadSelection, match="no topic is named"):
        Selection(())
    with pytest.raises(BadSelection, match="twice"):
        Selection(("samples", "samples"))


def test_progress_counts_the_offsets_of_a_topic(log: MemoryLog) -> None:
    fill(log, 2500, step_ms=1)
    told: list[tuple[str, int, int]] = []
    selection = Selection(("missions",), parse_range("500:"))
    list(selection.records(log, lambda *said: told.append(said)))
    assert told == [("missions", n, 2000) for n in (0, 1000, 2000)]


def record(event: Evaluation | SampleGroup | None = None, key: bytes | None = b"k") -> Record:
    value = event.to_bytes() if event else b"?"
    headers = {"mission-id": b"m1", "odd": b"\xff"}
    return Record(Partition("samples", 2), 41, key, value, headers, 1234, event)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("topic == 'samples' && partition == 2 && offset == 41 && timestamp_ms == 1234", True),
        ("at == 'samples[2]@41'", True),
        ("key == 'k' && headers['mission-id'] == 'm1'", True),
        ("headers['none'] == 'm1'", False),
        ("'none' in headers", False),
        ("size_bytes > 100", True),
        ("event.type == 'sample-group'", True),
        ("event.version > 2 && event.version < 3.5", True),
        ("event.nothing == 1", False),
        ("!(event.nothing == 1)", False),
        ("event.nothing == 1 || event.version == 3", True),
        ("has(event.nothing) || has(event.version)", True),
        ("has(event.batch)", False),
        ("event.rollouts.exists(r, r.reward > 0.5)", True),
        ("event.rollouts.all(r, size(r.tokens) == 4)", True),
        ("event.rollouts[7].reward > 0.5", False),
        ("event['version'] == 3", True),
        ("'version' in event", True),
        ("event == {}", False),
        ("event.problem_id.matches('^p[0-9]+$')", True),
        ("event.problem_id > 3", False),
        ("event.version / 0 == 1", False),
        ("type(event.version) == int", True),
        ("[1, 2].map(x, x + event.version).exists(y, y == 5)", True),
        ("event.source['problems-0'][1] == 1", True),
        ("true", True),
    ],
)
def test_expressions(text: str, holds: bool) -> None:
    assert Expression(text).holds(record(group("p17"))) is holds


def test_an_expression_on_what_does_not_decode() -> None:
    assert not Expression("event.version == 3").holds(record())
    assert Expression("event == {} && key == ''").holds(record(key=None))


def test_what_could_not_be_compared_is_counted_with_the_first_reason() -> None:
    expression = Expression("event.problem_id > 3")
    assert [expression.holds(record(group("p"))) for _ in range(3)] == [False] * 3
    assert expression.unfit == 3
    assert expression.unfit_because.startswith("samples[2]@41: No such overload")
    missing = Expression("event.nothing > 3")
    assert not missing.holds(record(group("p")))
    assert missing.unfit == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Failed to parse"),
        ("event.version =", "Failed to parse"),
        ("event.version == 3 &&", "Failed to parse"),
        ("(" * 5000, "Failed to parse"),
        ("topic == samples", "no name 'samples': there are topic, partition"),
        ("version > 3", "a field of the event is `event.field`"),
        ("event.x == 1 && sum(event.y) > 1", "no function 'sum': there are bool"),
    ],
)
def test_a_bad_expression_is_refused_at_once(text: str, why: str) -> None:
    with pytest.raises(BadExpression) as raised:
        Expression(text)
    assert why in str(raised.value)


def test_a_result_that_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(BadExpression, match=r"is 3 at samples\[2\]@41, neither true nor false"):
        Expression("event.version").holds(record(group("p")))


def test_an_expression_on_a_large_event_makes_only_the_fields_that_it_names() -> None:
    large = record(group("p", rollouts=100, tokens=200))
    assert len(large.value or b"") > 140_000
    assert Expression("event.version == 3").holds(large)
    assert Expression("event.rollouts.all(r, r.tokens.all(t, t == 7))").holds(large)
    assert Expression("event.rollouts.size() == 100 && 'seed' in event").holds(large)
    assert Expression("event.version == 3")._fields == {"version"}
    assert Expression("'seed' in event")._fields is None


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    try:
        held = Expression(text).holds(record(group("p")))
    except BadExpression:
        return
    assert held in (True, False)


def test_all_topics_merged_by_time(log: MemoryLog) -> None:
    put(log, evaluation(0), 300)
    put(log, group("a"), 100)
    put(log, control(0), 200)
    put(log, group("b"), 300)
    put(log, control(1), 300)
    found = merged(log, Selection(("evaluations", "missions", "samples")))
    assert [(r.timestamp_ms, r.partition.topic) for r in found] == [
        (100, "samples"),
        (200, "missions"),
        (300, "missions"),
        (300, "samples"),
        (300, "evaluations"),
    ]


def test_merged_filters_and_cuts(log: MemoryLog) -> None:
    for n in range(6):
        put(log, control(n), 100 * n)
        put(log, evaluation(n), 100 * n + 1)
    both = ("missions", "evaluations")
    in_range = merged(log, Selection(both, parse_range("@-500ms:-300ms", 600)))
    assert [r.timestamp_ms for r in in_range] == [100, 101, 200, 201]
    where = Expression("event.version == 4 || event.mission_id == 'm3'")
    assert [r.timestamp_ms for r in merged(log, Selection(both, where=where))] == [300, 401]


class Watched(MemoryLog):
    """A log that remembers its readers."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[MemoryStateReader] = []

    def state_reader(self, start: Mapping[Partition, int]) -> MemoryStateReader:
        self.readers.append(super().state_reader(start))
        return self.readers[-1]


def test_a_merge_reads_no_further_ahead_than_it_says_and_closes_its_readers() -> None:
    log = Watched()
    log.provision(list(TOPICS.values()))
    for n in range(3000):
        put(log, group(f"p{n}"), n)
    put(log, control(0), 2999)
    records = merged(log, Selection(("samples", "missions")))
    given: dict[Partition, int] = {}
    for count, found in enumerate(records):
        given[found.partition] = given.get(found.partition, 0) + 1
        ahead = {p: at for reader in log.readers for p, at in reader.positions().items()}
        assert all(at - given.get(p, 0) <= AHEAD for p, at in ahead.items())
        if count == 2000:
            break
    assert len(log.readers) == 5
    assert isinstance(records, Iterator)
    records.close()  # type: ignore[attr-defined]
    assert all(reader.positions() == {} for reader in log.readers)


@given(st.lists(st.tuples(st.sampled_from(["m", "a", "b", "c"]), st.integers(0, 9)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_merge_is_complete_keeps_each_partition_and_sorts_what_is_sorted(
    written: list[tuple[str, int]],
) -> None:
    log = MemoryLog()
    log.provision([MISSIONS, SAMPLES])
    for n, (key, at_ms) in enumerate(written):
        put(log, control(n) if key == "m" else group(f"{key}{n}"), at_ms)
    selection = Selection(("samples", "missions"))
    found, plain = list(merged(log, selection)), list(selection.records(log))
    partitions = {r.partition for r in plain}
    for partition in partitions:
        mine = [r.offset for r in found if r.partition == partition]
        assert mine == [r.offset for r in plain if r.partition == partition]
    assert len(found) == len(plain) == len(written)
    # Each record comes as early as the order of its own partition lets it.
    ready = {p: [r for r in plain if r.partition == p] for p in partitions}
    for record_ in found:
        heads = [queue[0].timestamp_ms for queue in ready.values() if queue]
        assert record_.timestamp_ms == min(heads)
        ready[record_.partition].pop(0)
