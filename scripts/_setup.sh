# Sourced by scripts/lab, scripts/test and scripts/lock (POSIX sh): makes sure that .venv holds what the lock files say.
# Needs $root, the repository's folder. Finds a Python; scripts/_setup.py does the rest. Where nothing has changed since the
# last time, this takes a fraction of a second and needs no network.

unset PYTHONHOME PYTHONPATH VIRTUAL_ENV CONDA_PREFIX
unset PYTHONDONTWRITEBYTECODE  # else every process compiles all that it imports: for the service 6.5 s of processor time instead of 2.6
export PYTHONUTF8=1
trap 'exit 130' INT

give_up() { printf '%s\n' "$1" >&2; exit 1; }

# Prints "3.12 yes" for a Python 3.12 that can make virtual environments, "3.12 no" for one that cannot, nothing for no Python.
look_at() {
    "$1" -I -c 'import sys
try: import ensurepip, venv; can = "yes"
except ImportError: can = "no"
print("%d.%d" % sys.version_info[:2], can if sys.implementation.name == "cpython" else "other")' 2>/dev/null </dev/null
}

# Sets $python to the first fitting interpreter, beginning with the one in use; RAP_PYTHON names the only one to try.
find_python() {
    python='' seen='' incomplete=''
    for name in .venv/bin/python python3.13 python3.12 python3.11 python3 python; do
        [ -z "${RAP_PYTHON:-}" ] || name=$RAP_PYTHON
        about=$(look_at "$name") || about=''
        case $about in
            '3.11 yes' | '3.12 yes' | '3.13 yes') python=$name; return 0 ;;
            '3.11 no' | '3.12 no' | '3.13 no') incomplete="$name (${about% *})" ;;
            ?*) seen="$name (${about% *})" ;;
        esac
        [ -z "${RAP_PYTHON:-}" ] || break
    done
    [ -z "$incomplete" ] || give_up "The Python found, $incomplete, cannot make virtual environments: install that part of Python (on Debian and Ubuntu: apt install python3-venv) and run this again."
    [ -z "$seen" ] || give_up "Python 3.11, 3.12 or 3.13 is needed, but only $seen was found: install one of them, or name it with RAP_PYTHON=/path/to/python."
    [ -z "${RAP_PYTHON:-}" ] || give_up "RAP_PYTHON=$RAP_PYTHON does not run: it has to name a Python 3.11, 3.12 or 3.13."
    give_up "Python 3.11, 3.12 or 3.13 is needed and none was found in PATH: install one of them, or name it with RAP_PYTHON=/path/to/python."
}

case $(uname -s) in
    MINGW* | MSYS* | CYGWIN* | Windows*) give_up "On Windows the lab runs inside WSL2: open a WSL2 terminal and run this there." ;;
esac
cd "$root" || exit 1
if ! { [ -x .venv/bin/python ] && .venv/bin/python -I -S scripts/_setup.py --ready 2>/dev/null; }; then
    find_python
    "$python" -I scripts/_setup.py || exit
fi
