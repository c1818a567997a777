"""Dead letters: which are meant, what may be sent again, how it is fixed, and what is kept."""

import json
from typing import Any

import pytest
from audit_books import SHA, BookLog, group, mission, problem, version
from letters_world import (
    BROKEN,
    assert_each_once,
    bury,
    die,
    drop,
    fix,
    fresh,
    planned,
    requeue,
    resolutions,
    sent,
    with_dead_problems,
)

from consumers.audit.store import StoreChecker
from consumers.deadletters.book import Book, NoSuchLetter
from consumers.deadletters.filters import Filter, Where
from consumers.deadletters.patch import BadPatch, differences, merged, parse_patch
from consumers.deadletters.rules import NEVER
from consumers.selection import BadExpression
from infra.envelope import message
from infra.log import Message
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from schemas.ids import digest
from schemas.learning import CloseStep, GradientUpload, RollbackRequest, SampleGroup
from schemas.missions import MissionControl, MissionReport, RobotMission
from schemas.tensors import ObjectRef
from schemas.topics import TOPICS

# -- patches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": None}}, {"a": {"b": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": "text"}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
        ([1, 2], {"a": 1, "b": None}, {"a": 1}),
        (None, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"x": None}, {"a": 1}),
    ],
)
def test_a_merge_patch(target: Any, patch: Any, result: Any) -> None:
    before = json.dumps(target)
    assert merged(target, patch) == result
    assert json.dumps(target) == before


def test_fields_are_set_on_top_of_a_patch() -> None:
    sets = ["problems.count=5", "policy=main", "seed=null", "a.b.c=[1]"]
    made = parse_patch('{"problems": {"count": 1, "name": "x"}}', sets)
    assert made.document == {
        "problems": {"count": 5, "name": "x"},
        "policy": "main",
        "seed": None,
        "a": {"b": {"c": [1]}},
    }
    assert made.sha256 == digest(
        b'{"a":{"b":{"c":[1]}},"policy":"main","problems":{"count":5,"name":"x"},"seed":null}'
    )


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("[1]", ()),
        ("{", ()),
        (None, ["x"]),
        (None, ["=1"]),
        (None, ["a..b=1"]),
        ('{"a":1}', ["a.b=1"]),
    ],
)
def test_what_is_no_patch_is_refused(text: str | None, sets: list[str]) -> None:
    with pytest.raises(BadPatch):
        parse_patch(text, sets)


def test_without_a_patch_the_bytes_stay() -> None:
    assert parse_patch(None).apply(b" {\xff") == b" {\xff"


def test_differences_name_fields() -> None:
    before, after = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": [1], "d": 3}
    assert differences(before, after) == [("a.b", 1, 9), ("a.c", 2, None), ("e", None, [1])]


# -- the book -----------------------------------------------------------------------------------


def test_letters_are_named_by_their_place_or_by_the_record() -> None:
    log = with_dead_problems(3)
    book = Book.read(log)
    first = next(iter(book.letters.values()))
    assert book.named("0") == book.named("dead-letters[0]@0") == book.named(first.origin) == [first]
    assert (first.reason, first.processor, first.origin_topic) == ("deadly", "sampler", "problems")
    assert first.size_bytes == len(problem(0).to_bytes())
    with pytest.raises(NoSuchLetter, match=r"dead-letters\[0\]@7"):
        book.named("7")


def test_what_came_meanwhile_is_read_on() -> None:
    log = with_dead_problems(1)
    book = Book.read(log)
    die(log, problem(1))
    assert len(book.letters) == 1
    book.catch_up()
    assert len(book.letters) == 2
    drop(log, ["0"])
    book.catch_up()
    assert [letter.offset for letter in book.waiting()] == [1]


def test_what_is_no_letter_is_passed_over_and_too_large_letters_are_not() -> None:
    log = fresh()
    large = Message("problems", b"k", b"x" * (TOPICS["problems"].max_event_bytes + 9))
    letter = die(log, large, "undecodable", detail="y" * (3 * TOPICS["problems"].max_event_bytes))
    assert len(letter.value or b"") > TOPICS["dead-letters"].max_event_bytes
    log.append(
        [Message("dead-letters", b"k", b"{"), Message("dead-letters", b"k", b'{"type":"x"}')]
    )
    assert [one.size_bytes for one in Book.read(log).letters.values()] == [len(large.value)]


# -- filters ------------------------------------------------------------------------------------


