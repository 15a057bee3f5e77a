#!/usr/bin/env bash
# Packs a binary with its completions and manual pages: archive.sh BINARY OUTPUT.tar.gz
#
# The same binary gives the same bytes: times are that of SOURCE_DATE_EPOCH (the last commit's), owners are root, and the order
# of files is that of their names.
set -euo pipefail
umask 022
cd "$(dirname "$0")/../.."
binary=$(realpath "$1")
output=$(realpath -m "$2")
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
name=$(basename "$output" .tar.gz)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

install -D "$binary" "$root/$name/keymeter"
install -m 644 LICENSE README.md CHANGELOG.md "$root/$name"
install -d "$root/$name/completions" "$root/$name/man1"
for shell in bash zsh fish; do "$binary" completions "$shell" >"$root/$name/completions/keymeter.$shell"; done
"$binary" man --directory "$root/$name/man1"
"$binary" man >"$root/$name/man1/keymeter.1"
tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime="@$epoch" -C "$root" -c "$name" | gzip -9n >"$output"
