"""Lines out of files and streams of any size, plain or compressed, in pieces of whole lines and in bounded memory.

What is compressed is told by its first bytes, never by a name.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import IO, TYPE_CHECKING, Final, Protocol

import orjson

from eventstore.errors import DeliveryTooLarge, EventStoreError, InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE_BYTES = 256 * 1024
"""Bytes read at a time and cut behind their last whole line: some 250 documented deliveries, a few hundredths of a second of
reading, so that every reader has work soon and no piece waits long for the one before it."""
STEP_BYTES = 64 * 1024
"""Bytes decompressed at a time: what stands in the step that fails is lost."""
MAX_LINE_BYTES = 64 * 1024 * 1024
"""Bytes of one line of a file; a longer one is refused alone."""
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""Bytes of a file that is one JSON document rather than lines."""
LOOKED_AT = 100
"""Lines behind a wrong first one that are looked at to tell lines from one large document."""
BOM: Final = b"\xef\xbb\xbf"
"""What some programs on Windows begin a UTF-8 file with; it is no part of the first delivery."""

GZIP: Final = "gzip"
ZSTD: Final = "zstd"
ENCODINGS: Final = (GZIP, ZSTD)
"""The compressions that are read."""
_MAGIC_BYTES: Final = 6
_OTHERS: Final = {b"PK\x03\x04": "a zip archive", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x04\x22\x4d\x18": "lz4"}
"""Compressions that are only recognised, so that the error says more than that nothing of it is JSON."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive whole lines. `first` is the number of the first of them, from 1.

    `whole`: the text is one delivery, whatever line ends it holds. An error in place of the text stands for one line that
    cannot be had. `end`: the bytes of the file, as it lies there, that were read up to here.
    """

    first: int
    text: bytes | EventStoreError
    whole: bool = False
    end: int = 0

    def lines(self) -> Iterator[tuple[int, bytes | EventStoreError]]:
        """The lines with their numbers, without the newline that ends each."""
        if self.whole or isinstance(self.text, EventStoreError):
            yield self.first, self.text
            return
        yield from enumerate(self.text.removesuffix(b"\n").split(b"\n"), self.first)

    @property
    def last(self) -> int:
        """The number of the last line."""
        if self.whole or isinstance(self.text, EventStoreError):
            return self.first
        return self.first + self.text.count(b"\n", 0, -1)

    @property
    def size(self) -> int:
        """The bytes of the text."""
        return 0 if isinstance(self.text, EventStoreError) else len(self.text)


def too_long(limit: int) -> DeliveryTooLarge:
    """Why a line is refused that is longer than `limit` bytes."""
    return DeliveryTooLarge(f"the line is over the limit of {limit} bytes")


def cut(
    stream: Reading,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    piece_bytes: int = PIECE_BYTES,
    begun: bytes = b"",
    end: Callable[[], int] = lambda: 0,
) -> Iterator[Piece]:
    """Pieces of the stream, of which `begun` has been read before; each ends with a line.

    No more than a piece and a line is held. Of a line far over `max_line_bytes` nothing is kept: its place is taken by the
    error that it is refused with. One that is only just over it may still stand in a piece.
    """
    number = 1
    held: list[bytes] = []
    held_bytes = 0
    skipping = False
    before = (begun[at : at + piece_bytes] for at in range(0, len(begun), piece_bytes))
    for block in chain(before, iter(lambda: stream.read(piece_bytes), b"")):
        behind = block.rfind(b"\n") + 1
        if not behind:
            held.append(block)
            held_bytes += len(block)
            if held_bytes > max_line_bytes + len(b"\r\n"):
                skipping = True
            if skipping:
                held.clear()
            continue
        if skipping:
            yield Piece(number, too_long(max_line_bytes), end=end())
            number += 1
            text = block[block.find(b"\n") + 1 : behind]
        else:
            text = b"".join((*held, block[:behind]))
        skipping = False
        held = [block[behind:]] if behind < len(block) else []
        held_bytes = len(block) - behind
        if text:
            yield Piece(number, text, end=end())
            number += text.count(b"\n")
    if skipping:
        yield Piece(number, too_long(max_line_bytes), end=end())
    elif held:
        yield Piece(number, b"".join(held), end=end())


class Reading(Protocol):
    """A stream as it is read here."""

    def read(self, size: int, /) -> bytes: ...


class Deliveries:
    """The deliveries in an open file: lines, or one JSON document, plain or compressed.

    `name` is what errors call it. Reads the stream's beginning at once, to know what it is. Raises InputError for what is
    compressed in a way that is not read.
    """

    def __init__(self, stream: Reading, name: str) -> None:
        self.name = name
        stream = _Named(stream, name)
        magic = stream.read(_MAGIC_BYTES)
        self._raw = _Counted(magic, stream)
        self.encoding = encoding_of(magic)
        if self.encoding is None:
            other = next((told for mark, told in _OTHERS.items() if magic.startswith(mark)), None)
            if other is not None:
                raise InputError(f"{name} is {other}, which is not read; decompress it first, or use gzip or zstd")
            self._text: Reading = self._raw
        else:
            self._text = decompressed(self._raw, self.encoding, name)

    @property
    def bytes_read(self) -> int:
        """How far into the file, as it lies there, has been read."""
        return self._raw.count

    def pieces(self) -> Iterator[Piece]:
        """All that is in it, once. One JSON document over several lines is line 1; of a list, each item is a line.

        Raises InputError where the compressed data are corrupt or end too early, behind what was good.
        """
        begun = b""
        while b"\n" not in begun and len(begun) < MAX_DOCUMENT_BYTES:
            block = self._text.read(PIECE_BYTES)
            if not block:
                break
            begun += block
        begun = begun.removeprefix(BOM)
        first = begun[: begun.find(b"\n") + 1] or begun
        begins = first.lstrip()[:1]
        if begins == b"[" or (begins == b"{" and first.endswith(b"\n") and _parsed(first) is None):
            begun += _filled(self._text, MAX_DOCUMENT_BYTES - len(begun) + 1)
            document = self._document(first, begun)
            if document is not None:
                yield from document
                return
        yield from cut(self._text, begun=begun, end=lambda: self.bytes_read)

    def _document(self, first: bytes, whole: bytes) -> Iterator[Piece] | None:
        """The pieces of one JSON document, of which `first` is the first line; None if these are lines after all, of which
        the first is wrong: each is judged alone."""
        if len(whole) > MAX_DOCUMENT_BYTES:
            if _has_a_line(whole[len(first) :]):
                return None
            raise InputError(
                f"{self.name} is one JSON document of over {MAX_DOCUMENT_BYTES:,} bytes; split it, or write one delivery a "
                "line"
            )
        document = _parsed(whole)
        if isinstance(document, list):
            return self._items(document)
        if isinstance(document, dict) or first.strip() == b"{":
            return iter([Piece(1, whole, whole=True, end=self.bytes_read)])
        if first.strip() == b"[":
            raise InputError(f"{self.name} is not JSON: it begins as a list and never ends well; is it cut short?")
        return None

    def _items(self, document: list[object]) -> Iterator[Piece]:
        number, size = 1, 0
        items: list[bytes] = []
        for item in document:
            items.append(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))
            size += len(items[-1])
            if size >= PIECE_BYTES:
                yield Piece(number, b"".join(items), end=self.bytes_read)
                number += len(items)
                items, size = [], 0
        if items:
            yield Piece(number, b"".join(items), end=self.bytes_read)


