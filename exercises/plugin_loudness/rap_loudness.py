"""How loud is a song, and how much does it move? Integrated loudness after ITU-R BS.1770-4, loudness range, crest factor."""

import numpy as np

from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl

BLOCK_S, STEP_S = 0.4, 0.1  # BS.1770: blocks of 400 ms, a new one every 100 ms
SILENCE, RELATIVE = -70.0, -10.0  # LUFS; LU below the mean: blocks that do not count


def weighting(hz: np.ndarray) -> np.ndarray:  # |H|, the same shape
    "The K curve: a shelf for what a head adds at high frequencies, and a high-pass for what nobody hears as loud."
    s = 2j * np.pi * hz
    w, q, gain = 2 * np.pi * 1_681.97, 0.7072, 10 ** (3.999_84 / 20)
    shelf = (gain * s**2 + gain**0.499_67 * w / q * s + w**2) / (s**2 + w / q * s + w**2)
    w, q = 2 * np.pi * 38.135, 0.500_33
    return 1.005 * np.abs(shelf * s**2 / (s**2 + w / q * s + w**2))  # the standard's high-pass lets a little more than all through


def blocks(x: np.ndarray, sr: int) -> np.ndarray:  # mean square of each block, after weighting
    "The power of overlapping blocks, ten a second."
    size = 1 << (len(x) + sr - 1).bit_length()  # a second of room, so that the end does not ring into the beginning
    x = np.fft.irfft(np.fft.rfft(x, size) * weighting(np.fft.rfftfreq(size, 1 / sr)), size)[: len(x)]
    step = round(STEP_S * sr)
    power = np.square(x[: len(x) // step * step]).reshape(-1, step).mean(axis=1)
    n = round(BLOCK_S / STEP_S)
    return np.convolve(power, np.ones(n) / n, "valid") if len(power) >= n else np.array([np.square(x).mean()])


def lufs(power: float | np.ndarray) -> float | np.ndarray:
    "A mean square as loudness: 997 Hz at full scale is -3.01."
    return -0.691 + 10 * np.log10(np.maximum(power, 1e-12))


def analyze(clip) -> Analysis:
    "Loudness in LUFS, its range in LU, peak and crest factor in dB."
    power = blocks(clip.samples.astype(np.float64), clip.sr)
    heard = power[lufs(power) > SILENCE]
    if not len(heard): return Analysis(dict.fromkeys(("lufs", "range_lu", "peak_db", "crest_db")), 0.0, ["nothing to hear"])
    counted = heard[lufs(heard) > lufs(heard.mean()) + RELATIVE]
    low, high = np.percentile(lufs(heard[lufs(heard) > lufs(heard.mean()) - 20]), [10, 95])
    peak = 20 * np.log10(np.abs(clip.samples).max())
    crest = peak - 10 * np.log10(np.square(clip.samples, dtype=np.float64).mean())
    value = {"lufs": lufs(counted.mean()), "range_lu": high - low, "peak_db": peak, "crest_db": crest}
    sure = min(1.0, len(power) * STEP_S / 10)  # below ten seconds it is a guess about the rest of the song
    said = ["of the mono mix, which a stereo file may exceed by 3 LU"]
    return Analysis({k: round(float(v), 2) for k, v in value.items()}, sure, said)


@hookimpl
def analyzers() -> list[Analyzer]:
    "What this package brings."
    return [Analyzer(name="loudness", version="1.0.0", contract=1, needs=("audio",), analyze=analyze, limit_s=5)]
