#!/usr/bin/env bash
# crowdperf: set up what is missing, then run. Usage: ./crowdperf.sh run | test | setup | bench … | <any crowdperf command>
#
# PYTHON            interpreter to build .venv with (default: the one it has, else python3; 3.10 or newer)
# CROWDPERF_CORE=1  install requirements-core.txt only: a CPU site without torch and ultralytics
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

die() { printf 'crowdperf: %s\n' "$*" >&2; exit 2; }
say() { printf '%s\n' "$*" >&2; }

# Paths, camera names and messages are UTF-8, whatever the terminal's locale can write.
export PYTHONUTF8=1

venv_python=.venv/bin/python
requirements=requirements.txt
[ "${CROWDPERF_CORE:-}" = 1 ] && requirements=requirements-core.txt

# Where an interpreter is and which packages fit it: a bug-fix release in its place changes neither.
interpreter() {
    "$1" -I -S -c 'import os, sys; print(os.path.realpath(sys.base_prefix), sys.implementation.cache_tag)' 2>/dev/null || true
}

# What .venv was built from: other requirements, another interpreter or another place for the clone bring it up to date.
stamp() {
    {
        cat requirements-core.txt requirements-test.txt "$requirements"
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

setup() {
    is_current && return
    # Two shells that set up at once would spoil each other's .venv.
    if command -v flock >/dev/null; then exec 9>.setup.lock; flock 9; fi
    is_current && { exec 9>&-; return; }
    make_venv
    # supervisorctl runs from .venv/bin and has to find the package; and .venv remembers where it is.
    pwd -P > "$(packages)/crowdperf.pth"
    say "installing $requirements into .venv (a few minutes the first time) …"
    pip_install -r "$requirements" || die "installing $requirements failed (see above). Remedy: check the network, then again."
    if [ $requirements = requirements-core.txt ]; then
        # The demo is cut from pictures that ultralytics ships: the package alone, 1 MB, without torch and the rest of it.
        pip_install --no-deps "$(grep ^ultralytics requirements.txt)" || say "the demo cannot be rendered without ultralytics"
    fi
    stamp > .venv/crowdperf-stamp
    exec 9>&- || true
    rm -f .setup.lock
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
        sed -n '2,6s/^# \{0,1\}//p' crowdperf.sh
        exit 0 ;;
    setup) setup ;;
    test)
        shift
        setup
        # A full installation has them.
        $venv_python -c 'import pytest, xdist' 2>/dev/null || pip_install -r requirements-test.txt
        report_missing_tools
        # Many tests wait for real time to pass; two at a time wait together.
        exec $venv_python -m pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@" ;;
    bench) shift; setup; exec $venv_python -m bench "$@" ;;
    *) setup; exec $venv_python -m crowdperf "$@" ;;
esac
