"""Whether an audio file is as long as it says: libsndfile reads the rest of a file that was cut off without a word.

WAV, AIFF and AU name the bytes of their samples, MP3 its bytes in the Xing or VBRI header (else its frames are walked), and the last page
of an Ogg stream is marked. FLAC names its samples, which are compared where it is read.
"""

from __future__ import annotations

import struct
from pathlib import Path

from pt_core.errors import DataError

UNKNOWN = 0x7FFF_F000
"""Sizes from here up are written by programs that stream and do not know the length."""
TAIL = 1 << 17
"""Bytes at the end of an Ogg file in which its last page starts (a page has at most 65,307)."""
BITRATES = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""MPEG version (2 also for 2.5) -> kbit/s of layer III by index."""
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Version bits -> samples per second by index."""


def check_whole(path: Path, samples: int) -> None:
    """Refuse a file that was cut off.

    Args:
        samples: what libsndfile takes for its length.

    Raises:
        DataError: names the file, what it should hold and what it holds.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
            end = _chunks_end(path, head[:4])
        elif head[:4] in (b".snd", b"dns."):
            offset, length = struct.unpack(">II" if head[:1] == b"." else "<II", head[4:12])
            end = offset + length if length < UNKNOWN else 0
        elif head[:4] == b"OggS":
            return _check_ogg(path, size)
        elif head[:3] == b"ID3" or head[:1] == b"\xff":
            return _check_mp3(path, samples)
        else:
            return None
    if end > size:
        raise _cut(path, f"its header promises {end:,} bytes, it has {size:,}")
    return None


def _cut(path: Path, why: str) -> DataError:
    return DataError(f"{path} is truncated: {why}; get it again, or leave it out")


def _chunks_end(path: Path, kind: bytes) -> int:
    """Where the chunk of samples of a WAV or AIFF file should end; 0 where that is not known."""
    order = ">" if kind in (b"RIFX", b"FORM") else "<"
    large: int | None = None
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, length = head[:4], struct.unpack(f"{order}I", head[4:])[0]
            if name == b"ds64":
                content = file.read(length + length % 2)
                large = struct.unpack("<Q", content[8:16])[0] if len(content) >= 16 else None
                continue
            if name in (b"data", b"SSND"):
                if kind in (b"RF64", b"BW64") and length == 0xFFFF_FFFF:
                    return 0 if large is None else file.tell() + large
                return file.tell() + length if length < UNKNOWN else 0
            file.seek(length + length % 2, 1)
    return 0


def _check_ogg(path: Path, size: int) -> None:
    """The last page of a stream is complete and marked as its last."""
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL))
        tail = file.read()
    place = tail.rfind(b"OggS")
    page = tail[place:] if place >= 0 else b""
    lacing = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) <= 26 or len(lacing) < page[26] or len(page) < 27 + len(lacing) + sum(lacing):
        raise _cut(path, "its last Ogg page is incomplete")
    if not page[5] & 4:
        raise _cut(path, "its last Ogg page is not marked as the end of the stream")


def _check_mp3(path: Path, samples: int) -> None:
    content = path.read_bytes()
    place = 0
    while content[place : place + 3] == b"ID3" and len(content) >= place + 10:
        a, b, c, d = content[place + 6 : place + 10]
        place += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if content[place + 5] & 0x10 else 0)
    while place < len(content) and not content[place]:  # padding behind a tag
        place += 1
    first = _frame(content, place)
    if first is None:
        return  # another layer or format; libsndfile says what it thinks of it
    length, _ = first
    promised = _promised(content[place : place + min(length, 256)])
    if promised is not None:
        if place + promised > len(content):
            raise _cut(path, f"its header promises {promised:,} bytes, it has {len(content) - place:,}")
        return
    counted = 0
    while (found := _frame(content, place)) is not None:
        length, held = found
        if place + length > len(content):
            raise _cut(path, f"its last frame has {len(content) - place} of {length} bytes")
        counted, place = counted + held, place + length
    if samples < counted - 3 * 1152:
        raise DataError(
            f"{path} has frames of {counted:,} samples and no header that says so, of which only {samples:,} would be read; convert it to "
            "WAV or FLAC"
        )


def _promised(frame: bytes) -> int | None:
    """Bytes from the first frame to the end of the audio, as the Xing (Info) or VBRI header has them."""
    for name in (b"Xing", b"Info"):
        at = frame.find(name)
        if at >= 0 and len(frame) >= at + 16:
            flags = struct.unpack(">I", frame[at + 4 : at + 8])[0]
            where = at + 8 + 4 * (flags & 1)
            return struct.unpack(">I", frame[where : where + 4])[0] if flags & 2 else None
    at = frame.find(b"VBRI")
    return struct.unpack(">I", frame[at + 10 : at + 14])[0] if at >= 0 and len(frame) >= at + 14 else None


def _frame(content: bytes, place: int) -> tuple[int, int] | None:
    """(bytes, samples) of the layer III frame that starts here, or None."""
    head = content[place : place + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0 or head[1] >> 1 & 3 != 1:
        return None
    version, rate, step = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3 or step in (0, 15):
        return None
    table, samples = (1, 1152) if version == 3 else (2, 576)
    return samples // 8 * BITRATES[table][step] * 1000 // RATES[version][rate] + (head[2] >> 1 & 1), samples
