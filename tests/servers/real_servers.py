"""Real inference servers behind a real gateway: what they state and what keymeter counts, to the token.

    make real-servers

Makes a tiny model, starts llama.cpp's and llama-cpp-python's servers with it, and keymeter before them (from the path
in KEYMETER, else from PATH, else from target/debug). The last line is `N passed, M failed`; the exit code is 1 if any
failed.
"""

import importlib.metadata
import pathlib
import sys
import tempfile
import traceback

import llama_cpp_checks
import llama_cpp_pool_checks
import llama_cpp_python_checks
from scene import Scene


def main():
    checks = [
        *((f"llama.cpp ({version('xllamacpp')})", check) for check in llama_cpp_checks.CHECKS),
        *((f"llama.cpp's pool ({version('xllamacpp')})", check) for check in llama_cpp_pool_checks.CHECKS),
        *((f"llama-cpp-python ({version('llama-cpp-python')})", check) for check in llama_cpp_python_checks.CHECKS),
    ]
    with tempfile.TemporaryDirectory() as directory:
        scene = Scene(pathlib.Path(directory))
        try:
            passed = sum([holds(scene, server, check) for server, check in checks])
        finally:
            scene.stop()
    print(f"{passed} passed, {len(checks) - passed} failed")
    return 0 if passed == len(checks) else 1


def version(package):
    return f"{package} {importlib.metadata.version(package)}"


def holds(scene, server, check):
    name = check.__name__.replace("_", " ")
    try:
        note = check(scene)
    except Exception:
        print(f"FAILED  {server}: {name}\n{traceback.format_exc()}")
        scene.gateway.forget()
        return False
    print(f"ok      {server}: {name}" + (f" ({note})" if note else ""))
    return True


if __name__ == "__main__":
    sys.exit(main())
