"""Stands in for the module ``py_compile`` while dpkg configures packages (``install.sh``): it compiles later.

Maintainer scripts compile the modules of one package after the other, and wait for it, although nobody needs the
bytecode before the layer is done. Here the program ``py_compile`` only notes what is asked for, and processes in the
background do it as the original does it: with its code, its options and its environment. Many files are shared among
several processes: on the Pythons that ``install.sh`` names, the bytecode of a file does not depend on what else a
process compiles. Who imports the module gets the original.

Called as ``compile_later.py FOLDER NOTE…`` it checks what became of notes: everything was compiled, and is still as it
was made then.

This runs on every Python that ``install.sh`` names, and imports nothing that is not imported before it starts: what
is imported may leave bytecode in the layer.
"""

import os
import sys

_FOLDER = "/run/reprobox-later"
_HEADER = 16  # bytes of a .pyc that tell how to know its source, and which it is
_SHARE = 24  # files at least that are worth a process of their own


def _check(note: str) -> int:
    """0 if what the file ``note`` asks for is there, as it was made."""
    done = note.replace("asked-", "done-")
    if not os.path.exists(done):
        return 1
    with open(done, "rb") as file:
        rest = file.read()
    while rest:
        header, (path, _, rest) = rest[:_HEADER], rest[_HEADER:].partition(b"\0")
        if not os.path.exists(path):
            return 1
        with open(path, "rb") as file:
            if file.read(_HEADER) != header:
                return 1
    return 0


def _state(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def _asked() -> dict[str, tuple[int, int]] | None:
    """The files to compile as they are now; None where something about them is unusual, so that it is done at once."""
    names = sys.argv[1:]
    if names == ["-"]:
        import io  # has no bytecode: it is part of the interpreter

        text = sys.stdin.read()
        sys.stdin = io.StringIO(text)
        names = [line for line in text.split("\n") if line]
    try:
        return {name: _state(name) for name in names}
    except OSError:
        return None


def _shares(known: dict[str, tuple[int, int]]) -> list[list[str]]:
    """The files to compile, by the process that will do it."""
    count = max(1, min(len(os.sched_getaffinity(0)), len(known) // _SHARE))
    return [list(known)[first::count] for first in range(count)]


def _in_background(known: dict[str, tuple[int, int]]) -> str:
    """Let this process end with success, and go on in others that nobody waits for, each with its share of what is
    asked; the name of its note.
    """
    for number, share in enumerate(_shares(known)):
        name = f"{_FOLDER}/asked-{os.getpid()}-{number}"
        note = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(note, os.fsencode(sys.executable))
        os.close(note)
        alive = os.open(f"{_FOLDER}/alive", os.O_RDWR)
        if os.fork() == 0:
            _detach(alive)
            _ask(share)
            return name
        os.close(alive)
    os._exit(0)


def _detach(alive: int) -> None:
    """Leave everything that belongs to who asked; keep the pipe ``alive`` open."""
    os.setsid()
    os.nice(10)  # the installation is what takes longest
    nothing = os.open("/dev/null", os.O_RDONLY)
    log = os.open(f"{_FOLDER}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in enumerate((nothing, log, log)):
        os.dup2(source, target)
    os.dup2(alive, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))


def _ask(names: list[str]) -> None:
    """Have the original asked for these alone, in the way in which it was asked for all."""
    if sys.argv[1:] == ["-"]:
        sys.stdin.seek(0)
        sys.stdin.truncate()
        sys.stdin.write("".join(f"{name}\n" for name in names))
        sys.stdin.seek(0)
    else:
        sys.argv[1:] = names


def _take_turn() -> None:
    """Together with others, but alone if this process leaves bytecode of what it imports: both might write a file."""
    import fcntl  # has no bytecode either: see _noted

    turn = os.open(f"{_FOLDER}/turn", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(turn, fcntl.LOCK_SH if sys.dont_write_bytecode else fcntl.LOCK_EX)


def _spoil() -> None:
    """Have the layer made without this: what imports the module leaves its bytecode, as if it were the original's."""
    if os.path.isdir(_FOLDER):
        os.close(os.open(f"{_FOLDER}/spoilt", os.O_WRONLY | os.O_CREAT, 0o600))


def _become(real: str) -> None:
    """Define what the original, at ``real``, defines; as a program it would start."""
    with open(real, "rb") as file:
        code = file.read()
    scope = globals()
    name, scope["__name__"] = scope["__name__"], "py_compile"
    exec(compile(code, __file__, "exec"), scope)  # noqa: S102 - it is the module that this one stands in for
    scope["__name__"] = name


def _compiles(known: dict[str, tuple[int, int]], made: list[bytes] | None) -> None:
    """Have ``compile`` take the original for what is at this file's place. For what is done later, refuse what changed
    since it was ``known``, and note what was ``made``.
    """
    original = globals()["compile"]

    def compiled(file: str, cfile: str | None = None, dfile: str | None = None, *more: object, **also: object) -> str:
        if file == __file__ and cfile is None:
            import importlib.util  # which the original has imported

            path = original(_FOLDER + file, importlib.util.cache_from_source(file), dfile or file, *more, **also)
        else:
            path = original(file, cfile, dfile, *more, **also)
        if made is not None:
            if file != __file__ and _state(file) != known[file]:
                raise OSError(f"{file} changed while it waited to be compiled")
            with open(path, "rb") as pyc:
                made.append(pyc.read(_HEADER) + os.fsencode(path) + b"\0")
        return str(path)

    globals()["compile"] = compiled


def _stand_in(*, program: bool) -> None:
    """Be the original; as a program, do what it is asked to do, later if that can be."""
    if globals()["__spec__"] is not None and not sys.dont_write_bytecode:
        _spoil()
    known = None
    if program and os.path.isdir(_FOLDER) and "fcntl" in sys.builtin_module_names:
        known = _asked()
    if not known:
        _become(_FOLDER + __file__)
        _compiles({}, None)
        if program:
            globals()["main"]()
        return
    note, made = _in_background(known), list[bytes]()
    _take_turn()
    _become(_FOLDER + __file__)
    _compiles(known, made)
    globals()["main"]()
    with open(note.replace("asked-", "done-"), "wb") as done:
        done.write(b"".join(made))


if __name__ == "__main__" and sys.argv[2:] and sys.argv[2].startswith(_FOLDER):
    sys.exit(max(map(_check, sys.argv[2:])))
_stand_in(program=__name__ == "__main__")
