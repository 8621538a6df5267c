// Saves, plays and what was shown: each event is sent until the service has accepted it, and is counted once.
const at = s => document.querySelector(s), make = (tag, text) => Object.assign(document.createElement(tag), {textContent: text});
const about = at("#track").dataset, words = JSON.parse(about.words), wait = ms => new Promise(done => setTimeout(done, ms));
const say = (id, fields) => Object.entries(fields).reduce((text, [k, v]) => text.replace("{" + k + "}", v), words[id]);
const random = () => crypto.getRandomValues(new Uint32Array(2)).reduce((a, b) => a * 2 ** 20 + b % 2 ** 20, 0);
function keep(store, name) {
  try { if (!window[store][name]) window[store][name] = random(); return window[store][name] } catch { return String(random()) }
}
const track = Number(about.track), listener = Number(about.listener), session = "page-" + keep("sessionStorage", "session");
async function send(method, path, body) {
  for (let left = 4; ; left--) {
    const r = await fetch(path, {method, keepalive: true, headers: {"content-type": "application/json", "x-csrf-token": about.csrf},
                                 body: body && JSON.stringify(body)}).catch(() => null);
    if (r && r.status < 500 && r.status !== 429) {
      if (r.ok) return await r.json();
      throw Object.assign(new Error((await r.json()).error), {status: r.status}); }
    if (!left) throw new Error(words[r ? "busy" : "away"]);
    await wait(400 * 2 ** (4 - left) * (.5 + Math.random())); }
}
let known = null;
const register = () => known ??= send("PUT", "/api/listeners/" + listener).catch(e => { known = null; throw e });
const fresh = () => "page-" + random().toString(36) + "-" + random().toString(36);
function event(action, id, position) {  // the first of its kind on the track that a chosen cover led to carries the exposure
  const event_id = about.cover && id === track && !position ? about.cover + "-" + action : fresh();
  const body = {event_id, user_id: listener, action, track_id: id, session_id: session, time: new Date().toISOString()};
  return position ? {...body, position} : body; }
async function accept(e) {
  await register();
  try { await send("POST", "/api/track_action", e) } catch (err) {
    if (err.status !== 409 || !about.cover || !e.event_id.startsWith(about.cover)) throw err;
    e.event_id = fresh();  // a second play is an event of its own, and earns the cover nothing
    await send("POST", "/api/track_action", e); }
  at("#sent").append(make("li", say("accepted", {action: e.action, id: e.track_id}))); }
const note = (action, id, position) => accept(event(action, id, position));
let save = null, play = null, played = false;  // until it is accepted, a second press sends the same event
at("#saving").onsubmit = async e => {
  e.preventDefault(); const b = at("#save"); b.disabled = true; b.textContent = words.saving; at("#said").textContent = "";
  try { await accept(save ??= event("save", track)); save = null; b.textContent = words.saved }
  catch (err) { b.disabled = false; b.textContent = words.save; at("#said").textContent = say("not_saved", {why: err.message}) }
};
at("#a").onplay = () => {
  if (!played) { played = true; accept(play ??= event("play", track)).catch(() => { played = false }) } };
function row(hit, place) {
  const li = make("li"), a = make("a"), cover = make("img"), why = make("small", hit.why); a.href = "/tracks/" + hit.track_id;
  Object.assign(cover, {src: "/tracks/" + hit.track_id + "/cover.svg", alt: "", width: 160, height: 160, className: "cover", loading: "lazy"});
  a.append(cover, make("b", hit.title), make("span", [hit.artist, hit.genre].filter(Boolean).join(" \u00b7 ")), why);
  a.onclick = () => { note("click", hit.track_id, place).catch(() => {}) };
  li.append(a); return li; }
async function next() {
  try {
    const found = await send("GET", "/api/recommend?k=10&liked=" + track + "&user_id=" + listener);
    at("#order").textContent = words[found.order === "sound" ? "by_sound" : "by_all"];
    at("#next").replaceChildren(...found.hits.map((h, i) => row(h, i + 1)));
    for (let i = 0; i < found.hits.length; i++) await note("impression", found.hits[i].track_id, i + 1);
  } catch (err) { if (!at("#next").children.length) at("#order").textContent = say("no_next", {why: err.message}) }
}
next();
if (about.cover) accept({...event("click", track), time: undefined, session_id: undefined}).catch(() => {});  // a reload is the same click
