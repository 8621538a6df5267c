"""The synthetic catalog: the same bytes everywhere, believable, and hard enough to search."""
import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rap_analyzer.music import catalog
from rap_analyzer.music.draws import draw

ROOT = Path(catalog.__file__).resolve().parents[2]
PINNED = {
    "embeddings": "006c3aa3f8a39a6924a00aabfa5132a432a7088aea63e23239a15833e68417ce",
    "records": "9a048288d7932e67d91d1c9487fe7d438c72ba9a1e29970da66ce54f6b52d3f7",
    "held_out": "b2c76d0ee2ceb7af47d7bb52594f0abf0e63be4e9543ec30c7e0b5fd169f9273",
    "held_out_records": "ebd4118c597de37aa07130ad2cc57fee9e2bd513465b505ab97a01bead74e240",
}
PROBE = """
import hashlib, json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from rap_analyzer.music import catalog
sha = lambda data: hashlib.sha256(data).hexdigest()
records = lambda a, b: "\\n".join(map(repr, catalog.tracks(a, b))).encode()
x = np.random.default_rng(7).random((300, 300), dtype=np.float32)
print(json.dumps({
    "numpy": np.__version__, "fastcore": "fastcore" in sys.modules,
    "modules": sum(m.startswith("rap_analyzer.") for m in sys.modules), "matmul": sha((x @ x).tobytes()),
    "embeddings": sha(catalog.embeddings(0, 2000).astype("<f2").tobytes()), "records": sha(records(0, 2000)),
    "held_out": sha(catalog.embeddings(57_000, 57_500).astype("<f2").tobytes()),
    "held_out_records": sha(records(57_000, 57_500))}))
"""
REAL_NAMES = """
2pac|50 cent|a$ap rocky|andre 3000|anderson paak|azealia banks|bad bunny|beastie boys|big daddy kane|big l|big pun|big sean|
biggie|black thought|bone thugs|boogie down|busta rhymes|cam'ron|cardi b|chance the rapper|childish gambino|chuck d|common|
coolio|cypress hill|danny brown|de la soul|denzel curry|dj premier|dj shadow|dmx|doja cat|drake|dr. dre|earl sweatshirt|eazy-e|
eminem|eric b|fat joe|flo rida|freddie gibbs|french montana|fugees|future|the game|ghostface killah|guru|gza|ice cube|ice-t|
iggy azalea|immortal technique|j cole|j dilla|ja rule|jadakiss|jay-z|joey badass|juice wrld|juicy j|kanye west|kendrick lamar|
kid cudi|killer mike|kool g rap|krs-one|lauryn hill|lil jon|lil wayne|ll cool j|logic|ludacris|lupe fiasco|mac miller|macklemore|
madlib|masta ace|method man|mf doom|missy elliott|mobb deep|mos def|nas|nelly|nicki minaj|nipsey hussle|notorious big|
n.w.a|nujabes|odb|outkast|pharrell|playboi carti|pop smoke|public enemy|pusha t|q-tip|queen latifah|quavo|raekwon|rakim|redman|
rick ross|run the jewels|run-dmc|rza|salt-n-pepa|schoolboy q|scarface|skepta|slick rick|snoop dogg|stormzy|t.i.|talib kweli|
tech n9ne|the roots|three 6 mafia|travis scott|ty dolla sign|tyler the creator|vince staples|wiz khalifa|wu-tang|xzibit|yg|
young thug|баста|гуф|каста|децл|тимати|оксимирон|oxxxymiron|скриптонит|noize mc|лигалайз|дельфин|многоточие|центр|кровосток|
ассаи|смоки мо|хаски|фейс|face|моргенштерн|элджей|мот|джиган|птаха|слим|лсп|атл|гнойный|слава кпсс|грибы|триагрутрика|
ак-47|каспийский груз|лок-дог|jah khalib|макс корж|мияги|miyagi|эндшпиль|anacondaz|25/17|грот|мальбэк|кизару|фараон|pharaoh|
bad balance|дискотека авария|мистер малой|белый хлеб|типси тип|рем дигга|кто там|st1m|loc-dog|obladaet|платина|окси|boulevard depo
"""


