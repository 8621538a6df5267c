"""The pages: what they contain, what a browser may run on them, and what the script of a track really does to a service."""

import hashlib
import html
import json
import re
import secrets
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
from helpers import own_database, until
from typer.testing import CliRunner

from rap_analyzer.app import create_app
from rap_analyzer.music.catalog import Track
from rap_analyzer.music.embedding import MODEL_ID
from rap_analyzer.platform import commands
from rap_analyzer.platform.cover import draw_cover
from rap_analyzer.platform.keys import Keys
from rap_analyzer.platform.layout import LAYOUT, LAYOUTS
from rap_analyzer.platform.marketplace import REGISTER, REMOVE
from rap_analyzer.platform.page import PAGES, load_assets, load_words
from rap_analyzer.platform.track_page import make_track_page, script_words
from rap_analyzer.product.assignment import assign
from rap_analyzer.product.exposures import Exposures
from rap_analyzer.product.rules import Rule, RuleFile
from rap_analyzer.search.index import build
from rap_analyzer.search.sessions import Query
from rap_analyzer.search.store import Store, fill
from rap_analyzer.serve.analysis import ANALYZERS, KEEP, analysis_key, hash_track
from rap_analyzer.web import serving

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from look import find_lack, look  # noqa: E402

TRACK_SCRIPT = (PAGES / "static" / "track.js").read_text(encoding="utf-8")
# As much of a document as the script touches. Requests go to the real service.
DOCUMENT = """
const made = {}, kept = () => new Proxy({}, {get: (t, k) => t[k], set: (t, k, v) => (t[k] = String(v), true)});
function element(tag) {
  return {tag, children: [], dataset: {}, textContent: "", append(...more) { this.children.push(...more) },
          replaceChildren(...all) { this.children = all } }; }
const document = {querySelector: s => made[s] ??= element(s), createElement: element};
document.querySelector("#track").dataset = {track: process.argv[1], listener: process.argv[5], words: process.argv[6],
                                                   csrf: ""};
const window = {sessionStorage: kept()}, base = process.argv[2], real = fetch;
let lost = Number(process.argv[3]);
globalThis.fetch = async (path, how) => {
  const r = await real(base + path, how);
  if (path.endsWith("track_action") && how.body.includes('"save"') && lost-- > 0) throw new TypeError("the answer was lost");
  return r; };
"""
SCENE = """
(async () => {
  await new Promise(done => { const look = setInterval(() => {
    const shown = made["#next"]?.children.length;
    if (shown && made["#sent"]?.children.length >= shown) { clearInterval(look); done() } }, 20) });
  made["#a"].onplay(); made["#a"].onplay();
  for (let n = Number(process.argv[4]); n--;) await made["#saving"].onsubmit({preventDefault() {}});
  await note("click", 7, 3);
  console.log(JSON.stringify({listener, session, button: made["#save"].textContent, said: made["#said"].textContent,
    order: made["#order"].textContent, next: made["#next"].children.map(li => li.children[0].href),
    sent: made["#sent"].children.map(li => li.textContent)}));
})();
"""


@pytest.fixture(scope="module")
def store(lab):
    with own_database(lab, "test_track_page") as own:
        store = fill(Store(own, "page"), 300)
        build("hnsw_halfvec", store)
        yield store
        store.forget()


@pytest.fixture(scope="module")
def url(store):
    with serving(create_app(store)) as url: yield url


ELSEWHERE = r"""(?:src|href|action)\s*=\s*["']?(?:https?:)?//(?!127\.0\.0\.1[:/])|url\(|@import"""


@pytest.mark.parametrize("address", ["/", "/search", "/search?q=night", "/tracks/42", "/tracks/99999", "/playlist", "/upload",
                                     "/plugins", "/docs", "/problems"])
