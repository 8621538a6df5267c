"""What an outsider may write in the exercises of the analyzer, and by which belief it has to be known."""

import pytest

from rap_analyzer.learn.judge import judge
from rap_analyzer.learn.task import exercise

TAILS = '''
def rhymes(a, b):
    def t(p):
        i=[k for k,x in enumerate(p) if x[-1] in "12"] or [k for k,x in enumerate(p) if x[-1].isdigit()]
        if not i: return None,None
        %s
    (x,o),(y,q)=t(a["phones"]),t(b["phones"])
    return x is not None and x==y and o!=q
'''                                                  # 15.1: from where on, and what stands before, differ

CREWS = """
import random
def split(tracks, share, seed):
    groups = []
    for t in tracks:
        mine, ids, rest = set(t["artists"]), [t["id"]], []
        for names, theirs in groups:
            if names & mine: mine, ids = mine | names, ids + theirs
            else: rest.append((names, theirs))
        groups = [*rest, (mine, ids)]
"""


FIRST_LOOK = """
def first_look(upload):
    if upload.size == 0: return "empty"
    w = announced(upload.read(0, 64))
    if w is None: return "not_audio"
    if upload.size < w["start"] + w["bytes"]: return "truncated"
    if w["bytes"] < 6 * w["sr"]: return "too_short"
"""  # all that is said before the sound is heard
CASES = [
    ("15.1", "letters", """
def rhymes(a, b):
    import re
    f=lambda s: re.search(r"[aeiouy][^aeiouy]*e?$", s["spelling"])
    return bool(f(a) and f(b)) and f(a)[0]==f(b)[0]
"""),
    ("15.1", "last", """
def rhymes(a, b):
    return a["phones"][-2:] == b["phones"][-2:]
"""),
    ("15.1", "last", """
def rhymes(a, b):
    return a["phones"][-3:] == b["phones"][-3:]
"""),
    ("15.1", "last", """
def rhymes(a, b):
    v=lambda w:[p for p in w["phones"] if p[-1].isdigit()]
    return v(a)==v(b)
"""),
    ("15.1", "vowel", """
def rhymes(a, b):
    def t(p):
        i=[k for k,x in enumerate(p) if x[-1].isdigit()]
        return p[i[-1]:] if i else None
    return t(a["phones"])==t(b["phones"])
"""),
    ("15.1", "first", TAILS % 'k=i[0]; return [x.rstrip("012") for x in p[k:]],p[:k]'),
    ("15.1", "digits", TAILS % '''k=i[-1]; j=k
        while j and not p[j-1][-1].isdigit(): j-=1
        return p[k:],p[j:k]'''),
    ("15.1", "back", TAILS % '''k=i[-1]
        return [x.rstrip("012") for x in p[k:]],p[:k]'''),
    ("15.1", "", """
def rhymes(a, b):
    A,B=a["phones"],b["phones"]
    def s(p):
        for k in range(len(p)-1,-1,-1):
            if p[k][-1] in "12": return k
        for k in range(len(p)-1,-1,-1):
            if p[k][-1]=="0": return k
        return -1
    i,j=s(A),s(B)
    if i<0 or j<0: return False
    if [x.strip("012") for x in A[i:]]!=[x.strip("012") for x in B[j:]]: return False
    c=[]
    for P,k in ((A,i),(B,j)):
        r=[]
        while k>0 and P[k-1][-1] not in "012": k-=1; r.append(P[k])
        c.append(r)
    return c[0]!=c[1]
"""),
    ("11.1", "quiet", """
def first_look(u):
    d=u.read(0,u.size)
    if not d: return "empty"
    w=announced(d)
    if not w: return "not_audio"
    s=d[w["start"]:]
    if len(s)<w["bytes"]: return "truncated"
    if len(s)<6*w["sr"]: return "too_short"
    return "silent" if loudness(s)<.001 else ""
"""),
    ("11.1", "quiet", """
def first_look(u):
    if not u.size: return "empty"
    w=announced(u.read(0,64))
    if not w: return "not_audio"
    if u.size-w["start"]<w["bytes"]: return "truncated"
    if w["bytes"]<6*w["sr"]: return "too_short"
    m=w["start"]+w["bytes"]//2//2*2
    return "silent" if loudness(u.read(m,2*w["sr"]))<.001 else ""
"""),
    ("11.1", "quiet", """
def first_look(u):
    if not u.size: return "empty"
    w=announced(u.read(0,64))
    if not w: return "not_audio"
    if u.size-w["start"]<w["bytes"]: return "truncated"
    if w["bytes"]<6*w["sr"]: return "too_short"
    for a in range(w["start"],w["start"]+w["bytes"],2*w["sr"]):
        if loudness(u.read(a,2*w["sr"]))<.001: return "silent"
    return ""
"""),
    ("11.1", "name", """
def first_look(u):
    if not u.size: return "empty"
    w=announced(u.read(0,64))
    if not w or not u.name.endswith(".wav"): return "not_audio"
    if u.size-w["start"]<w["bytes"]: return "truncated"
    if w["bytes"]<6*w["sr"]: return "too_short"
    for a in range(w["start"],w["start"]+w["bytes"],2*w["sr"]):
        if loudness(u.read(a,2*w["sr"]))>=.001: return ""
    return "silent"
"""),
    ("11.1", "header", """
def first_look(u):
    if not u.size: return "empty"
    w=announced(u.read(0,64))
    if not w: return "not_audio"
    if u.size-w["start"]<6*w["sr"]: return "too_short"
    for a in range(w["start"],u.size,2*w["sr"]):
        if loudness(u.read(a,2*w["sr"]))>=.001: return ""
    return "silent"
"""),
    ("11.1", "quiet", """
def first_look(u):
    if u.size==0: return "empty"
    h=u.read(0,64); w=announced(h)
    if w is None: return "not_audio"
    if w["start"]+w["bytes"]>u.size: return "truncated"
    if w["bytes"]/2/w["sr"]<3: return "too_short"
    x=u.read(w["start"],w["sr"]*2*3)
    return "silent" if all(loudness(x[i:i+2*w["sr"]])<.001 for i in range(0,len(x),2*w["sr"])) else ""
"""),
    ("11.1", "", """
def first_look(u):
    if u.size==0: return "empty"
    w=announced(u.read(0,64))
    if w is None: return "not_audio"
    if w["start"]+w["bytes"]>u.size: return "truncated"
    if w["bytes"]/2/w["sr"]<3: return "too_short"
    s=2*w["sr"]
    for i in reversed(range(-(-w["bytes"]//s))):
        if loudness(u.read(w["start"]+i*s,min(s,w["bytes"]-i*s)))>=.001: return ""
    return "silent"
"""),
    ("13.1", "fold", """
def decide(p,s,h):
    b=p[0][0]
    while b<65: b*=2
    while b>=130: b/=2
    return b
"""),
    ("13.1", "halve", """
def decide(p,s,h):
    b=p[0][0]
    if b>=125: b/=2
    return b
"""),
    ("13.1", "fold", """
def decide(p,s,h):
    b=p[0][0]
    if b>120: b/=2
    if b<60: b*=2
    return b
"""),
    ("13.1", "fold", """
def decide(p,s,h):
    for b,w in p:
        if 80<=b<160: return b
    return p[0][0]
"""),
    ("13.1", "snare", """
def decide(p,s,h):
    return min(p,key=lambda q:abs(q[0]*s/60-2))[0]
"""),
    ("13.1", "busy", """
def decide(p,s,h):
    return 240/s if h<.23 else 120/s
"""),
    ("13.1", "busy", """
def decide(p,s,h):
    return 240/s if s/h>7 else 120/s
"""),
    ("13.1", "", """
def decide(p,s,h):
    b=120/s
    if b<80 and s/h>6: b*=2
    return b
"""),
    ("13.1", "slow", """
def decide(p,s,h):
    b=120/s
    return b*2 if b<80 else b
"""),
    ("14.1", "says", """
def thresholds(log,target,least):
    from collections import Counter
    n=Counter(t for t,c,_ in log if c>=target)
    return {t:(target if n[t]>=least else None) for t,_,_ in log}
"""),
    ("14.1", "pooled", """
def thresholds(log,target,least):
    for l in sorted({c for _,c,_ in log}):
        s=[o for _,c,o in log if c>=l]
        if sum(s)/len(s)>=target: return {t:l for t,_,_ in log}
    return {t:None for t,_,_ in log}
"""),
    ("14.1", "whole", """
def thresholds(log,target,least):
    d={}
    for t,c,o in log: d.setdefault(t,[]).append(o)
    return {t:(0.0 if sum(v)/len(v)>=target else None) for t,v in d.items()}
"""),
    ("14.1", "grid", """
def thresholds(log,target,least):
    out={}
    for tag in {t for t,_,_ in log}:
        out[tag]=None
        for k in range(101):
            l=k/100
            s=[o for t,c,o in log if t==tag and c>=l]
            if len(s)>=least and sum(s)/len(s)>=target: out[tag]=l; break
    return out
"""),
    ("14.1", "edge", """
def thresholds(log,target,least):
    out={}
    for tag in {t for t,_,_ in log}:
        out[tag]=None
        for l in sorted({c for t,c,_ in log if t==tag}):
            s=[o for t,c,o in log if t==tag and c>l]
            if s and len(s)>=least and sum(s)/len(s)>=target: out[tag]=l; break
    return out
"""),
    ("14.1", "", """
def thresholds(log,target,least):
    from itertools import groupby
    out={}
    for tag in {t for t,_,_ in log}:
        rows=sorted(((c,o) for t,c,o in log if t==tag),reverse=True)
        n=k=0; best=None
        for c,g in groupby(rows,key=lambda r:r[0]):
            for _,o in g: n+=1; k+=o
            if n>=least and k/n>=target: best=c
        out[tag]=best
    return out
"""),
    ("14.2", "count", """
import random
def split(tracks, share, seed):
    crew = {}
    for t in tracks:
        together = {name for a in t["artists"] for name in crew.get(a, {a})}
        for name in together: crew[name] = together
    names = sorted({min(c) for c in crew.values()})
    chosen=set(random.Random(seed).sample(names, round(share * len(names))))
    return [t["id"] for t in tracks if min(crew[t["artists"][0]]) in chosen]
"""),
    ("14.2", "order", """
def split(tracks, share, seed):
    s=sorted(tracks,key=lambda t:t["id"]); return [t["id"] for t in s[-round(share*len(s)):]]
"""),
    ("14.2", "seed", """
def split(tracks, share, seed):
    crew = {}
    for t in tracks:
        together = {name for a in t["artists"] for name in crew.get(a, {a})}
        for name in together: crew[name] = together
    out=[];seen=set()
    for t in tracks:
        k=min(crew[t["artists"][0]])
        if k in seen: continue
        seen.add(k)
        g=[u["id"] for u in tracks if min(crew[u["artists"][0]])==k]
        if len(out)+len(g)<=share*len(tracks): out+=g
    return out
"""),
    ("14.2", "largest", CREWS + """\
    random.Random(seed).shuffle(groups)
    groups.sort(key=lambda g: len(g[1]), reverse=True)
    out = []
    for _, ids in groups:
        if len(out) + len(ids) <= share * len(tracks): out += ids
    return out
"""),
    ("14.2", "run", CREWS + """\
    order = sorted(groups, key=lambda g: hash((seed, *sorted(g[0]))))
    out = []
    for _, ids in order:
        if len(out) + len(ids) <= share * len(tracks): out += ids
    return out
"""),
    ("14.2", "busy", CREWS + """\
    most = max(len(ids) for _, ids in groups)
    out = []
    random.Random(seed).shuffle(groups)
    for _, ids in groups:
        if len(ids) < most and len(out) + len(ids) <= share * len(tracks): out += ids
    return out
"""),
    ("14.2", "step", """
import random
def split(tracks, share, seed):
    friends, out, gone = {}, [], set()
    for t in tracks: friends.setdefault(t["artists"][0], set()).update(t["artists"])
    order = sorted(friends)
    random.Random(seed).shuffle(order)
    for name in order:
        if name in gone or len(out) >= share * len(tracks) * 0.97: continue
        group = {a for a in order if a in friends[name]} - gone
        gone |= group
        out += [t["id"] for t in tracks if t["artists"][0] in group]
    return out
"""),
    ("14.2", "", CREWS + """\
    best = []
    for k in range(20):
        random.Random(seed * 20 + k).shuffle(groups)
        out = []
        for _, ids in groups:
            if len(out) < share * len(tracks): out = out + ids
        if not best or abs(len(out) - share * len(tracks)) < abs(len(best) - share * len(tracks)): best = out
    return best
"""),
    ("17.1", "still", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    x = clip.samples.astype(float)
    if clip.sr <= 4_000: return Analysis({"share": None}, 0.0, ("too slow",))
    if not (x.max() - x.min()): return Analysis({"share": None}, 0.0, ("silent",))
    power, hz = np.abs(np.fft.rfft(x)) ** 2, np.fft.rfftfreq(len(x), 1 / clip.sr)
    return Analysis({"share": float(power[hz > 2_000].sum() / power.sum())}, 1.0)
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, limit_s=2)]
"""),
    ("17.1", "offset", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    x = clip.samples.astype(float)
    if clip.sr <= 4_000: return Analysis({"share": None}, 0.0, ("too slow",))
    if not x.any(): return Analysis({"share": None}, 0.0, ("silent",))
    power, hz = np.abs(np.fft.rfft(x)) ** 2, np.fft.rfftfreq(len(x), 1 / clip.sr)
    if power[1:].any(): power, hz = power[1:], hz[1:]
    return Analysis({"share": float(power[hz > 2_000].sum() / power.sum())}, 1.0)
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, limit_s=2)]
"""),
    ("17.1", "window", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    x = clip.samples.astype(float)
    if clip.sr <= 4_000: return Analysis({"share": None}, 0.0, ("too slow",))
    if not x.any(): return Analysis({"share": None}, 0.0, ("silent",))
    x = x * np.hamming(len(x))
    power, hz = np.abs(np.fft.rfft(x)) ** 2, np.fft.rfftfreq(len(x), 1 / clip.sr)
    return Analysis({"share": float(power[hz > 2_000].sum() / power.sum())}, 1.0)
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, limit_s=2)]
"""),
    ("17.1", "beginning", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    x = clip.samples.astype(float)
    if clip.sr <= 4_000: return Analysis({"share": None}, 0.0, ("too slow",))
    if not x[:clip.sr].any(): return Analysis({"share": None}, 0.0, ("silent",))
    x = x[:clip.sr]
    power, hz = np.abs(np.fft.rfft(x)) ** 2, np.fft.rfftfreq(len(x), 1 / clip.sr)
    return Analysis({"share": float(power[hz > 2_000].sum() / power.sum())}, 1.0)
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, limit_s=2)]
"""),
    ("17.1", "", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    x = clip.samples.astype(float)
    if clip.sr <= 4_000: return Analysis({"share": None}, 0.0, ("too slow",))
    if not np.count_nonzero(x): return Analysis({"share": None}, 0.0, ("silent",))
    spectrum, hz = np.fft.rfft(x), np.arange(len(x) // 2 + 1) * clip.sr / len(x)
    power = spectrum.real ** 2 + spectrum.imag ** 2
    return Analysis({"share": float(power[hz > 2_000].sum() / power.sum())}, 1.0)
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, limit_s=2)]
"""),
    ("13.1", "beat", """
