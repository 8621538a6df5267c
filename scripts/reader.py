"""Train the network of `rap_analyzer/music/phonetics.py` that reads words aloud which no dictionary lists.

`scripts/reader.py` takes the table `english.z`, sets one word in twenty aside (`held`), finds which letters of the others make
which phones, and trains three layers to say what the middle one of seventeen letters sounds like. It writes `english.npz` (8-bit
weights) and prints how many of the words set aside get the right number of syllables. About twenty minutes on one core;
`--epochs 1 --hidden 32 --out try.npz` is a quick try.
"""
import argparse
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rap_analyzer.music.phonetics import Phones, is_vowel, load_dictionary, look_up

HERE = Path(__file__).resolve().parent.parent / "rap_analyzer" / "music"
LETTERS = "\0abcdefghijklmnopqrstuvwxyz'"
Cost = Callable[[str, Phones], float]


def held(word: str) -> bool:
    "Whether a word is set aside: one in twenty, by its checksum."
    return zlib.crc32(word.encode()) % 20 == 0


def align(word: str, phones: Phones, fit: Cost) -> list[tuple[int, int]] | None:  # which phones each letter makes
    "The best way to share the phones out to the letters, none, one or two each; None if there are too many."
    n, m = len(word), len(phones)
    best = [[-1e9] * (m + 1) for _ in range(n + 1)]
    took = [[0] * (m + 1) for _ in range(n + 1)]
    best[0][0] = 0.0
    for i, letter in enumerate(word):
        for j in range(max(0, m - 2 * (n - i)), min(m, 2 * i) + 1):
            for k in range(min(2, m - j) + 1):
                value = best[i][j] + fit(letter, phones[j:j + k])
                if value > best[i + 1][j + k]: best[i + 1][j + k], took[i + 1][j + k] = value, k
    if best[n][m] <= -1e9: return None
    out, j = [], m
    for i in range(n, 0, -1):
        out.append((j - took[i][j], j))
        j -= took[i][j]
    return out[::-1]


def aligned(words: list[str], rounds: int = 4) -> list[tuple[str, list[str]]]:  # a word, and what each of its letters writes
    "All words with their phones shared out; the shares are counted and used again until they settle."
    plain = {w: tuple(p.rstrip("012") for p in look_up(w)[0]) for w in words}
    vowels = {p.rstrip("012") for w in words for p in look_up(w)[0] if is_vowel(p)}

    def fit(letter: str, phones: Phones) -> float:
        return -3.0 if not phones else (-2.0 if (phones[0] in vowels) == (letter in "aeiouy") else -6.0) - 5.0 * (len(phones) - 1)

    for turn in range(rounds):
        pairs: Counter = Counter()
        for w in words[::1 if turn else 4]:
            pairs.update((c, plain[w][a:b]) for c, (a, b) in zip(w, align(w, plain[w], fit) or [], strict=False))
        total: Counter = Counter()
        for (c, _), n in pairs.items(): total[c] += n
        table = {k: math.log(n / total[k[0]]) for k, n in pairs.items() if n >= 3}
        fit = lambda letter, phones, table=table: table.get((letter, phones), -14.0)  # noqa: E731
    found = ((w, align(w, plain[w], fit)) for w in words)
    return [(w, [" ".join(look_up(w)[0][a:b]) for a, b in at]) for w, at in found if at]


def windows(word: str, reach: int) -> np.ndarray:  # a row a letter: which inputs are on
    "Each letter with its neighbours."
    at = np.pad([LETTERS.index(c) for c in word], reach)
    return np.lib.stride_tricks.sliding_window_view(at, 2 * reach + 1) + np.arange(2 * reach + 1) * len(LETTERS)


