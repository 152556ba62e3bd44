#!/bin/sh
# The drill: an environment is locked, sealed and kept in a vault. Then all that it came from is taken away, and it is
# made again from the vault alone: in the year 2046, without any network, from an empty store, with the tool out of the
# vault too, and by another user where this is run by root.
#
#   drill.sh [--backend NAME]... [--user NAME] [--date DATE] [--folder DIR]
#
# It ends with 0 if every backend (the sandbox, if none is named) shows the tree digest of the seal.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
reprobox=${REPROBOX:-reprobox}
backends='' user='' date='2046-07-01 12:00:00' folder=''
while [ $# -gt 0 ]; do
    case $1 in
    --backend) backends="$backends $2" ;;
    --user) user=$2 ;;
    --date) date=$2 ;;
    --folder) folder=$2 ;;
    *) echo "$0: unknown option $1" >&2 && exit 2 ;;
    esac
    shift 2
done
for tool in faketime unshare setpriv; do
    command -v "$tool" > /dev/null || { echo "$0: $tool is not installed" >&2 && exit 4; }
done

work=$(mktemp -d "${folder:-${TMPDIR:-/tmp}}/years-later-XXXXXX")
server=
finish() {
    [ -z "$server" ] || kill "$server" 2> /dev/null || true
    chmod -R u+rwX "$work" 2> /dev/null || true
    rm -rf "$work"
    case " $backends " in
    *" docker "*) docker images --quiet reprobox/years-later-default | sort -u | xargs -r docker image rm --force ;;
    esac > /dev/null 2>&1 || true
}
trap finish EXIT
trap 'exit 130' INT TERM
chmod 755 "$work"
say() { printf '== %s\n' "$*"; }

say "today: a project, and a server that it takes a file from"
mkdir "$work/upstream" "$work/project"
seq 1 100 > "$work/upstream/weights.txt"
cp -R "$here/research.toml" "$here/code" "$work/project"
"$python" -c '
import functools, http.server, pathlib, sys
served = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), served)
pathlib.Path(sys.argv[2]).write_text(str(server.server_port))
server.serve_forever()' "$work/upstream" "$work/port" 2> /dev/null &
server=$!
while [ ! -s "$work/port" ]; do sleep 0.1; done
sed -i "s/127.0.0.1:8000/127.0.0.1:$(cat "$work/port")/" "$work/project/research.toml"

say "locked, sealed, and kept"
export REPROBOX_STORE="$work/store"
"$reprobox" lock -q --seal -C "$work/project"
seal=$(sed -n 's/^tree_digest = "\(.*\)"/\1/p' "$work/project/research.lock")
"$reprobox" vault -q -C "$work/project" "$work/vault"
"$reprobox" vault -q --check "$work/vault"

say "the server stops; store and project are deleted"
kill "$server" && wait "$server" 2> /dev/null || true
server=
chmod -R u+rwX "$work/store"
rm -rf "$work/store" "$work/project" "$work/upstream" "$work/port"
unset REPROBOX_STORE

cat > "$work/later.sh" << 'LATER'
set -eu
vault=$1 python=$2 seal=$3 backends=$4
cd "$(mktemp -d "$5/later-XXXXXX")"
trap 'chmod -R u+rwX . 2> /dev/null || true; rm -rf "$PWD"' EXIT
export HOME="$PWD" REPROBOX_STORE="$PWD/store" REPROBOX_CONFIG="$PWD/config.toml"
: > config.toml
printf '== %s: user %s, no network, an empty store\n' "$(date +%Y-%m-%d)" "$(id -un)"
! "$python" -c 'import socket; socket.create_connection(("192.0.2.1", 80), 5)' 2> /dev/null

printf '== out of the vault: the tool, as its README says, and the project\n'
sed -n '/^    import json/,/^ *break$/s/^    //p' "$vault/README" > take.py
"$python" take.py "$vault" taken
"$python" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check --no-index --find-links taken/tools reprobox
for plugin in taken/tools/reprobox_*.whl; do
    [ ! -e "$plugin" ] || venv/bin/pip install --quiet --disable-pip-version-check --no-index --find-links taken/tools "$plugin"
done
venv/bin/reprobox vault -q "$vault" --extract project

status=0
for backend in $backends; do
    told=$(venv/bin/reprobox realize -q --json -C project --offline --vault "$vault" --backend "$backend")
    found=$(printf '%s' "$told" | "$python" -c 'import json, sys; print(json.load(sys.stdin)["tree_digest"])')
    if [ "$found" = "$seal" ]; then
        printf '== %s: %s, as it was sealed\n' "$backend" "$found"
    else
        printf '== %s: %s, and not the sealed %s\n' "$backend" "$found" "$seal" && status=5
    fi
    venv/bin/reprobox run -q -C project --offline --vault "$vault" --backend "$backend" || status=1
done
exit $status
LATER
chmod -R a+rX "$work"

later() { # the backends, without network, with another clock
    named=$1 && shift
    [ -z "$named" ] || PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$@" \
        faketime "$date" sh "$work/later.sh" "$work/vault" "$python" "$seal" "$named" "${folder:-${TMPDIR:-/tmp}}"
}
backends=${backends:-sandbox}
if [ "$(id -u)" = 0 ] && [ -n "$user" ]; then
    theirs='' ours='' # the Docker daemon may not listen to everybody
    for backend in $backends; do
        if [ "$backend" = docker ] && ! setpriv --reuid "$user" --regid "$user" --init-groups -- docker version > /dev/null 2>&1
        then ours=docker
        else theirs="$theirs $backend"
        fi
    done
    later "$theirs" unshare --net setpriv --reuid "$user" --regid "$user" --init-groups --
    later "$ours" unshare --net
elif [ "$(id -u)" = 0 ]; then
    later "$backends" unshare --net
else
    later "$backends" unshare --user --map-current-user --net
fi
