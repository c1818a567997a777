"""Copies keep all of a record but its offset, and say what they are copies of."""

from collections.abc import Sequence

from contract_helpers import FOUR, World

from infra.copying import REPLAY_OF, Raw, RawReader, original_of
from infra.log import Log, Message
from infra.store import ObjectStore
from schemas.partitioner import partition_for
from schemas.records import Partition

HOME = Partition("four", partition_for(b"key", 4))
ELSEWHERE = Partition("four", (HOME.number + 1) % 4)


def given(n: int, **changes: bytes) -> Message:
    headers = {"schema": b"problem", "empty": b"", **changes}
    return Message("four", b"key", f"value {n}".encode(), headers, 1_700_000_000_000 + n)


def read(world: World, reader: RawReader, until: int) -> list[Raw]:
    found: list[Raw] = []
    for _ in world.tries():
        found += reader.poll(100, 0.1)
        if reader.position >= until:
            break
    assert reader.position >= until
    return found


def written(world: World, log: Log, at: Partition) -> list[Raw]:
    first, after = log.ends("four")[at]
    reader = log.raw_reader(at, first)
    found = read(world, reader, after)
    reader.close()
    return found


def copy(log: Log, to: Partition, records: Sequence[Raw]) -> None:
    copier = log.copier()
    copier.copy(to, "four[0]", records)
    copier.flush()
    copier.close()


def test_a_copy_keeps_key_value_headers_and_time(world: World, log: Log) -> None:
    log.provision([FOUR])
    log.append([given(n) for n in range(5)])
    originals = written(world, log, HOME)
    # Where its key would not lead it.
    copy(log, ELSEWHERE, originals)
    copies = written(world, log, ELSEWHERE)
    assert [raw[1:4] for raw in copies] == [raw[1:4] for raw in originals]
    assert [raw.timestamp_ms for raw in copies] == [1_700_000_000_000 + n for n in range(5)]
    for original, found in zip(originals, copies, strict=True):
        assert list(found.headers[:-1]) == list(original.headers)
        assert found.headers[-1] == (REPLAY_OF, f"four[0]@{original.offset}".encode())


def test_a_copy_of_a_copy_says_what_it_was_copied_from(world: World, log: Log) -> None:
    log.provision([FOUR])
    log.append([given(0, **{REPLAY_OF: b"older[0]@7"})])
    copy(log, ELSEWHERE, written(world, log, HOME))
    (found,) = written(world, log, ELSEWHERE)
    assert original_of(found.headers) == "four[0]@0"
    assert original_of(written(world, log, HOME)[0].headers) == "older[0]@7"
    assert original_of(()) is None


def test_what_was_aborted_is_not_read_and_markers_are_passed(world: World, log: Log) -> None:
    log.provision([FOUR])
    writer = log.writer("t")
    writer.publish([given(0)], {}, "g", world.nobody)
    log.append([given(1)])
    writer.publish([given(2)], {}, "g", world.nobody)
    # A commit is answered before the broker has written its marker.
    for _ in world.tries():
        _, after = log.ends("four")[HOME]
        if after == 5:
            break
    reader = log.raw_reader(HOME, 0)
    found = read(world, reader, after)
    assert [raw.value for raw in found] == [b"value 0", b"value 1", b"value 2"]
    assert after == 5 and reader.position == 5, "each transaction ends in a marker"


def test_a_raw_reader_begins_where_it_is_told(world: World, log: Log) -> None:
    log.provision([FOUR])
    log.append([given(n) for n in range(5)])
    reader = log.raw_reader(HOME, 3)
    assert reader.position == 3
    assert [raw.offset for raw in read(world, reader, 5)] == [3, 4]
    assert reader.poll(10, 0.05) == []


def test_the_size_of_an_object_is_known_without_reading_it(store: ObjectStore) -> None:
    store.put("a/b", b"12345")
    assert store.size_of("a/b") == 5
    assert store.size_of("a") is None
    assert store.size_of("a/c") is None
