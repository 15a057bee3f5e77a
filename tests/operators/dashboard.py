"""The dashboard, the rules and the alerts of conf/ against a real gateway and a real Prometheus.

Starts a scripted inference server, Redis, `keymeter` (from the path in KEYMETER, else from target/debug) with its control
plane, and Prometheus with the configuration of conf/prometheus, puts some twenty seconds of all sorts of load on it, and asks
every query of every panel and variable: an error fails, and so does an empty answer. Needs no package beside Python's own.
The last line is `N passed, M failed`; the exit code is 1 if any failed.
"""

import contextlib
import itertools
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import scene  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "conf/grafana/keymeter.json").read_text())
PROMETHEUS = ROOT / "conf/prometheus"
LOAD_SECONDS = 20

# Panels that are empty here, and those that are where one key, model and upstream are chosen; and why.
EMPTY = {"Waiting time": "no request has to wait for a replica"}
EMPTY_WHEN_CHOSEN = {**EMPTY, "Responses without a price": "the chosen model has a price",
                     "Refusals by reason": "the limits of the chosen key refuse, and observe nothing"}
# Metrics that the dashboard does without, and why.
NOT_SHOWN = {
    "keymeter_key_series_folded_total": "the alert that rests on it is enough",
    "keymeter_log_lines_dropped_total": "the alert that rests on it is enough",
    "keymeter_malformed_requests_total": "for a look at who floods; bad keys are shown",
    "keymeter_trace_spans_total": "there only where requests are traced",
    "process_start_time_seconds": "for when it started",
    "process_virtual_memory_bytes": "says little of what is used",
}
# Alerts that must wait or fire after what happens here, and those that may. Any other is a false alarm.
EXPECTED = {"KeymeterReloadFailed", "KeymeterSharedLimitsUnreachable", "KeymeterKeyOutOfBalance", "KeymeterKeyOverLimit",
            "KeymeterKeySeriesFull", "KeymeterUnpricedModel", "KeymeterQuotaNearlyUsed"}
POSSIBLE = {"KeymeterUpstreamErrors", "KeymeterKeyNearLimit", "KeymeterWalletRunsOut", "KeymeterUnavailable",
            "KeymeterUsageEstimated", "KeymeterRevocationSlow", "KeymeterBadKeys"}


class Prometheus:
    """A Prometheus that runs conf/prometheus, but more often, and for the gateways of a test."""

    def __init__(self, processes, directory, targets, interval="1s"):
        (directory / "prometheus").mkdir(exist_ok=True)
        for file in PROMETHEUS.glob("*.yml"):
            text = re.sub(r"(interval): \w+", rf"\1: {interval}", file.read_text())
            (directory / "prometheus" / file.name).write_text(text.replace('- targets: ["127.0.0.1:9090"]', targets))
        path = directory / "prometheus" / "prometheus.yml"
        port = scene.free_port()
        self.url = f"http://127.0.0.1:{port}"
        log = open(directory / "prometheus.log", "w")
        command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={directory}/tsdb",
                   f"--web.listen-address=127.0.0.1:{port}"]
        processes.start(command, stdout=log, stderr=log)
        scene.until("Prometheus", self.is_ready)

    def is_ready(self):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.url}/-/ready", timeout=5).status == 200
        return False

    def ask(self, path, **parameters):
        """The data of an answer; what Prometheus says is wrong, as a ValueError."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def samples(self, expression, span=None):
        """The series of an answer that have a number in them, by their labels."""
        if span is None:
            series = [(one["metric"], [one["value"]]) for one in self.ask("query", query=expression)["result"]]
        else:
            start, end = span
            answer = self.ask("query_range", query=expression, start=start, end=end, step=1)
            series = [(one["metric"], one["values"]) for one in answer["result"]]
        return [labels for labels, values in series if any(value != "NaN" for _, value in values)]


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def escaped(value):
    """As Grafana writes a chosen value into a matcher."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", lambda found: "\\\\" + found[0], value.replace("\\", "\\\\\\\\"))


