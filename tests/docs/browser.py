"""The built site in headless Chromium, at the width of a desk and of a phone.

`python tests/docs/browser.py build/site --shots FOLDER` serves the site on loopback, visits pages
as a reader does, and fails where the console has an error, a page is wider than the window, a
formula is not drawn, or anything is requested from another host. With `--every` it visits all
pages, else one of each kind, and has KaTeX read the formulas of all. Needs chromium, chromedriver
and selenium.
"""

import argparse
import functools
import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait


WIDTHS = {"desk": 1280, "phone": 390}
PAGES = {
    "front": "",
    "rule": "rules/kfrtrl/",
    "api": "api/scan/",
    "notebook": "examples/modprop/",
    "chooser": "usage/how-to-choose-a-rule/",
    "taxonomy": "theory/taxonomy/",
}
# What stands out of a window of this width, unless a parent scrolls it. (A phone's own innerWidth
# grows with the page; KaTeX keeps MathML for screen readers, which is not seen.)
WIDE = """
const scrolls = e => e && e !== document.body && (
  ["auto", "scroll"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
const inner = [...document.querySelectorAll(".md-content *, .md-footer *")];
const out = inner.filter(e => !e.closest(".katex-mathml") && !scrolls(e)
  && !e.ownerSVGElement && e.getBoundingClientRect().right > arguments[0] + 1);
return out.slice(0, 5).map(e => e.outerHTML.slice(0, 200));
"""
UNDRAWN = """
const all = [...document.querySelectorAll(".arithmatex")];
return all.filter(e => !e.querySelector(".katex-html") || e.querySelector(".katex-error"))
  .map(e => e.textContent.slice(0, 200));
"""
FIRST_HIT = """
const hit = document.querySelector("a.md-search-result__link");
return hit && hit.getAttribute("href");
"""
# the formulas that KaTeX can't read, of pages that are fetched but not shown
UNREADABLE = """
const [pages, done] = arguments, found = [];
const read = async path => {
  const html = await (await fetch(path)).text();
  const parsed = new DOMParser().parseFromString(html, "text/html");
  for (const element of parsed.querySelectorAll(".arithmatex")) {
    try { katex.renderToString(element.textContent.trim().slice(2, -2)); }
    catch (error) { found.push(path + ": " + error.message); }
  }
};
Promise.all(pages.map(read)).then(() => done(found), error => done([String(error)]));
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def serve(folder: Path) -> str:
    """Serve a folder on a free port of loopback, as long as the program runs."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def chromium() -> webdriver.Chrome:
    """A headless browser that keeps its console and its requests for us."""
    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def faults(browser: webdriver.Chrome, site: str, width: int) -> list[str]:
    """What is wrong with the page that is open."""
    found = [f"wider than the window: {part}" for part in browser.execute_script(WIDE, width)]
    found += [f"formula not drawn: {text}" for text in browser.execute_script(UNDRAWN)]
    found += [f"console: {line['message']}" for line in browser.get_log("browser")]
    for line in browser.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if urlparse(url).scheme in ("http", "https") and not url.startswith(site):
                found.append(f"another host: {url}")
    return found


def search(browser: webdriver.Chrome, site: str, words: str, wide: bool) -> str:
    """Type into the search box, and follow the first hit."""
    browser.get(site)
    if not wide:
        browser.find_element(By.CSS_SELECTOR, "label.md-header__button[for=__search]").click()
    box = browser.find_element(By.CSS_SELECTOR, "input.md-search__input")
    waiting = WebDriverWait(browser, 20)
    waiting.until(lambda _: box.is_displayed())
    box.send_keys(words)
    # The list is made anew as the words are typed, so an element held is one that may be gone: the
    # address is asked of the page itself, until two looks half a second apart say the same.
    last: list[str] = []

    def settled(_: webdriver.Chrome) -> str | None:
        time.sleep(0.5)
        last.append(str(browser.execute_script(FIRST_HIT) or ""))
        return last[-1] if last[-1] and last[-2:-1] == last[-1:] else None

    return str(waiting.until(settled))


def visit(
    browser: webdriver.Chrome,
    site: str,
    device: str,
    pages: dict[str, str],
    shoot: Callable[[str], None],
) -> list[str]:
    """These pages, and a search, at one width."""
    found = []
    size = {"width": WIDTHS[device], "height": 900, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", size | {"mobile": device == "phone"}
    )

    def look(name: str) -> None:
        time.sleep(0.3)
        wrong = faults(browser, site, WIDTHS[device])
        formulas = len(browser.find_elements(By.CSS_SELECTOR, ".katex-html"))
        print(f"{device} {name}: {formulas} formulas, {len(wrong)} faults", flush=True)
        shoot(f"{device}-{name}")
        found.extend(f"{device} {name}: {text}" for text in wrong)

    for name, path in pages.items():
        browser.get(site + path)
        look(name)
    href = search(browser, site, "KF-RTRL", wide=device == "desk")
    look("search")
    if "kfrtrl" not in href.lower():
        found.append(f"{device} search: the first hit of KF-RTRL is {href}")
    browser.find_element(By.CSS_SELECTOR, "input.md-search__input").send_keys(Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda _: "kfrtrl" in browser.current_url.lower())
    look("found")
    return found


def main() -> None:
    """Visit the site; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--every", action="store_true", help="visit all pages")
    parser.add_argument("--shots", type=Path, help="folder for pictures of the pages")
    chosen = parser.parse_args()
    site, browser = serve(chosen.site), chromium()
    folders = sorted(page.parent for page in chosen.site.rglob("index.html"))
    paths = [f"{folder.relative_to(chosen.site)}/" for folder in folders]
    pages = {path.replace("/", "-"): path for path in paths} if chosen.every else PAGES

    def shoot(name: str) -> None:
        if chosen.shots:
            chosen.shots.mkdir(parents=True, exist_ok=True)
            browser.save_screenshot(str(chosen.shots / f"{name}.png"))

    try:
        found = [f for device in WIDTHS for f in visit(browser, site, device, pages, shoot)]
        unreadable = browser.execute_async_script(UNREADABLE, [site + path for path in paths])
        print(f"formulas of {len(paths)} pages read, {len(unreadable)} faults")
        found += unreadable
    finally:
        browser.quit()
    print("\n".join(found) or "nothing wrong")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
