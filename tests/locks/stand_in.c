/* Stands in for sh, dpkg, apt-get, apt-mark and python3 in bases of old locks: static, without a C library, tiny.

   Every call is written to /calls, with its environment: what a recipe asks of a program is what must never change.
   Files below /run/reprobox/inputs that it is given are copied to /opt/installed, or to what --venv names.

   As `sh -c SCRIPT` it knows, a line or `;` each:
     mkdir PATH · put PATH TEXT · copy FROM TO · link TARGET PATH · hard FILE PATH · mode OCTAL PATH · remove PATH
   As `sh FILE` it ends with status 75, by which reprobox does a step the plain way.

   gcc -Os -static -nostdlib -fno-stack-protector -fno-asynchronous-unwind-tables -fno-builtin \
       -Wl,--build-id=none -Wl,-z,norelro,-z,noseparate-code -s -o stand-in stand_in.c                        */

enum { READ = 0, WRITE = 1, OPEN = 2, CLOSE = 3, EXIT = 60, MKDIR = 83, LINK = 86, UNLINK = 87, SYMLINK = 88, CHMOD = 90, UMASK = 95 };
enum { RDONLY = 0, NEW = 01 | 0100 | 01000, APPEND = 01 | 0100 | 02000 };

static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static void leave(int status) {
    for (;;) call(EXIT, status, 0, 0);
}

static long length(const char *text) {
    long n = 0;
    while (text[n]) n++;
    return n;
}

static int compare(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return (unsigned char)*a - (unsigned char)*b;
}

static int starts(const char *text, const char *with) {
    while (*with && *text == *with) text++, with++;
    return !*with;
}

static const char *base(const char *path) {
    const char *name = path;
    for (; *path; path++)
        if (*path == '/') name = path + 1;
    return name;
}

static int must(long result) {
    if (result < 0) leave(1);
    return (int)result;
}

static void say(int file, const char *text) { must(call(WRITE, file, (long)text, length(text))); }

static void copy(const char *from, const char *to) {
    static char buffer[65536];
    int in = must(call(OPEN, (long)from, RDONLY, 0)), out = must(call(OPEN, (long)to, NEW, 0644));
    long n;
    while ((n = must(call(READ, in, (long)buffer, sizeof buffer))) > 0) must(call(WRITE, out, (long)buffer, n));
    call(CLOSE, in, 0, 0), call(CLOSE, out, 0, 0);
}

static void note(char **argv, char **env) {
    int file = must(call(OPEN, (long)"/calls", APPEND, 0644));
    for (char **word = argv; *word; word++) say(file, *word), say(file, word[1] ? " " : "\n");
    for (char **i = env; *i; i++)
        for (char **j = i + 1; *j; j++)
            if (compare(*i, *j) > 0) {
                char *swapped = *i;
                *i = *j, *j = swapped;
            }
    for (; *env; env++) say(file, "    "), say(file, *env), say(file, "\n");
    call(CLOSE, file, 0, 0);
}

static char *word(char **rest) {
    char *start = *rest;
    while (*start == ' ') start++;
    char *end = start;
    while (*end && *end != ' ') end++;
    *rest = *end ? end + 1 : end;
    *end = 0;
    return start;
}

static void carry_out(char *line) {
    char *name = word(&line);
    if (!*name) return;
    char *first = word(&line);
    if (!compare(name, "mkdir")) must(call(MKDIR, (long)first, 0755, 0));
    else if (!compare(name, "remove")) must(call(UNLINK, (long)first, 0, 0));
    else if (!compare(name, "put")) {
        int file = must(call(OPEN, (long)first, NEW, 0644));
        say(file, line), say(file, "\n");
        call(CLOSE, file, 0, 0);
    } else if (!compare(name, "copy")) copy(first, word(&line));
    else if (!compare(name, "link")) must(call(SYMLINK, (long)first, (long)word(&line), 0));
    else if (!compare(name, "hard")) must(call(LINK, (long)first, (long)word(&line), 0));
    else if (!compare(name, "mode")) {
        long mode = 0;
        for (; *first; first++) mode = mode * 8 + *first - '0';
        must(call(CHMOD, (long)word(&line), mode, 0));
    } else leave(127);
}

static void script(char *text) {
    for (char *line = text; *text; text++)
        if (*text == '\n' || *text == ';') {
            *text = 0;
            carry_out(line);
            line = text + 1;
        } else if (!text[1]) {
            carry_out(line);
            return;
        }
}

static char *joined(char *to, const char *folder, const char *name) {
    long n = 0;
    while (*folder) to[n++] = *folder++;
    to[n++] = '/';
    while (*name && n < 4095) to[n++] = *name++;
    to[n] = 0;
    return to;
}

static void folders(const char *path) {
    static char made[4096];
    long n = 0;
    for (; *path; path++) {
        if (*path == '/' && n) call(MKDIR, (long)made, 0755, 0);
        made[n++] = *path, made[n] = 0;
    }
    call(MKDIR, (long)made, 0755, 0);
}

static void install(char **argv) {
    static char from[4096], to[4096];
    const char *place = "/opt/installed", *inputs = "/run/reprobox/inputs";
    int inside = 0;
    for (; *argv; argv++) {
        const char *name = *argv;
        if (!compare(name, "--venv") && argv[1]) place = *++argv;
        else if (!compare(name, inputs)) inside = 1;
        else if (starts(name, "/run/reprobox/inputs/") || inside) {
            folders(place);
            copy(inside ? joined(from, inputs, name) : name, joined(to, place, base(name)));
        }
    }
}

__attribute__((used)) static void begin(long *stack) {
    char **argv = (char **)(stack + 1), **env = argv + stack[0] + 1;
    call(UMASK, 022, 0, 0);
    if (!compare(base(argv[0]), "sh")) {
        char **given = argv + 1;
        while (*given && **given == '-' && compare(*given, "-c")) given++;
        if (!*given || compare(*given, "-c") || !given[1]) leave(75);
        note(argv, env);
        script(given[1]);
    } else {
        note(argv, env);
        install(argv + 1);
    }
    leave(0);
}

__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