def test_each_page_is_locked_and_loads_nothing_from_elsewhere(url, address):
    r = httpx.get(url + address)
    rules = dict(part.split(" ", 1) for part in r.headers["content-security-policy"].split("; "))
    assert r.headers["referrer-policy"] == "same-origin"                            # else our own forms come from nowhere
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert {rules[kind] for kind in ("script-src", "style-src", "connect-src", "media-src", "form-action")} == {"'self'"}
    assert not re.search(ELSEWHERE, r.text) and not re.search(r"<style|<[^>]+\sstyle=|<[^>]+\son\w+=|<script>", r.text)
    for path in re.findall(r'(?:src|href)="(/static/[^"]*)"', r.text):
        got = httpx.get(url + path)
        assert got.status_code == 200 and "immutable" in got.headers["cache-control"], path
    assert re.search('<html lang="en">.*<title>[^<]+</title>.*name="viewport".*<h1', r.text, re.S) and r.text.count("<h1") == 1
    assert '<form action="/search" method="get" role="search">' in r.text and '<main id="main">' in r.text


def test_the_page_of_a_track_works_without_a_script(url, store):
    r, t = httpx.get(f"{url}/tracks/42"), store.tracks([42])[0]
    assert t.title in html.unescape(r.text) and '<audio id="a" controls preload="none" src="/api/tracks/42/audio">' in r.text
    assert "<noscript>" in r.text and re.search(r'<p id="said" role="status"', r.text)
    assert draw_cover(t) in r.text and len(set(re.findall('href="/tracks/([0-9]+)"', r.text))) == 6          # similar ones
    assert httpx.get(f"{url}/api/tracks/42/audio", headers={"range": "bytes=0-1"}).status_code == 206
    for name, kind in (("wave", 2), ("cover", 3)):
        image = httpx.get(f"{url}/tracks/42/{name}.svg")
        assert image.headers["content-type"] == "image/svg+xml" and len(ElementTree.fromstring(image.text)) == kind


@pytest.mark.parametrize("address, status", [("/tracks/99999", 404), ("/tracks/x", 422), ("/tracks/-1", 422),
                                             (f"/tracks/{2**63}", 422)])
def test_what_is_not_there(url, address, status):
    r = httpx.get(url + address)
    assert r.status_code == status
    assert status != 404 or ("There is no track 99999" in r.text and r.headers["content-type"].startswith("text/html"))


def test_a_hostile_title_stays_text():
    nasty = '"><img src=x onerror=alert(1)>{title}</main><script>'
    fields = {f: None for f in Track.__dataclass_fields__}
    page = make_track_page(Track(**fields | {"id": 1, "title": nasty, "artist": nasty, "genres": (nasty,)})).body.decode()
    assert "<script>" not in page and page.count("<img") == 1 and page.count("<main") == 1


@pytest.fixture(scope="module")
def node():
    if not (found := shutil.which("node")): pytest.skip("there is no node to run the page's script")
    return found


