#!/usr/bin/env bash
# crowdperf: set up what is missing, then run. Usage: ./crowdperf.sh run | test | setup | bench … | <any crowdperf command>
#   update [--yes]    show which packages change, from which version to which, then install them
#   lock [--upgrade]  write requirements*.lock again; advisories: look up known vulnerabilities of the locked packages
#
# PYTHON              interpreter to build .venv with (default: the one it has, else python3; 3.10 or newer)
# CROWDPERF_CORE=1    install the packages of a CPU site only, without torch and ultralytics
# CROWDPERF_RANGES=1  install what fits the ranges of requirements*.txt, not the versions and hashes of *.lock
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

die() { printf 'crowdperf: %s\n' "$*" >&2; exit 2; }
say() { printf '%s\n' "$*" >&2; }

# Paths, camera names and messages are UTF-8, whatever the terminal's locale can write.
export PYTHONUTF8=1

venv_python=.venv/bin/python
full=requirements.lock
requirements=$full
test_requirements=requirements-test.lock
[ "${CROWDPERF_CORE:-}" = 1 ] && requirements=requirements-core.lock
if [ "${CROWDPERF_RANGES:-}" = 1 ]; then
    full=requirements.txt
    test_requirements=requirements-test.txt
    requirements=$full
    [ "${CROWDPERF_CORE:-}" = 1 ] && requirements=requirements-core.txt
fi

# Where an interpreter is and which packages fit it: a bug-fix release in its place changes neither.
interpreter() {
    "$1" -I -S -c 'import os, sys; print(os.path.realpath(sys.base_prefix), sys.implementation.cache_tag)' 2>/dev/null || true
}

# What .venv was built from: other requirements, another interpreter or another place for the clone bring it up to date.
stamp() {
    {
        cat requirements-core.txt "$requirements"
        interpreter "${PYTHON:-$venv_python}"
        pwd -P
    } | cksum | cut -d' ' -f1
}

is_current() { [ -x $venv_python ] && [ "$(cat .venv/crowdperf-stamp 2>/dev/null)" = "$(stamp)" ]; }

# Where .venv keeps packages.
packages() { $venv_python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2>/dev/null; }

# pip of .venv, or one from outside that fills it.
pip() {
    if $venv_python -m pip --version >/dev/null 2>&1; then
        $venv_python -m pip "$@"
    else
        "${PYTHON:-python3}" -m pip --python $venv_python "$@"
    fi
}