def substituted(expression, chosen):
    for name, value in {"__rate_interval": "4s", "__interval": "1s", "__range": f"{LOAD_SECONDS + 10}s"}.items():
        expression = expression.replace(f"${name}", value)
    for name in ("instance", "team", "key", "model", "upstream"):
        expression = expression.replace(f"${name}", escaped(chosen[name]) if name in chosen else ".*")
    if "$" in expression:
        raise ValueError(f"a variable is not known: {expression}")
    return expression


def answers(prometheus, panel, chosen, span):
    """For each query of a panel the series that came."""
    for target in panel["targets"]:
        yield prometheus.samples(substituted(target["expr"], chosen), None if target.get("instant") else span)


def check_panels(prometheus, check, chosen, span, empty):
    what = ", ".join(chosen.values()) or "everything"
    wrong, faults = [], []
    for panel in panels():
        try:
            is_full = all(answers(prometheus, panel, chosen, span))
            if is_full == (panel["title"] in empty):
                wrong.append(panel["title"])
        except ValueError as fault:
            faults.append(f"{panel['title']}: {fault}")
    check(f"no query of {len(panels())} panels is in error ({what})", not faults, faults)
    check(f"and none is empty that should not be ({what})", not wrong, wrong)


def variable_values(prometheus, variable):
    """What Grafana offers for a variable."""
    query = substituted(variable["query"]["query"], {})
    if found := re.fullmatch(r"label_values\((.*), (\w+)\)", query):
        return {value: value for value in prometheus.ask(f"label/{found[2]}/values", **{"match[]": found[1]})}
    found = re.fullmatch(r"query_result\((.*)\)", query)
    pattern = re.compile(variable["regex"].strip("/").replace("(?<", "(?P<"))
    lines = [",".join(f'{name}="{value}"' for name, value in labels.items()) for labels in prometheus.samples(found[1])]
    return {line["value"]: line["text"] for line in map(pattern.search, lines) if line}


def check_variables(prometheus, check, world):
    offered = {variable["name"]: variable_values(prometheus, variable)
               for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"}
    expected = {"instance": world.instance, "team": "research", "key": world.keys["Research's key"].id,
                "model": "llama-*", "upstream": "fast"}
    missing = [name for name, value in expected.items() if value not in offered.get(name, {})]
    check("every variable offers what there is", not missing and offered.keys() == expected.keys(), [missing, offered])
    check("a key is offered by its name", offered["key"][expected["key"]] == "Research's key", offered["key"])
    return expected


def check_choices(prometheus, check, world, span):
    """A chosen team's panels of keys show that team's keys, and nothing where there is no such team."""
    team = {key.id for key in world.keys.values() if key.team == "research"}
    shown, strange = set(), set()
    for panel in panels():
        if any("team=~" in target["expr"] for target in panel["targets"]):
            for labels in (labels for series in answers(prometheus, panel, {"team": "research"}, span) for labels in series):
                shown.add(labels.get("key_id"))
            strange.update(panel["title"] for series in answers(prometheus, panel, {"team": "nobody"}, span) if series)
    check("a chosen team's keys are shown, and no other's", shown - {None} == team, [shown, team])
    check("a team that is none has no keys", not strange, strange)


def check_layout(check):
    cells, faults = {}, []
    for panel in DASHBOARD["panels"]:
        place, title = panel["gridPos"], panel["title"]
        columns, lines = (range(place[at], place[at] + place[size]) for at, size in ("xw", "yh"))
        for cell in itertools.product(columns, lines):
            if cell in cells:
                faults.append(f"{title} lies over {cells[cell]}")
            cells[cell] = title
        if place["x"] + place["w"] > 24:
            faults.append(f"{title} is beyond the edge")
    for panel in panels():
        defaults = panel["fieldConfig"]["defaults"]
        legends = all(target["legendFormat"] for target in panel["targets"])
        if not (panel["description"] and defaults.get("unit") and legends):
            faults.append(f"{panel['title']} lacks a description, a unit or a legend")
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    unique = len(set(numbers)) == len(numbers)
    check("panels do not overlap, and have a description, a unit and legends", unique and not faults, faults)


def named(text):
    """The gateway's metrics that an expression names; recorded ones have a colon in their names."""
    return set(re.findall(r"(?<![\w:])(?:keymeter|process)_\w+(?![\w:])", text))


def check_names(prometheus, check, world):
    metrics = world.metrics()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", metrics, re.M))
    histograms = [name for name, kind in kinds.items() if kind == "histogram"]
    known = set(kinds) | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    of_dashboard = set().union(*(named(target["expr"]) for panel in panels() for target in panel["targets"]))
    of_dashboard |= set().union(*(named(str(variable["query"])) for variable in DASHBOARD["templating"]["list"]))
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    of_rules = set().union(*(named(rule["query"]) for rule in rules))
    unknown = (of_dashboard | of_rules) - known
    check("every metric that is named is the gateway's", not unknown and of_rules, unknown)
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) if name not in kinds else name for name in of_dashboard}
    forgotten = set(kinds) - shown - set(NOT_SHOWN)
    check(f"every metric of the gateway ({len(kinds)}) is shown", not forgotten and not set(NOT_SHOWN) & shown, forgotten)
    documented = (ROOT / "docs/metrics.md").read_text()
    absent = [name for name in kinds if name not in documented]
    absent += [rule["name"] for rule in rules if rule["type"] == "alerting" and rule["name"] not in documented]
    check("docs/metrics.md has every metric and alert", not absent, absent)


