"""Lines out of files: cut into pieces at line ends alone, whatever their size, plain or compressed."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import lines
from eventstore.errors import DeliveryTooLarge, EventStoreError, InputError
from eventstore.lines import Deliveries, Piece, cut, numbered

TEXT = b"".join(b'{"line": %d}\n' % number for number in range(30_000))


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def read(content: bytes) -> list[tuple[int, bytes | EventStoreError]]:
    """The lines of a file with that content."""
    return list(numbered(Deliveries(io.BytesIO(content), "a.ndjson").pieces()))


def expected(text: bytes) -> list[tuple[int, bytes]]:
    """What `read` gives of lines, the slow and obvious way."""
    return list(enumerate(text.removesuffix(b"\n").split(b"\n"), 1)) if text else []


some_lines = st.lists(
    st.sampled_from([b"", b"a", b"{}", b" \r", b"x" * 9, b"y" * 10, b"z" * 11, b"w" * 40]), max_size=30
)


@given(parts=some_lines, ended=st.booleans(), piece=st.integers(1, 60))
def test_pieces_hold_each_line_once_whole_under_its_number(parts: list[bytes], ended: bool, piece: int) -> None:
    text = b"\n".join(parts) + b"\n" * ended
    pieces = list(cut(io.BytesIO(text), piece_bytes=piece))
    assert list(numbered(pieces)) == expected(text)
    assert b"".join(each.text for each in pieces if isinstance(each.text, bytes)) == text
    for before, after in itertools.pairwise(pieces):
        assert after.first == before.last + 1
        assert isinstance(before.text, bytes)
        assert before.text.endswith(b"\n")


@given(parts=some_lines, ended=st.booleans(), piece=st.integers(1, 60), begun=st.integers(0, 100))
def test_a_line_over_the_limit_is_one_refusal_and_its_neighbours_stay_whole(
    parts: list[bytes], ended: bool, piece: int, begun: int
) -> None:
    text = b"\n".join(parts) + b"\n" * ended
    rest = io.BytesIO(text[begun:])
    found = list(numbered(cut(rest, max_line_bytes=10, piece_bytes=piece, begun=text[:begun])))
    wanted = expected(text)
    assert [number for number, _ in found] == [number for number, _ in wanted]
    for (_, line), (_, whole) in zip(found, wanted, strict=True):
        if isinstance(line, bytes):
            assert line == whole
        else:
            assert isinstance(line, DeliveryTooLarge)
            assert len(whole) > 10


def test_of_a_line_far_over_the_limit_nothing_is_kept() -> None:
    class Endless(io.RawIOBase):
        left = 2_000

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return b"x" * size if self.left > 0 else b"\n{}\n" if self.left == 0 else b""

    (number, refused), (last, line) = numbered(cut(Endless(), max_line_bytes=1_000_000, piece_bytes=1_000_000))
    assert (number, last, line) == (1, 2, b"{}")
    assert str(refused) == "the line is over the limit of 1000000 bytes"


HALF = len(TEXT) // 2 + 5


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(TEXT), id="gzip"),
        pytest.param(gzip.compress(TEXT[:HALF]) + gzip.compress(TEXT[HALF:]), id="two gzip members"),
        pytest.param(gzip.compress(TEXT) + bytes(512), id="gzip, padded with zeros"),
        pytest.param(b"".join(gzip.compress(TEXT[n : n + 999]) for n in range(0, len(TEXT), 999)), id="many members"),
        pytest.param(zstd(TEXT), id="zstd"),
        pytest.param(zstd(TEXT[:HALF]) + zstd(TEXT[HALF:]), id="two zstd frames"),
        pytest.param(zstd(b"") + zstd(TEXT) + zstd(b""), id="empty frames around"),
        pytest.param(b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc" + zstd(TEXT), id="a skippable frame first"),
    ],
)
def test_what_is_compressed_is_known_by_its_first_bytes_and_read_to_its_end(content: bytes) -> None:
    assert read(content) == expected(TEXT)


@pytest.mark.parametrize(
    ("content", "encoding"), [(gzip.compress(TEXT), "gzip"), (zstd(TEXT), "zstd")], ids=["gzip", "zstd"]
)
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.9999])
def test_what_is_cut_short_gives_its_good_part_and_then_an_error_that_names_the_file(
    content: bytes, encoding: str, kept: float
) -> None:
    pieces = Deliveries(io.BytesIO(content[: int(len(content) * kept)]), "a.ndjson").pieces()
    found: list[tuple[int, bytes | EventStoreError]] = []
    with pytest.raises(InputError, match=f"a.ndjson cannot be decompressed as {encoding} .* cut short"):
        found += (line for piece in pieces for line in piece.lines())
    assert found == expected(TEXT)[: len(found)]


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("pack", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_what_is_garbled_is_an_error_and_never_something_else(pack: Callable[[bytes], bytes], at: float) -> None:
    # The checksum that zstd's own program writes, and pyarrow does not, is what a wrong bit is told by.
    content = bytearray(pack(os.urandom(300_000)))
    middle = int(len(content) * at)
    content[middle : middle + 100] = bytes(100)
    content += b"garbage"
    with pytest.raises(InputError, match=r"cannot be decompressed as .* it is corrupt"):
        read(bytes(content))


@pytest.mark.parametrize(
    ("magic", "name"), [(b"PK\x03\x04rest", "zip"), (b"BZh91AY", "bzip2"), (b"\xfd7zXZ\x00rest", "xz")]
)
def test_other_compressions_are_refused_by_name(magic: bytes, name: str) -> None:
    with pytest.raises(InputError, match=f"a.ndjson is .*{name}.*decompress it first"):
        read(magic)


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert read(lines.BOM + b"{}\n[]\n") == [(1, b"{}"), (2, b"[]")]
    assert read(gzip.compress(lines.BOM + b"{}\n")) == [(1, b"{}")]
    assert read(b"") == read(lines.BOM) == read(gzip.compress(b"")) == []


def test_one_document_is_one_line_and_each_item_of_a_list_is_one() -> None:
    document = json.dumps({"coupons": [{"id": 1}]}, indent=1).encode() + b"\n"
    assert read(document) == [(1, document)]
    assert read(json.dumps([{"a": 1}, [2]], indent=1).encode()) == [(1, b'{"a":1}'), (2, b"[2]")]
    many = [{"number": number, "text": "x" * 100} for number in range(10_000)]
    assert [json.loads(line) for _, line in read(json.dumps(many).encode()) if isinstance(line, bytes)] == many


def test_lines_of_which_the_first_is_wrong_are_lines() -> None:
    assert read(b'{"a": \n{"b": 1}\n') == [(1, b'{"a": '), (2, b'{"b": 1}')]


def test_a_large_file_of_lines_of_which_the_first_is_wrong_is_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_DOCUMENT_BYTES", 100_000)
    for wrong in (b'{"cut\n', b'{"cut\n{"and again\n', b"[broken\n", b"[1,\n2]]\n", b'{"cut\n' + b"\n\xff\n" * 9):
        assert read(wrong + TEXT) == expected(wrong + TEXT)
    with pytest.raises(InputError, match="one JSON document of over 100,000 bytes; split it"):
        read(json.dumps([{"a": "x" * 200_000}], indent=1).encode())
    with pytest.raises(InputError, match="one JSON document of over 100,000 bytes; split it"):
        read(json.dumps({"coupons": ["x" * 200_000]}, indent=1).encode())


def test_how_far_a_file_was_read_is_told_in_its_own_bytes() -> None:
    for content in (TEXT, gzip.compress(TEXT), zstd(TEXT)):
        deliveries = Deliveries(io.BytesIO(content), "a.ndjson")
        ends = [piece.end for piece in deliveries.pieces()]
        assert ends == sorted(ends)
        assert ends[-1] == deliveries.bytes_read == len(content)


def test_a_piece_knows_its_last_line() -> None:
    assert Piece(5, b"a\nb\n").last == 6
    assert Piece(5, b"a\nb").last == 6
    assert Piece(5, b"a").last == 5
    assert Piece(5, b"\n").last == 5
    assert Piece(5, b"a\nb\n", whole=True).last == 5
    assert Piece(5, DeliveryTooLarge("x")).last == 5


@pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")
def test_a_wrong_bit_in_what_zstd_s_own_program_wrote_is_found_by_its_checksum() -> None:
    content = bytearray(subprocess.run(["zstd", "-q", "-c"], input=TEXT, capture_output=True, check=True).stdout)
    assert read(bytes(content)) == expected(TEXT)
    content[len(content) // 2] ^= 1
    with pytest.raises(InputError, match="it is corrupt"):
        read(bytes(content))
