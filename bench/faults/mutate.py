"""Files that were damaged: bytes at random, or one part of what a header or a page of JSON says."""

import gzip
import json
import random
import struct
import zlib
from typing import Any

ODD = (None, True, False, -1, 0, 1, 2, 1.5, 65537, 2**31, 2**32 - 1, 2**63, 2**70, -(2**63), 1e308, float("nan"))
ODD += (float("inf"), "", "x", "é", "0", "zeros", "../x", [], {}, [1], [[]], {"a": 1}, [24000, 24000], [None] * 40)
WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "I8": 1, "BOOL": 1}
WIDTHS |= {"F8_E4M3": 1, "F8_E5M2": 1}
START = 400  # bytes in which most formats say what follows
DEEP = "[" * 3000 + "]" * 3000  # json gives up with a RecursionError


def mutated(content: bytes, kind: str, draw: random.Random) -> bytes:
    """Damages a file.

    Args:
        content: Of the whole one.
        kind: "safetensors", "json" (one value), "lines" (a value in every line), "start" (bytes, mostly the first),
            "png" and "gzip" (often with checksums that are right again), "zip" (that ends with what it holds) or
            "bytes".
        draw: Decides how.
    """
    way = draw.random()
    if kind == "start":
        return _bytes_changed(content, draw, min(START, len(content)))
    if kind == "png":
        data = _bytes_changed(content, draw, min(START, len(content)))
        return _checked(data) if way < 0.6 else data
    if kind == "gzip" and way < 0.6:
        return gzip.compress(_bytes_changed(gzip.decompress(content), draw, 16), mtime=0)
    if kind == "zip" and way < 0.3:
        return _bytes_changed(content[::-1], draw, min(START, len(content)))[::-1]
    if kind in ("gzip", "zip"):
        return _bytes_changed(content, draw, min(START, len(content)))
    if way < 0.35 or kind == "bytes":
        return _bytes_changed(
            content, draw, 8 + int.from_bytes(content[:8], "little") if kind == "safetensors" else None
        )
    if kind == "safetensors":
        size = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:size])
        header = _tensors_changed(header, draw) if way < 0.6 else _facts_changed(header, draw)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + content[size:]
    if kind == "lines":
        lines = content.splitlines(keepends=True)
        at = draw.randrange(len(lines))
        lines[at] = mutated(lines[at].rstrip(b"\n"), "json", draw) + b"\n"
        return b"".join(lines)
    return DEEP.encode() if way < 0.37 else json.dumps(changed(json.loads(content), draw)).encode()


def changed(value: Any, draw: random.Random) -> Any:
    """A JSON value of which one part is another; a string that is JSON itself is entered."""
    if isinstance(value, str) and value[:1] in ("{", "[") and draw.random() < 0.95:
        try:
            return DEEP if draw.random() < 0.02 else json.dumps(changed(json.loads(value), draw))
        except ValueError:
            pass
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name, way = draw.choice(sorted(value)), draw.random()
        if way < 0.8:
            return value | {name: changed(value[name], draw)}
        others = {key: v for key, v in value.items() if key != name}
        return others if way < 0.9 else others | {f"{name}_": value[name]}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at, way = draw.randrange(len(value)), draw.random()
        if way < 0.7:
            return value[:at] + [changed(value[at], draw)] + value[at + 1 :]
        return value[:at] + value[at + 1 :] if way < 0.85 else value[:at] + value[at:] + value[at:]
    if type(value) in (int, float) and draw.random() < 0.4:
        return draw.choice([value + 1, value - 1, value * 2, -value, value / 2])
    return draw.choice(ODD)


def _bytes_changed(content, draw, header):
    """Flips, cuts, doubles or overwrites bytes; mostly those of its header, the first so many."""
    data, way = bytearray(content), draw.random()
    end = header if header and draw.random() < 0.7 else len(data)
    at = draw.randrange(end)
    if way < 0.5:
        for _ in range(draw.choice((1, 1, 2, 8))):
            data[draw.randrange(end)] ^= 1 << draw.randrange(8)
    elif way < 0.7:
        del data[at:]
    elif way < 0.8:
        del data[at : at + draw.choice((1, 2, 4, 100))]
    elif way < 0.9:
        data[at:at] = data[max(0, at - 64) : at] or b"\0"
    else:
        data[at : at + 64] = bytes(draw.choice((0, 255)) for _ in range(64))
    return bytes(data)


def _checked(png):
    """A PNG whose chunks have the checksums of what is in them."""
    data, at = bytearray(png), 8
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def _tensors_changed(header, draw):
    """Another name, type, shape or place of a tensor."""
    names = [name for name in header if name != "__metadata__"]
    name, way = draw.choice(names), draw.random()
    entry = dict(header[name])
    others = {key: value for key, value in header.items() if key != name}
    if way < 0.25:
        entry["dtype"] = draw.choice([d for d in WIDTHS if WIDTHS[d] == WIDTHS.get(entry["dtype"], 4)])
    elif way < 0.5:
        shape = list(entry["shape"])
        draw.shuffle(shape)
        numbers = 1
        for size in shape:
            numbers *= size
        entry["shape"] = draw.choice([shape, [numbers], [1, *shape], [*shape, 1], shape[::-1]])
    elif way < 0.65:
        return others | {draw.choice([f"{name}_", name[:-1], name.replace(".", "_")]): entry}
    elif way < 0.75 and len(names) > 1:
        other = draw.choice([n for n in names if n != name])
        return header | {name: header[other], other: entry}
    else:
        return header | {name: changed(entry, draw)}
    return others | {name: entry}


def _facts_changed(header, draw):
    """Another part of what the header says beside the tensors."""
    facts = header.get("__metadata__", {})
    if draw.random() < 0.1:
        return header | {
            "__metadata__": draw.choice([[], None, "x", {}, {"nca_fast": draw.choice(["null", "[]", "1"])}])
        }
    name = "nca_fast" if "nca_fast" in facts else draw.choice(sorted(facts))
    return header | {"__metadata__": facts | {name: changed(facts[name], draw)}}