@pytest.fixture(scope="module")
def songs():
    return list(catalog.tracks())


@pytest.fixture(scope="module")
def X():
    return catalog.embeddings()


def run_probe(python=sys.executable, **env):
    "What a fresh process makes of the catalog, which needs NumPy and three files of the package."
    import json

    done = subprocess.run([str(python), "-c", PROBE, str(ROOT)], env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def sha_rows(X): return hashlib.sha256(X.astype("<f2").tobytes()).hexdigest()


def sha_records(songs): return hashlib.sha256("\n".join(map(repr, songs)).encode()).hexdigest()


def test_bytes_are_pinned(X, songs):
    assert sha_rows(X[:2000]) == PINNED["embeddings"]
    assert sha_records(songs[:2000]) == PINNED["records"]
    assert sha_rows(catalog.embeddings(57_000, 57_500)) == PINNED["held_out"]
    assert sha_records(catalog.tracks(57_000, 57_500)) == PINNED["held_out_records"]


@pytest.mark.parametrize("cuts", [(0, 1, 2, 700), (0, 255, 256, 257, 700), (0, 511, 513, 700), (0, 699, 700)])
def test_batch_split_changes_nothing(cuts, X, songs):
    pairs = list(zip(cuts, cuts[1:], strict=False))
    assert np.array_equal(np.vstack([catalog.embeddings(a, b) for a, b in pairs]), X[: cuts[-1]])
    assert [t for a, b in pairs for t in catalog.tracks(a, b)] == songs[: cuts[-1]]


def test_catalog_size_changes_nothing(X, songs):
    assert np.array_equal(catalog.embeddings(56_990, 57_010)[:10], X[-10:])
    assert list(catalog.tracks(56_990, 57_010))[:10] == songs[-10:]
    for i in 0, 1, 31_415, 56_999:
        assert catalog.track(i) == songs[i]
        assert np.array_equal(catalog.embeddings(i, i + 1)[0], X[i])


def test_hash_seed_changes_nothing():
    for seed in "0", "12345":
        assert PINNED.items() <= run_probe(PYTHONHASHSEED=seed).items()


def test_two_blas_kernels_agree():
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip(f"OPENBLAS_CORETYPE names below are for x86-64, this is {platform.machine()}")
    runs = [run_probe(OPENBLAS_CORETYPE=core) for core in ("Haswell", "Nehalem")]
    for run in runs: assert PINNED.items() <= run.items()
    if runs[0]["matmul"] == runs[1]["matmul"]:
        pytest.skip("this NumPy's BLAS ignores OPENBLAS_CORETYPE: its own float32 product did not change either")


def test_without_vector_instructions():
    try:
        from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
    except ImportError as e:
        pytest.skip(f"this NumPy does not tell which instructions it chooses at run time: {e}")
    names = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    if not names:
        pytest.skip("NumPy chooses no instructions at run time on this processor")
    assert PINNED.items() <= run_probe(NPY_DISABLE_CPU_FEATURES=" ".join(names)).items()


@pytest.fixture(scope="module")
def other_numpy(tmp_path_factory):
    "The Python of a throw-away environment that has another NumPy and nothing else."
    version = "2.0.2" if sys.version_info < (3, 13) else "2.1.3"
    if np.__version__ == version: version = "2.2.6"
    home = tmp_path_factory.mktemp("other_numpy")
    made = subprocess.run([sys.executable, "-m", "venv", str(home)], capture_output=True, text=True)
    if made.returncode: pytest.skip(f"cannot make a virtual environment: {(made.stderr or made.stdout).strip()[-200:]}")
    python = home / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    got = subprocess.run([*command, "--only-binary", ":all:", f"numpy=={version}"], capture_output=True, text=True)
    if got.returncode: pytest.skip(f"numpy=={version} cannot be fetched: {got.stderr.strip().splitlines()[-1][-200:]}")
    return python


def test_two_numpy_versions_agree(other_numpy):
    run = run_probe(other_numpy)
    assert run["numpy"] != np.__version__ and not run["fastcore"] and run["modules"] == 4  # music, draws, verses, catalog
    assert PINNED.items() <= run.items()


def test_embeddings_have_unit_length(X):
    assert X.shape == (57_000, 512) and X.dtype == np.float16
    assert np.abs(np.linalg.norm(X[:5000].astype(float), axis=1) - 1).max() < 1e-3
    assert len({row.tobytes() for row in X}) == len(X)


def test_seeds_make_different_catalogs(songs):
    assert catalog.track(0, seed=8) != songs[0]
    assert not np.array_equal(catalog.embeddings(0, 1, seed=8), catalog.embeddings(0, 1))
    a, b = ((catalog.directions(seed) / catalog.WEIGHTS).ravel() for seed in (7, 8))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.005


def test_regions_of_the_stream_are_unrelated():
    parts = [draw(part, 0, 100_000, 1, 7)[:, 0] / 2.0**64 for part in range(1, 6)]
    assert np.abs(np.corrcoef(parts) - np.eye(5)).max() < 0.015


@pytest.mark.parametrize("wrong", [-1, 1.0, "1", None, True, 2**40, np.int64(-5), float("nan")])
def test_bad_numbers_are_refused(wrong):
    for call in (catalog.track, catalog.truth, lambda i: catalog.track(0, seed=i), lambda i: catalog.tracks(i, i),
                 lambda i: catalog.embeddings(0, i), lambda i: catalog.embeddings(i, 5)):
        with pytest.raises(ValueError, match="whole number"): call(wrong)


def test_bad_ranges_are_refused():
    for call in catalog.tracks, catalog.embeddings:
        with pytest.raises(ValueError, match="expected start <= stop, got 5 > 4"): call(5, 4)
    assert catalog.embeddings(4, 4).shape == (0, 512) and list(catalog.tracks(4, 4)) == []


def test_rhymes_keep_the_scheme(songs):
    for t in songs[::19]:
        lines, known = t.lyrics.split("\n"), catalog.truth(t.id)
        last = [line.split()[-1] for line in lines]
        assert len(lines) in (8, 12, 16) and len(known.letters) == len(known.endings) == len(lines)
        assert len(set(last)) == len(last)
        for k in range(0, len(lines), 4):
            for a in range(k, k + 4):
                for b in range(k, a):
                    same = t.rhyme_scheme[a - k] == t.rhyme_scheme[b - k]
                    assert same == (known.letters[a] == known.letters[b]) == (known.endings[a] == known.endings[b])
                    assert last[a].endswith(known.endings[a])
                    assert last[a].endswith(known.endings[b]) == same, (t.id, last[a], last[b])
        cyrillic = any("а" <= c <= "я" for c in t.lyrics.lower())
        latin = any("a" <= c <= "z" for c in t.lyrics.lower())
        assert (cyrillic, latin) == ((True, False) if t.language == "ru" else (False, True))


def test_fields_are_plausible(songs):
    for t in songs:
        assert t.external_id == f"syn-{t.id:07d}" and 1 <= len(t.genres) <= 2 and len(set(t.genres)) == len(t.genres)
        assert 50 < t.bpm < 180 and 0.5 <= t.swing <= 0.67 and 1988 <= t.year <= 2025 and t.popularity >= 1
        assert t.rhyme_scheme in catalog.SCHEMES and t.mood in catalog.MOODS and t.language in ("en", "ru")
        assert t.title.strip() and t.key.split()[1] in ("major", "minor")
    assert len({t.external_id for t in songs}) == len(songs)
    assert {len(t.genres) for t in songs} == {1, 2}
    assert {type(v) for t in songs[:50] for v in (t.bpm, t.swing, t.popularity)} == {float}
    assert {type(v) for t in songs[:50] for v in (t.id, t.artist_id, t.year)} == {int}


def test_proportions(songs):
    n, genres = len(songs), Counter(t.genres[0] for t in songs)
    assert all(abs(genres[g] / n - share / 100) < 0.04 for g, share in zip(catalog.GENRES, catalog.SHARE, strict=True))
    assert 0.08 < sum(t.language == "ru" for t in songs) / n < 0.13
    for g, tempo, swing in zip(catalog.GENRES, catalog.TEMPO / 10, catalog.SWING / 1000, strict=True):
        ours = [t for t in songs if t.genres[0] == g]
        assert abs(np.median([t.bpm for t in ours]) - tempo) < 3
        assert abs(np.median([t.swing for t in ours]) - swing) < 0.01
    moods = Counter((t.genres[0], t.mood) for t in songs)
    assert moods["lo-fi", "calm"] > 3 * moods["drill", "calm"] and moods["drill", "dark"] > 2 * moods["lo-fi", "dark"]


def test_tails_are_long(songs):
    by_artist = sorted(Counter(t.artist_id for t in songs).values(), reverse=True)
    assert len(by_artist) > 3000 and by_artist[0] > 20 * np.median(by_artist)
    plays = np.sort([t.popularity for t in songs])[::-1]
    rank = np.unique(np.geomspace(50, 20_000, 40).astype(int))
    slope = np.polyfit(np.log(rank), np.log(plays[rank]), 1)[0]
    assert -1.1 < slope < -0.5, f"not a power law of about -3/4: {slope:.2f}"


def test_artists_have_a_style_and_are_scattered(songs):
    artist = np.array([t.artist_id for t in songs])
    assert abs(np.corrcoef(artist[:-1], artist[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(len(artist)), artist)[0, 1]) < 0.02
    assert len({(t.artist_id, t.artist, t.language) for t in songs}) == len({t.artist for t in songs}) == len(set(artist))
    top = Counter(artist.tolist()).most_common(20)
    for a, _ in top:
        ours = [t for t in songs if t.artist_id == a]
        assert Counter(t.genres[0] for t in ours).most_common(1)[0][0] == catalog.truth(ours[0].id).artist_genre
        assert np.ptp([t.id for t in ours]) > 0.8 * len(songs)


def test_no_real_names():
    real = {name.strip() for name in REAL_NAMES.replace("\n", "").split("|")}
    single = {name for name in real if " " not in name}
    assert len(real) >= 100
    for seed in 7, 8:
        names = [catalog.name_artist(a, seed).lower() for a in range(catalog.ARTISTS)]
        assert len(set(names)) == catalog.ARTISTS
        for name in names:
            assert not real & {name, name.replace(" ", ""), name.replace(" ", "-")}, name
            assert not single & set(name.split()), name
            assert name.split()[0] not in {"lil", "young", "big", "dj", "mc", "ice", "asap", "kid"}, name


def test_neighbours_mean_something(X, songs):
    Q = catalog.embeddings(57_000, 57_200).astype(np.float32)
    near = np.argpartition(-(Q @ X.astype(np.float32).T), 10, axis=1)[:, :10]
    asked = list(catalog.tracks(57_000, 57_200))
    for label, factor in ((lambda t: t.genres[0], 2), (lambda t: t.mood, 2), (lambda t: t.artist_id, 20)):
        known, mine = np.array([label(t) for t in songs]), np.array([label(t) for t in asked])
        assert (known[near] == mine[:, None]).mean() > factor * (known[None] == mine[:, None]).mean()


def test_hard_enough_yet_findable(X):
    if importlib.util.find_spec("hnswlib") is None:
        pytest.skip("hnswlib is not installed (the `bench` extra); no wheels for some platforms")
    import hnswlib

    X, Q = X.astype(np.float32), catalog.embeddings(57_000, 57_500).astype(np.float32)
    exact = np.argpartition(-(Q @ X.T), 10, axis=1)[:, :10]
    index = hnswlib.Index("ip", 512)
    index.init_index(len(X), M=16, ef_construction=200, random_seed=1)
    index.add_items(X, np.arange(len(X)))

    def recall(ef):
        index.set_ef(ef)
        found = index.knn_query(Q, 10)[0]
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])

    assert 0.80 <= recall(10) <= 0.97
    assert recall(60) >= 0.99
