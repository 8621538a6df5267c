// The waveform follows the player and can be clicked; one button compares this track with another at the same moment.
(() => {
  const a = document.querySelector("#a"), b = document.querySelector("#b"), wave = document.querySelector("#wave");
  let now = a, pressed = null;
  const show = () => {
    if (!(now.duration > 0)) return;
    wave.style.setProperty("--at", now.currentTime / now.duration);
    wave.style.setProperty("--shown", 1);
  };
  wave.classList.add("live");
  wave.addEventListener("click", e => {
    const box = wave.getBoundingClientRect(), part = (e.clientX - box.left) / box.width;
    const seek = () => { now.currentTime = part * now.duration };
    if (now.duration > 0) seek(); else now.addEventListener("loadedmetadata", seek, {once: true});
    now.play();
  });
  for (const one of [a, b]) if (one) one.addEventListener("timeupdate", () => { if (one === now) show() });
  a.addEventListener("play", () => { if (now !== a) { b.pause(); now = a; press(null) } });
  const press = button => {
    if (pressed) pressed.setAttribute("aria-pressed", "false");
    pressed = button;
    if (button) button.setAttribute("aria-pressed", "true");
  };
  const change = (to, at) => {
    now.pause(); now = to;
    if (to.readyState > 0) to.currentTime = at; else to.addEventListener("loadedmetadata", () => { to.currentTime = at }, {once: true});
    to.play();
  };
  for (const button of document.querySelectorAll("button[data-audio]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const at = now.currentTime || 0;
      if (pressed === button) { press(null); change(a, at); return }
      press(button);
      if (now === b) b.pause();
      b.src = button.dataset.audio;
      change(b, at);
    });
  }
})();