def play(node, url, track=42, lost=0, presses=1):
    given = str(track), url, str(lost), str(presses), str(secrets.randbelow(2**53)), json.dumps(script_words())
    done = subprocess.run([node, "-e", DOCUMENT + TRACK_SCRIPT + SCENE, *given], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stored(store, listener):
    rows = store.query(Query("""SELECT action, track_id, position, session_id FROM events WHERE listener_id = %s
        ORDER BY time, position""", (listener,)))
    return [(a, t, p) for a, t, p, _ in rows], {s for *_, s in rows}


def test_the_script_registers_shows_and_tells_what_happened(node, url, store):
    seen = play(node, url)
    events, sessions = stored(store, seen["listener"])
    shown = [int(href.rpartition("/")[2]) for href in seen["next"]]
    assert (seen["button"], seen["said"], len(shown), 42 in shown) == ("Saved", "", 10, False)
    assert [(t, p) for a, t, p in events if a == "impression"] == [(t, i) for i, t in enumerate(shown, 1)]
    assert sorted((a, t, p) for a, t, p in events if a != "impression") == [("click", 7, 3), ("play", 42, None), ("save", 42, None)]
    assert sessions == {seen["session"]} and "save of track 42, accepted" in seen["sent"]


def test_lost_answers_make_no_second_save(node, url, store):
    seen = play(node, url, lost=3)
    assert seen["button"] == "Saved" and [e for e in stored(store, seen["listener"])[0] if e[0] == "save"] == [("save", 42, None)]


def test_a_save_without_an_answer_is_not_shown_as_saved(node, url, store):
    seen = play(node, url, lost=9)                                                      # more than the page's patience
    assert seen["button"] == "Save" and seen["said"].startswith("Not saved: the service does not answer")


def test_a_second_press_sends_the_same_save(node, url, store):
    """The first press gave up although the service had the event on disk."""
    seen = play(node, url, lost=6, presses=2)
    assert seen["button"] == "Saved" and seen["said"] == ""
    assert [e for e in stored(store, seen["listener"])[0] if e[0] == "save"] == [("save", 42, None)]


def test_a_flag_changes_the_page(node, url, store):
    file, before = RuleFile(store.lab.home), play(node, url)
    file.change("recommend-order", Rule("sound", 100))
    try:
        time.sleep(1)
        after = play(node, url)
        assert (before["order"], after["order"]) == ("Ordered by sound and by plays.", "Ordered by sound.")
        assert before["next"] != after["next"]
    finally: file.change("recommend-order", Rule("sound", 0))


# ---- home

def titles(text): return [html.unescape(x) for x in re.findall(r'<h2 id="row-[0-9]+">(.*?)</h2>', text)]


def test_home_is_for_strangers_until_something_is_liked(url, store):
    mine, cookie = secrets.randbelow(2**53), "listener={}"
    stranger = httpx.get(url)
    assert titles(stranger.text) and "For you" not in titles(stranger.text) and "set-cookie" not in stranger.headers
    assert len(set(re.findall('href="/tracks/([0-9]+)"', stranger.text))) >= 8
    given = httpx.get(f"{url}/tracks/42", headers={"cookie": cookie.format(mine)})
    assert f'data-listener="{mine}"' in given.text and "set-cookie" not in given.headers
    httpx.put(f"{url}/api/listeners/{mine}")
    body = {"event_id": f"home-{mine}", "user_id": mine, "action": "save", "track_id": 42}
    assert httpx.post(f"{url}/api/track_action", json=body).status_code == 200
    known = lambda: httpx.get(url, headers={"cookie": cookie.format(mine)}).text
    wanted = f"Because you liked “{store.tracks([42])[0].title}”"
    until(lambda: wanted in titles(known()))                                            # sources are opened by the first visit
    assert "sounds like track 42" in known()
    for bad in ("x", "-1", str(2**53), "1" * 40):
        r = httpx.get(f"{url}/tracks/42", headers={"cookie": cookie.format(bad)})
        told = r.headers["set-cookie"]
        assert "HttpOnly" in told and "SameSite=lax" in told and int(re.search("listener=([0-9]+)", told)[1]) < 2**53


def test_the_experiment_decides_the_layout_and_notes_each_listener_once(url, store, monkeypatch):
    monkeypatch.setattr("rap_analyzer.search.store.default_store", lambda: store)
    def command(*words): return CliRunner().invoke(commands.app, ["layout", *words, "--tenant", store.tenant])
    log, drawn = Exposures(store), iter(lambda: secrets.randbelow(2**53), None)
    arms = {next(w for w in drawn if assign(LAYOUT, w) == arm): arm for arm in (*LAYOUTS, *LAYOUTS)}
    def home(listener=None, **heads):
        if listener is not None: heads["cookie"] = f"listener={listener}"
        return httpx.get(url, headers=heads).text
    def layout(text): return "list" if 'class="list spread"' in text else "rows" if 'class="tiles' in text else ""
    def tracks(text): return [int(x) for x in re.findall('<li><a href="/tracks/([0-9]+)"', text)]
    assert {layout(home(w)) for w in arms} == {"rows"}                                  # nothing runs, and no flag is set
    assert command("start").exit_code == 0 and isinstance(command("begin").exception, ValueError)
    store.memo.clear()                                                                  # as a process does after ten seconds
    for _ in range(2): assert {w: layout(home(w)) for w in arms} == arms
    home(2**52, **{"sec-purpose": "prefetch"})
    assert layout(home()) == "rows"                                                     # a stranger takes no part
    seen = log.table(LAYOUT.name)
    assert dict(zip(seen.unit_id, seen.variant, strict=True)) == {str(w): arm for w, arm in arms.items()}
    one, other, *_ = arms
    until(lambda: tracks(home(one)) == tracks(home(other)) != [])                       # the layout alone differs
    noted = Query("SELECT items FROM shown_pages WHERE listener_id = %s AND ordered_by = 'home: list' ORDER BY id DESC LIMIT 1",
                  (other,))
    until(lambda: [items for (items,) in store.query(noted)] == [tracks(home(other))])
    assert "a list with reasons" in re.search("<summary>Under the hood</summary>(.*?)</details>", home(other), re.S)[1]
    httpx.put(f"{url}/api/listeners/{other}")
    body = {"event_id": f"layout-{other}", "user_id": other, "action": "save", "track_id": 42}
    assert httpx.post(f"{url}/api/track_action", json=body).status_code == 200
    found = json.loads(command("read", "--json").output)
    assert found["units"] == {"rows": 2, "list": 2} and (found["control"], found["treatment"]) == (0, .5)
    assert command("end").exit_code == 0 and log.running() == []


# ---- search

def test_search_is_a_page_and_a_part_of_one(url):
    whole, part = httpx.get(f"{url}/search?q=night"), httpx.get(f"{url}/search?q=night", headers={"hx-request": "true"})
    found = re.findall('<li><a href="/tracks/([0-9]+)"', whole.text)
    assert found and found == re.findall('<li><a href="/tracks/([0-9]+)"', part.text)
    assert "<html" in whole.text and "<html" not in part.text
    assert part.text.count('id="told"') == 1 and "hx-swap-oob" not in whole.text
    assert whole.headers["vary"] == part.headers["vary"] == "Accept-Language, HX-Request"
    field = re.search("<input[^>]*>", whole.text, re.S)[0]
    wanted = 'hx-trigger="input changed delay:', 'hx-sync="this:replace"', 'hx-target="#found"', 'value="night"'
    assert all(x in field for x in wanted)
    many = httpx.get(f"{url}/search?q=m").text                                      # the beginning of many words
    more = html.unescape(re.search('class="more" href="([^"]+)"', many)[1])
    first, after = (re.findall('<li><a href="/tracks/([0-9]+)"', text) for text in (many, httpx.get(url + more).text))
    assert after and not set(after) & set(first)


def test_search_understands_numbers_and_says_what_is_wrong(url, store):
    number = httpx.get(f"{url}/search?q=42").text
    assert re.findall('<li><a href="/tracks/([0-9]+)"', number)[0] == "42" and "Sounds like" in number
    nasty = '"><script>alert(1)</script>'
    for q, says in ((nasty, ""), ("zzqqxx", "Nothing was found for"), ("!!!", "no question"), ("9" * 18, ""), ("\x00", "")):
        r = httpx.get(f"{url}/search", params={"q": q})
        assert r.status_code == 200 and says in html.unescape(r.text) and "<script>alert" not in r.text, q
    strange = httpx.get(f"{url}/search?q=a%00b%1B%5B31m").text
    assert "a b [31m" in strange and not {"\0", "\x1b"} & {*strange}
    assert "<section" not in httpx.get(f"{url}/search?q=%20", headers={"hx-request": "true"}).text
    assert httpx.get(f"{url}/search", params={"q": "a" * 201}).status_code == 422


# ---- what was found

def test_a_track_is_analysed_when_it_is_asked_for(url, store):
    t, at = store.tracks([77])[0], f"{url}/tracks/77"
    assert '<form action="/tracks/77/analysis" method="post">' in httpx.get(at).text
    for _ in range(2):
        asked = httpx.post(f"{at}/analysis")
        assert (asked.status_code, asked.headers["location"]) == (303, "/tracks/77#analysis")
    assert store.query(Query("SELECT count(*) FROM jobs WHERE payload->>'track_id' = '77'"))[0][0] == 1
    waits = httpx.get(at).text
    assert "Waiting for a worker." in waits and 'hx-get="/tracks/77/analysis"' in waits
    tempo = json.dumps({"bpm": 90.0, "candidates": [], "beats": [.5, 1.5]})
    for name, value, sure in (("tempo", tempo, .75), ("mood", "null", 0.0)):
        store.query(Query(KEEP + " RETURNING 1", (hash_track(t), name, ANALYZERS, value, sure, [])))
    part = httpx.get(f"{at}/analysis", headers={"hx-request": "true"}).text
    assert "90 BPM" in part and "75% sure" in part and "found nothing" in part and "<html" not in part and "hx-get" not in part
    assert httpx.get(f"{at}/analysis").status_code == 303 and "Beats as the analyzer heard them." in httpx.get(at).text
    assert ElementTree.fromstring(httpx.get(f"{at}/wave.svg").text)[0].get("d").count("M") == 2
    assert [httpx.request(m, f"{url}/tracks/99999/{p}").status_code for m, p in
            (("POST", "analysis"), ("GET", "wave.svg"), ("GET", "cover.svg"))] == [404] * 3


def test_an_analysis_asks_the_plugins_that_are_registered(url, store):
    t, at = store.tracks([78])[0], f"{url}/tracks/78"
    find = Query("SELECT key, payload->'plugins' FROM jobs WHERE payload->>'track_id' = '78' ORDER BY created_at", ())
    store.query(Query(KEEP + " RETURNING 1", (hash_track(t), "tempo", ANALYZERS, json.dumps({"bpm": 90.0, "beats": []}), .75, [])))
    assert "<button" not in re.search('id="analysis".*?</section>', httpx.get(at).text, re.S)[0]
    listed = [["loudness", "rap-loudness 1.0.0"]]
    store.query(Query(REGISTER, ("loudness", "1.0.0", listed[0][1], "0" * 64, ["loudness"], '{"needs": "audio"}', 3.0, "me")))
    try:
        before = httpx.get(at).text
        assert "from before loudness was registered" in before and "90 BPM" in before and "Analyse it again" in before
        for _ in range(2): assert httpx.post(f"{at}/analysis").status_code == 303
        assert store.query(find) == [(analysis_key(hash_track(t), listed), listed)]                    # once, under its own key
        waits = httpx.get(at).text
        assert "90 BPM" in waits and "Waiting for a worker." in waits and 'hx-get="/tracks/78/analysis"' in waits
        told = json.dumps({"left_out": {"loudness": "IndexError: 3"}})
        store.query(Query("UPDATE jobs SET state = 'done', result = %s::jsonb, ended_at = now() WHERE payload->>'track_id' = '78' "
                          "RETURNING 1", (told,)))
        done = httpx.get(f"{at}/analysis", headers={"hx-request": "true"}).text
        assert "left out: IndexError: 3" in done and "hx-get" not in done and "<button" not in done
        shelf = httpx.get(f"{url}/plugins").text
        assert re.search("<dt>loudness</dt><dd><b>missing</b>.*?needs sound", shelf, re.S) and shelf.count("<dt>") >= 6
    finally: store.query(Query(REMOVE, ("loudness",)))


# ---- what a page cost

def test_the_drawer_names_the_request_and_the_time_of_each_part(url):
    r = httpx.get(f"{url}/tracks/42", headers={"x-request-id": "hood-1"})
    drawer = re.search('<summary>Under the hood</summary>(.*?)</details>', r.text, re.S)[1]
    wanted = "hood-1", "Similar tracks", "Database, in all", "/lab/tree/nbs/platform/10_edge.ipynb"
    assert all(x in drawer for x in wanted)
    assert {"track", "similar", "analysis", "total"} <= set(re.findall("([a-z]+);dur=[0-9.]+", r.headers["server-timing"]))
    assert ">hit<" in httpx.get(f"{url}/tracks/42").text
    away = httpx.get(f"{url}/tracks/42", headers={"host": "127.0.0.2"}).text
    assert "/lab/tree" not in away and "Under the hood" in away
    for path in re.findall("/lab/tree/([^\"]+)", drawer): assert (ROOT / path).is_file(), path


def test_a_page_is_small(url):
    for address in ("/", "/tracks/42", "/search?q=night"):
        r = httpx.get(url + address)
        files = set(re.findall(r'(?:src|href)="((?:/static|/tracks/42/wave)[^"]*)"', r.text))
        assert len(r.content) + sum(len(httpx.get(url + f).content) for f in files) < 150_000, address


def test_a_browser_finds_nothing_wrong(url, tmp_path):
    "Three pages at two widths: no error in the console, nothing wider than the window, nothing that axe finds."
    if lack := find_lack(): pytest.skip(f"no browser to look with: {lack}")
    seen = look(url, tmp_path, ("/", "/search?q=night", "/tracks/42"), ["light"])
    assert [s["width"] for s in seen] == [390] * 3 + [1280] * 3
    assert not [(s["path"], s["width"], s["faults"]) for s in seen if s["faults"]]
    assert all(s["kb"] < 150 and (tmp_path / s["name"]).stat().st_size > 5_000 for s in seen)


# ---- a playlist, and a song of one's own

def test_a_playlist_begins_with_its_track_and_can_be_heard(url):
    page = httpx.get(f"{url}/playlist?track_id=42&arc=rise").text
    ids = re.findall('<li><a href="/tracks/([0-9]+)"', page)
    assert len(set(ids)) == 8 and "42" in ids and f'src="/playlist/mix.wav?ids={",".join(ids)}"' in page
    assert 'value="rise" selected' in page and "units of tempo, key and energy" in page
    mixed = httpx.get(f"{url}/playlist/mix.wav?ids=42,7", timeout=30)
    assert mixed.headers["content-type"] == "audio/wav" and abs(len(mixed.content) / 2 / 22_050 - 14) < .1         # 8 + 8 - 2
    many = ",".join(map(str, range(9)))
    assert [httpx.get(f"{url}/playlist/mix.wav?ids={x}").status_code for x in (many, "x", "99999")] == [422, 422, 404]
    assert httpx.get(f"{url}/playlist?track_id=99999").status_code in (404, 503)


def test_an_upload_has_a_page_from_its_first_moment(url, store):
    sound = secrets.token_bytes(2_000)                                                                            # nobody listens
    name = "../../etc/<b>song.wav"
    said = httpx.post(f"{url}/api/analyze", params={"name": name}, content=sound).json()
    at = f"{url}/uploads/{said['job']}"
    waits = httpx.get(at).text
    assert "Waiting for a worker." in waits and name in html.unescape(waits) and "<b>song" not in waits
    X = np.random.default_rng(5).standard_normal((9, 512)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    store.upsert_embeddings(np.arange(50, 59), X, MODEL_ID)
    value = json.dumps({"vector": [float(x) for x in X[4]], "parts": ["tags"], "model_id": MODEL_ID})
    store.query(Query(KEEP + " RETURNING 1", (hashlib.sha256(sound).hexdigest(), "embedding", ANALYZERS, value, .5, [])))
    ended = "UPDATE jobs SET state = 'done', progress = 1, result = '{}'::jsonb, ended_at = now() WHERE id = %s RETURNING 1"
    store.query(Query(ended, (said["job"],)))
    done = httpx.get(at).text
    assert "512 numbers, from tags" in done and re.findall('<li><a href="/tracks/([0-9]+)"', done)[0] == "54"
    assert httpx.get(f"{url}/uploads/{'0' * 8}-0000-4000-8000-{'0' * 12}").status_code == 404
    assert 'type="file"' in httpx.get(f"{url}/upload").text


# ---- signing in

@pytest.fixture(scope="module")
def guarded(store):
    with serving(create_app(store, auth="required", cache_s=0)) as url: yield url


def sign_in(url, key, to="/"):
    "A browser that has shown a key."
    browser = httpx.Client(base_url=url, timeout=20, headers={"accept": "text/html"})
    return browser, browser.post("/sign-in", data={"key": key, "next": to})


def test_a_browser_signs_in_once_and_comes_out_where_it_wanted_to_go(guarded, store):
    key, about = Keys(store).create(["read", "write"])
    sent = httpx.get(f"{guarded}/tracks/42", headers={"accept": "text/html"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/sign-in?next=%2Ftracks%2F42")
    assert httpx.get(f"{guarded}/tracks/42").status_code == httpx.get(f"{guarded}/api/whoami").status_code == 401
    page = httpx.get(guarded + sent.headers["location"])
    assert page.status_code == 200 and 'name="next" type="hidden" value="/tracks/42"' in page.text
    assert all(httpx.get(guarded + f).status_code == 200 for f in re.findall('(?:src|href)="(/static/[^"]*)"', page.text))
    browser, r = sign_in(guarded, key, "/tracks/42")
    told = r.headers["set-cookie"]
    assert (r.status_code, r.headers["location"]) == (303, "/tracks/42")
    assert "HttpOnly" in told and "SameSite=lax" in told and key not in told
    mine = {"tenant": store.tenant, "subject": about.id, "scopes": ["read", "write"], "how": "session"}
    assert browser.get("/api/whoami").json() == mine
    assert f"Signed in: {store.tenant}" in browser.get("/tracks/42").text
    Keys(store).revoke(about.id)
    time.sleep(1.1)                                                       # a verified key is trusted for a second
    assert browser.get("/tracks/42").status_code == 303 and browser.get("/api/whoami").status_code == 401


@pytest.mark.parametrize("key, to, status", [("", "/", 401), ("rap_" + "x" * 43, "/", 401), ("<script>", "//evil.example", 401)])
def test_what_is_no_key_opens_nothing(guarded, key, to, status):
    _, r = sign_in(guarded, key, to)
    assert r.status_code == status and "set-cookie" not in r.headers and 'role="alert"' in r.text
    assert "evil" not in r.text and "<script>" not in r.text
    assert httpx.post(f"{guarded}/sign-in", content=b"{}").status_code == 400
    elsewhere = httpx.post(f"{guarded}/sign-in", data={"key": key}, headers={"origin": "https://evil.example"})
    assert elsewhere.status_code == 403 and "set-cookie" not in elsewhere.headers


def test_a_change_needs_the_token_of_its_session(guarded, store):
    browser, _ = sign_in(guarded, Keys(store).create(["read", "write"])[0])
    other, _ = sign_in(guarded, Keys(store).create(["read", "write"])[0])
    mine, theirs = (re.search('name="csrf" type="hidden" value="([0-9a-f]{64})"', b.get("/").text)[1] for b in (browser, other))
    assert mine != theirs and mine not in str(browser.cookies)
    def ask(token="", **heads): return browser.post("/tracks/80/analysis", data={"csrf": token}, headers=heads).status_code
    assert [ask(), ask(theirs), ask(mine, origin="https://evil.example")] == [403] * 3
    assert ask(mine, **{"sec-fetch-site": "cross-site"}) == 403
    assert [ask(mine), ask(**{"x-csrf-token": mine})] == [303] * 2
    put = lambda **heads: browser.put("/api/listeners/80", headers=heads).status_code
    assert (put(), put(**{"x-csrf-token": mine}) < 300) == (403, True)
    assert browser.post("/api/track_action", json={"user_id": 80, "action": "like", "track_id": 1}).status_code == 403


def test_signing_out_ends_every_copy(guarded, store):
    browser, _ = sign_in(guarded, Keys(store).create(["read", "write"])[0])
    copy = {"cookie": f"session={browser.cookies['session']}"}
    assert httpx.get(f"{guarded}/api/whoami", headers=copy).status_code == 200
    token = re.search('name="csrf" type="hidden" value="([0-9a-f]{64})"', browser.get("/").text)[1]
    assert browser.post("/sign-out").status_code == 403
    assert browser.post("/sign-out", data={"csrf": token}).status_code == 303
    assert httpx.get(f"{guarded}/api/whoami", headers=copy).status_code == 401 and "session" not in browser.cookies


# ---- files, words and templates

def test_only_files_that_exist_are_served(url):
    css = load_assets()["page.css"].address
    other = [css.replace("page.css", x) for x in ("../words/en.toml", "%2e%2e%2fwords%2fen.toml", "vendored.toml", "page.css%00")]
    for path in (*other, "/static/000000000000/page.css", "/static/" + "a" * 500 + "/page.css"):
        assert httpx.get(url + path).status_code == 404, path


def test_what_comes_from_others_is_as_it_was_when_it_was_taken():
    listed = tomllib.loads((PAGES / "static" / "vendored.toml").read_text())
    assert {f.name for f in (PAGES / "static").glob("*.min.js")} == set(listed)
    for name, about in listed.items():
        assert hashlib.sha256((PAGES / "static" / name).read_bytes()).hexdigest() == about["sha256"]
        assert about["version"] and len((PAGES / "static" / about["terms"]).read_text(encoding="utf-8")) > 300


TEMPLATES = {f.name: f.read_text(encoding="utf-8") for f in (PAGES / "templates").glob("*.html")}


def test_each_word_is_used_and_each_text_is_a_word():
    code = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "rap_analyzer" / "platform").glob("*.py"))
    used = set(re.findall(r"""\bt\(["']([a-z_.-]+)["']""", "".join(TEMPLATES.values())))
    assert used <= set(load_words("en"))
    made = {"row", "analysis.name", "analysis.found", "hood.part", "hood.topic", "hood.cached", "hood", "script",
            "playlist.arcs", "layout", "plugins.input", "plugins.state", "plugins.why", "plugins.step"}
    unused = [w for w in load_words("en") if w not in used and f'"{w}"' not in code and w.rpartition(".")[0] not in made
              and w.rpartition(".")[0].partition(".")[0] != "row"]
    assert not unused
    for name, text in TEMPLATES.items():
        bare = re.sub(r"{% block tint %}.*?{% endblock %}|{%.*?%}|{{.*?}}|<[^>]*>", " ", text, flags=re.S)
        assert not re.search("[A-Za-z]{2,}", bare), (name, re.findall("[A-Za-z]{2,}", bare))


def test_templates_put_values_into_text_and_quoted_attributes_alone():
    for name, text in TEMPLATES.items():
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text, name
        assert not re.search(r"<script(?![^>]*\ssrc=\")|<style|\sstyle=|\son[a-z]+=|javascript:|\s[a-z-]+=\s*{{", text), name
        for tag in re.findall(r"<[a-z][^>]*\shx-(?:get|post)=[^>]*>", text):
            assert "hx-target=" in tag and "hx-trigger=" in tag and "hx-swap=" in tag, tag    # nothing is inherited


def test_the_package_holds_the_pages():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["rap_analyzer"]
    held = {f for pattern in told for f in (ROOT / "rap_analyzer").glob(pattern)}
    assert not [f for f in PAGES.rglob("*") if f.is_file() and f not in held]