def assorted() -> MemoryLog:
    log = fresh()
    die(log, problem(0), "deadly")
    die(log, problem(1), "verifier", detail="KeyError: 'x'")
    die(log, Message("problems", b"k", BROKEN), "undecodable")
    die(log, RollbackRequest(request_id="r", policy="main", to_version=9), "x", "aggregator")
    die(log, Message("problems", b"k", b"\xff"), "undecodable", "sampler")
    return log


@pytest.mark.parametrize(
    ("by", "offsets"),
    [
        (Filter(), [0, 1, 2, 3, 4]),
        (Filter(topics=["problems"]), [0, 1, 2, 4]),
        (Filter(reasons=["deadly", "verifier"]), [0, 1]),
        (Filter(processors=["aggregator"]), [3]),
        (Filter(topics=["problems"], reasons=["x"]), []),
        (Filter(where=Where("original.index == 1")), [1]),
        (Filter(where=Where("original.problem_id == 'broken' || reason == 'x'")), [2, 3]),
        (Filter(where=Where("detail.contains('KeyError')")), [1]),
        (Filter(where=Where("original == null")), [4]),
        (Filter(where=Where("headers['mission-id'] == 'm1'")), [0, 1]),
        (Filter(where=Where("size_bytes < 5 && topic == 'problems'")), [4]),
        (Filter(reasons=["verifier"], where=Where("origin.startsWith('problems')")), [1]),
    ],
)
def test_letters_are_chosen(by: Filter, offsets: list[int]) -> None:
    log = assorted()
    found = by.select(log, list(Book.read(log).letters.values()))
    assert [letter.offset for letter in found] == offsets


@pytest.mark.parametrize("text", ["original.", "nothing == 1", "size_bytes"])
def test_a_bad_expression_is_told(text: str) -> None:
    log = assorted()
    with pytest.raises(BadExpression):
        Filter(where=Where(text)).select(log, list(Book.read(log).letters.values()))


# -- what is sent again -------------------------------------------------------------------------


def test_a_record_is_sent_as_it_was_and_says_what_it_was() -> None:
    log = fresh()
    one = problem(0)
    headers = {"policy": b"main", "x": b"y"}
    die(log, Message("problems", b"foreign", one.to_bytes(), headers, timestamp_ms=1_234_567))
    assert requeue(log).done == 1
    (copy,) = sent(log)
    assert (copy.key, copy.value, copy.timestamp_ms) == (b"foreign", one.to_bytes(), 1_234_567)
    assert copy.headers == headers | {"requeue-of": b"dead-letters[0]@0"}
    (said,) = resolutions(log)
    assert (said.letter, said.action, said.policy) == ("dead-letters[0]@0", "requeued", "main")
    assert (said.value_sha256, said.patch_sha256) == (digest(one.to_bytes()), None)
    assert (said.mission_id, said.origin) == ("m1", Book.read(log).letters[said.letter].origin)


def test_a_copy_goes_where_the_record_was() -> None:
    log = with_dead_problems(12)
    origins = {letter.at: letter.origin for letter in Book.read(log).letters.values()}
    requeue(log)
    for copy in sent(log):
        origin = origins[copy.headers["requeue-of"].decode()]
        assert origin.startswith(f"problems[{copy.partition.number}]@")
    assert_each_once(log, 12)


def test_a_fix_is_judged_and_applied() -> None:
    log = fresh()
    broken = json.loads(problem(3).to_bytes()) | {"index": "three", "policy": "wrong"}
    headers = {"policy": b"wrong", "schema": b"problem", "mission-id": b"m1"}
    value = json.dumps(broken).encode()
    die(log, Message("problems", problem(3).key.encode(), value, headers), "undecodable")
    _, made, _ = planned(log)
    assert [why for _, why in made.refused] == [
        "it would be dead again: index: Input should be a valid integer, unable to parse string as "
        "an integer"
    ]
    patch = fix(index=3, policy="main")
    _, made, _ = planned(log, patch=patch)
    assert made.first[0][1] == [("policy", "wrong", "main"), ("index", "three", 3)]
    assert not sent(log)
    assert requeue(log, patch=patch).done == 1
    (copy,) = sent(log)
    assert (copy.event, copy.key) == (problem(3), problem(3).key.encode())
    # By this header, all but the other policy's processors would pass it over unread.
    assert copy.headers["policy"] == b"main"
    assert resolutions(log)[0].patch_sha256 == patch.sha256


def test_the_key_follows_a_fix_of_what_it_names() -> None:
    log = fresh()
    die(log, Message("problems", b"broken", BROKEN), "undecodable")
    whole = json.loads(problem(5).to_bytes())
    assert requeue(log, patch=fix(**whole)).done == 1
    assert sent(log)[0].key == problem(5).key.encode()


