#!/usr/bin/env bash
# Runs every check and every test of erolith on a fresh Debian 12 machine, as root; installs what they need.
#
#   tests/run.sh            about 25 min on two cores that do nothing else, 10 min more the first time
#   FUZZ_SECONDS=600 tests/run.sh    fuzzes each target so long, not for 15 s
#
# All checks run even after one fails. The last line counts tests; the status is 0 only if nothing at all failed.
set -euo pipefail
# shellcheck source=../testdata/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../testdata/setup.sh"

FAILED=()
LOG=$(mktemp -d)
trap 'rm -rf "$LOG"' EXIT

# check NAME CMD...: runs one check and remembers whether it failed.
check() {
    local name=$1 start=$SECONDS status
    shift
    say "$name"
    set +e
    if [[ -t 2 ]]; then
        (
            set -e
            "$@"
        )
    else
        (
            set -e
            "$@"
        ) 2>&1 | tee "$LOG/check-$name"
    fi
    status=$?
    set -e
    [[ $status -eq 0 ]] || FAILED+=("$name")
    say "$name: status $status after $((SECONDS - start)) s"
}

# The programs that tests compare with, and their inputs. Made beside the build: they wait for network and disk, it for the CPU.
make_test_data() {
    "$EROLITH_REPO/testdata/real-image.sh"
    "$EROLITH_REPO/testdata/oracle.sh"
    "$EROLITH_REPO/testdata/trixie-root.sh"
    "$EROLITH_REPO/testdata/snapshotter-suite.sh"
    "$EROLITH_REPO/testdata/ctd-decoder.sh"
    "$EROLITH_REPO/testdata/churn.sh"
    "$EROLITH_REPO/testdata/manifest-check.sh"
} </dev/null >/dev/null

dependencies() {
    install_cargo_tool cargo-deny
    cargo deny --log-level error check bans licenses sources
}

# What the program is made of, in CycloneDX's form: made, and with ourselves and what we depend on in it.
sbom() {
    local sbom=$LOG/erolith.cdx.json
    install_cargo_tool cargo-sbom
    cargo sbom --cargo-package erolith --output-format cyclone_dx_json_1_6 >"$sbom"
    python3 -B tests/sbom.py "$sbom"
}

# A property test that fails would print a stack for each tree it tries.
all_tests() { RUST_BACKTRACE=0 cargo test "${EVERYTHING[@]}" --no-fail-fast --quiet </dev/null 2>&1 | tee "$LOG/tests"; }

# fuzz/README.md tells more. The flags are unstable ones, which is all that is needed of a nightly compiler.
fuzz() {
    local target
    install_cargo_tool cargo-fuzz
    cd fuzz
    export RUSTC_BOOTSTRAP=1
    cargo run --quiet --bin seed
    for target in fuzz_targets/*.rs; do
        cargo fuzz run --sanitizer none "$(basename "$target" .rs)" -- -max_total_time="${FUZZ_SECONDS:-15}" \
            -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 2>&1 | grep -v '# Uses: '
    done
}

count_tests() {
    awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$LOG/tests"
}

# Tests are compiled with the faster inflater, as packages are. Nothing is compiled twice: what an incremental build writes
# for the next one takes longer than it saves here.
EVERYTHING=(--workspace --features isal)
export CARGO_INCREMENTAL=0
# On a terminal, cargo shows how far it is.
QUIET=(--quiet)
[[ ! -t 2 ]] || QUIET=()

need_tests
export PATH=$EROLITH_CACHE/bin:$PATH
cd "$EROLITH_REPO"

make_test_data &
made=$!
# Packages on a bare machine: this waits for the network too.
tests/bare.sh setup >"$LOG/bare" 2>&1 &
bare=$!
check format cargo fmt --all --check
check scripts shellcheck .ci/run dist/*.sh dist/kubernetes/*.sh testdata/*.sh tests/*.sh tests/bench/*.sh tests/vm/*.sh
check lint cargo clippy "${EVERYTHING[@]}" --all-targets "${QUIET[@]}" -- -D warnings
# As `cargo install` compiles it: without features, and without those of the tests.
check plain cargo check --locked "${QUIET[@]}"
check build cargo test "${EVERYTHING[@]}" --no-run "${QUIET[@]}"
check dependencies dependencies
check sbom sbom
wait "$made" || FAILED+=("test data")
wait "$bare" || FAILED+=("bare machine")
cat "$LOG/bare" >&2
check tests all_tests
check documents python3 -B tests/documents.py target/debug/erolith
check disk python3 -B tests/vm/disk_test.py
check power tests/vm/power.sh --rounds 2
check fuzz fuzz

# Once more at the end, where a log that keeps its tail alone has it.
for name in ${FAILED[@]+"${FAILED[@]}"}; do
    printf 'failed: %s\n' "$name"
    [[ ! -s $LOG/check-$name ]] || tail -n 30 "$LOG/check-$name" | cut -c -500 | sed 's/^/    /'
done
# The libtest line of a test that failed; what it said is further up.
grep --text ' --- FAILED$' "$LOG/tests" || true
count_tests
[[ ${#FAILED[@]} -eq 0 ]]
