#!/bin/sh
# Trains on the device by train_gpt: as on the CPU, in bf16, in 8 bits; saved on one and gone on from on the other.
# usage: train_gpt.sh ABSOLUTE_PATH_OF_TRAIN_GPT
. "$(dirname "$0")/../../examples/test_functions.sh"
ln -s "$1" train_gpt
run="./train_gpt --data text.txt --batch 2 --block 16 --eval-every 4 --eval-batches 2 --sample 3"

# close TOLERANCE RUN RUN: all losses of both, to this fraction.
close() {
  for of in "$2" "$3"; do sed -n 's/.*"train_loss":\([^,}]*\).*/\1/p' "$of/metrics.jsonl" >"$of/losses"; done
  [ "$(wc -l <"$2/losses")" -gt 3 ] || fail "$2 has no losses"
  paste "$2/losses" "$3/losses" | awk -v most="$1" '{ d = ($1 - $2) / $1; if (d < 0) d = -d; if (!(d <= most)) bad = 1 }
    END { exit bad }' || { paste "$2/losses" "$3/losses"; fail "losses of $2 and $3 differ by more than $1"; }
}

if $run --steps 1 --device cuda --out first 2>&1 | grep "is not there"; then
  echo "SKIPPED: train_gpt_on_cuda: there is no GPU here"
  exit 4
fi
expect 0 "" $run --steps 8 --format none --out cpu
expect 0 "" $run --steps 8 --format none --device cuda --out gpu
grep -q "on cuda" log || fail "nothing says that it trains on a GPU"
close 1e-4 cpu gpu
expect 0 "" $run --steps 8 --format none --device cuda --out same
cmp gpu/checkpoint.safetensors same/checkpoint.safetensors || fail "the same run has another checkpoint"

cp -r cpu on-cpu
cp -r cpu on-gpu
expect 0 "" $run --steps 12 --resume --out on-cpu
expect 0 "" $run --steps 12 --resume --device cuda --out on-gpu
close 1e-4 on-cpu on-gpu
cp -r gpu back
expect 0 "" $run --steps 12 --resume --out back
close 1e-4 on-cpu back

expect 0 "" $run --steps 4 --grads E5M2 --ema 0.9 --accumulate 2 --device cuda --out codes
native="--grads E5M2 --native-fp8 --device cuda"
if ALTGRAD_SIMULATOR_SM=80 $run --steps 4 $native --out refused >log 2>errors; then
  grep -q "E5M2 gradients, native FP8:" log || fail "this GPU is not said to have FP8"  # no simulated one
else
  grep -q "needs a GPU of compute capability 8.9" errors || { cat errors; fail "native FP8"; }
  [ ! -e refused ] || fail "a run that was refused has left a folder"
fi
if $run --steps 4 $native --out native >log 2>errors; then
  grep -q "E5M2 gradients, native FP8:" log || fail "nothing says that its products are FP8's"
  expect 0 "" $run --steps 6 --resume --device cuda --out native
  expect 1 "--native-fp8 needs --device cuda" $run --steps 7 --resume --out native
  expect 0 "" $run --eval-only --out native
  expect 1 "native FP8 multiplies E4M3 and E5M2" $run --native-fp8 --device cuda --out errors_out
fi
expect 0 "" $run --steps 4 --format none --dtype bf16 --device cuda --out narrow
expect 0 "" $run --steps 8 --resume --device cuda --out narrow
close 0.05 gpu narrow  # of runs that part with each step
# Its parameters are f32: anything may evaluate them, a GPU alone goes on as it was.
expect 1 "--dtype bf16 needs --device cuda" $run --steps 9 --resume --out narrow
expect 1 'has --dtype "bf16", not "f32"' $run --steps 9 --resume --dtype f32 --out narrow
expect 0 "" $run --eval-only --device cuda --out narrow
cp log on-gpu.log
expect 0 "" $run --eval-only --out narrow
for of in on-gpu.log log; do grep -o 'alidation loss [0-9.]*' "$of" | head -n 1 | tr -dc '0-9.\n' >"$of.loss"; done
[ -s log.loss ] || { cat log; fail "no loss of the evaluation"; }
paste on-gpu.log.loss log.loss | awk '{ d = $1 - $2; exit !(d < 0.02 && d > -0.02) }' ||
  fail "an evaluation in f32 differs from one in bf16: $(paste on-gpu.log.loss log.loss)"
echo "train_gpt on the device: all as expected"