# Whether the .venv that is there can be brought up to date: it was finished, and its interpreter and its place are right.
usable() {
    local packages made_in
    [ -x $venv_python ] && [ ! -e .venv/crowdperf-unfinished ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$(interpreter "$PYTHON")" = "$(interpreter $venv_python)" ] || return 1
    # Of an upgraded interpreter there is none yet.
    packages="$(packages)" && [ -d "$packages" ] || return 1
    # Its scripts begin with the path that they were installed under.
    made_in="$(cat "$packages/crowdperf.pth" 2>/dev/null || pwd)"
    [ "$(cd "$made_in" 2>/dev/null && pwd -P)" = "$(pwd -P)" ] || return 1
    pip --version >/dev/null 2>&1
}

# What an interruption leaves behind bears a mark, and is not filled later.
new_venv() {
    rm -rf .venv
    mkdir .venv
    : > .venv/crowdperf-unfinished
    "$@" .venv >/dev/null 2>&1
}

make_venv() {
    local python="${PYTHON:-python3}"
    usable && return
    command -v "$python" >/dev/null || die "no '$python' on PATH. Remedy: install Python 3.10 or newer, or set PYTHON."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$("$python" -V) is too old. Remedy: install Python 3.10 or newer, or set PYTHON to it."
    say "making .venv with $("$python" -V) …"
    # Debian splits ensurepip off: an environment without pip, filled by a pip from outside, does as well.
    if new_venv "$python" -m venv || { new_venv "$python" -m venv --without-pip && pip --version >/dev/null 2>&1; } ||
        new_venv "$python" -m virtualenv; then
        rm .venv/crowdperf-unfinished
        return
    fi
    rm -rf .venv
    die "'$python -m venv' does not work here. Remedy: apt install python3-venv (or pip install --user virtualenv), then again."
}

pip_install() { pip install --disable-pip-version-check --quiet "$@"; }

# Every file of a lock has to have a hash that is in it.
install() {
    local hashes=--require-hashes
    [ "${CROWDPERF_RANGES:-}" = 1 ] && hashes=
    pip_install $hashes -r "$1" || die "installing $1 failed (see above). Remedy: check the network, then again."
}

# Which packages would be installed or replaced, one a line.
changes() {
    $venv_python -m crowdperf.cli.packages "$requirements" 2>/dev/null ||
        echo "(an environment of an older version: what changes cannot be listed)"
}

setup() {
    is_current && return
    # Two shells that set up at once would spoil each other's .venv.
    if command -v flock >/dev/null; then exec 9>.setup.lock; flock 9; fi
    is_current && { exec 9>&-; return; }
    make_venv
    # supervisorctl runs from .venv/bin and has to find the package; and .venv remembers where it is.
    pwd -P > "$(packages)/crowdperf.pth"
    say "installing $requirements into .venv (a few minutes the first time) …"
    [ -e .venv/crowdperf-stamp ] && changes >&2
    install "$requirements"
    if [ $requirements != $full ]; then
        # The demo is cut from pictures that ultralytics ships: the package alone, 1 MB, without torch and the rest of it.
        awk '/^ultralytics-opencv-headless/, !/\\$/' $full > .venv/demo.txt
        pip_install --no-deps -r .venv/demo.txt || say "the demo cannot be rendered without ultralytics"
    fi
    stamp > .venv/crowdperf-stamp
    exec 9>&- || true
    rm -f .setup.lock
}

# A site does not need them.
setup_test_tools() {
    local wanted
    setup
    wanted="$(cat "$test_requirements" .venv/crowdperf-stamp | cksum)"
    [ "$(cat .venv/crowdperf-test-stamp 2>/dev/null)" = "$wanted" ] && return
    say "installing $test_requirements into .venv …"
    install "$test_requirements"
    printf '%s\n' "$wanted" > .venv/crowdperf-test-stamp
}

update() {
    local answer found
    if is_current; then say "everything is as in $requirements"; return; fi
    found="$([ ! -x $venv_python ] || changes)"
    if [ -n "$found" ]; then
        printf '%s\n' "$requirements has other packages than .venv:" "$found"
        if [ "${1:-}" != --yes ]; then
            [ -t 0 ] || die "nothing was installed. Remedy: run it in a terminal, or with --yes."
            read -r -p "Install them? [y/N] " answer
            [[ "$answer" = [yY]* ]] || die "nothing was installed."
        fi
    fi
    setup
    say "done. A site that runs uses them after a restart."
}

# Name what is not installed here, and which tests are skipped for it. In CI they fail instead.
report_missing_tools() {
    [ "${CI:-}" = true ] && return
    local PATH="$PATH:/usr/sbin"
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
        say "skipped: the browser tests (no Chromium; apt install chromium)"
    command -v mosquitto >/dev/null || say "skipped: the MQTT tests (no broker; apt install mosquitto)"
    command -v nginx >/dev/null || say "skipped: the test of docs/nginx.conf (no nginx; apt install nginx-light)"
}

case "${1:-}" in
    "" | -h | --help | help)
        sed -n '2,8s/^# \{0,1\}//p' crowdperf.sh
        exit 0 ;;
    setup) setup ;;
    test)
        shift
        setup_test_tools
        report_missing_tools
        # Many tests wait for real time to pass; two at a time wait together.
        exec $venv_python -m pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@" ;;
    update) shift; update "$@" ;;
    lock | advisories) setup_test_tools; exec $venv_python -m tests.support.dependencies "$@" ;;
    bench) shift; setup; exec $venv_python -m bench "$@" ;;
    *) setup; exec $venv_python -m crowdperf "$@" ;;
esac
