#!/bin/sh
# Installs the real clients that the tests drive. Where that is not allowed it says in one line what is missing, and the
# tests that need it skip; in CI (CI set) something missing is a failure, so that no test is skipped there unnoticed.
# `tools.sh soak` adds the browsers of `make soak`: half a gigabyte.
set -eu

# vlc-bin and vlc-plugin-base are VLC without a window: all that `vlc -I oldrc` needs, a fraction of the package vlc.
tools='
ffmpeg    ffmpeg
ffprobe   ffmpeg
curl      curl
wget      wget
aria2c    aria2
rclone    rclone
vlc       vlc-bin vlc-plugin-base
mpv       mpv
mplayer   mplayer
mpg123    mpg123
axel      axel
chromium  chromium
chromium-headless-shell chromium-headless-shell
rsync     rsync
sqlite3   sqlite3
setpriv   util-linux
strace    strace
mount     mount
mkfs.ext4 e2fsprogs
promtool  prometheus
nginx     nginx
caddy     caddy
haproxy   haproxy
openssl   openssl
prlimit   util-linux
unshare   util-linux
systemd-socket-activate systemd
systemd-analyze systemd
locale-gen locales
lowntfs-3g ntfs-3g
mkntfs    ntfs-3g
'

# GStreamer's plugins let WebKit play H.264 and AAC.
if [ "${1:-}" = soak ]; then
    tools="$tools
firefox-esr     firefox-esr
Xvfb            xvfb
WebKitWebDriver webkit2gtk-driver gstreamer1.0-libav gstreamer1.0-plugins-good
"
fi

# Fills $commands and $packages with what is missing.
look() {
    commands='' packages=''
    while read -r command names; do
        if [ -z "$command" ] || command -v "$command" >/dev/null 2>&1; then continue; fi
        commands="$commands $command"
        for name in $names; do
            case "$packages " in *" $name "*) ;; *) packages="$packages $name" ;; esac
        done
    done <<EOF
$tools
EOF
}

# apt-get is heard only when it fails. RUNLEVEL=1: what it installs is not started as a service.
apt() {
    if log=$(RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 "$@" 2>&1 </dev/null); then
        return 0
    fi
    printf '%s\n' "$log" | tail -n 20 >&2
    return 1
}

# One at a time, so that a package this system lacks costs only itself. Ubuntu's chromium is a stub that asks for a snap.
install() {
    apt update || return 0
    for name in $packages; do
        if apt-cache show "$name" 2>/dev/null | grep -qw snap; then continue; fi
        apt install --no-install-recommends "$name" || true
    done
}

look
if [ -n "$commands" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing for the tests:$packages"
    install
    look
fi
if [ -n "$commands" ]; then
    echo "Missing for tests that drive real clients:$commands. On Debian: apt-get install --no-install-recommends$packages" >&2
    [ -z "${CI:-}" ] # elsewhere those tests skip
fi
