#!/bin/sh
# Install Apptainer on a Debian 12 machine, or in a container of one. Needs root.
set -eu

export DEBIAN_FRONTEND=noninteractive

# Apptainer is only in Debian sid, on the mirror that this machine's apt uses already. Its source, its lists and its pin stay
# in a folder of their own: nothing else on this machine ever comes from there.
mirror=$(apt-get update --print-uris | sed -n "s#^'\(.*/debian\)/dists/bookworm/InRelease'.*#\1#p" | head -n 1)
[ -n "$mirror" ] || { echo "this machine's apt has no Debian bookworm archive" >&2; exit 1; }
sid=$(mktemp -d)
trap 'rm -rf "$sid"' EXIT
mkdir -p "$sid/lists/partial"
chmod -R a+rX "$sid"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$sid/sources.list"
printf 'Package: *\nPin: release n=sid\nPin-Priority: 90\n' >"$sid/preferences"
from_sid() {
    apt-get -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Dir::Etc::SourceList="$sid/sources.list" \
        -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Preferences="$sid/preferences" -o Dir::State::Lists="$sid/lists" \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"
}
from_sid update -q
# Parts of OpenSSL have moved to other packages since bookworm, not all of which say so.
from_sid -o Dpkg::Options::=--force-overwrite install -q -y --no-install-recommends -t sid apptainer
