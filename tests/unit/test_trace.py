"""From any id to its causes and its effects: what is linked, what is said, and what is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import test_spilled
from audit_books import mission, problem, version
from loop_world import Loop
from trace_scene import Scene, acting, learning
from typer.testing import CliRunner

from consumers.read import read
from consumers.trace import AmbiguousId, Traced, UnknownId, trace
from consumers.trace.outline import outline
from consumers.trace.pictures import dot, mermaid
from consumers.trace.summary import by_mission, by_upload, summary
from infra.cli import app
from infra.log import Log
from infra.memory.log import MemoryLog
from infra.memory.store import MemoryStore
from schemas.learning import CloseStep, GradientUpload, RollbackRequest, SampleGroup, WeightVersion
from schemas.topics import TOPICS


@pytest.fixture(scope="module")
def learnt() -> Scene:
    return learning(Scene(MemoryLog()))


@pytest.fixture(scope="module")
def acted() -> Scene:
    return acting(Scene(MemoryLog()))


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """Two missions, a rollback and a step closed early, by the product's own processors."""
    at = Loop(tmp_path_factory.mktemp("loop"))
    at.submit(at.mission("a", problems=24, training={"uploads_per_step": 2}))
    at.submit(RollbackRequest(request_id="r1", policy="p", to_version=1, reason="test"))
    at.submit(at.mission("b", problems=8, training={"uploads_per_step": 3}))
    at.submit(CloseStep(policy="p", mission_id="b"))
    return at


def up(scene: Scene, id_: str, **options: Any) -> Traced:
    return trace(id_, scene.log, scene.store, down=False, **options)


def down(scene: Scene, id_: str, **options: Any) -> Traced:
    return trace(id_, scene.log, scene.store, up=False, **options)


def names(scene: Scene, traced: Traced) -> set[str]:
    """The slots that a trace reached, but for its roots."""
    roots = {node.ref for node in traced.roots}
    reached = traced.graph.nodes.keys() - roots
    return {slot.name for slot in scene.slots.values() if slot.at in reached}


def edges(traced: Traced) -> set[tuple[str, str, str]]:
    return {(edge.cause, edge.how, edge.effect) for edge in traced.graph.edges}


# -- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "above", "below"),
    [
        ("m2", "", "p4 g4 u1 v1 e1"),
        ("p0", "m1", "g0 u0 v1 e1"),
        ("g1", "p1 m1 v0", "u0 v1 e1"),
        ("g2", "p2 m1 v0", "u1"),
        ("g5", "p5 m1 v0", "u2 refusal"),
        ("u1", "g4 g2 p4 m2 v0", "v1 e1"),
        ("u2", "g5 p5 m1 v0", "refusal"),
        ("v1", "u0 u1 g0 g1 g2 g4 p0 p1 p4 m1 m2 v0", "e1 expired"),
        ("e1", "v1 u0 u1 g0 g1 g2 g4 p0 p1 p4 m1 m2 v0", ""),
        ("refusal", "u2", ""),
        ("back", "v0", "v2"),
        ("v2", "back v0", "g6 u3 v3"),
        ("close", "m1", "v3"),
        ("v3", "u3 g6 p6 close m1 v2", "result"),
        ("expired", "v0 v1", ""),
        ("result", "m1 v3", ""),
        ("prepared", "m1", ""),
        ("h0", "v0 m1", ""),
        ("corrupt", "", "letter-corrupt"),
        ("p3", "m1", "letter resolution p3-again g3"),
        ("letter", "p3 m1", "resolution p3-again g3"),
        ("g3", "p3-again letter p3 m1 v0", ""),
    ],
)
def test_a_record_of_learning_has_its_causes_and_effects(
    learnt: Scene, slot: str, above: str, below: str
) -> None:
    at = learnt[slot].at
    assert names(learnt, up(learnt, at)) == set(above.split())
    assert names(learnt, down(learnt, at)) == set(below.split())