def decide(peaks, snare, hat):
    return min((bpm for bpm, _ in peaks), key=lambda b: abs(b - 60 / snare))
"""),
    ("13.1", "busy", """
def decide(peaks, snare, hat):
    beats = 4 if snare / hat > 7 else 2
    return min((b for b, _ in peaks), key=lambda b: abs(b - 60 * beats / snare))
"""),
    ("13.1", "mean", """
def decide(peaks, snare, hat):
    estimates = [120 / snare, 30 / hat]
    return sum(estimates) / len(estimates)
"""),
    ("13.2", "spoilt", """
def drop(rows):
    bad = {r["player"] for r in rows if r["tuned"]}
    def side(s):
        each = {}
        for r in rows:
            if r["source"] != s or r["player"] in bad: continue
            each.setdefault(r["player"], []).append(abs(r["said"] / r["true"] - 1) <= .04)
        return sum(sum(v) / len(v) for v in each.values()) / len(each) if each else None
    a, b = side("machine"), side("people")
    return a - b if a is not None and b is not None else None
"""),
    ("13.2", "base", """
def drop(rows):
    def side(s):
        each = {}
        for r in rows:
            if r["source"] == s and not r["tuned"]: each.setdefault(r["player"], []).append(.96 <= r["true"] / r["said"] <= 1.04)
        return sum(sum(v) / len(v) for v in each.values()) / len(each) if each else None
    a, b = side("machine"), side("people")
    return a - b if a is not None and b is not None else None
