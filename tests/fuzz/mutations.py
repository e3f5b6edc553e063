"""Changes of bytes, of JSON values and of what is in containers, as a damaged or a hostile file may have them."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 10**12)
WORDS = (
    b"\0", b"\xff\xd8", b"\xff\xda", b"\xff\xc2", b"\xff\xd9", b"IHDR", b"IDAT", b"PLTE", b"IEND", b"*a", b"&a ",
    b"<<: ", b"!!python/object:os.system ", b"!!int ", b"[[[[", b"]]]]", b"{", b"}", b"(", b"R.", b"\x80\x02",
    b"<!ENTITY a 'b'>", b"&a;", b"<a>", b"</a>", b"<object>", b"'shape': (99999999999,)", b"True", b"|V0", b"|O",
    b"NaN", b"-1e999", b"\x1b[2J", b"\r", b"\n", b'"', b",", b";", b"../",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", "é".encode(),
)  # fmt: skip


def changed_bytes(random: Random, content: bytes) -> bytes:
    """Content with one to eight changes: bits, numbers, cut, doubled and moved pieces, and words of the formats."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        place = random.randrange(len(data) + 1)
        length = random.choice((1, 2, 4, 8, 64, 1024))
        kind = random.randrange(9)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << random.randrange(8)
        elif kind == 1:
            data[place : place + length] = random.randbytes(length)
        elif kind == 2:
            order, size = random.choice("<>"), random.choice("BHIQ")
            number = random.choice(NUMBERS) & (2 ** (8 * struct.calcsize(size)) - 1)
            packed = struct.pack(f"{order}{size}", number)
            data[place : place + len(packed)] = packed
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            start = random.randrange(len(data) + 1)
            data[place:place] = data[start : start + length] * random.choice((1, 2, 100))
        elif kind == 5:
            data[place:place] = random.choice(WORDS)
        elif kind == 6:
            del data[place:]
        elif kind == 7:
            data[place:place] = str(random.choice(NUMBERS)).encode()
        else:
            data[place : place + length] = bytes([random.choice((0, 255, 48))]) * length
    return bytes(data[:MOST_BYTES])


def changed_value(random: Random, value: Any) -> Any:
    """A JSON value with one part that is another: a number, a text, a part left out, doubled or nested."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.1:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: changed_value(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.9:
        place = random.randrange(len(value))
        if random.random() < 0.15:
            return value[:place] + value[place : place + 1] * random.choice((0, 2, 60)) + value[place + 1 :]
        return [*value[:place], changed_value(random, value[place]), *value[place + 1 :]]
    others = (
        *NUMBERS,
        0.5,
        -3e9,
        float("nan"),
        float("inf"),
        10**400,
        None,
        True,
        "",
        "x",
        "0" * 1000,
        "o" * 50,
        "../a",
    )
    shapes = ([], {}, [[]], [value], {"size": [12, 20], "counts": value}, [value] * 60)
    return random.choice((*others, *shapes))


def changed_json(random: Random, content: bytes) -> bytes:
    if random.random() < 0.3:
        return changed_bytes(random, content)
    value = json.loads(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        value = changed_value(random, value)
    return json.dumps(value).encode()[:MOST_BYTES]


def changed_png(random: Random, content: bytes) -> bytes:
    """A PNG with changed chunks whose checksums fit, so that the decoder looks at them."""
    chunks, place = [], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4])
        name, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        if random.random() < 0.4:
            body = changed_bytes(random, body)
        if name == b"IDAT" and random.random() < 0.2:
            body = zlib.compress(changed_bytes(random, zlib.decompress(content[place + 8 : place + 8 + length])))
        chunks.append((name, body))
        place += 12 + length
    if random.random() < 0.3:
        random.shuffle(chunks)
    if random.random() < 0.3:
        chunks.insert(random.randrange(len(chunks)), random.choice(chunks))
    packed = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return content[:8] + b"".join(packed)


def changed_zip(random: Random, content: bytes) -> bytes:
    """A .zip, or a .pth, with changed members; their checksums fit."""
    buffer = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(buffer, "w", method) as changed:
        names = whole.namelist()
        chosen = {random.choice(names)} | {name for name in names if name.endswith("data.pkl")}
        for name in names:
            body = whole.read(name)
            changed.writestr(name, changed_bytes(random, body) if name in chosen else body)
    return buffer.getvalue()


def changed_gzip(random: Random, content: bytes) -> bytes:
    """A .tgz with a changed .tar; the headers' checksums fit in half of the cases."""
    tar = bytearray(changed_bytes(random, gzip.decompress(content)))
    if random.random() < 0.5:
        for place in range(0, len(tar) - 511, 512):
            header = tar[place : place + 512]
            if header[257:262] == b"ustar":
                if random.random() < 0.3:
                    header[156] = random.choice(b"0125LKxgSX\0")
                if random.random() < 0.2:
                    header[124:136] = random.choice((b"77777777777\0", b"\x80" + b"\xff" * 11, b"00000000777\0"))
                total = sum(header) - sum(header[148:156]) + 8 * 32
                header[148:156] = b"%06o\0 " % total
                tar[place : place + 512] = header
    return gzip.compress(bytes(tar), 1)


def changed_mat(random: Random, content: bytes) -> bytes:
    """A MATLAB 5 file with a changed variable, compressed anew."""
    length = int.from_bytes(content[132:136], "little")
    inner = changed_bytes(random, zlib.decompress(content[136 : 136 + length]))
    packed = zlib.compress(inner, 1)
    return content[:128] + struct.pack("<II", 15, len(packed)) + packed


def changed_safetensors(random: Random, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = changed_json(random, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


MOST_BYTES = 2**22
"""Most bytes of a changed file: reading a document takes time in proportion to its size."""

Change = Callable[[Random, bytes], bytes]


def sometimes(change: Change) -> Change:
    """A change that is at times one of the plain bytes."""

    def changed(random: Random, content: bytes) -> bytes:
        if random.random() < 0.25:
            return changed_bytes(random, content)
        try:
            return change(random, content)
        # What was changed once may be no container any more.
        except (ValueError, zlib.error, zipfile.BadZipFile, EOFError, OSError, RecursionError):
            return changed_bytes(random, content)

    return changed