def test_what_a_version_only_lent_its_name_to_is_told_and_not_followed(learnt: Scene) -> None:
    found = names(learnt, down(learnt, "main@0"))
    named = {"g0", "g1", "g2", "g3", "g4", "g5", "u0", "u1", "u2", "v1", "v2", "h0", "expired"}
    assert named | {"back"} <= found
    assert "e1" not in found


def test_parents_are_followed_as_far_as_is_asked(learnt: Scene) -> None:
    assert "back" not in names(learnt, up(learnt, "main@3"))
    assert "back" in names(learnt, up(learnt, "main@3", parents=1))


def test_what_made_its_parents_is_no_batch_of_a_version(learnt: Scene) -> None:
    traced = up(learnt, "main@3", parents=3)
    assert [one.groups for one in by_mission(traced.graph, traced.roots[0])] == [1]


def test_depth_bounds_both_ways(learnt: Scene) -> None:
    assert names(learnt, up(learnt, "main@1", depth=1)) == {"u0", "u1", "v0"}
    assert names(learnt, down(learnt, learnt["p0"].at, depth=2)) == {"g0", "u0"}


def test_the_summary_answers_first_and_the_bad_mission_stands_first(learnt: Scene) -> None:
    traced = up(learnt, "main@1")
    root = traced.roots[0]
    assert summary(traced.graph, root) == (
        "version 1 of main: step of 2 uploads, 3 groups, 6 rollouts, of 2 missions; "
        "sampled under version 0; mean staleness 0.5; mean reward 0.50"
    )
    missions = by_mission(traced.graph, root)
    assert [(one.name, one.groups, one.reward) for one in missions] == [
        ("mission m2", 1, 0.0),
        ("mission m1", 2, 0.75),
    ]
    assert [one.reward for one in by_upload(traced.graph, root)] == [0.0, 0.75]


def test_a_copy_in_a_sandbox_names_its_original() -> None:
    scene = Scene(MemoryLog())
    scene.put("m1", mission("m1", "main"))
    scene.put("p", problem(0), headers={"replay-of": b"problems[2]@17"})
    missing = up(scene, scene["p"].at).missing
    assert [str(node.name) for node in missing] == ["original:problems[2]@17"]


# -- acting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slot", "above", "below"),
    [
        ("f1", "", "x1 k1 k2 b0 b1"),
        ("x0", "f0", "k0 b0"),
        ("k0", "x0 f0 claim patrol", "b0"),
        ("k2", "x1 f1 f2 v1 swapped claim", "b1"),
        ("b0", "k0 k1 x0 x1 f0 f1 f2 claim patrol", ""),
        ("claim", "", "k0 k1 k2"),
        ("offer", "v1 e1", "swapped"),
        ("swapped", "offer v1 e1", "k2"),
        ("order", "", "stop"),
        ("stop", "order", ""),
        ("patrol", "", "k0 done"),
        ("done", "patrol", ""),
        ("v1", "", "h1 e1 offer swapped"),
    ],
)
def test_a_record_of_a_robot_has_its_causes_and_effects(
    acted: Scene, slot: str, above: str, below: str
) -> None:
    at = acted[slot].at
    found = names(acted, up(acted, at, depth=None))
    assert found == set(above.split())
    assert names(acted, down(acted, at)) == set(below.split())


def test_a_command_says_which_version_decided_from_which_frames(acted: Scene) -> None:
    traced = trace(acted["k2"].event.command_id, acted.log, acted.store)
    places = {name: acted[name].at for name in ("x1", "f1", "f2", "b1")}
    assert summary(traced.graph, traced.roots[0]) == (
        f"command {acted['k2'].event.command_id}: decided by reach@1; "
        f"from 1 state ({places['x1']}); from 2 frames ({places['f1']} to {places['f2']}); "
        f"applied ({places['b1']})"
    )


# -- ids ------------------------------------------------------------------------------------------


