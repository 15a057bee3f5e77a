"""Clients that people use, against one gateway before one upstream that speaks all of their APIs.

`smoke.py python [NAME…]` runs those for Python that are named, or all; `smoke.py node FOLDER [NAME…]` those for Node, with
the packages in FOLDER. Runs `keymeter serve` itself, from the path in KEYMETER, else from PATH, else from target/debug.
The last line is `N passed, M failed`; the exit code is not 0 if any failed or could not be run.
"""

import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import traceback

import scene
import upstream

PYTHON = ["google_genai_client", "ollama_client", "langchain_client", "litellm_client", "pydantic_ai_client"]
NODE = ["openai", "anthropic", "google_genai", "ai_openai", "ai_openai_chat", "ai_anthropic", "ai_google"]


ROOT = pathlib.Path(__file__).parents[3]
HERE = pathlib.Path(__file__).parent


def main():
    language, *rest = sys.argv[1:]
    the_table_has_every_version()
    return {"python": python, "node": node}[language](*rest)


def the_table_has_every_version():
    """What docs/getting-started.md says was tried is what is installed."""
    pinned = json.loads((HERE / "node" / "package.json").read_text())["dependencies"].items()
    for path in [HERE / "requirements.txt", HERE.parent / "requirements.txt"]:
        # Those that others need come last, below a comment.
        chosen = path.read_text().partition("# What all these need")[0]
        pinned = [*pinned, *re.findall(r"^([\w-]+)(?:\[.*\])?==(\S+)$", chosen, re.M)]
    table = re.findall(r"^\| .*?`(\S+)`.*? \| ([\d.]+) \|", (ROOT / "docs" / "getting-started.md").read_text(), re.M)
    if sorted(pinned) != sorted(table):
        sys.exit(f"docs/getting-started.md has other versions than are pinned: {sorted(set(pinned) ^ set(table))}")


def python(*names):
    checks = {}
    for module in PYTHON:
        checks.update(importlib.import_module(module).CHECKS)
    passed = failed = 0
    with scene.Scene(checks) as running:
        for name in names or checks:
            for check in checks[name]:
                what = f"{name}: {check.__name__.replace('_', ' ')}"
                try:
                    check(scene.Access(running, name))
                    passed += 1
                    print(f"ok      {what}", flush=True)
                except Exception:
                    failed += 1
                    print(f"FAILED  {what}\n{traceback.format_exc()}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def node(folder, *names):
    """Node looks for packages beside the script that asks for them, so the scripts go to the packages."""
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, folder)
    names = names or NODE
    with scene.Scene([f"node_{name}" for name in names]) as running:
        what = {"url": running.url, "metrics": running.metrics_url, "stated": f"{running.upstream.url}/stated",
                "secrets": upstream.SECRETS, "text": upstream.TEXT, "tool": upstream.TOOL, "names": names,
                "arguments": upstream.ARGUMENTS, "vector": upstream.VECTOR}
        environment = {**os.environ, "SMOKE": json.dumps(what)}
        return subprocess.run(["node", "smoke.mjs"], cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