def test_what_is_no_json_is_replaced_by_a_whole_patch() -> None:
    log = fresh()
    die(log, Message("problems", None, b"\xff\x00"), "undecodable")
    assert planned(log, patch=fix(index=1))[1].refused
    assert requeue(log, patch=fix(**json.loads(problem(1).to_bytes()))).done == 1
    assert sent(log)[0].event == problem(1)


def test_what_would_be_dead_again_needs_force() -> None:
    log = fresh()
    die(log, Message("problems", b"k", BROKEN), "undecodable")
    assert requeue(log).done == 0
    _, made, _ = planned(log, force=True)
    assert made.forced == 1
    assert requeue(log, force=True).done == 1
    (copy,) = sent(log)
    bury(log, copy, "undecodable")
    book = Book.read(log)
    old, again = book.letters.values()
    assert again.again_of == old.at and book.copies(old) == [again]
    assert list(book.waiting()) == [again]
    assert requeue(log, force=True).done == 1
    assert [c.headers["requeue-of"].decode() for c in sent(log)] == [old.at, again.at]


def test_a_second_run_finds_nothing_to_do() -> None:
    log = with_dead_problems(5)
    assert requeue(log, batch=2).done == 5
    assert requeue(log).done == 0
    _, made, _ = planned(log, ["0", "1"])
    assert (made.accepted, len(made.settled)) == ([], 2)
    assert drop(log).done == 0 and drop(log, ["3"]).before == 1
    assert_each_once(log, 5)


def test_a_record_that_two_have_buried_is_sent_once() -> None:
    log = fresh()
    (record,) = log.append([message(problem(0))])
    for processor in ("sampler-a", "sampler-b"):
        bury(log, record, processor=processor)
    _, made, _ = planned(log)
    assert (len(made.accepted), len(made.settled)) == (1, 1)
    assert requeue(log, by=Filter(processors=["sampler-b"])).done == 1
    assert requeue(log).done == 0
    assert list(Book.read(log).waiting()) == []
    assert len(sent(log)) == 1


def test_of_a_record_that_two_have_buried_one_letter_may_be_dropped() -> None:
    log = fresh()
    (record,) = log.append([message(problem(0))])
    for processor in ("sampler-a", "sampler-b"):
        bury(log, record, processor=processor)
    assert drop(log, ["0"]).done == 1
    assert [letter.offset for letter in Book.read(log).waiting()] == [1]
    assert drop(log).done == 1
    assert not sent(log)


def test_the_whole_plan_comes_before_the_first_is_sent() -> None:
    log = with_dead_problems(3)
    die(log, Message("problems", b"k", BROKEN), "undecodable")
    _, made, _ = planned(log)
    assert (len(made.accepted), len(made.refused)) == (3, 1)
    assert made.topics == {"problems": 3}
    assert requeue(log).done == 3
    assert len(list(Book.read(log).waiting())) == 1


# -- what is never sent again -------------------------------------------------------------------


@pytest.mark.parametrize("topic", NEVER)
def test_of_these_topics_nothing_is_sent_again_not_even_by_force(topic: str) -> None:
    log = fresh()
    die(log, Message(topic, b"k", b"{}"), "undecodable")
    _, made, _ = planned(log, force=True)
    assert [why for _, why in made.refused] == [NEVER[topic]]
    assert drop(log).done == 1


def test_every_topic_of_a_robot_is_among_them() -> None:
    moving = {"commands", "sensor-frames", "fused-states", "feedback", "safety-events", "releases"}
    assert moving <= NEVER.keys()
    assert TOPICS.keys() - NEVER.keys() == {
        "missions",
        "problems",
        "samples",
        "gradient-chunks",
        "evaluations",
    }


def why_not(log: MemoryLog, *, named: bool = False, **request: Any) -> str:
    places = ["0"] if named else []
    _, made, _ = planned(log, places, **request)
    return made.refused[0][1] if made.refused else ""


@pytest.mark.parametrize(
    "event",
    [
        MissionControl(mission_id="m1", action="cancel"),
        RollbackRequest(request_id="r", policy="main", to_version=1),
        MissionReport(mission_id="m1", policy="main", stage="prepared"),
    ],
)
def test_orders_and_reports_of_their_moment_are_not_sent_again(event: Any) -> None:
    log = fresh()
    die(log, event)
    assert f"a {event.type} is" in why_not(log, force=True)


def test_a_close_of_a_step_may_be_asked_again() -> None:
    log = fresh()
    die(log, CloseStep(policy="main", mission_id="m1"))
    assert requeue(log).done == 1


