#!/usr/bin/env bash
# Lists what the binary is made of, as CycloneDX: sbom.sh OUTPUT.cdx.json
#
# One commit gives the same bytes wherever it stands: no time but that of SOURCE_DATE_EPOCH (the last commit's), and no path of
# this machine.
set -euo pipefail
umask 022
output=$(realpath -m "$1")
cd "$(dirname "$0")/../.."
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
# It writes a file beside each manifest.
remove() { find . -path ./target -prune -o -name 'keymeter*.dist.json' -exec rm {} +; }
trap remove EXIT
cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename keymeter.dist
sed "s|file://$PWD|file://.|g" keymeter.dist.json >"$output"
