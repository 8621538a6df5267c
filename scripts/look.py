"""Look at the pages of a running service: screenshots, first paint, bytes, what axe finds.

`scripts/look.py [--url http://127.0.0.1:8000] [--to FOLDER] [PATH ...]` needs Node, a Chromium, and playwright-core and axe-core
from npm in a folder that NODE_PATH names. Each page is opened at 390 and 1280 pixels, light and dark; exit 1 if anything is wrong.
`tests/test_pages.py` does the same with three pages, where there is a Chromium.
"""
import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PATHS = "/", "/search?q=night", "/search?q=42", "/tracks/42", "/tracks/7", "/tracks/99999999", "/upload", "/plugins", "/docs", \
    "/problems"
BROWSERS = "chromium", "chromium-browser", "google-chrome"
PACKAGES = "playwright-core", "axe-core"
SCRIPT = r"""
const {chromium} = require("playwright-core"), fs = require("fs");
const asked = JSON.parse(process.argv[1]), axe = asked.axe && fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
(async () => {
  const browser = await chromium.launch({executablePath: asked.browser, args: ["--no-sandbox"]}), seen = [];
  for (const width of [390, 1280]) for (const scheme of asked.schemes) {
    const context = await browser.newContext({viewport: {width, height: 900}, colorScheme: scheme, deviceScaleFactor: 1});
    for (const path of asked.paths) {
      const page = await context.newPage(), wrong = [];
      page.on("console", m => { if (m.type() === "error") wrong.push(m.text()) });
      page.on("pageerror", e => wrong.push(String(e)));
      await page.goto(asked.url + path, {waitUntil: "networkidle"});
      const name = (path.replace(/[^a-z0-9]+/gi, "-").replace(/^-|-$/g, "") || "home") + "-" + width + "-" + scheme + ".png";
      await page.screenshot({path: asked.to + "/" + name, fullPage: true});
      if (axe) await page.evaluate(axe);
      const found = axe ? await page.evaluate(async () =>
        (await axe.run()).violations.map(v => v.id + " " + v.nodes.map(n => n.target).join(", "))) : [];
      const cost = await page.evaluate(() => ({
        paint_ms: Math.round(performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? -1),
        wide: document.documentElement.scrollWidth > innerWidth,
        kb: Math.round([...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")].filter(
          e => !e.name.includes("/audio")).reduce((sum, e) => sum + e.encodedBodySize, 0) / 1000)}));
      seen.push({path, width, scheme, name, ...cost, wrong, found});
      await page.close();
    }
    await context.close();
  }
  await browser.close();
  console.log(JSON.stringify(seen));
})().catch(e => { console.error(e); process.exit(1) });
"""


def find_lack() -> str:  # empty: nothing is lacking
    "What this machine lacks to look at pages."
    if not (node := shutil.which("node")): return "there is no Node on PATH"
    if not any(map(shutil.which, BROWSERS)): return "there is no Chromium on PATH"
    if has_package(node, PACKAGES[0]): return ""
    return "Node finds no playwright-core: npm installs it into a folder that NODE_PATH names"


def has_package(node: str, name: str) -> bool:
    "Whether Node finds a package of npm."
    return not subprocess.run([node, "-e", "require.resolve(process.argv[1])", name], capture_output=True).returncode


def look(url: str, to: Path, paths: Sequence[str] = PATHS, schemes: Sequence[str] = ("light", "dark")) -> list[dict]:
    "Open each page in each width and scheme; what was seen, with the `faults` of console, axe (where it is there) and layout."
    node, browser = shutil.which("node"), next(filter(None, map(shutil.which, BROWSERS)))
    to.mkdir(parents=True, exist_ok=True)
    asked = {"url": url, "to": str(to.resolve()), "browser": browser, "paths": list(paths), "schemes": list(schemes),
             "axe": has_package(node, PACKAGES[1])}
    done = subprocess.run([node, "-e", SCRIPT, json.dumps(asked)], capture_output=True, text=True, timeout=600)
    if done.returncode: raise RuntimeError(done.stderr)
    wide = ["wider than the window"]
    return [s | {"faults": [*s["wrong"], *s["found"], *(wide if s["wide"] else [])]} for s in json.loads(done.stdout)]


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--to", type=Path, default=Path("_build/look"))
    parser.add_argument("paths", nargs="*", default=PATHS)
    own = parser.parse_args()
    if lack := find_lack(): sys.exit(f"Pages cannot be looked at here: {lack}.")
    try: seen = look(own.url, own.to, own.paths)
    except RuntimeError as e: sys.exit(str(e))
    for s in seen:
        print(f"{s['path']:<24} {s['width']:>5} {s['scheme']:<6} {s['paint_ms']:>5} ms {s['kb']:>4} kB  {s['name']}")
        for fault in s["faults"]: print(f"    {fault[:300]}")
    return int(any(s["faults"] for s in seen))


if __name__ == "__main__": sys.exit(main())
