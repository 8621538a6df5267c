// What the docs site adds in the reader's browser: a guess before a result, and a search that knows English and Russian endings.
// Nothing is loaded from elsewhere; guesses stay in this browser's localStorage. Without this script results sit in plain <details>.
"use strict";
const lab = {};

// ---- search: words are cut to their stems, and the last letters of a query may be missing

const RUSSIAN = ("иями ями ами иях иям ием ией ого его ому ему ыми ими ешь ишь ете ите ать ять ить еть уть ует уют ает ают яет яют "
  + "ов ев ей ой ий ый ая яя ое ее ые ие ую юю ых их ым им ом ем ам ям ах ях ию ия ют ут ят ат ет ит "
  + "а е и й о у ы ь ю я").split(" ");
const ENGLISH = ["ings", "ing", "edly", "ied", "ies", "ed", "es", "ly", "s", "e"];

lab.words = (text) => text.normalize("NFC").toLowerCase().replace(/ё/g, "е").match(/[\p{L}\p{N}]+/gu) || [];

lab.stem = (word) => {
  const russian = /[а-я]/.test(word);
  if (russian) word = word.replace(/(?<=.{3})(ся|сь)$/, "");
  if (/ss$/.test(word)) return word;
  const end = (russian ? RUSSIAN : ENGLISH).find((e) => word.endsWith(e) && word.length - e.length >= 3);
  if (!end) return russian ? word : word.replace(/(?<=..)y$/, "i");
  const stem = word.slice(0, word.length - end.length) + (/^ie/.test(end) ? "i" : "");
  return russian ? stem : stem.replace(/([bdgmnprt])\1$/, "$1").replace(/(?<=..)y$/, "i");
};

lab.index = (entries) => {  // entries: [address, title, section, text, topic]; words: stem -> entry -> weight
  const words = new Map();
  entries.forEach(([, title, section, text, topic = ""], i) => {
    for (const [part, weight] of [[section || title, 8], [section ? title : "", 3], [topic, section ? 3 : 12], [text, 1]]) {
      for (const w of lab.words(part)) {
        const s = lab.stem(w);
        if (!words.has(s)) words.set(s, new Map());
        const at = words.get(s);
        at.set(i, (at.get(i) || 0) + weight);
      }
    }
  });
  return { entries, words };
};

lab.near = (a, b) => {  // one letter changed, missing, added, or two swapped
  if (a === b) return true;
  if (Math.abs(a.length - b.length) > 1) return false;
  let i = 0, j = 0;
  while (i < a.length && a[i] === b[i]) i++;
  while (j < Math.min(a.length, b.length) - i && a[a.length - 1 - j] === b[b.length - 1 - j]) j++;
  const x = a.slice(i, a.length - j), y = b.slice(i, b.length - j);
  return Math.max(x.length, y.length) <= 1 || (x.length === 2 && y.length === 2 && x[0] === y[1] && x[1] === y[0]);
};

lab.meant = (index, stem) => {  // the stems of the index that a stem of the query stands for, with a weight
  const all = [...index.words.keys()];
  const less = /[а-я]/.test(stem) ? lab.stem(stem) : stem;  // куплет itself ends like a verb, куплеты does not
  const fits = all.filter((s) => s.startsWith(stem) || s === less);
  if (fits.length || stem.length < 4) return fits.map((s) => [s, s === stem ? 1 : 0.5]);
  return all.filter((s) => lab.near(s, stem)).map((s) => [s, 0.3]);
};

