# Run `make test` on a copy of the checkout that was installed with no compiler to be had. A copy,
# because what was built in this checkout would be found there.
set -eu

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 1' HUP INT TERM
git ls-files -z | xargs -0 cp --parents -t "$copy"
cd "$copy"
unset QMILL_REQUIRE_CORE
MAKEFLAGS= CC=/bin/false "${MAKE:-make}" --no-print-directory test PYTHON="${PYTHON:-python3}" \
    ARGS="${ARGS:-}"