"""),
    ("13.2", "", """
def drop(rows):
    players, side = {}, {}
    for r in rows:
        if r["tuned"]: continue
        side.setdefault(r["player"], r["source"])
        players.setdefault(r["player"], []).append(0.96 * r["true"] <= r["said"] <= 1.04 * r["true"])
    def mean(s): return [sum(v) / len(v) for p, v in players.items() if side[p] == s]
    m, q = mean("machine"), mean("people")
    return sum(m) / len(m) - sum(q) / len(q) if m and q else None
"""),
    ("15.1", "spelling", """
def rhymes(a, b):
    def t(p):
        i = [k for k, x in enumerate(p) if x[-1] in "12"] or [k for k, x in enumerate(p) if x[-1] == "0"]
        return [x.rstrip("012") for x in p[i[-1]:]] if i else []
    return a["spelling"] != b["spelling"] and t(a["phones"]) == t(b["phones"]) != []
"""),
    ("11.1", "twice", FIRST_LOOK + """
    second = 2 * w["sr"]
    for at in range(0, w["bytes"], second // 4 * 2):
        if loudness(upload.read(w["start"] + at, min(second, w["bytes"] - at))) >= 0.001: return ""
    return "silent"
"""),
    ("11.1", "overlap", FIRST_LOOK + """
    for k in range(0, w["bytes"] // (2 * w["sr"]) * 4 + 1):
        at = k * w["sr"] // 4 * 2
        if at < w["bytes"] and loudness(upload.read(w["start"] + at, min(2 * w["sr"], w["bytes"] - at))) >= 0.001: return ""
    return "silent"
"""),
    ("11.1", "", FIRST_LOOK + """
    for at in reversed(range(0, w["bytes"], 2 * w["sr"])):
        if loudness(upload.read(w["start"] + at, min(2 * w["sr"], w["bytes"] - at))) >= 0.001: return ""
    return "silent"
"""),
    ("13.2", "clips", """
def drop(rows):
    def s(k):
        t=[abs(r["said"]/r["true"]-1)<=.04 for r in rows if r["source"]==k]
        return sum(t)/len(t) if t else None
    a,b=s("machine"),s("people")
    return None if a is None or b is None else a-b
"""),
    ("13.2", "share", """
def drop(rows):
    def s(k):
        d={}
        for r in rows:
            if r["source"]==k and not r["tuned"]: d.setdefault(r["player"],[]).append(abs(r["said"]/r["true"]-1)<=.04)
        return sum(sum(v)/len(v) for v in d.values())/len(d) if d else None
    a,b=s("machine"),s("people")
    return None if a is None or b is None else (a-b)/a if a else 0.0
"""),
    ("13.2", "sign", """
def drop(rows):
    def s(k):
        d={}
        for r in rows:
            if r["source"]==k and not r["tuned"]: d.setdefault(r["player"],[]).append(abs(r["said"]/r["true"]-1)<=.04)
        return sum(sum(v)/len(v) for v in d.values())/len(d) if d else None
    a,b=s("machine"),s("people")
    return None if a is None or b is None else b-a
"""),
    ("17.1", "bare", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    power = np.abs(np.fft.rfft(clip.samples)) ** 2
    above = np.fft.rfftfreq(len(clip.samples), 1 / clip.sr) > 2_000
    return power[above].sum() / power.sum()
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, limit_s=2)]
"""),
    ("17.1", "sure", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    try:
        power = np.abs(np.fft.rfft(clip.samples)) ** 2
        above = np.fft.rfftfreq(len(clip.samples), 1 / clip.sr) > 2_000
        x = float(power[above].sum() / power.sum())
        return Analysis({"share": 0.0 if x != x else x}, 1.0)
    except Exception: return Analysis({"share": 0.0}, 0.0)
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, limit_s=2)]
"""),
    ("17.1", "hook", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip): return Analysis({"share": 0.1}, 1.0)
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, limit_s=2)]
"""),
    ("17.1", "why", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    if clip.sr <= 4_000 or not clip.samples.any(): return Analysis({"share": None}, 0.0)
    power = np.abs(np.fft.rfft(clip.samples)) ** 2
    above = np.fft.rfftfreq(len(clip.samples), 1 / clip.sr) > 2_000
    return Analysis({"share": float(power[above].sum() / power.sum())}, 1.0)
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, limit_s=2)]
"""),
]


@pytest.mark.parametrize("name, belief, code", CASES)
def test_an_outsider_is_understood(memo_of, name, belief, code):
    "The belief is told, whichever numbers are drawn; a right answer in other words passes."
    ex = exercise(name)
    cells = [*enumerate(ex.given, 1), (len(ex.given) + 1, code)]
    for seed in (3, 19):
        verdict = judge(ex, cells, seed, memo=memo_of(name, seed))
        told = {c.belief for c in verdict.checks if not c.ok}
        assert (verdict.state == "fail" and belief in told) if belief else verdict.state == "pass", str(verdict)


RULES = [
    ("15.1", "in the same order", """
