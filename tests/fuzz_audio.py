"""Throw broken sound files at the loader: `python tests/fuzz_audio.py SEED ROUNDS` prints what happened as JSON."""

import io
import json
import struct
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

from rap_analyzer.music.audio import BadAudio, load

SR, SECONDS = 22_050, 3
KINDS = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": None, "AIFF": "PCM_16", "AU": "PCM_16"}
FACTS = {"WAV": (20, 36), "FLAC": (8, 22), "AIFF": (18, 54), "AU": (12, 24), "OGG": (28, 58),
         "MP3": (0, 4)}  # where rate and depth stand
M4A = struct.pack(">I", 32) + b"ftypM4A \0\0\2\0isomiso2" + bytes(8) + b"\0\0\0\x08free\0\0\x0f\xa0mdat"


def encoded(kind: str) -> bytes:
    "Some seconds of noise and tone as a file."
    t = np.arange(SR * SECONDS) / SR
    x = 0.4 * np.sin(2_000 * t) + 0.1 * np.random.default_rng(7).standard_normal(len(t)).clip(-3, 3)
    out = io.BytesIO()
    soundfile.write(out, x, SR, format=kind, subtype=KINDS[kind])
    return out.getvalue()


def cut(data: bytes, rng: np.random.Generator, kind: str) -> bytes: return data[: int(rng.integers(1, len(data)))]


def lie(data: bytes, rng: np.random.Generator, kind: str) -> bytes:
    "Other bytes in the header, but for those that say what a sample is."
    free = [i for i in range(64) if not FACTS.get(kind, (0, 0))[0] <= i < FACTS.get(kind, (0, 0))[1]]
    out = bytearray(data)
    for i in rng.choice(free, int(rng.integers(1, 5)), replace=False):
        out[i] = rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))])
    return bytes(out)


def scribble(data: bytes, rng: np.random.Generator, kind: str) -> bytes:
    "Any bytes of the header, also those."
    at = int(rng.integers(0, 60))
    return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at + 8:]


def insert(data: bytes, rng: np.random.Generator, kind: str) -> bytes:
    "Something foreign in the middle."
    at = int(rng.integers(len(data) // 4, len(data)))
    return data[:at] + rng.bytes(int(rng.integers(1, 5_000))) + data[at:]


def lose(data: bytes, rng: np.random.Generator, kind: str) -> bytes:
    "A piece that is missing in the middle."
    at = int(rng.integers(len(data) // 4, len(data)))
    return data[:at] + data[at + int(rng.integers(1, len(data) // 3)):]


def front(data: bytes, rng: np.random.Generator, kind: str) -> bytes:
    "A tag in front whose length is wrong."
    size = rng.integers(0, 128, 4, dtype=np.uint8)
    size[:2] = 0
    return b"ID3\4\0\0" + size.tobytes() + bytes(int(rng.integers(0, 900))) + data


def peak_mb() -> float:
    "The most memory this program held; `getrusage` would count what the process held that started it."
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1e3


def main(seed: int, rounds: int) -> dict:
    "How often what happened; what was heard in part without a word; what took longest."
    rng, files = np.random.default_rng(seed), {kind: encoded(kind) for kind in KINDS} | {"M4A": M4A + bytes(4_000)}
    seen, quiet, slowest, other = {}, [], 0.0, []
    for n in range(rounds):
        for kind, data in files.items():
            ways = (cut, lie, scribble, insert, lose, front)
            way = ways[n % len(ways)]
            given, began, heard = way(data, rng, kind), time.process_time(), None
            try: heard = load(given)
            except BadAudio as e: outcome = e.reason
            except Exception as e:
                outcome = type(e).__name__
                other.append((kind, way.__name__, n, f"{outcome}: {e}"))
            else:
                outcome = "warned" if heard.warnings else "heard"
                short = heard.seconds < SECONDS - 0.3
                if outcome == "heard" and short and way is not scribble: quiet.append((kind, way.__name__, n, heard.seconds))
            slowest = max(slowest, time.process_time() - began)
            seen[outcome] = seen.get(outcome, 0) + 1
    return {"seen": seen, "quiet": quiet, "other": other, "slowest_s": slowest,
            "mb": peak_mb()}


if __name__ == "__main__": print(json.dumps(main(*map(int, sys.argv[1:]))))
