# Sourced by the scripts beside it: enters the checkout and makes `.venv` on a fresh machine (Python 3.11, git and pip
# are enough). The install is repeated only when pyproject.toml changed. MESHRAY_PYTHON names another interpreter.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in ${MESHRAY_PYTHON:-} python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "meshray needs Python 3.11 or newer with venv and pip (on Debian: apt install python3-venv);" \
        "name one with MESHRAY_PYTHON=/path/to/python" >&2
    return 1
}

# ensure_venv EXTRAS: .venv with this checkout installed in place, with the extras (comma-separated)
ensure_venv() {
    local extras="$1" python stamp
    if [ ! -x .venv/bin/python ]; then
        python="$(find_python)"
        echo "making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    stamp="$extras $(cksum <pyproject.toml)"
    if [ "$(cat ".venv/.meshray-$extras" 2>/dev/null)" != "$stamp" ]; then
        echo "installing meshray[$extras] into .venv"
        .venv/bin/python -m pip install -qq --disable-pip-version-check --editable ".[$extras]"
        echo "$stamp" >".venv/.meshray-$extras"
    fi
    export PATH="$PWD/.venv/bin:$PATH"
}