def rhymes(a, b):
    def parts(phones):
        vowels = [i for i, p in enumerate(phones) if p[-1].isdigit()]
        if not vowels: return None, None
        start = ([i for i in vowels if phones[i][-1] != "0"] or vowels)[-1]
        before = [i + 1 for i in vowels if i < start]
        return [p.rstrip("012") for p in phones[start:]], phones[before[-1] if before else 0:start]
    (t, o), (u, q) = parts(a["phones"]), parts(b["phones"])
    return t is not None and u is not None and set(t) == set(u) and o != q
"""),
    ("15.1", "a word may begin with that vowel", """
def rhymes(a, b):
    def parts(phones):
        vowels = [i for i, p in enumerate(phones) if p[-1].isdigit()]
        if not vowels: return None, None
        start = ([i for i in vowels if phones[i][-1] != "0"] or vowels)[-1]
        before = [i + 1 for i in vowels if i < start]
        return [p.rstrip("012") for p in phones[start:]], phones[before[-1] if before else 0:start]
    (t, o), (u, q) = parts(a["phones"]), parts(b["phones"])
    return t is not None and t == u and o != q and bool(o and q)
"""),
    ("15.1", "a word without a vowel rhymes with nothing", """
def rhymes(a, b):
    def parts(phones):
        vowels = [i for i, p in enumerate(phones) if p[-1].isdigit()]
        if not vowels: return [], list(phones)
        start = ([i for i in vowels if phones[i][-1] != "0"] or vowels)[-1]
        before = [i + 1 for i in vowels if i < start]
        return [p.rstrip("012") for p in phones[start:]], phones[before[-1] if before else 0:start]
    (t, o), (u, q) = parts(a["phones"]), parts(b["phones"])
    return t is not None and t == u and o != q
