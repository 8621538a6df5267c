"""Make the pronunciation table of `rap_analyzer/music/phonetics.py` from the CMU Pronouncing Dictionary.

`scripts/pronunciations.py cmudict.dict` takes the file of that name from https://github.com/cmusphinx/cmudict (its hash
is checked), and writes `english.z`: one line a word, "word code code ...", a code for each of its
pronunciations, one character a phone.
"""
import argparse
import re
import zlib
from hashlib import sha256
from pathlib import Path

from rap_analyzer.music.phonetics import PHONE

HERE = Path(__file__).resolve().parent.parent / "rap_analyzer" / "music"
SHA256 = "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"
CODES = {phone: code for code, phone in PHONE.items()}


def read(text: str) -> dict[str, list[list[str]]]:
    "Words of letters and apostrophes, each with its pronunciations as lists of phones."
    words = {}
    for line in text.splitlines():
        word, *phones = line.split(" #")[0].split()
        if m := re.fullmatch(r"([a-z']+)(?:\(\d\))?", word): words.setdefault(m[1], []).append(phones)
    return words


def pack(words: dict[str, list[list[str]]]) -> bytes:
    "The table as compressed text."
    lines = (" ".join([w, *("".join(map(CODES.get, p)) for p in words[w])]) for w in sorted(words))
    return zlib.compress("\n".join(lines).encode("ascii"), 9)


def main() -> None:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="cmudict.dict")
    data = parser.parse_args().source.read_bytes()
    if (found := sha256(data).hexdigest()) != SHA256: parser.error(f"expected a file with SHA-256 {SHA256}, got {found}")
    words = read(data.decode("utf-8"))
    size = (HERE / "english.z").write_bytes(pack(words))
    print(f"{len(words):,} words, {size:,} bytes")


if __name__ == "__main__": main()