def batches(n: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    "Every example once, in a random order."
    order = rng.permutation(n)
    for i in range(0, n - size + 1, size): yield order[i:i + size]


def train(x: np.ndarray, y: np.ndarray, inputs: int, outputs: int, hidden: int, epochs: int, size: int = 1024) -> list[np.ndarray]:
    "Three layers, by Adam, with a falling rate and some dropout."
    rng = np.random.default_rng(0)
    shapes = (inputs, hidden), (hidden, hidden), (hidden, outputs)
    scales = (2 / (inputs // len(LETTERS))) ** 0.5, (2 / hidden) ** 0.5, (1 / hidden) ** 0.5
    p = [a.astype(np.float32) for s, k in zip(shapes, scales, strict=True) for a in (rng.normal(0, k, s), np.zeros(s[1]))]
    m, v, step, steps = [np.zeros_like(a) for a in p], [np.zeros_like(a) for a in p], 0, epochs * (len(x) // size)
    for epoch in range(epochs):
        loss = 0.0
        for ids in batches(len(x), size, rng):
            on = np.zeros((size, inputs), np.float32)
            on[np.arange(size)[:, None], x[ids]] = 1
            a1 = on @ p[0] + p[1]
            keep1, keep2 = ((rng.random((size, hidden), dtype=np.float32) > d) / np.float32(1 - d) for d in (0.05, 0.1))
            h1 = np.maximum(a1, 0) * keep1
            a2 = h1 @ p[2] + p[3]
            h2 = np.maximum(a2, 0) * keep2
            z = h2 @ p[4] + p[5]
            e = np.exp(z - z.max(axis=1, keepdims=True))
            e /= e.sum(axis=1, keepdims=True)
            loss -= float(np.log(e[np.arange(size), y[ids]] + 1e-9).mean())
            e[np.arange(size), y[ids]] -= 1
            g2 = e @ p[4].T * (a2 > 0) * keep2
            g1 = g2 @ p[2].T * (a1 > 0) * keep1
            grads = [g / size for g in (on.T @ g1, g1.sum(0), h1.T @ g2, g2.sum(0), h2.T @ e, e.sum(0))]
            step += 1
            rate = np.float32(2e-3 * min(1, step / 300) * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
            for a, b, c, g in zip(p, m, v, grads, strict=True):
                b += 0.1 * (g - b)
                c += 0.001 * (g * g - c)
                a -= rate * (b / (1 - 0.9**step)) / (np.sqrt(c / (1 - 0.999**step)) + 1e-8)
        print(f"epoch {epoch + 1}: loss {loss / (len(x) // size):.4f}", flush=True)
    return p


def packed(p: list[np.ndarray], written: list[str]) -> dict[str, np.ndarray]:
    "Weights in eight bits with a scale for each column, biases as they are."
    out = {f"b{i}": p[2 * i + 1] for i in range(3)} | {"written": np.frombuffer("\n".join(written).encode("ascii"), np.uint8)}
    for i in range(3):
        scale = np.maximum(np.abs(p[2 * i]).max(axis=0) / 127, 1e-9).astype(np.float32)
        out |= {f"w{i}_q": np.rint(p[2 * i] / scale).astype(np.int8), f"w{i}_scale": scale}
    return out


def syllables_right(p: list[np.ndarray], written: list[str], words: list[str], reach: int) -> float:  # 0..1
    "The share of words whose expected number of vowels, rounded, is that of a listed pronunciation."
    vowels, right = np.array([sum(map(is_vowel, w.split())) for w in written]), 0
    for w in words:
        h = np.maximum(p[0][windows(w, reach)].sum(axis=1) + p[1], 0)
        z = np.maximum(h @ p[2] + p[3], 0) @ p[4] + p[5]
        e = np.exp(z - z.max(axis=1, keepdims=True))
        n = round(float((e / e.sum(axis=1, keepdims=True) @ vowels).sum()))
        right += n in {sum(map(is_vowel, q)) for q in look_up(w)}
    return right / len(words)


def main() -> None:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--reach", type=int, default=8, help="letters on either side")
    parser.add_argument("--out", type=Path, default=HERE / "english.npz")
    args = parser.parse_args()
    known = aligned([w for w in load_dictionary() if not held(w)])
    written = [w for w, n in Counter(x for _, parts in known for x in parts).most_common() if n >= 12]
    number = {w: i for i, w in enumerate(written)}
    known = [(w, parts) for w, parts in known if all(x in number for x in parts)]
    x = np.concatenate([windows(w, args.reach) for w, _ in known])
    y = np.array([number[x] for _, parts in known for x in parts])
    p = train(x, y, (2 * args.reach + 1) * len(LETTERS), len(written), args.hidden, args.epochs)
    np.savez_compressed(args.out, **packed(p, written))
    share = syllables_right(p, written, [w for w in load_dictionary() if held(w)], args.reach)
    print(f"{args.out.name}: {args.out.stat().st_size:,} bytes; syllables right for {share:.2%} of the words set aside")


if __name__ == "__main__": main()