def test_a_mission_whose_id_is_taken_needs_another() -> None:
    log = fresh()
    die(log, mission("m2", "main"), "invalid mission", "provider")
    assert "mission 'm2' is there already (missions[0]@1)" in why_not(log)
    assert requeue(log, patch=fix(mission_id="m3")).done == 1
    assert sent(log)[0].key == b"m3"


def test_a_mission_that_never_was_one_keeps_its_id_and_only_one_takes_it() -> None:
    log = fresh()
    document = json.loads(mission("m2", "main").to_bytes()) | {"polcy": "main"}
    for _ in range(2):
        die(log, Message("missions", b"m2", json.dumps(document).encode()), "undecodable")
    assert "polcy" in why_not(log)
    _, made, _ = planned(log, patch=fix(polcy=None))
    assert len(made.accepted) == len(made.refused) == 1
    assert requeue(log, patch=fix(polcy=None)).done == 1


def test_what_moves_robots_is_sent_again_only_by_name() -> None:
    log = fresh()
    document = {
        "type": "robot-mission",
        "mission_id": "patrol",
        "robots": {"rover-1": {"kind": "patrol", "waypoints": [[1.0, 2.0]]}},
    }
    patch = fix(oops=None)
    value = json.dumps(document | {"oops": 1}).encode()
    die(log, Message("missions", b"patrol", value), "undecodable")
    assert "would move robots now" in why_not(log, patch=patch)
    assert why_not(log, named=True, patch=patch) == ""
    assert requeue(log, ["0"], patch=patch).done == 1
    assert isinstance(sent(log)[0].event, RobotMission)


@pytest.mark.parametrize("kind", ["problem", "sample"])
def test_what_belongs_to_no_mission_would_be_waited_for(kind: str) -> None:
    log = fresh()
    one = problem(0, mission_id="m9")
    die(log, one if kind == "problem" else group(one, 0, ("problems-0", 0, 1)))
    assert "no mission 'm9' in the log" in why_not(log, force=True)


def upload(source: tuple[int, int]) -> GradientUpload:
    return GradientUpload(
        upload_id="u",
        policy="main",
        mission_id="m1",
        base_version=0,
        chunks=[],
        weight=1.0,
        groups=[],
        records_sha256=SHA,
        source={"samples-0": source},
    )


def test_an_upload_that_would_overlap_is_not_sent_again() -> None:
    log = fresh()
    log.append([message(version(BookLog(), 0, marks={"samples-0": 8}))])
    die(log, upload((4, 8)))
    assert "samples-0 [4, 8): the aggregator has read up to 8" in why_not(log)
    die(log, upload((8, 12)))
    assert requeue(log).done == 1


def test_what_names_a_missing_object_is_not_sent_again() -> None:
    log, store = fresh(), MemoryStore()
    ref = store.put("samples/m1/x", b"rollouts")
    die(
        log, group(problem(0), 0, ("problems-0", 0, 1), rollouts=[], rollouts_ref=ref), "unreadable"
    )
    objects = StoreChecker(store)
    assert why_not(log, objects=objects) == ""
    store.objects["samples/m1/x"] = b"other"
    assert "samples/m1/x" in why_not(log, objects=objects)
    del store.objects["samples/m1/x"]
    assert "in vain" in why_not(log, objects=objects, force=True)
    moved = ObjectRef(key="samples/m1/y", sha256=ref.sha256, size_bytes=ref.size_bytes)
    store.put(moved.key, b"rollouts")
    patch = fix(rollouts_ref=moved.model_dump())
    assert requeue(log, patch=patch, objects=objects).done == 1
    event = sent(log)[0].event
    assert isinstance(event, SampleGroup) and event.rollouts_ref == moved


def test_what_is_of_a_newer_schema_or_too_large_is_not_sent_again() -> None:
    log = fresh()
    newer = json.loads(problem(0).to_bytes()) | {"schema_version": 9}
    die(log, Message("problems", b"k", json.dumps(newer).encode()))
    assert "schema_version 9" in why_not(log, force=True)
    log = fresh()
    die(log, problem(0))
    assert "the topic takes" in why_not(log, patch=fix(question="x" * 600_000), force=True)


def test_a_letter_of_a_topic_that_is_not_here_is_only_dropped() -> None:
    log = fresh()
    letter = json.loads(die(log, problem(0)).value or b"{}") | {"origin_topic": "elsewhere"}
    log.append([Message("dead-letters", b"k", json.dumps(letter).encode())])
    _, made, _ = planned(log, force=True)
    assert [why for _, why in made.refused] == ["there is no topic 'elsewhere' here: drop it"]
