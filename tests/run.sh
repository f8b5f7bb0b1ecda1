#!/usr/bin/env bash
# Runs every check and every test of erolith on a fresh Debian 12 machine, as root; installs what they need.
#
#   tests/run.sh            about 20 min from nothing on two cores; a few minutes when the cache and the build are warm
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
    local name=$1 start=$SECONDS
    shift
    say "$name"
    if "$@"; then
        say "$name: passed in $((SECONDS - start)) s"
    else
        FAILED+=("$name")
        say "$name: FAILED after $((SECONDS - start)) s"
    fi
}

# The judges and the inputs of the tests. Made beside the build: they wait for the network and the disk, it for the CPU.
make_test_data() {
    local testdata=$EROLITH_REPO/testdata
    "$testdata/real-image.sh" && "$testdata/sid-root.sh" && "$testdata/oracle.sh"
} </dev/null >/dev/null

all_tests() {
    cargo test --workspace --no-fail-fast --quiet </dev/null 2>&1 | tee "$LOG/tests"
}

# The fuzzers need unstable compiler flags, nothing else of a nightly compiler.
fuzz() {
    local target status=0
    export RUSTC_BOOTSTRAP=1
    for target in fuzz/fuzz_targets/*.rs; do
        target=$(basename "$target" .rs)
        cargo fuzz run "$target" -- -max_total_time="${FUZZ_SECONDS:-15}" -rss_limit_mb=2048 -verbosity=0 \
            -print_final_stats=1 || status=1
    done
    return "$status"
}

# install_cargo_tool NAME: a cargo subcommand, compiled once for all runs; unoptimised, for it runs for a second.
install_cargo_tool() {
    command -v "$1" >/dev/null || retry cargo install --quiet --locked --debug --root "$EROLITH_CACHE/cargo" "$1"
}

count_tests() {
    awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$LOG/tests"
}

need_root
need_build_tools
need_packages acl attr debootstrap isal shellcheck umoci
export PATH=$EROLITH_CACHE/bin:$EROLITH_CACHE/cargo/bin:$PATH
cd "$EROLITH_REPO"

make_test_data &
making=$!
check format cargo fmt --all --check
check scripts shellcheck .ci/run testdata/*.sh tests/*.sh
check lint cargo clippy --workspace --all-targets --quiet -- -D warnings
check build cargo build --workspace --quiet
check "licenses and sources" eval 'install_cargo_tool cargo-deny && cargo deny --log-level error check bans licenses sources'
check "test data" wait "$making"
check tests all_tests
check fuzz eval 'install_cargo_tool cargo-fuzz && fuzz'

[[ ${#FAILED[@]} -eq 0 ]] || printf 'failed: %s\n' "${FAILED[@]}"
count_tests
[[ ${#FAILED[@]} -eq 0 ]]
