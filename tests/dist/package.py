#!/usr/bin/env python3
"""Packs the debug build, for Debian and as an archive, and looks at what somebody who installs it gets.

Usage: package.py    (`make test` runs it, after the build)
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/debug/keymeter"
FILES = [
    "usr/bin/keymeter",
    "usr/lib/systemd/system/keymeter.service",
    "etc/keymeter/keymeter.yaml",
    "etc/keymeter/keys.yaml",
    "usr/share/bash-completion/completions/keymeter",
    "usr/share/zsh/vendor-completions/_keymeter",
    "usr/share/fish/vendor_completions.d/keymeter.fish",
    "usr/share/man/man1/keymeter.1.gz",
    "usr/share/man/man1/keymeter-keys-create.1.gz",
    "usr/share/doc/keymeter/copyright",
    "usr/share/doc/keymeter/changelog.gz",
]
IN_ARCHIVE = [
    "keymeter",
    "LICENSE",
    "completions/keymeter.bash",
    "completions/keymeter.fish",
    "man1/keymeter.1",
    "man1/keymeter-keys-create.1",
]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def packed(binary, path):
    run(ROOT / "conf/deploy/package.sh", binary, path, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "COMPRESSION": "none"})
    return path.read_bytes()


def archived(binary, path):
    run(ROOT / "conf/deploy/archive.sh", binary, path, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    return path.read_bytes()


def is_an_archive_that_runs(folder, binary):
    """Named as people get it, in a folder of its own within."""
    path = folder / "keymeter-1.2.3-x86_64-linux-musl.tar.gz"
    first = archived(binary, path)
    assert first == archived(binary, path), "two runs give different bytes"
    run("tar", "-xzf", path, "-C", folder)
    tree = folder / path.name.removesuffix(".tar.gz")
    missing = [name for name in IN_ARCHIVE if not (tree / name).is_file()]
    assert not missing, missing
    assert run(tree / "keymeter", "--version") == run(binary, "--version")


def main():
    if not shutil.which("dpkg-deb"):
        sys.exit("dpkg-deb is not installed: the package is built on Debian")
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        binary = folder / "keymeter"
        # Without its symbols it is a third of the size.
        run("strip", "-o", binary, BINARY)
        first = folder / "first.deb"
        assert packed(binary, first) == packed(binary, folder / "second.deb"), "two runs give different bytes"
        fields = {name: run("dpkg-deb", "--field", first, name).strip() for name in ("Package", "Version", "Depends")}
        version = run(binary, "--version").split()[1]
        assert fields["Package"] == "keymeter" and fields["Version"] == version, fields
        assert "libc6 (>= 2." in fields["Depends"], fields
        tree = folder / "tree"
        run("dpkg-deb", "--raw-extract", first, tree)
        missing = [name for name in FILES if not (tree / name).is_file()]
        assert not missing, missing
        checked = run(tree / "usr/bin/keymeter", "check", tree / "etc/keymeter/keymeter.yaml", env={})
        assert checked.startswith("ok: "), checked
        assert "store: /var/lib/keymeter/limits" in (tree / "etc/keymeter/keymeter.yaml").read_text()
        unit = (tree / "usr/lib/systemd/system/keymeter.service").read_text()
        assert "User=keymeter" in unit and "DynamicUser" not in unit, unit
        conffiles = (tree / "DEBIAN/conffiles").read_text().split()
        assert all((tree / name.lstrip("/")).is_file() for name in conffiles), conffiles
        for script in ("postinst", "prerm", "postrm"):
            run("sh", "-n", tree / "DEBIAN" / script)
        is_an_archive_that_runs(folder, binary)
    print(f"the package and the archive {version} are whole, and two runs give the same bytes")


if __name__ == "__main__":
    main()