def test_every_kind_is_found_by_its_id(learnt: Scene, acted: Scene) -> None:
    p0, g0 = learnt["p0"].event.problem_id, learnt["g0"].event.group_id
    ids = {
        "m2": "m2",
        "p0": p0,
        "g0": g0,
        "u0": "upload:u0",
        "v1": "main@1",
        "e1": "evaluation:main@1",
        "back": "rollback:back",
        "letter": f"dead-letter:{learnt['p3'].at}",
    }
    for slot, id_ in ids.items():
        assert [node.at for node in up(learnt, id_, depth=1).roots] == [learnt[slot].at], id_
    claim = acted["claim"].offset
    ids = {
        "k1": f"rover.{claim}.1",
        "f1": "frame:rover.b1.1",
        "x1": "state:rover.b1.2",
        "b1": "feedback:rover.b1.1",
        "stop": "safety:rover.0",
        "order": "order:halt-1",
        "v1": "version 1",
    }
    for slot, id_ in ids.items():
        assert [node.at for node in up(acted, id_, depth=1).roots] == [acted[slot].at], id_
    steps = [node.at for node in up(acted, "r1", depth=1).roots]
    assert steps == [acted["offer"].at, acted["swapped"].at]


def test_an_id_of_several_kinds_is_not_guessed(acted: Scene) -> None:
    with pytest.raises(AmbiguousId, match="several kinds") as error:
        up(acted, "rover.b1.0")
    told = {
        name: acted[slot].at
        for name, slot in (("frame", "f0"), ("state", "x0"), ("feedback", "b0"))
    }
    assert error.value.names == {f"{name}:rover.b1.0": at for name, at in told.items()}
    assert "ralo trace frame:rover.b1.0" in str(error.value)


def test_a_version_of_several_policies_is_not_guessed(learnt: Scene) -> None:
    log = Scene(MemoryLog())
    for policy in ("one", "two"):
        event = learnt["v0"].event.model_copy(update={"policy": policy})
        log.put(policy, event)
        log.put(f"head {policy}", learnt["h0"].event.model_copy(update={"policy": policy}))
    with pytest.raises(AmbiguousId, match="version:two@0"):
        up(log, "version 0")
    assert up(log, "version 0", policy="two").roots[0].name.id == "two@0"


@pytest.mark.parametrize(
    ("id_", "said"),
    [
        (
            "nobody",
            r"nothing is called nobody; looked for as mission, release in\n  missions \[0\] 0:",
        ),
        ("main@9", r"weight-versions \[\d\] 0:[\s\S]*the newest version of main is main@0"),
        ("samples[0]@999", r"samples\[0\] ends at"),
        ("samples[77]@0", r"no partition samples\[77\]"),
        ("nothing[0]@1", r"no topic nothing: there are missions,"),
        ("version 7", r"looked for as version"),
        ("two words", r"is no id: it is topic\[partition\]@offset, or mission:MISSION"),
    ],
)
def test_an_unknown_id_says_what_was_looked_for_and_how_far_the_log_reaches(
    learnt: Scene, id_: str, said: str
) -> None:
    with pytest.raises(UnknownId, match=said):
        up(learnt, id_)


# -- what is not there ----------------------------------------------------------------------------


def test_what_retention_took_is_said() -> None:
    scene = learning(Scene(MemoryLog()))
    for name in ("p0", "g4"):
        slot = scene[name]
        logs = scene.log.cluster.topics[slot.partition.topic]  # type: ignore[attr-defined]
        logs[slot.partition.number].truncate(slot.offset + 1)
    traced = up(scene, "main@1")
    assert {"u0", "u1"} <= names(scene, traced)
    lost = {str(node.name): node.missing for node in traced.missing}
    assert any("retention deleted it: samples[" in why for why in lost.values())
    assert any("retention deleted it: problems[" in why for why in lost.values())
    assert f"record:{scene['g4'].at}" in lost
    with pytest.raises(UnknownId, match="retention deleted it"):
        up(scene, scene["g4"].at)


def test_what_was_moved_to_the_store_is_read_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_spilled.BOUND, 0)
    at = test_spilled.fresh(tmp_path)
    at.run()
    step = next(event for event in at.versions() if event.kind == "step")
    assert step.spilled and not step.uploads
    id_ = f"{step.policy}@{step.version}"
    traced = trace(id_, at.log, at.store, down=False, depth=1)
    assert traced.read["read_objects"] > 0 and not traced.missing
    assert [node.name.kind for node in traced.graph.nodes.values()].count("upload") == 2
    at.store.delete([step.spilled.key])
    blind = trace(id_, at.log, at.store, down=False, depth=1)
    assert [node.name.id for node in blind.missing] == [step.spilled.key]
    assert "an object that cannot be had" in blind.missing[0].missing