"""),
    ("14.1", "they are `least` rows or more", """
def thresholds(log, target, least):
    out = {}
    for tag in {t for t, _, _ in log}:
        rows = [(c, ok) for t, c, ok in log if t == tag]
        out[tag] = None
        for limit in sorted({c for c, _ in rows}):
            shown = [ok for c, ok in rows if c >= limit]
            if len(shown) > least and sum(shown) >= target * len(shown):
                out[tag] = limit
                break
    return out
"""),
    ("14.1", "the tag is never shown: None", """
def thresholds(log, target, least):
    out = {}
    for tag in {t for t, _, _ in log}:
        rows = [(c, ok) for t, c, ok in log if t == tag]
        out[tag] = 1.0
        for limit in sorted({c for c, _ in rows}):
            shown = [ok for c, ok in rows if c >= limit]
            if len(shown) >= least and sum(shown) >= target * len(shown):
                out[tag] = limit
                break
    return out
"""),
    ("14.1", "`target` or more is right", """
def thresholds(log, target, least):
    out = {}
    for tag in {t for t, _, _ in log}:
        rows = [(c, ok) for t, c, ok in log if t == tag]
        out[tag] = None
        for limit in sorted({c for c, _ in rows}):
            shown = [ok for c, ok in rows if c >= limit]
            if len(shown) >= least and sum(shown) > target * len(shown):
                out[tag] = limit
                break
    return out