lab.find = (index, query, most = 20) => {  // entries that hold every word of the query, best first
  const wanted = [...new Set(lab.words(query).map(lab.stem))];
  if (!wanted.length) return [];
  const used = new Set();
  const scores = wanted.map((stem) => {
    const score = new Map();
    for (const [s, weight] of lab.meant(index, stem)) {
      used.add(s);
      const at = index.words.get(s), rare = Math.log(1 + index.entries.length / at.size);
      at.forEach((n, i) => score.set(i, (score.get(i) || 0) + weight * rare * (1 + Math.log(n))));
    }
    return score;
  });
  const asked = wanted.join(" "), is = (name) => lab.words(name).map(lab.stem).join(" ") === asked;
  const named = ([, title, section, , topic = ""]) => (section ? is(section) : is(title) || is(topic));
  const both = [...scores[0].keys()].filter((i) => scores.every((s) => s.has(i)));
  const total = (i) => scores.reduce((sum, s) => sum + s.get(i), named(index.entries[i]) ? 1000 : 0);
  return both.sort((a, b) => total(b) - total(a) || a - b).slice(0, most).map((i) => ({ entry: index.entries[i], stems: used }));
};

lab.excerpt = (text, stems, most = 200) => {  // text around the first hit, as [piece, is it a hit]
  const hits = [...text.matchAll(/[\p{L}\p{N}]+/gu)].filter((m) => stems.has(lab.stem(lab.words(m[0])[0] || "")));
  const from = hits.length ? Math.max(0, text.lastIndexOf(" ", Math.max(0, hits[0].index - 50)) + 1) : 0;
  const pieces = from ? [["… ", false]] : [];
  let at = from;
  for (const m of hits.filter((h) => h.index >= from && h.index + h[0].length < from + most)) {
    pieces.push([text.slice(at, m.index), false], [m[0], true]);
    at = m.index + m[0].length;
  }
  return [...pieces, [text.slice(at, from + most) + (text.length > from + most ? " …" : ""), false]];
};

// ---- guesses

const percent = (x) => `${Number((100 * x).toPrecision(2))} %`;

lab.verdict = (guess, said, truth, measured, share = false) => {  // numbers, how the page writes them, and whether of a whole
  const start = `You guessed ${said}, this machine measured ${measured || "what stands below"}`;
  if (!(truth > 0)) return `${start}.`;
  if (share && guess === 1 && truth < 1) return `${start}: you guessed that nothing is missing, and something is.`;
  if (share && Math.min(guess, truth) > 0.5 && Math.max(guess, truth) < 1)
    return `${start}: you expected ${percent(1 - guess)} to be missing, and ${percent(1 - truth)} is.`;
  const off = Math.max(guess / truth, truth / guess);
  if (off <= 1.1) return `${start}: right within a tenth.`;
  const factor = off >= 1000 ? String(Math.round(off)).replace(/\B(?=(\d{3})+$)/g, ",") : String(Number(off.toPrecision(3)));
  return `${start}: too ${guess > truth ? "high" : "low"}, off by a factor of ${factor}.`;
};

lab.axis = (guess, truth) => {  // where both lie on a logarithmic axis, in percent
  const low = Math.log(Math.min(guess, truth)) - 1, high = Math.log(Math.max(guess, truth)) + 1;
  return [guess, truth].map((x) => Math.round(1000 * (Math.log(x) - low) / (high - low)) / 10);
};