def test_rewards_in_an_object_count() -> None:
    scene = Scene(MemoryLog())
    scene.put("m1", mission("m1", "main"))
    scene.put("p0", problem(0))
    inline: SampleGroup = scene.answer("g0", "p0", 0, 0.25).event
    data = b"[" + b",".join(r.model_dump_json().encode() for r in inline.rollouts) + b"]"
    moved = inline.model_copy(update={"use": 1, "rollouts": []})
    ref = scene.store.put("r", data)
    scene.put("g1", moved.model_copy(update={"rollouts_ref": ref}))
    assert up(scene, scene["g1"].at).roots[0].facts["reward"] == 0.25


# -- the product's own log ------------------------------------------------------------------------


def test_up_and_down_say_the_same_of_a_whole_log(loop: Loop, acted: Scene) -> None:
    """Each cause of each record has that record among its effects, and the other way round."""
    for log, store in ((loop.log, loop.store), (acted.log, acted.store)):
        rising, falling = _every_edge(log, store, "up"), _every_edge(log, store, "down")
        # Which commands a version decided, its releases tell; what is missing tells nothing.
        places = {record.at for topic in TOPICS for record in read(topic, log=log)}
        rising = {e for e in rising if e[1] != "decided by" and e[0] in places}
        assert rising == falling
        assert len(rising) > 20


def _every_edge(log: Log, store: MemoryStore, way: str) -> set[tuple[str, str, str]]:
    found: set[tuple[str, str, str]] = set()
    for topic in TOPICS:
        for record in read(topic, log=log):
            options = {"up": way == "up", "down": way == "down", "depth": 1}
            found |= edges(trace(record.at, log, store, **options))  # type: ignore[arg-type]
    return found


def test_the_samples_that_made_each_version_are_those_of_its_uploads(loop: Loop) -> None:
    uploads = {r.at: r.event for r in loop.records("gradient-chunks")}
    versions: list[WeightVersion] = loop.events(WeightVersion)
    assert {event.kind for event in versions} == {"base", "step", "rollback"}
    for event in versions:
        traced = trace(f"p@{event.version}", loop.log, loop.store, down=False)
        made: list[GradientUpload] = [uploads[one.at] for one in event.uploads]
        expected = {use.at for upload in made for use in upload.groups}
        groups = {n.at for n in traced.graph.nodes.values() if n.name.kind == "group"}
        assert groups == expected and not traced.missing


def test_edges_go_forward_in_time_so_there_is_no_cycle(loop: Loop) -> None:
    graph = trace("a", loop.log, loop.store).graph
    for edge in graph.edges:
        cause, effect = graph.nodes[edge.cause], graph.nodes[edge.effect]
        assert cause.timestamp_ms <= effect.timestamp_ms


def test_a_trace_reads_what_it_needs_and_no_more() -> None:
    scene = _wide(1000)
    whole = sum(1 for topic in TOPICS for _ in read(topic, log=scene.log))
    assert whole > 2000
    traced = up(scene, "main@5")
    assert len(traced.graph.nodes) == 1 + 1 + 10 + 10 + 1 + 1  # itself, upload … mission, parent
    ranges = traced.read["read_ranges"]
    spans = {
        name: max(b for _, b in some) - min(a for a, _ in some) for name, some in ranges.items()
    }
    assert sum(spans[name] for name in spans if name.startswith(("samples", "problems"))) <= 80
    assert traced.read["read_records"] < 150
    one = scene["g500"]
    found = down(scene, one.at)
    assert names(scene, found) == {"u50", "v51"}
    assert found.read["read_records"] < 300


