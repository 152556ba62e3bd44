#!/bin/sh
# Runs apt so that the bytecode of Python packages is made beside the rest of the installation, not in between:
#
#   install.sh apt-get …        install; ends when everything is compiled
#   install.sh --dpkg …         what apt calls in dpkg's place
#
# While dpkg configures, compile_later.py stands in for the module py_compile: what maintainer scripts compile is
# compiled in the background by the original, in processes that hold the pipe `alive` open. Where nothing can be
# mounted, all goes its usual way. Status 75 says that a layer must be made without this.

later=/run/reprobox-later
mine=/run/reprobox

compile_later() {
    for module in /usr/lib/python3.1[1-9]/py_compile.py; do
        if [ -f "$module" ] && [ ! -L "$module" ]; then
            mkdir -p "$later${module%/*}" && cp --preserve=mode,timestamps "$module" "$later$module" || continue
            mount --bind "$mine/compile_later.py" "$module" 2>/dev/null || rm "$later$module"
        fi
    done
}

compile_now() {
    for module in "$later"/usr/lib/python3.*/py_compile.py; do
        [ ! -f "$module" ] || umount -l "${module#"$later"}"
    done
}

# Until no process holds the pipe. It is opened for both ways first, for without a writer opening would wait for one.
wait_for_all() {
    exec 3<>"$later/alive" 4<"$later/alive" 3>&-
    cat <&4 >/dev/null
    exec 4<&-
}

as_dpkg() {
    case " $* " in
        *" --configure "*)
            compile_later
            /usr/bin/dpkg "$@"
            status=$?
            compile_now
            exit $status
            ;;
        *" --unpack "* | *" --print-"* | *" --assert-"*) ;;
        *) wait_for_all ;; # whatever removes something must find it
    esac
    exec /usr/bin/dpkg "$@"
}

if [ "$1" = --dpkg ]; then
    shift
    as_dpkg "$@"
fi

mkdir "$later" && mkfifo "$later/alive" || exit 75
printf '#!/bin/sh\nexec /bin/sh %s/install.sh --dpkg "$@"\n' "$mine" >"$later/dpkg"
chmod 755 "$later/dpkg"
program=$1
shift
"$program" -o "Dir::Bin::dpkg=$later/dpkg" "$@"
status=$?
wait_for_all
if [ -e "$later/log" ]; then
    cat "$later/log"
fi
set -- "$later"/asked-*
times=$#
[ -e "$1" ] || times=0
if [ $times != 0 ]; then
    python=$(cat "$1") # any of those that compiled: what it looks at is the same for all
    if ! "$python" -I -S -B "$mine/compile_later.py" "$later" "$@"; then
        echo "reprobox: bytecode that was made in the background is not what it should be" >&2
        status=75
    fi
fi
if [ -e "$later/spoilt" ]; then
    echo "reprobox: a program left bytecode of what stood in for py_compile" >&2
    status=75
fi
[ $times = 0 ] || echo "reprobox: bytecode was made $times times in the background"
rm -rf "$later"
exit $status
