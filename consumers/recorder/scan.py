"""Reads an MCAP file from its beginning as far as it is whole, and says what is wrong with it.

Format: the MCAP specification, https://mcap.dev/spec (magic, then records of an opcode, a length of
eight bytes and the content; messages in chunks with a CRC).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Metadata, Schema
from mcap.stream_reader import CRCValidationError, breakup_chunk

MAGIC = b"\x89MCAP0\r\n"
_HEADER_BYTES = 9
_KNOWN = frozenset(int(code) for code in Opcode)
_DECOMPRESSION = (zstandard.ZstdError, RuntimeError)


class NotMcap(ValueError):
    """The file does not begin as an MCAP file does."""


@dataclass(slots=True)
class Damage:
    """What is wrong with a file; nothing where it is whole."""

    bytes: int = 0
    """At the end, that are no whole record."""
    chunks: int = 0
    """Inside, whose content is not what was written."""
    index: bool = False
    """The index and the footer are missing."""
    salvaged: int = 0
    """Messages read out of a chunk that was cut off."""

    @property
    def any(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.bytes or self.chunks or self.index)


@dataclass
class Scan:
    """Iterating gives each message with its channel and schema; `damage` is known afterwards."""

    path: Path
    damage: Damage = field(default_factory=Damage)
    metadata: list[Metadata] = field(default_factory=list)
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: int = 0

    def __iter__(self) -> Iterator[tuple[Schema | None, Channel, Message]]:
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise NotMcap(f"{self.path}: no MCAP file: it begins with other bytes")
            while (record := self._next(file, size)) is not None:
                opcode, content = record
                if opcode == Opcode.DATA_END:
                    self._judge_end(file, size)
                    return
                for message in self._messages(opcode, content):
                    channel = self.channels[message.channel_id]
                    yield self.schemas.get(channel.schema_id), channel, message
            self.damage.index = True
            for message in self._cut_off(file, size):
                channel = self.channels[message.channel_id]
                yield self.schemas.get(channel.schema_id), channel, message

    def _next(self, file: IO[bytes], size: int) -> tuple[int, bytes] | None:
        """The next whole record, or None; the file then stands where the whole ones end."""
        at = file.tell()
        header = file.read(_HEADER_BYTES)
        if len(header) == _HEADER_BYTES:
            opcode, length = struct.unpack("<BQ", header)
            if opcode in _KNOWN and length <= size - file.tell():
                return opcode, file.read(length)
        file.seek(at)
        self.damage.bytes = size - at
        return None

    def _messages(self, opcode: int, content: bytes) -> Iterator[Message]:
        stream = ReadDataStream(BytesIO(content))
        match opcode:
            case Opcode.CHUNK:
                self.chunks += 1
                try:
                    records = breakup_chunk(Chunk.read(stream), validate_crc=True)
                except (CRCValidationError, EndOfFile, ValueError, *_DECOMPRESSION):
                    self.damage.chunks += 1
                    return
                yield from self._known(records)
            case Opcode.MESSAGE:
                yield from self._known([Message.read(stream, len(content))])
            case Opcode.SCHEMA:
                self._note(Schema.read(stream))
            case Opcode.CHANNEL:
                self._note(Channel.read(stream))
            case Opcode.METADATA:
                self.metadata.append(Metadata.read(stream))

    def _known(self, records: list[object]) -> Iterator[Message]:
        for record in records:
            if isinstance(record, Message):
                if record.channel_id in self.channels:
                    yield record
            else:
                self._note(record)

    def _note(self, record: object) -> None:
        if isinstance(record, Schema):
            self.schemas[record.id] = record
        elif isinstance(record, Channel):
            self.channels[record.id] = record

    def _judge_end(self, file: IO[bytes], size: int) -> None:
        """After the messages: the index, then the footer, then the magic again."""
        opcode = 0
        while opcode != Opcode.FOOTER and (record := self._next(file, size)) is not None:
            opcode = record[0]
        whole = opcode == Opcode.FOOTER and file.read(len(MAGIC)) == MAGIC
        self.damage.index = not whole
        self.damage.bytes = 0 if whole else self.damage.bytes

    def _cut_off(self, file: IO[bytes], size: int) -> Iterator[Message]:
        """The messages at the beginning of a chunk whose end is missing."""
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or header[0] != Opcode.CHUNK:
            return
        for message in self._known(_first_of(file.read(size - file.tell()))):
            self.damage.salvaged += 1
            yield message


def _first_of(content: bytes) -> list[object]:
    """The records that can be read out of the beginning of a chunk."""
    stream = ReadDataStream(BytesIO(content))
    records: list[object] = []
    try:
        stream.read8(), stream.read8(), stream.read8(), stream.read4()  # times, size, CRC
        compression = stream.read_prefixed_string()
        stream.read8()
        data = _decompressed(compression, content[stream.count :])
        inner = ReadDataStream(BytesIO(data))
        while inner.count < len(data):
            opcode, length = inner.read1(), inner.read8()
            body = inner.read(length)
            if len(body) < length:
                break
            records += _record(opcode, body)
    except (EndOfFile, ValueError, struct.error, *_DECOMPRESSION):
        pass  # Here the file ends.
    return records


def _record(opcode: int, body: bytes) -> list[object]:
    stream = ReadDataStream(BytesIO(body))
    match opcode:
        case Opcode.MESSAGE:
            return [Message.read(stream, len(body))]
        case Opcode.SCHEMA:
            return [Schema.read(stream)]
        case Opcode.CHANNEL:
            return [Channel.read(stream)]
    return []


def _decompressed(compression: str, data: bytes) -> bytes:
    """As much as can be had of data whose end is missing."""
    if compression == "zstd":
        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))
    return b"" if compression else data