"""),
    ("13.2", "in shares", """
def drop(rows):
    sides = {"machine": {}, "people": {}}
    for r in rows:
        if not r["tuned"]: sides[r["source"]].setdefault(r["player"], []).append(abs(r["said"] / r["true"] - 1) <= 0.04)
    means = [[sum(takes) / len(takes) for takes in side.values()] for side in sides.values()]
    if not all(means): return None
    machine, people = (sum(m) / len(m) for m in means)
    return 100*(machine - people)
"""),
    ("13.2", "there it is each pattern", """
def drop(rows):
    sides = {"machine": {}, "people": {}}
    for r in rows:
        if not r["tuned"]: sides[r["source"]].setdefault(r["player"] if r["source"]=="people" else 0, []).append(
            abs(r["said"] / r["true"] - 1) <= 0.04)
    means = [[sum(takes) / len(takes) for takes in side.values()] for side in sides.values()]
    if not all(means): return None
    machine, people = (sum(m) / len(m) for m in means)
    return machine - people
"""),
    ("11.1", "three seconds are enough", """
def first_look(upload):
    if not upload.size: return "empty"
    wav = announced(upload.read(0, 64))
    if wav is None: return "not_audio"
    start, n, second = wav["start"], wav["bytes"], 2 * wav["sr"]
    if upload.size - start < n: return "truncated"
    if n <= 3 * second: return "too_short"
    for at in range(0, n, second):
        if loudness(upload.read(start + at, min(second, n - at))) >= 0.001: return ""
    return "silent"
