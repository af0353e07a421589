#!/bin/sh
# Unpacks nginx and Caddy into build/tools if the machine lacks them. Nothing is installed and no service starts.
# Names in one line the servers that it could not get; the benchmark leaves them out.
set -u

cd "$(dirname "$0")/.."
tools=build/tools
missing=''

# have COMMAND
have() {
    PATH="$PATH:/usr/sbin:$tools/usr/sbin:$tools/usr/bin" command -v "$1" >/dev/null 2>&1
}

# bring PACKAGE: unpack it without installing it
bring() {
    (cd "$tools" && apt-get -qq download "$1" && dpkg-deb -x "$1"_*.deb . && rm -f "$1"_*.deb) >/dev/null 2>&1
}

for name in nginx caddy; do
    if have "$name"; then continue; fi
    mkdir -p "$tools"
    bring "$name" || { [ "$(id -u)" = 0 ] && apt-get -qq update >/dev/null 2>&1 && bring "$name"; } || true
    if [ "$name" = nginx ] && ! have nginx; then bring nginx-core || true; fi # where the package nginx only depends on it
    have "$name" || missing="$missing $name"
done
if [ -n "$missing" ]; then echo "Not installed, and left out of the benchmark:$missing" >&2; fi
