// Sends a song, then follows its job; each step says what it is a part of.
(() => {
  const at = s => document.querySelector(s), form = at("#sending"), words = form.dataset, far = at("#far");
  const tell = (text, part) => { at("#said").textContent = text; far.hidden = false;
    if (part === null) far.removeAttribute("value"); else far.value = part };
  const fail = why => { at("#said").textContent = words.failed.replace("{why}", why); far.hidden = true; at("#sending button").disabled = false };
  const percent = part => Math.round(100 * part) + "%";
  const follow = id => {
    const events = new EventSource("/api/jobs/" + id + "/events");
    events.addEventListener("job", e => {
      const job = JSON.parse(e.data);
      if (job.state === "done" || job.state === "dead") { events.close(); location.href = "/uploads/" + id; return }
      if (job.state === "running") tell(words.running.replace("{percent}", percent(job.progress)), job.progress); else tell(words.waiting, null);
    });
    events.addEventListener("unknown", () => { events.close(); location.href = "/uploads/" + id });
  };
  form.addEventListener("submit", e => {
    e.preventDefault();
    const file = at("#file").files[0];
    if (!file) return;
    at("#sending button").disabled = true;
    const r = new XMLHttpRequest();
    r.open("POST", "/api/analyze?name=" + encodeURIComponent(file.name.slice(-200)));
    r.setRequestHeader("content-type", "application/octet-stream");
    r.setRequestHeader("x-csrf-token", words.csrf);
    r.upload.onprogress = p => tell(words.sending.replace("{percent}", percent(p.loaded / p.total)), p.loaded / p.total);
    r.onerror = () => fail("");
    r.onload = () => {
      const said = JSON.parse(r.responseText);
      if (r.status < 300) { tell(words.waiting, null); follow(said.job) } else fail(said.error);
    };
    r.send(file);
  });
})();
