#!/bin/sh
# Install every engine and peer that the tests use, from this machine's own Debian archives. Needs root; may be run again.
set -eu

export DEBIAN_FRONTEND=noninteractive
packages="
    git make python3 python3-venv ca-certificates util-linux procps
    docker.io iptables
    docker-registry skopeo umoci buildah podman
    squashfuse fuse3 squashfs-tools uidmap
    poppler-utils qpdf ghostscript diffoscope-minimal
    mmdebstrap bubblewrap strace acl attr faketime libcap2-bin iproute2
    chromium fonts-dejavu-core
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
    trap 'rm -f "$policy"' EXIT
fi

if [ -n "$missing" ]; then
    echo "engines: installing$missing"
    apt-get -o Acquire::Retries=3 update -q
    # shellcheck disable=SC2086  # a list of words on purpose
    apt-get -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends $missing
fi
if [ -z "$apptainer" ]; then
    echo "engines: installing apptainer"
    sh "$(dirname "$0")/install-apptainer.sh"
fi
