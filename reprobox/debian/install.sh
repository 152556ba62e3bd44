#!/bin/sh
# Runs apt so that what packages' own scripts do takes less time, and gives the same:
#
#   install.sh apt-get …        install; ends when everything is compiled
#   install.sh --dpkg …         what apt calls in dpkg's place
#
# While dpkg configures, compile_later.py stands in for the module py_compile: what maintainer scripts compile is
# compiled in the background by the original, in processes that hold the pipe `alive` open. And for
# update-ca-certificates, where its text is known, a program stands in that does the same in one process, and for the
# questions of its package a script that looks for lines by itself. Where nothing can be mounted, all goes its usual
# way. Status 75 says that a layer must be made without this.

later=/run/reprobox-later
mine=/run/reprobox
certificates=/usr/sbin/update-ca-certificates
questions=/var/lib/dpkg/info/ca-certificates.config

# Have FILE stand in for what is at PLACE, of which a copy is kept.
stand_in() {
    mkdir -p "$later${2%/*}" && cp --preserve=mode,timestamps "$2" "$later$2" || return 0
    mount --bind "$1" "$2" 2>/dev/null || rm "$later$2"
}

begin() {
    for module in /usr/lib/python3.1[1-9]/py_compile.py; do
        if [ -f "$module" ] && [ ! -L "$module" ]; then
            stand_in "$mine/compile_later.py" "$module"
        fi
    done
    if [ -x /usr/bin/perl ] && [ -f "$certificates" ] && [ ! -L "$certificates" ] && is_known; then
        cp "$mine/update_ca_certificates.pl" "$later/" && chmod 755 "$later/update_ca_certificates.pl" || return 0
        stand_in "$later/update_ca_certificates.pl" "$certificates"
    fi
    if [ -f "$questions" ] && [ ! -L "$questions" ]; then
        without_grep <"$questions" >"$later/questions" && chmod 755 "$later/questions" || return 0
        stand_in "$later/questions" "$questions"
    fi
}

# The questions of ca-certificates, which look for each certificate in two lists of lines, with a new process each time.
without_grep() {
    looks='(echo "\(\$CERTS_[A-Z]*\)" | grep -F -q -x "\(\$crt\)") > \/dev\/null 2>&1'
    sed 's/^\( *\)\(el\|\)if '"$looks"'; then$/\1\2if case "\n\3\n" in *"\n\4\n"*) ;; *) false ;; esac; then/'
}

# Whether update-ca-certificates is one of those that the stand-in was written after.
is_known() {
    case $(sha256sum <"$certificates") in
        395364bffc7ce85ccbe2de71215f9c6c85c024af3bbd991c75a01c2d2aa3080a*) ;; # Debian 12
        2cb06c85b5f01c4f6b72c3983d9f66d44aac0a7ac997ee55e7e429aedbc3934d*) ;; # its security updates, Debian 13, sid
        *) return 1 ;;
    esac
}

end() {
    for kept in "$later"/usr/lib/python3.*/py_compile.py "$later$certificates" "$later$questions"; do
        [ ! -f "$kept" ] || umount -l "${kept#"$later"}"
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
            begin
            /usr/bin/dpkg "$@"
            status=$?
            end
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
# To apt, a file of this name and size is one that it has downloaded already: it does not hash it.
mkdir "$later/archives" && chmod 755 "$later/archives" && ln -s "$mine"/inputs/* "$later/archives"
program=$1
shift
"$program" -o "Dir::Bin::dpkg=$later/dpkg" -o "Dir::Cache::Archives=$later/archives" "$@"
status=$?
# It makes this folder, or changes its mode, whether or not it has to download.
if [ -d "$later/archives/partial" ]; then
    mkdir -p /var/cache/apt/archives/partial &&
        chmod --reference="$later/archives/partial" /var/cache/apt/archives/partial || status=75
fi
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
[ $times = 0 ] || echo "reprobox: processes that made bytecode in the background: $times"
rm -rf "$later"
exit $status