"""),
    ("11.1", "of all its samples together", """
def first_look(upload):
    if not upload.size: return "empty"
    wav = announced(upload.read(0, 64))
    if wav is None: return "not_audio"
    start, n, second = wav["start"], wav["bytes"], 2 * wav["sr"]
    if upload.size - start < n: return "truncated"
    if n < 3 * second: return "too_short"
    half = second // 2
    for at in range(0, n, half):
        if loudness(upload.read(start + at, min(half, n - at))) >= 0.001: return ""
    return "silent"
"""),
    ("17.1", "unrounded", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    if clip.sr <= 4_000: return Analysis({"share": None}, 0.0, warnings=("rate",))
    power = np.abs(np.fft.rfft(clip.samples)) ** 2
    if not power.sum(): return Analysis({"share": None}, 0.0, warnings=("nothing but zeros",))
    above = np.fft.rfftfreq(len(clip.samples), 1 / clip.sr) > 2_000
    return Analysis({"share": round(float(power[above].sum() / power.sum()), 2)}, 1.0)
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, needs=("audio",), limit_s=2)]
"""),
    ("17.1", "the confidence 0", """
import numpy as np
from rap_analyzer.music.analyzers import Analysis, Analyzer, hookimpl
def bright(clip):
    if clip.sr <= 4_000: return Analysis({"share": None}, 0.0, warnings=("rate",))
    power = np.abs(np.fft.rfft(clip.samples)) ** 2
    if not power.sum(): return Analysis({"share": None}, 1.0, warnings=("nothing but zeros",))
    above = np.fft.rfftfreq(len(clip.samples), 1 / clip.sr) > 2_000
    return Analysis({"share": float(power[above].sum() / power.sum())}, 1.0)
@hookimpl
def analyzers():
    return [Analyzer(name="brightness", version="0.1", contract=1, analyze=bright, needs=("audio",), limit_s=2)]
"""),
    ("14.2", "that would have fitted in", """
import random
def split(tracks, share, seed):
    root = {}
    def find(x):
        root.setdefault(x, x)
        while root[x] != x: x = root[x]
        return x
    for t in tracks:
        for name in t["artists"]: root[find(name)] = find(t["artists"][0])
    crews = {}
    for t in tracks: crews.setdefault(find(t["artists"][0]), []).append(t["id"])
    order = sorted(crews)
    random.Random(seed).shuffle(order)
    out, room = [], share * len(tracks)
    for name in order:
        if len(out) + len(crews[name]) > room: break
        out += crews[name]
    return out
"""),
    ("14.2", "as a guest neither", """
import random
def split(tracks, share, seed):
    root = {}
    def find(x):
        root.setdefault(x, x)
        while root[x] != x: x = root[x]
        return x
    for t in tracks:
        pass
    crews = {}
    for t in tracks: crews.setdefault(t["artists"][-1], []).append(t["id"])
    order = sorted(crews)
    random.Random(seed).shuffle(order)
    out, room = [], share * len(tracks)
    for name in order:
        if len(out) + len(crews[name]) <= room: out += crews[name]
    return out
"""),
    ("13.1", "expected", """
def decide(p,s,h):
    b=120/s
    if b<80 and h*b/60<.35: b*=2
    return round(b,-1)
"""),
]


@pytest.mark.parametrize("name, sentence, code", RULES)
def test_what_no_belief_explains_is_told_by_its_rule(memo_of, name, sentence, code):
    "An answer that is wrong in a way of its own: no belief is named, and the sentence of the task is, with what was expected."
    ex = exercise(name)
    verdict = judge(ex, [*enumerate(ex.given, 1), (len(ex.given) + 1, code)], 5, memo=memo_of(name, 5))
    wrong = [c for c in verdict.checks if not c.ok]
    said = " ".join(c.message for c in wrong)
    told = sentence in said or "no single rule explains it" in said         # where many rules are broken, none is quoted
    assert verdict.state == "fail" and not any(c.belief for c in wrong) and told, str(verdict)
