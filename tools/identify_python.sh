# Print which interpreter $PYTHON is, or say what is wrong with it and fail.
set -eu

if ! "$PYTHON" -c '' 2>/dev/null; then
    echo "There is no working '$PYTHON'. Install Python 3.11 or newer," >&2
    echo "or name one: make PYTHON=/path/to/python3" >&2
    exit 1
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "qmill needs Python 3.11 or newer; '$PYTHON' is $("$PYTHON" -V 2>&1)." >&2
    echo "Name another: make PYTHON=/path/to/python3" >&2
    exit 1
fi
# Some distributions ship a venv module that cannot work, for want of ensurepip.
if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "'$PYTHON' cannot make a virtual environment: its module ensurepip is missing." >&2
    echo "Install it (Debian and Ubuntu: apt install python3-venv)," >&2
    echo "or name another interpreter: make PYTHON=/path/to/python3" >&2
    exit 1
fi
"$PYTHON" -c 'import sys; print(" ".join(sys.version.split()), sys.base_prefix)'
