# Fuzz the native core with damaged files: with afl++, guided by coverage, where that is installed
# (Debian: apt install afl++), and by the seeded loop in C, which needs gcc alone.
# SECONDS_EACH=600 sh tools/fuzz_native.sh takes longer.
set -eu

seconds=${SECONDS_EACH:-120}
root=$(cd "$(dirname "$0")/.." && pwd)
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT

# All files of the core but those that native.h includes.
core=
for file in "$root"/src/qmill/queues/shared/core/[a-z]*.c; do
    grep -q "/$(basename "$file")\"" "$root/tests/native/native.h" || core="$core $file"
done

build() { # COMPILER TEST FLAGS...
    compiler=$1
    test=$2
    shift 2
    # shellcheck disable=SC2086
    $compiler -std=c11 -O1 -g -pthread -DQMILL_POINTS "$@" "$root/tests/native/$test.c" $core \
        -o "$built/$test"
}

seed=${QMILL_CHAOS_SEED:-$(date +%s)}
build "${CC:-gcc}" test_fuzz
echo "damaged files: seed $seed"
"$built/test_fuzz" "$seed" 20000

if ! command -v afl-fuzz >/dev/null; then
    echo "afl++ is not installed: no fuzzing that is guided by coverage"
    exit 0
fi
if command -v afl-clang-fast >/dev/null; then compiler=afl-clang-fast; else compiler=afl-gcc; fi
export AFL_QUIET=1
build "$compiler" fuzz_input
mkdir "$built/in"
head -c 24 /dev/zero >"$built/in/nothing"
printf '\1\0\0\0\7\0\0\0\377\377\377\377\377\377\377\377' >"$built/in/one"
export AFL_SKIP_CPUFREQ=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 AFL_NO_UI=1 AFL_NO_AFFINITY=1
afl-fuzz -s "$seed" -V "$seconds" -t 5000 -i "$built/in" -o "$built/out" -- "$built/fuzz_input" \
    >"$built/log" 2>&1 || { cat "$built/log"; exit 1; }
grep -E '^(execs_done|corpus_count|saved_crashes|saved_hangs|bitmap_cvg)' \
    "$built/out/default/fuzzer_stats"
for found in "$built"/out/default/crashes/id* "$built"/out/default/hangs/id*; do
    [ -e "$found" ] || continue
    echo "a damaged file crashes or hangs; the input of fuzz_input, in hex:"
    od -An -tx1 "$found"
    exit 1
done
