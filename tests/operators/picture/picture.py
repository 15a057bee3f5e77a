"""Draws the dashboard of conf/grafana with Grafana's component library, from a day that a real Prometheus recorded.

    picture.py record [SECONDS]    lives through a small working day (day.py) and keeps what Prometheus scraped
    picture.py draw                draws it: all of it, and each row by itself

It is no Grafana server: panels, legends, axes, units and colours are Grafana's own code (@grafana/ui, @grafana/data); what asks
Prometheus and puts the answers on the page is beside this file. `make picture` sets up what it needs. Everything, the images
too, is under target/picture.
"""

import base64
import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "browser")]
import dashboard  # noqa: E402
import day  # noqa: E402
import browser as chromium  # noqa: E402
import scene  # noqa: E402

WORK = dashboard.ROOT / "target" / "picture"
DAY, PAGE, MODULES = WORK / "day", WORK / "page", WORK / "node_modules"
SECONDS, SCRAPED_EVERY = 840, 5
WIDTH = 1600
# Where the components look for what Grafana's server has: here it comes from the packages.
PUBLIC = {
    "/public/build/img/icons/": MODULES / "@grafana/ui/dist/public/img/icons",
    "/public/fonts/inter/Inter-Regular.woff2": MODULES / "@fontsource/inter/files/inter-latin-400-normal.woff2",
    "/public/fonts/inter/Inter-Medium.woff2": MODULES / "@fontsource/inter/files/inter-latin-500-normal.woff2",
}


def record(seconds=SECONDS):
    shutil.rmtree(DAY, ignore_errors=True)
    DAY.mkdir(parents=True)
    with scene.Processes() as processes:
        world = day.Day(processes, DAY)
        targets = "".join(f'- targets: ["127.0.0.1:{admin}"]\n        labels: {{instance: "gateway-{number}:9090"}}\n      '
                          for number, admin in enumerate(world.admins, 1))
        dashboard.Prometheus(processes, DAY, targets, f"{SCRAPED_EVERY}s")
        time.sleep(2 * SCRAPED_EVERY)
        start = time.time()
        world.pass_by(int(seconds))
        (DAY / "span.json").write_text(json.dumps({"from": start, "to": time.time(), "every": SCRAPED_EVERY}))
        # It writes what it has when it is asked to stop.
        processes.running[-1].terminate()
        processes.running[-1].wait()


def draw():
    bundle()
    span = json.loads((DAY / "span.json").read_text())
    with scene.Processes() as processes:
        prometheus = dashboard.Prometheus(processes, DAY, "- targets: []")
        (PAGE / "recording.json").write_text(json.dumps({"prometheus": prometheus.url, **span}))
        (PAGE / "dashboard.json").write_text(json.dumps(dashboard.DASHBOARD))
        shutil.copy(HERE / "page.html", PAGE)
        port, driver = serve(), scene.free_port()
        processes.start(["chromedriver", f"--port={driver}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        scene.until("chromedriver", lambda: chromium.listens(driver))
        photograph(f"http://127.0.0.1:{driver}", f"http://127.0.0.1:{port}/page.html")


def bundle():
    PAGE.mkdir(exist_ok=True)
    options = ["--bundle", f"--outfile={PAGE}/page.js", "--format=esm", "--jsx=automatic", "--minify", "--log-level=warning",
               "--loader:.svg=dataurl", "--loader:.ttf=empty", '--define:process.env.NODE_ENV="production"']
    environment = {**os.environ, "NODE_PATH": str(MODULES)}
    subprocess.run([MODULES / ".bin/esbuild", HERE / "page.tsx", *options], env=environment, check=True)


class Files(http.server.SimpleHTTPRequestHandler):
    def translate_path(self, path):
        for prefix, file in PUBLIC.items():
            if path.startswith(prefix) and ".." not in path:
                return str(file / path.removeprefix(prefix)) if path != prefix else str(file)
        return super().translate_path(path)

    def log_message(self, *_):
        pass


def serve():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=PAGE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def photograph(driver, page):
    chromium.SCREENS["page"] = WIDTH, 1000
    browser = chromium.Browser(driver, page, "page", None, None)
    try:
        browser.open(page)
        drawn = "return document.querySelectorAll('main .place').length && document.fonts.status === 'loaded'"
        scene.until("the page", lambda: browser.script(drawn), patience=120)
        # What is not on the screen may not be painted.
        height = browser.script("return document.documentElement.scrollHeight")
        metrics = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.do("POST", "goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})
        # Icons are fetched, and what is measured is drawn a second time.
        time.sleep(3)
        empty = browser.script("return [...document.querySelectorAll('.nothing')].map((e) => e.closest('section').innerText)")
        complaints = [entry["message"][:400] for entry in browser.do("POST", "se/log", {"type": "browser"})]
        for line in complaints + empty:
            print(" ".join(line.split()), file=sys.stderr)
        tops = browser.script("return [...document.querySelectorAll('[data-row]')].map((e) => [e.dataset.row, e.getBoundingClientRect().top])")
        tops.append((None, height))
        save(browser, "whole", 0, height)
        for (name, top), (_, end) in zip(tops, tops[1:]):
            save(browser, re.sub(r"\W+", "-", name.lower()), 0 if name == tops[0][0] else top, end)
    finally:
        browser.close()
    if complaints:
        sys.exit("the page is not as it should be")


def save(browser, name, top, end):
    clip = {"x": 0, "y": top, "width": WIDTH, "height": end - top, "scale": 1}
    parameters = {"cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": True, "clip": clip}}
    shown = browser.do("POST", "goog/cdp/execute", parameters)["data"]
    (WORK / f"{name}.png").write_bytes(base64.b64decode(shown))


def main():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    {"record": record, "draw": draw}[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