def _wide(groups: int) -> Scene:
    """Versions of one upload of ten groups each."""
    scene = Scene(MemoryLog())
    scene.put("m1", mission("m1", "main"))
    scene.put("v0", version(scene, 0))
    for index in range(groups):
        scene.put(f"p{index}", problem(index), at_ms=10_000 * index)
        scene.answer(f"g{index}", f"p{index}", index // 10, 0.5)
    for number in range(groups // 10):
        listed = [f"g{index}" for index in range(10 * number, 10 * number + 10)]
        scene.learn(f"u{number}", number, *listed)
        scene.step(f"v{number + 1}", number + 1, f"u{number}")
    return scene


def test_an_effect_is_found_where_clocks_ran_backward() -> None:
    scene = Scene(MemoryLog())
    scene.put("m1", mission("m1", "main"))
    scene.put("p0", problem(0), at_ms=86_400_000)
    scene.answer("g0", "p0", 0, 0.5)  # By a clock that is a day late.
    assert names(scene, down(scene, scene["p0"].at)) == {"g0"}


# -- how it is shown ------------------------------------------------------------------------------


def test_json_has_nodes_edges_and_what_was_read(learnt: Scene) -> None:
    document = json.loads(json.dumps(up(learnt, "main@1").document()))
    refs = {node["ref"] for node in document["nodes"]}
    assert document["roots"] == [learnt["v1"].at] and learnt["g4"].at in refs
    assert all({edge["cause"], edge["effect"]} <= refs for edge in document["edges"])
    assert document["missions"][0]["name"] == "mission m2"
    assert document["read_records"] > 0 and document["summary"].startswith("version 1 of main")


def test_siblings_are_collapsed_the_worst_first() -> None:
    scene = _wide(10)
    for index in range(10, 20):
        scene.put(f"p{index}", problem(index))
        scene.answer(f"g{index}", f"p{index}", 1, index / 20)
    scene.learn("u1", 1, *[f"g{index}" for index in range(19, 9, -1)])
    traced = up(scene, "main@1")
    traced = up(scene, scene["u1"].at)
    tree = outline(traced.graph, traced.roots[0], "up")
    shown = [item for item in tree.items if item.how == "learns from"]
    assert [item.node.facts["reward"] for item in shown if item.node] == [0.5, 0.55, 0.6, 0.65, 0.7]
    assert (shown[-1].text, shown[-1].hidden) == ("… 5 more groups, mean reward 0.850", 5)
    every = outline(traced.graph, traced.roots[0], "up", every=True)
    assert len([item for item in every.items if item.how == "learns from"]) == 10


def test_pictures_have_a_box_a_node_and_an_arrow_an_edge(learnt: Scene) -> None:
    traced = up(learnt, "main@1")
    trees = [("up", outline(traced.graph, traced.roots[0], "up", every=True))]
    chart, digraph = mermaid(trees), dot(trees)  # type: ignore[arg-type]
    nodes, links = len(traced.graph.nodes), len(traced.graph.edges)
    assert chart.count('["') == nodes and chart.count("-->") == links
    assert digraph.count("[label=") == nodes + links and digraph.count(" -> ") == links
    assert learnt["g4"].at in chart and learnt["g4"].at in digraph
    assert chart.splitlines()[0] == "flowchart LR" and digraph.endswith("}")


def test_the_verb_prints_summary_rewards_and_tree(
    learnt: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.connect.connect_log", lambda config: learnt.log)
    monkeypatch.setattr("infra.connect.connect_store", lambda config: learnt.store)
    said = _invoke("main@1", "--up")
    lines = said.splitlines()
    assert lines[0].startswith("version 1 of main: step of 2 uploads")
    assert lines[1].strip().startswith("mission m2: mean reward 0.000")
    assert any(learnt["g4"].at in line and "learns from" in line for line in lines)
    assert "led to" not in said
    assert _invoke("version", "1", "--up", "--dot").startswith("digraph")
    assert json.loads(_invoke("main@1", "--json"))["roots"] == [learnt["v1"].at]
    failed = CliRunner().invoke(app, ["trace", "nobody"])
    assert isinstance(failed.exception, UnknownId)


def _invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["trace", *arguments])
    assert done.exit_code == 0, done.exception
    return done.stdout