if (typeof document !== "undefined") (() => {
  const make = (tag, props = {}, ...children) => {
    const el = Object.assign(document.createElement(tag), props);
    el.append(...children);
    return el;
  };
  const memory = (key, value) => {  // undefined reads, null forgets; a browser that refuses remembers for as long as the page is open
    try {
      if (value === undefined) return localStorage.getItem(key);
      if (value === null) localStorage.removeItem(key); else localStorage.setItem(key, value);
    } catch { /* private browsing */ }
    return null;
  };

  // -- on a phone the menu leads to the chapters, too
  const [menu, side] = [document.getElementById("navbarCollapse"), document.querySelector(".quarto-secondary-nav .quarto-btn-toggle")];
  if (menu && side) {
    side.setAttribute("aria-label", "Chapters");
    const chapters = make("button", { type: "button", className: "btn nav-link d-lg-none py-2" }, "Chapters");
    chapters.addEventListener("click", () => { document.querySelector(".navbar-toggler").click(); side.click(); });
    menu.prepend(chapters);
  }

  // -- a reading path, once chosen on the Start page, says what comes next on its pages
  if (/\/start\.html$/.test(location.pathname)) document.querySelectorAll("section[id] ol a").forEach((a) =>
    a.addEventListener("click", () => memory("path", a.closest("section[id]").id)));
  document.querySelectorAll(".onward a[data-path]").forEach((a) => {
    if (a.dataset.path !== memory("path")) return;
    a.parentNode.querySelectorAll("a.after").forEach((other) => { other.hidden = other !== a; });
  });

  // -- a guess opens what it was about
  const open = new Set(), folds = [...document.querySelectorAll("details.measured[data-keys]")];
  const forms = [...document.querySelectorAll("form.guess")];
  const asked = new Set(forms.map((f) => f.dataset.key));
  const refresh = () => folds.forEach((fold) => {
    const missing = fold.dataset.keys.split(" ").find((key) => asked.has(key) && !open.has(key));
    const note = fold.previousElementSibling;
    if (note && note.matches("p.waiting")) note.remove();
    fold.hidden = Boolean(missing);
    if (!missing) fold.open = true;
    else fold.before(make("p", { className: "waiting" }, make("a", { href: `#guess-${missing}` }, "Hidden until you guess.")));
  });
  forms.forEach((form) => {
    const { key } = form.dataset, truth = Number(form.dataset.truth), place = `guess:${key}`;
    const choices = [...form.querySelectorAll("button[data-guess]")], out = form.querySelector(".verdict");
    out.tabIndex = -1;
    const again = make("button", { type: "button", className: "quiet" }, "Forget my guess");
    const skip = make("button", { type: "button", className: "quiet" }, "Show without guessing");
    const drawn = (guess) => {
      const [a, b] = lab.axis(guess, truth);
      const mark = (name, x, y) => `<circle class="${name}" cx="${x}%" cy="30" r="6"/>`
        + `<text x="${x}%" y="${y}" text-anchor="middle">${name}</text>`;
      return `<svg class="axis" height="58" width="100%" aria-hidden="true"><line x1="0" x2="100%" y1="30" y2="30"/>`
        + `<line class="gap" x1="${a}%" x2="${b}%" y1="30" y2="30"/>${mark("guess", a, 15)}${mark("truth", b, 54)}</svg>`;
    };
    const show = (guess) => {
      const chosen = choices.find((c) => c.dataset.guess === guess);
      choices.forEach((c) => { c.setAttribute("aria-pressed", String(c === chosen)); c.disabled = Boolean(guess); });
      out.textContent = chosen ? lab.verdict(Number(guess), chosen.textContent, truth, form.dataset.measured, "share" in form.dataset) : "";
      form.querySelectorAll(".axis").forEach((s) => s.remove());
      if (chosen && truth > 0) out.insertAdjacentHTML("afterend", drawn(Number(guess)));
      again.hidden = !guess;
      skip.hidden = open.has(key);
    };
    const decide = (guess) => {
      memory(place, guess);
      open.add(key);
      show(guess);
      refresh();
      out.focus();  // what was pressed cannot be pressed any more
    };
    choices.forEach((c) => c.addEventListener("click", () => decide(c.dataset.guess)));
    skip.addEventListener("click", () => { open.add(key); skip.hidden = true; refresh(); });
    again.addEventListener("click", () => { memory(place, null); open.delete(key); show(null); refresh(); choices[0].focus(); });
    form.addEventListener("submit", (e) => e.preventDefault());
    form.append(make("p", { className: "more" }, skip, again));
    const before = choices.some((c) => c.dataset.guess === memory(place)) ? memory(place) : null;
    if (before) open.add(key);
    show(before);
    form.hidden = false;
  });
  if (forms.length) refresh();

  // -- a link into a folded part opens it
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && target.closest("details.built");
    if (fold && !fold.open) { fold.open = true; target.scrollIntoView(); }
  };
  window.addEventListener("hashchange", reveal);
  window.addEventListener("beforeprint", () => document.querySelectorAll("details.built").forEach((fold) => { fold.open = true; }));
  reveal();

  // -- the sections of this page, under its name in the sidebar, where there is no column for them
  const here = document.querySelector("#quarto-sidebar .sidebar-link.active"), toc = document.querySelector("#TOC > ul");
  if (here && toc) {
    const copy = toc.cloneNode(true);
    copy.querySelectorAll("[id]").forEach((el) => el.removeAttribute("id"));
    copy.querySelectorAll("a").forEach((a) => { a.className = ""; });
    copy.className = "sections";
    here.closest(".sidebar-item").append(copy);
  }

  // -- search, in the renderer's box: a copy of it has none of its listeners
  const up = document.currentScript.dataset.up;
  let index = null;
  const load = () => index || (index = new Promise((resolve) => {
    document.head.append(make("script", { src: `${up}search.js`, onload: () => resolve(lab.index(globalThis.labEntries)),
                                          onerror: () => resolve(lab.index([])) }));
  }));
  document.querySelectorAll(".smalldocs-search").forEach((old, n) => {
    const box = old.cloneNode(true), input = box.querySelector("input"), list = box.querySelector(".smalldocs-search-results");
    old.replaceWith(box);
    let active = -1, turn = 0;
    list.id = `found-${n}`;
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Pages found");
    for (const [k, v] of [["role", "combobox"], ["aria-controls", list.id], ["aria-expanded", "false"], ["aria-autocomplete", "list"]])
      input.setAttribute(k, v);
    const shown = (yes) => { list.classList.toggle("show", yes); input.setAttribute("aria-expanded", String(yes)); };
    const options = () => [...list.querySelectorAll("a")];
    const choose = (i) => {
      active = i;
      options().forEach((o, j) => { o.classList.toggle("active", i === j); o.setAttribute("aria-selected", String(i === j)); });
      if (i >= 0) { options()[i].scrollIntoView({ block: "nearest" }); input.setAttribute("aria-activedescendant", options()[i].id); }
      else input.removeAttribute("aria-activedescendant");
    };
    const line = (name, text) => make("div", { className: `search-result-${name}` }, text);
    const result = ({ entry: [href, title, section, text, topic], stems }, i) => {
      const a = make("a", { className: "search-result", href: up + href, id: `${list.id}-${i}`, role: "option", tabIndex: -1 },
        line("title", section || topic || title));
      if (section || topic) a.append(line("section", section && topic ? `${topic}: ${title}` : title));
      const said = line("text", "");
      said.append(...lab.excerpt(text, stems).map(([s, hit]) => (hit ? make("mark", {}, s) : s)));
      a.append(said);
      return a;
    };
    const run = async () => {
      const query = input.value.trim(), mine = ++turn;
      if (query.length < 2) { shown(false); return; }
      const found = lab.find(await load(), query);
      if (mine !== turn) return;
      list.replaceChildren(...(found.length ? found.map(result) : [make("div", { className: "search-none", role: "status" },
        `Nothing has all of these words: ${query}`)]));
      list.scrollTop = 0;
      choose(-1);
      shown(true);
    };
    input.addEventListener("input", run);
    input.addEventListener("focus", () => { load(); if (input.value.trim()) run(); });
    input.addEventListener("keydown", (e) => {
      const n = options().length, step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
      if (e.key === "Escape") { shown(false); input.blur(); }
      else if (step && n) { e.preventDefault(); choose(active < 0 && step < 0 ? n - 1 : (active + step + n) % n); }
      else if (e.key === "Enter" && n && list.classList.contains("show")) { e.preventDefault(); options()[Math.max(active, 0)].click(); }
    });
    list.addEventListener("click", () => shown(false));
    document.addEventListener("click", (e) => { if (!box.contains(e.target)) shown(false); });
  });
})();
