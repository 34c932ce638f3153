"""Packs: numbers and bytes as scripts, since a page opened from a file may load nothing else.

A pack is JSON that tells its parts, a file such as a graph, and numbers. Half-precision numbers are
kept as a plane of low bytes and one of high bytes, which gzip makes smaller, and weights in 8 bits
beside the scale of each channel. What gzip gives is written with seven bits a character: JavaScript
text may hold every such character but four, so that a pack is 18% larger than its bytes, where
base64 adds 33%.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ESCAPED = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\r"): "\\r"}


class Part(NamedTuple):
    """Numbers of a pack; `kind` is `half`, `int8`, `int16` or `float`."""

    values: np.ndarray
    kind: str = "half"
    axis: int = 0  # of the channels that have scales of their own, in 8 bits
    levels: int = 127  # on either side of zero, in 8 bits


def pack(parts: Sequence[Part], file: bytes = b"", **facts: Any) -> bytes:
    """The bytes that `unpack` of `src/packs.js` reads."""
    heads, bodies = [], [file]
    for part in parts:
        values, head = part.values.astype(np.float32), {"kind": part.kind, "size": part.values.size}
        if part.kind == "half":
            bodies.append(planes(values.astype("<f2")))
        elif part.kind == "float":
            bodies.append(values.astype("<f4").tobytes())
        elif part.kind == "int16":
            head["scale"] = float(np.float32(np.abs(values).max() / 32767))
            bodies.append(planes(np.round(values / head["scale"]).astype("<i2")))
        else:
            others = tuple(k for k in range(values.ndim) if k != part.axis)
            scales = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-12) / part.levels
            # The numbers of a channel stand `inner` in a row, then those of the next.
            head |= {"channels": scales.size, "inner": int(np.prod(values.shape[part.axis + 1 :]))}
            bodies += [
                scales.astype("<f4").tobytes(),
                np.round(values / scales).astype("i1").tobytes(),
            ]
        heads.append(head)
    header = json.dumps(
        {"file": len(file), "parts": heads, **facts}, separators=(",", ":")
    ).encode()
    return len(header).to_bytes(4, "little") + header + b"".join(bodies)


def planes(values: np.ndarray) -> bytes:
    """The first bytes of all numbers, then the second ones."""
    return np.ascontiguousarray(values.view(np.uint8).reshape(-1, 2).T).tobytes()


def as_text(data: bytes) -> str:
    """Bytes as the inside of a JavaScript string, seven bits a character, lowest bits first."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    bits = np.pad(bits, (0, -len(bits) % 7)).reshape(-1, 7)
    return np.packbits(bits, axis=1, bitorder="little").tobytes().decode("ascii").translate(ESCAPED)


def write(folder: Path, name: str, data: bytes) -> int:
    """Write a pack as a script; returns the size of the file."""
    body = as_text(gzip.compress(data, 9, mtime=0))
    script = f'(self.PACKS ||= {{}})["{name}"] = "{body}";\n'.encode("ascii")
    (folder / f"{name}.js").write_bytes(script)
    return len(script)
