#!/usr/bin/env bash
# All that takes a GPU, in one report: ./run.sh test-gpu calls this on a finished build. gpu.sh BUILD
# Sections whose tool is missing say so. The last line counts; the exit status is 1 where something failed.
set -uo pipefail
build=$1 report=$1/report.md
export OMP_WAIT_POLICY=passive ALTGRAD_TEST_GPU=1
failed=0
cd "$build" || exit 1

say() { printf '%s\n' "$*" | tee -a "$report"; }
section() { printf '\n## %s\n\n' "$1" | tee -a "$report"; }
code() { { printf '```\n'; cat; printf '```\n'; } | tee -a "$report"; }

: >"$report"
say "# altgrad on a GPU"
say ""
nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader | code
./examples/train_gpt --version | code

section "Tests on the card"
start=$SECONDS
ctest -R '_on_cuda$|^test_gpu$' --parallel 4 --output-on-failure --output-junit tests.xml \
  --test-output-size-passed 1000000 --test-output-size-failed 1000000 >ctest.log 2>&1 || failed=1
grep -E ' Test +#' ctest.log | sed 's/^.*Test *#[0-9]*: //' | code
say ""
say "$((SECONDS - start)) s."

section "What differed from the simulated device"
# The same tests pass there, on every commit.
differs='FAILED:|due to unexpected|\*\*\*(Failed|Timeout|Exception|Not Run)'
if grep -qE "$differs" ctest.log; then
  grep -E -A8 "$differs" ctest.log | head -n 200 | code
else
  say "Nothing."
fi

section "Steps"
./tests/bench/bench --device cuda --only step --samples 5 2>&1 | code || failed=1

section "compute-sanitizer"
# Programs of small sizes that run most kinds of kernels.
sanitized="attention native_fp8 test_attention test_bf16_ops test_codes test_fused test_kv_cache test_layer_ops test_optim test_quantize test_weight_codes"
# Of these, whose products run on tensor cores in bf16 or FP8:
# - racecheck looks at all kernels: CUDA 13.0's breaks cuBLASLt's where it is to leave them out, in PyTorch as well;
# - initcheck reports that tests read products, which they find right, on sm_90: it seems not to see all that cuBLASLt's kernels
#   write there. These reads are named, and do not count.
export tensor_cores=" native_fp8 test_bf16_ops test_codes test_kv_cache "
export limit=200  # seconds; what is not finished by then is named, and has not failed
# sanitize SANITIZER TOOL PROGRAM: prints what the tool has found.
# shellcheck disable=SC2317  # bash -c calls it
sanitize() {
  local status=0 log=$2-$3.log kernels ours=()
  if [ "$2" = racecheck ] && [[ $tensor_cores != *" $3 "* ]]; then
    ours=(--kernel-name kns=altgrad)  # cuBLASLt's take minutes
  fi
  ALTGRAD_TEST_DEVICE=cuda OMP_NUM_THREADS=1 timeout "$limit" "$1" --tool "$2" "${ours[@]}" --error-exitcode 9 \
    tests/altgrad_tests -# "[#$3]" >"$log" 2>&1 || status=$?
  kernels=$(sed -nE 's/^=+ +at ([^+]*).*/\1/p' "$log" | sort | uniq -c | sort -rn)  # that it names, the first 100 times
  if [ "$2 $status" = "initcheck 9" ] && [[ $tensor_cores == *" $3 "* ]] && grep -q "^All tests passed" "$log" &&
    [ -n "$kernels" ] && ! grep -qv "on_cuda::cast<double, " <<<"$kernels"; then
    status="read"
  fi
  printf '%s %s: %s%s%s\n' "$2" "$3" "$(sed -n 's/^=* *\(.*SUMMARY: .*\)/\1/p' "$log" | tail -n 1)" \
    "$(case $status in
      0) ;;
      4) echo " SKIPPED in part: see $log" ;;
      124) echo " not finished after $limit s" ;;
      read) echo " reads of products by tests that find them right" ;;
      *) echo " status $status" ;;
    esac)" "$(head -n 3 <<<"$kernels" | paste -sd ';')"
  case $status in 0 | 4 | 124 | read) ;; *) return 1 ;; esac
}
export -f sanitize
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) || true
if [ -z "$sanitizer" ]; then
  say "SKIPPED: compute-sanitizer is not installed."
else
  for tool in memcheck racecheck initcheck; do
    start=$SECONDS
    # shellcheck disable=SC2086  # a list of words
    printf '%s\n' $sanitized | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I{} bash -c "sanitize $sanitizer $tool {}" | sort | code
    [ "${PIPESTATUS[1]}" = 0 ] || failed=1
    say "$tool: $((SECONDS - start)) s."
  done
fi

section "Products and rounding"
for what in gemm round; do ./tests/bench/bench --device cuda --only $what --samples 5; done 2>&1 | code || failed=1

printf '\nreport: %s\n' "$report"
exit $failed
