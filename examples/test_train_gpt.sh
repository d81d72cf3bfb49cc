#!/bin/sh
# Runs train_gpt as its users do: a short run, a run stopped by Ctrl-C and resumed, and its errors.
# usage: test_train_gpt.sh ABSOLUTE_PATH_OF_TRAIN_GPT
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
ln -s "$1" train_gpt  # its own path may have spaces

fail() {
  echo "FAILED: $*"
  exit 1
}
# expect STATUS TEXT COMMAND...: the exit status, and a single line on stderr that has the text.
expect() {
  status=$1 text=$2
  shift 2
  "$@" >log 2>errors
  got=$?
  [ $got -eq "$status" ] || { cat log errors; fail "exit $got, not $status: $*"; }
  [ -n "$text" ] || return
  { [ "$(wc -l <errors)" -eq 1 ] && grep -qFe "$text" errors; } || { cat errors; fail "no '$text': $*"; }
}
# A metrics file without what is measured with a clock.
without_times() { sed 's/,"ms_per_step".*//' "$1"; }
train="./train_gpt --data text.txt --batch 2 --block 16 --eval-every 10 --eval-batches 2 --sample 20"

seq 1 2000 >text.txt

expect 0 "" $train --steps 3 --out short
for file in loss.svg metrics.jsonl checkpoint.safetensors sample.txt; do
  [ -s short/$file ] || fail "short/$file is missing"
done
[ "$(wc -l <short/metrics.jsonl)" -eq 4 ] || fail "metrics.jsonl has not a line a step and a last one"
tail -n 1 short/metrics.jsonl | grep -q '"final":true.*"val_loss":.*"best_val_loss":' || fail "no final line"

# Whenever a run is stopped, the resumed one ends as the one that never was: the same metrics, weights and sample.
# Everything that has state takes part: dropout, stochastic batches, amax histories of the past.
flags="$train --dropout 0.1 --grads E5M2 --scaling delayed"
long="$flags --steps 200"
expect 0 "" $long --out whole
$long --out parts >log 2>&1 &
while kill -0 $! 2>/dev/null && [ "$(cat parts/metrics.jsonl 2>/dev/null | wc -l)" -lt 15 ]; do sleep 0.02; done
kill -INT $!
wait $!
status=$?
[ $status -eq 130 ] || { cat log; fail "exit $status, not 130, after SIGINT"; }
stopped=$(wc -l <parts/metrics.jsonl)
[ "$stopped" -lt 200 ] || fail "the run did not stop"
expect 1 "has --lr 0.001, not 0.5" $long --out parts --resume --lr 0.5
expect 1 "past --steps 1" $flags --out parts --resume --steps 1
expect 1 "has --format \"E4M3\", not \"E5M2\"" $long --out parts --resume --format E5M2
cp parts/metrics.jsonl kept
echo '{"step":1000000,"train_loss":1.0}' >>parts/metrics.jsonl  # as if written after the checkpoint
expect 0 "" $long --out parts --resume
head -n "$stopped" parts/metrics.jsonl | cmp - kept || fail "the metrics before the stop have changed"
for run in whole parts; do without_times $run/metrics.jsonl >$run/losses; done
cmp whole/losses parts/losses || fail "a resumed run has other losses"
cmp whole/checkpoint.safetensors parts/checkpoint.safetensors || fail "a resumed run has another checkpoint"
cmp whole/sample.txt parts/sample.txt || fail "a resumed run has another sample"

# Errors: one line, a status, no output folder.
expect 0 "" ./train_gpt --help
expect 2 "train_gpt: " $train --no-such-flag
expect 2 "train_gpt: " $train --steps 0
expect 1 "train_gpt: CharDataset: cannot read missing.txt" ./train_gpt --data missing.txt --out errors_out
expect 1 "needs at least" ./train_gpt --data text.txt --block 100000 --out errors_out
expect 1 "E5M2" $train --format E9M9 --out errors_out
expect 1 "no_such_layer" $train --skip no_such_layer --out errors_out
expect 1 "--inputs and --grads" $train --format none --inputs E4M3 --out errors_out
expect 1 "there is no errors_out/checkpoint.safetensors" $train --resume --out errors_out
expect 1 "dropout" $train --dropout 1 --out errors_out
[ ! -e errors_out ] || fail "an error left a folder behind"
cp short/checkpoint.safetensors before
expect 1 "stopped without saving" $train --steps 30 --lr 1e30 --format none --out short
cmp short/checkpoint.safetensors before || fail "a run that diverged has overwritten the checkpoint"
echo "train_gpt: all as expected"
