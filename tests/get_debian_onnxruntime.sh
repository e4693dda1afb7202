#!/bin/sh
# Unpack Debian trixie's ONNX Runtime, with the C library it needs, into a folder for ONNXFIT_ORT_ROOT.
#
#   tests/get_debian_onnxruntime.sh DIR
#
# DIR gets include/, lib/ and run, which starts a program with the libraries in DIR. Nothing is installed: apt works
# on lists and a package database of its own, from this machine's Debian sources with the suite's name replaced.
set -eu

suite=trixie

fail() {
  echo "get_debian_onnxruntime.sh: $1" >&2
  exit 1
}

[ $# -eq 1 ] || fail "usage: get_debian_onnxruntime.sh DIR"
[ ! -x "$1/run" ] || exit 0
command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "this machine has no apt"
codename=$(. /etc/os-release && [ "$ID" = debian ] && echo "${VERSION_CODENAME:-}") || fail "this machine is no Debian"
[ -n "$codename" ] || fail "/etc/os-release does not name this Debian's suite"

mkdir -p "$1" || fail "cannot make the folder $1"
root=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial"
: >"$work/status"

# Of the machine's sources, those that name its suite: deb822 files and one-line files.
for source in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  [ -r "$source" ] && grep -Eq "(^|[[:space:]])$codename([[:space:]]|\$)" "$source" || continue
  sed -E "s/(^|[[:space:]])$codename([[:space:]]|-|\$)/\1$suite\2/g" "$source" >"$work/sources/${source##*/}"
done
[ -n "$(ls "$work/sources")" ] || fail "no apt source of this machine names the suite $codename"

apt() {
  apt-get -qq -o Dir::Etc::sourcelist=- -o Dir::Etc::sourceparts="$work/sources" -o Dir::State::lists="$work/lists" \
    -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root \
    -o APT::Install-Recommends=false "$@" >"$work/log" 2>&1
}
# A source that lacks the suite does no harm while another has the package.
apt update || true
apt --yes --download-only install libonnxruntime-dev || fail "apt finds no libonnxruntime-dev: $(tail -n 1 "$work/log")"

for package in "$work"/cache/archives/*.deb; do
  dpkg -x "$package" "$root"
done
library=$(find "$root/usr/lib" -name libonnxruntime.so)
loader=$(find "$root/usr/lib" "$root/usr/lib64" -name 'ld-linux*.so.*' 2>/dev/null | head -n 1)
[ -n "$library" ] && [ -n "$loader" ] || fail "Debian's packages do not hold what they held before"

ln -sfn usr/include/onnxruntime "$root/include"
folder=${library%/*}
ln -sfn "${folder#"$root"/}" "$root/lib"
# The C library of this machine may be older than the one that Debian built against.
cat >"$work/run" <<EOF
#!/bin/sh
exec "$loader" --library-path "$root/lib" "\$@"
EOF
chmod +x "$work/run"
mv "$work/run" "$root/run"
