#!/bin/sh
# Brings nginx and Caddy, whom Seekable is measured beside, into build/tools, where no service is started and nothing
# of the system is changed. Where that cannot be, it says in one line what is missing, and the benchmark leaves it out.
set -u

cd "$(dirname "$0")/.."
tools=build/tools
missing=''

# have COMMAND
have() {
    PATH="$PATH:/usr/sbin:$tools/usr/sbin:$tools/usr/bin" command -v "$1" >/dev/null 2>&1
}

# bring PACKAGE: unpacked, not installed
bring() {
    (cd "$tools" && apt-get -qq download "$1" && dpkg-deb -x "$1"_*.deb . && rm -f "$1"_*.deb) >/dev/null 2>&1
}

for name in nginx caddy; do
    if have "$name"; then continue; fi
    mkdir -p "$tools"
    bring "$name" || { [ "$(id -u)" = 0 ] && apt-get -qq update >/dev/null 2>&1 && bring "$name"; } || true
    if [ "$name" = nginx ] && ! have nginx; then bring nginx-core || true; fi # where nginx is but a name for it
    have "$name" || missing="$missing $name"
done
if [ -n "$missing" ]; then echo "Left out of the benchmark, because it is not here:$missing" >&2; fi
