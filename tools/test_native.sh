# Build the tests of the native core (tests/native) and run them: plain, with the sanitizers of
# addresses and of undefined behaviour, and (what uses threads) with that of threads.
# `sh tools/test_native.sh quick` does a part of each, in a few seconds. Little free memory is kept, so
# that what is given back to the system is reached.
set -eu

how=${1:-full}
root=$(cd "$(dirname "$0")/.." && pwd)
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT

build() { # FLAVOUR TEST FLAGS...
    flavour=$1
    test=$2
    shift 2
    ${CC:-gcc} -std=c11 -Wall -Wextra -Werror -g -pthread -DQMILL_POINTS \
        -DKEPT_BYTES='(UINT64_C(1) << 20)' "$@" \
        "$root/tests/native/$test.c" "$root"/src/qmill/queues/shared/core/[a-z]*.c -o "$built/$test-$flavour"
}

run() { # PROGRAM ARGUMENTS...
    program=$1
    shift
    said=$("$built/$program" "$@")
    echo "$program: $said"
}

export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1
some=
[ "$how" = full ] || some=quick

for test in test_ring test_kill test_fuzz; do
    build plain $test -O2 &
    build asan $test -fsanitize=address,undefined -fno-sanitize-recover=undefined
    wait $!
done
build tsan test_ring -fsanitize=thread

run test_ring-plain $some
run test_kill-plain $some
run test_fuzz-plain $some
# With a sanitizer a process is slow to make, so there are fewer kills.
run test_ring-asan $some
if [ "$how" = full ]; then
    run test_kill-asan quick
    run test_fuzz-asan 100000 1000
else
    run test_kill-asan sample
    run test_fuzz-asan 100000 50
fi
run test_ring-tsan $some threads a_child_has_lent_memory_as_it_was