def check_rules(prometheus, check):
    active = lambda: {alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]}
    with contextlib.suppress(AssertionError):
        scene.until("the alerts", lambda: EXPECTED <= active(), patience=10)
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    print(f"     alerts that wait or fire: {', '.join(sorted(active()))}")
    faulty = [rule["name"] for rule in rules if rule["health"] != "ok"]
    check(f"all {len(rules)} rules are evaluated", not faulty, faulty)
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    nothing = [name for name in recorded if not prometheus.samples(name)]
    check(f"each of {len(recorded)} recording rules has a value", not nothing, nothing)
    check("what went wrong is noticed", EXPECTED <= active(), EXPECTED - active())
    check("and nothing else", active() <= EXPECTED | POSSIBLE, active() - EXPECTED - POSSIBLE)


def check_files(check):
    for command in ("check config prometheus.yml", "check rules rules.yml alerts.yml", "test rules tests.yml"):
        done = subprocess.run(["promtool", *command.split()], cwd=PROMETHEUS, capture_output=True, text=True)
        check(f"promtool {command}", done.returncode == 0, done.stdout + done.stderr)
    tests = (PROMETHEUS / "tests.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text())
    untested = [name for name in alerts if f"alertname: {name}\n" not in tests or f"alertname: {name}, " not in tests]
    check(f"each of {len(alerts)} alerts is tested to fire and not to", not untested, untested)


def run(processes, directory, check):
    check_files(check)
    check_layout(check)
    world = scene.World(processes, directory)
    prometheus = Prometheus(processes, directory, f'- targets: ["127.0.0.1:{world.admin}"]')
    start = time.time()
    print(f"     {world.load(LOAD_SECONDS)} requests in {LOAD_SECONDS} s")
    span = start, time.time()
    check_panels(prometheus, check, {}, span, EMPTY)
    chosen = check_variables(prometheus, check, world)
    check_panels(prometheus, check, chosen, span, EMPTY_WHEN_CHOSEN)
    check_choices(prometheus, check, world, span)
    check_names(prometheus, check, world)
    world.break_configuration()
    world.lose_redis()
    check_rules(prometheus, check)


def main():
    passed, failed = [], []

    def check(name, holds, why=""):
        (passed if holds else failed).append(name)
        print(f"{'ok  ' if holds else 'FAIL'} {name}{'' if holds else f': {why}'}", flush=True)

    # What was started ends with us, however we end.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    for program in ("prometheus", "promtool", "redis-server"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed (Debian: apt-get install prometheus redis-server)")
    with tempfile.TemporaryDirectory() as directory, scene.Processes() as processes:
        run(processes, pathlib.Path(directory), check)
    print(f"{len(passed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
