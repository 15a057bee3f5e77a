"""Searches all that the tests made keymeter write at the level `trace`, in the directory that it is given, for secrets.

The tests leave it there when KEYMETER_CANARY names the directory: what the log has (`.log`, `.stderr`), the access log (`.access`,
`.stdout`) and the admin address' answers (`.admin`). Every key of the tests and every token that they make begins with `sk-`;
other tokens are named here. The exit code is 1 if one is found, or if there is too little to have been looked at.
"""

import pathlib
import re
import sys

# A masked secret has eight characters of it, and then no more.
SECRET = re.compile(
    rb"sk-[0-9A-Za-z_-]{9,}"
    rb"|(?:an-)?(?:operators?|gateways?)-token-of-(?:the-)?tests"
    rb"|keys-token[a-z-]*"
    rb"|(?:code-\d+|access-token)-of-the-tests|client-secret(?:/|%2F|%2f)of"
    rb"|eyJ[0-9A-Za-z_-]{16,}\.[0-9A-Za-z_-]{16,}"
    rb"|(?i:bearer|x-api-key|x-goog-api-key|api-key)[\"': ]+(?!sk-|\[|<|\.)[0-9A-Za-z_+/=-]{16,}"
)
# What must have been written for the search to mean anything.
LEAST = {".log": 1_000_000, ".stderr": 500_000, ".access": 500_000, ".stdout": 100_000, ".admin": 1_000_000}


def lines(path):
    for line in path.read_bytes().splitlines():
        # The demo shows whoever starts it its key. Lines of the access log are objects.
        if path.suffix != ".stdout" or line.startswith(b"{"):
            yield line


def main(directory):
    assert SECRET.search(b'Authorization: Bearer abcdefghijklmnop') and SECRET.search(b"the key sk-0123456789AB")
    assert SECRET.search(b"GET /sign-in/callback?code=code-1-of-the-tests") and SECRET.search(b"client-secret/of+the:tests%")
    assert not SECRET.search("the key sk-01234…40Ol".encode())
    searched, found = dict.fromkeys(LEAST, 0), []
    for path in sorted(pathlib.Path(directory).iterdir()):
        for line in lines(path):
            searched[path.suffix] += len(line)
            found += [f"{path.name}: {line[:300]!r}"] if SECRET.search(line) else []
    missing = [suffix for suffix, least in LEAST.items() if searched[suffix] < least]
    for line in found[:20] + [f"too little of {suffix} was written: {searched[suffix]} bytes" for suffix in missing]:
        print(line)
    print(f"{sum(searched.values()) >> 20} MiB at trace searched, {len(found)} secrets found")
    return 1 if found or missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
