#!/usr/bin/env bash
# Packs a binary for Debian: package.sh BINARY OUTPUT.deb
#
# The same binary gives the same bytes: times are that of SOURCE_DATE_EPOCH (the last commit's), owners are root, and the order
# of files is that of their names.
set -euo pipefail
umask 022
cd "$(dirname "$0")/../.."
binary=$(realpath "$1")
output=$(realpath -m "$2")
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

chmod 755 "$root"
install -D "$binary" "$root/usr/bin/keymeter"
install -D -m 644 conf/deploy/keymeter.service "$root/usr/lib/systemd/system/keymeter.service"
# What somebody does by hand who has no package.
sed -i -e '/^# A service of systemd/,/^#   systemctl stop/d' "$root/usr/lib/systemd/system/keymeter.service"
install -D -m 640 conf/keymeter.yaml "$root/etc/keymeter/keymeter.yaml"
install -D -m 640 conf/keys.yaml "$root/etc/keymeter/keys.yaml"
# Where the service may write.
sed -i 's|^limits:$|limits:\n  store: /var/lib/keymeter/limits   # what is used of quotas|' "$root/etc/keymeter/keymeter.yaml"
sed -i '/yaml-language-server/d' "$root/etc/keymeter/keymeter.yaml" "$root/etc/keymeter/keys.yaml"
sed -i 's|conf/keys.yaml|/etc/keymeter/keys.yaml|' "$root/etc/keymeter/keys.yaml"

complete() {
	install -d "$root/$(dirname "$2")"
	"$binary" completions "$1" >"$root/$2"
}
complete bash usr/share/bash-completion/completions/keymeter
complete zsh usr/share/zsh/vendor-completions/_keymeter
complete fish usr/share/fish/vendor_completions.d/keymeter.fish
install -d "$root/usr/share/man/man1"
"$binary" man --directory "$root/usr/share/man/man1"
"$binary" man >"$root/usr/share/man/man1/keymeter.1"
install -D -m 644 LICENSE "$root/usr/share/doc/keymeter/copyright"
install -D -m 644 CHANGELOG.md "$root/usr/share/doc/keymeter/changelog"
find "$root/usr/share/man" "$root/usr/share/doc/keymeter/changelog" -type f -exec gzip -9n {} +
chmod -R u=rwX,go=rX "$root/usr"

# A binary of the system's C library needs one that is new enough; a static one needs none.
depends=passwd
if symbols=$(objdump -T "$binary" 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1) && [ -n "$symbols" ]; then
	depends="libc6 (>= ${symbols#GLIBC_}), passwd"
fi
install -d "$root/DEBIAN"
size=$(du -sk --apparent-size "$root" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@DEPENDS@/$depends/" -e "s/@SIZE@/$size/" \
	conf/deploy/debian/control >"$root/DEBIAN/control"
install -m 644 conf/deploy/debian/conffiles "$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 755 "conf/deploy/debian/$script" "$root/DEBIAN/$script"; done
find "$root" -exec touch --no-dereference --date="@$epoch" {} +
SOURCE_DATE_EPOCH=$epoch dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$root" "$output" >/dev/null
echo "$output"
