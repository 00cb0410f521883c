# Run `make test` with every supported interpreter of this machine, each in .venvs/X.Y with [all],
# and with the default one where the native core was not built.
# All of them run even if one fails; the end names those that did.
set -eu

versions="3.11 3.12 3.13 3.14"

# A name on PATH proves nothing: version managers leave shims for interpreters that are not active.
# The first that runs and can make environments is taken; else one that runs, for make to explain.
find_python() {
    runs=
    for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/"python$1"; do
        "$python" -c '' 2>/dev/null || continue
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$python"
            return
        fi
        runs=$python
    done
    echo "$runs"
}

tested= failed= absent=
for version in $versions; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        absent="$absent $version"
        continue
    fi
    echo "== Python $version"
    tested="$tested $version"
    # MAKEFLAGS is emptied because a variable given to `make test-all` must not win over these.
    MAKEFLAGS= "${MAKE:-make}" --no-print-directory test \
        PYTHON="$python" VENV=".venvs/$version" EXTRAS=all,dev,frozen ARGS="$ARGS" || failed="$failed $version"
done

echo "== without the native core"
MAKEFLAGS= "${MAKE:-make}" --no-print-directory test-portable ARGS="$ARGS" \
    || failed="$failed no-core"

echo
echo "tested with: ${tested:- nothing}"
[ -z "$absent" ] || echo "not on this machine:$absent"
[ -z "$failed" ] || echo "FAILED with:$failed"
[ -n "$tested" ] && [ -z "$failed" ]
