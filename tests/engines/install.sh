#!/bin/sh
# Install every engine and peer that the tests use, from this machine's own Debian archives. Needs root; may be run again.
set -eu

export DEBIAN_FRONTEND=noninteractive
packages="
    git make python3 python3-venv ca-certificates util-linux procps
    docker.io iptables
    docker-registry skopeo umoci buildah podman
    squashfuse fuse3 squashfs-tools uidmap
    mmdebstrap bubblewrap strace acl attr faketime libcap2-bin iproute2
"

missing=
for package in $packages; do
    dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing="$missing $package"
done
apptainer=yes
command -v apptainer >/dev/null && command -v singularity >/dev/null || apptainer=

# Apptainer mounts images as an ordinary user by way of FUSE.
[ -e /dev/fuse ] || mknod /dev/fuse c 10 229
chmod 666 /dev/fuse

if [ -z "$missing" ] && [ -n "$apptainer" ]; then
    echo "engines: all installed"
    exit 0
fi

# No engine is wanted as a system service: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made_policy=yes
    trap 'rm -f "$policy"' EXIT
fi

if [ -n "$missing" ]; then
    echo "engines: installing$missing"
    apt-get -o Acquire::Retries=3 update -q
    # shellcheck disable=SC2086  # a list of words on purpose
    apt-get -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends $missing
fi
[ -z "$apptainer" ] || exit 0

# Apptainer is only in Debian sid, on the mirror that this machine's apt uses already. Its source, its lists and its pin stay
# in a folder of their own: nothing else on this machine ever comes from there.
echo "engines: installing apptainer"
mirror=$(apt-get update --print-uris | sed -n "s#^'\(.*/debian\)/dists/bookworm/InRelease'.*#\1#p" | head -n 1)
[ -n "$mirror" ] || { echo "this machine's apt has no Debian bookworm archive" >&2; exit 1; }
sid=$(mktemp -d)
trap 'rm -rf "$sid"; [ -z "${made_policy:-}" ] || rm -f "$policy"' EXIT
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
from_sid install -q -y --no-install-recommends -t sid apptainer