def numbered(pieces: Iterable[Piece]) -> Iterator[tuple[int, bytes | EventStoreError]]:
    """The lines of pieces, one by one."""
    for piece in pieces:
        yield from piece.lines()


def encoding_of(magic: bytes) -> str | None:
    """How something that begins so is compressed; None: in no way that is read."""
    if magic.startswith(b"\x1f\x8b"):
        return GZIP
    skippable = len(magic) >= 4 and magic[0] & 0xF0 == 0x50 and magic[1:4] == b"\x2a\x4d\x18"
    return ZSTD if skippable or magic.startswith(b"\x28\xb5\x2f\xfd") else None


def decompressed(stream: Reading, encoding: str, name: str) -> Reading:
    """The stream's content, of one gzip member or zstd frame or of several behind each other; `encoding` one of ENCODINGS.

    Reading it raises InputError, which names it as `name`, where the data are corrupt or end too early.
    """
    return _Decompressed(_readable(stream), encoding, name)


class _Decompressed:
    """A decompressor whose every failure is an InputError, raised only once what was good before it has been read."""

    def __init__(self, stream: IO[bytes], encoding: str, name: str) -> None:
        self._name, self._encoding = name, encoding
        self._error: InputError | None = None
        if encoding == GZIP:
            self._content: Reading = gzip.GzipFile(fileobj=stream, mode="rb")
        else:
            import pyarrow as pa

            self._content = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), ZSTD)

    def read(self, size: int, /) -> bytes:
        parts: list[bytes] = []
        left = size
        while left and self._error is None:
            part = self._step(min(left, STEP_BYTES))
            if not part:
                break
            parts.append(part)
            left -= len(part)
        if self._error is not None and not parts:
            raise self._error
        return b"".join(parts)

    def _step(self, size: int) -> bytes:
        try:
            return self._content.read(size)
        except InputError as error:  # the file below cannot be read
            self._error = error
        except EOFError:
            self._error = self._wrong("it ends too early; is it cut short?")
        except (OSError, zlib.error) as error:
            truncated = "Truncated" in str(error)
            self._error = self._wrong(
                "it ends too early; is it cut short?" if truncated else f"it is corrupt ({error})"
            )
        return b""

    def _wrong(self, why: str) -> InputError:
        return InputError(f"{self._name} cannot be decompressed as {self._encoding} to its end: {why}")


class _Named:
    """A stream whose failures are InputErrors that name it."""

    def __init__(self, stream: Reading, name: str) -> None:
        self._stream = stream
        self._name = name

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise InputError(f"{self._name} cannot be read: {error.strerror or error}") from error


class _Counted:
    """A stream of which `begun` has been read before, and how much of it has been read since."""

    def __init__(self, begun: bytes, stream: Reading) -> None:
        self._begun = begun
        self._stream = stream
        self.count = 0

    def read(self, size: int, /) -> bytes:
        if self._begun:
            found, self._begun = self._begun[:size], self._begun[size:]
        else:
            found = self._stream.read(size)
        self.count += len(found)
        return found


class _Raw(io.RawIOBase):
    """What the decompressors take for a file."""

    def __init__(self, stream: Reading) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        found = self._stream.read(len(view))
        view[: len(found)] = found
        return len(found)


def _readable(stream: Reading) -> IO[bytes]:
    return io.BufferedReader(_Raw(stream), STEP_BYTES)


def _filled(stream: Reading, size: int) -> bytes:
    """The next `size` bytes, fewer only at the end."""
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _has_a_line(text: bytes) -> bool:
    """Whether one of the next lines is a whole delivery: then these are lines. In a document such a line is indented, or ends
    with a comma."""
    lines = text.split(b"\n", LOOKED_AT)[:LOOKED_AT]
    return any(line[:1] == b"{" and isinstance(_parsed(line), dict) for line in lines)


def _parsed(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
