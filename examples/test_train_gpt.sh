#!/bin/sh
# Runs train_gpt as its users do: a short run, runs that are stopped or killed and resumed, and its errors.
# usage: test_train_gpt.sh ABSOLUTE_PATH_OF_TRAIN_GPT ABSOLUTE_PATH_OF_PLOT_LOSS
. "$(dirname "$0")/test_functions.sh"
ln -s "$1" train_gpt
ln -s "$2" plot_loss

expect 0 "" $train --steps 3 --out short
for file in loss.svg metrics.jsonl checkpoint.safetensors best.safetensors sample.txt config.toml; do
  [ -s short/$file ] || fail "short/$file is missing"
done
[ "$(wc -l <short/metrics.jsonl)" -eq 4 ] || fail "metrics.jsonl has not a line a step and a last one"
tail -n 1 short/metrics.jsonl | grep -q '"final":true.*"val_loss":.*"best_val_loss":' || fail "no final line"

# Whenever a run is stopped, the resumed one ends as the one that never was: the same metrics, weights and sample.
# Everything that has state takes part: dropout, stochastic batches, amax histories of the past.
flags="$train --dropout 0.1 --grads E5M2 --scaling delayed"
long="$flags --steps 200"
expect 0 "" $long --out whole
start parts $long
kill -INT $pid
ended 130
stopped=$(wc -l <parts/metrics.jsonl)
[ "$stopped" -lt 200 ] || fail "the run did not stop"
expect 1 "has --lr 0.001, not 0.5" $long --out parts --resume --lr 0.5
expect 1 "past --steps 1" $flags --out parts --resume --steps 1
expect 1 "has --format \"E4M3\", not \"E5M2\"" $long --out parts --resume --format E5M2
cp parts/metrics.jsonl kept
echo '{"step":1000000,"train_loss":1.0}' >>parts/metrics.jsonl  # as if written after the checkpoint
# What is not given is the checkpoint's; the rest says what is evaluated and written.
expect 0 "" ./train_gpt --data text.txt --eval-every 10 --eval-batches 2 --sample 20 --out parts --resume
head -n "$stopped" parts/metrics.jsonl | cmp - kept || fail "the metrics before the stop have changed"
for run in whole parts; do without_times $run/metrics.jsonl >$run/losses; done
cmp whole/losses parts/losses || fail "a resumed run has other losses"
cmp whole/checkpoint.safetensors parts/checkpoint.safetensors || fail "a resumed run has another checkpoint"
cmp whole/sample.txt parts/sample.txt || fail "a resumed run has another sample"
sed 's/^out=.*/out="parts"/' whole/config.toml | cmp - parts/config.toml || fail "a resumed run has another config"

# The curves of several runs in one picture.
expect 0 "" ./plot_loss both.svg "two < three" short=short/metrics.jsonl whole=whole/metrics.jsonl
[ "$(grep -c '<polyline' both.svg)" -eq 4 ] || fail "plot_loss has not drawn two curves a run"
grep -qF '>two &lt; three<' both.svg && grep -qF '>whole, validation<' both.svg || fail "plot_loss has lost a text"
expect 1 "plot_loss: cannot read missing: No such file" ./plot_loss none.svg "" a=short/metrics.jsonl b=missing
expect 1 "plot_loss: short is not LABEL=FILE" ./plot_loss none.svg "" short
expect 1 "plot_loss: cannot write missing/none.svg" ./plot_loss missing/none.svg "" a=short/metrics.jsonl
expect 2 "usage: plot_loss" ./plot_loss

# What reads the output, or the terminal, goes away: the run stops and saves, however often it is told; what nohup
# has started goes on.
start hangup $train --steps 100000
kill -HUP $pid
kill -HUP $pid 2>/dev/null
ended 130
steps=$(wc -l <hangup/metrics.jsonl)
expect 0 "" $train --out hangup --resume --steps "$steps"
{ $train --out pipe --steps 100000 2>errors; echo $? >status; } | head -n 1 >/dev/null
[ "$(cat status)" -eq 130 ] || fail "exit $(cat status), not 130, where the output has lost its reader"
expect 0 "" $train --out pipe --resume --steps "$(wc -l <pipe/metrics.jsonl)"
start outlives nohup $train --steps 40
kill -HUP $pid
ended 0

# A folder, and a file of metrics, is one trainer's, as long as it lives.
start shared $train --steps 100000
expect 1 "shared/metrics.jsonl: another train_gpt writes there" $train --out other --json shared/metrics.jsonl
cp shared/metrics.jsonl before
expect 1 "shared: another train_gpt, process $pid, writes there" $train --out shared
expect 1 "another train_gpt, process $pid, writes there" $train --out shared/ --steps 100000 --resume
head -n "$(wc -l <before)" shared/metrics.jsonl | cmp - before || fail "a refused trainer has changed the metrics"
kill -KILL $pid
wait $pid 2>/dev/null
expect 0 "" $train --steps 15 --out shared

# A run that is killed right after it has been resumed has lost no line of its metrics. A part of a line, which a
# full disk leaves, is cut off; lines of others stay.
awk 'BEGIN { for (i = 0; i < 20000; ++i) print "{\"step\":1,\"train_loss\":1.0}"; print "a note" }' >kept
head -n 15 shared/metrics.jsonl >>kept
{ cat kept; printf '{"step":15,"train_lo'; } >shared/metrics.jsonl
size=$(wc -c <shared/metrics.jsonl)
$train --steps 100000 --out shared --resume >log 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null && [ "$(wc -c <shared/metrics.jsonl)" -eq "$size" ]; do :; done
kill -KILL $pid
wait $pid 2>/dev/null
head -n 20016 shared/metrics.jsonl | cmp - kept || fail "a kill after --resume has cost lines of the metrics"
expect 0 "" $train --steps 16 --out shared --resume
head -n 20016 shared/metrics.jsonl | cmp - kept || fail "--resume has changed the metrics"
[ "$(tail -n 2 shared/metrics.jsonl | cut -c 1-10 | tr '\n' ' ')" = '{"step":16 {"final":t ' ] || fail "--resume goes on wrongly"

# Metrics may go where the shell has opened: nothing there is cut.
echo kept >opened
$train --steps 3 --out stdout --json /dev/stdout >>opened || fail "metrics on stdout"
[ "$(head -n 1 opened)" = kept ] || fail "--json /dev/stdout has cut what it was appended to"
[ "$(grep -c '^{"step":' opened)" -eq 3 ] || fail "--json /dev/stdout has lost lines"

# A run that is stopped before its first step leaves an earlier one's checkpoint.
cp shared/checkpoint.safetensors before
for delay in 0.01 0.03 0.1 0.3; do
  $train --size baby --out shared >log 2>&1 &
  pid=$!
  sleep $delay
  kill -TERM $pid
  wait $pid
  grep -q "Stopped after step [1-9]" log && break
  cmp before shared/checkpoint.safetensors || fail "a run without a step has overwritten the checkpoint"
done

# What a checkpoint must not be resumed with or from.
expect 0 "" $train --steps 15 --out fixed
resume="$train --steps 20 --resume --out fixed"
cp fixed/checkpoint.safetensors good
# with OLD NEW STATUS TEXT: resumes from a checkpoint that has NEW, as long, where it had OLD.
with() {
  LC_ALL=C sed "s/$1/$2/" good >fixed/checkpoint.safetensors
  cmp -s good fixed/checkpoint.safetensors && fail "the checkpoint has no $1"
  expect "$3" "$4" $resume
  [ "$3" -eq 0 ] || [ "$(wc -l <fixed/metrics.jsonl)" -eq 16 ] || fail "metrics have changed with $2"
}
with '"step":"15"' '"step":"-1"' 1 'fixed/checkpoint.safetensors: "step" must not be negative, got -1'
with '"step":"15"' '"step":"99"' 1 'is at step 99'
with 'best_val_loss":"[0-9]' 'best_val_loss":"x' 1 '"best_val_loss" must be a loss, got "x'
with 'best_val_loss":"..' 'best_val_loss":"-1' 1 '"best_val_loss" must be a loss, got "-1'
with 'best_val_loss":"...' 'best_val_loss":"nan' 1 '"best_val_loss" must be a loss, got "nan'
with 'best_val_loss' 'worst_val_los' 1 '"best_val_loss" must be a loss, got ""'
with '"extra.settings":"{' '"extra.settings":"[' 1 'is not a checkpoint of this program'
with 'extra.settings' 'extra.sittings' 1 'is not a checkpoint of this program'
with 'extra.model":"{' 'extra.model":"[' 1 'which are no sizes'
with '--dropout' '--drapout' 1 'does not say its --dropout'
cp good fixed/checkpoint.safetensors
cp text.txt first
sed 's/^1000$/1001/' first >text.txt  # as long, of the same bytes
expect 1 "has hash of --data" $resume
with 'hash of --data' 'hush of --data' 0 ''  # of before there was a hash
cp first text.txt
with '--steps' '--stips' 0 ''  # nor were these kept
with 'extra.model' 'extra.madel' 0 ''
# crafted VALUE: a checkpoint with nothing but settings, whose --size is VALUE.
crafted() {
  printf '{"__metadata__":{"altgrad_checkpoint":"1","extra.settings":"{\\"--size\\":%s}"}}' "$1" >header
  n=$(wc -c <header)
  # shellcheck disable=SC2059  # the length, 8 bytes
  printf "$(printf '\\%03o\\%03o\\%03o\\%03o\\0\\0\\0\\0' $((n % 256)) $((n / 256 % 256)) $((n / 65536 % 256)) 0)" |
    cat - header >fixed/checkpoint.safetensors
}
repeated() { awk -v text="$1" 'BEGIN { for (i = 0; i < 100000; ++i) printf "%s", text }'; }
crafted "$(repeated '[')$(repeated ']')"
expect 1 "is not a checkpoint of this program" $resume
crafted "$(repeated '{\\"a\\":')1$(repeated '}')"
expect 1 "is not a checkpoint of this program" $resume
crafted '\"huge\"'
expect 1 'fixed/checkpoint.safetensors has --size "huge", which is no value of it' $resume
crafted "\\\"$(repeated 'long')\\\""
expect 1 'has --size "long' $resume
[ "$(wc -c <errors)" -lt 400 ] || fail "an error as long as what it is about"

# Errors: one line, a status, no output folder.
expect 0 "" ./train_gpt --help
expect 0 "" ./train_gpt --version
grep -q '^altgrad [0-9.]* (.*), kernels for ' log || fail "--version does not say which altgrad this is"
expect 1 "must be portable, avx2," env ALTGRAD_MAX_CPU_ISA=none ./train_gpt --version
expect 2 "train_gpt: " $train --no-such-flag
for rate in inf nan 0 -1 0.1x; do
  expect 2 "train_gpt: --lr: must be a number above 0, got $rate" $train --lr $rate --out errors_out
done
for count in 0 -1 010 1e3 99999999999999999999; do
  expect 2 "train_gpt: --steps: must be a whole number from 1 to" $train --steps $count --out errors_out
done
expect 2 "train_gpt: --seed: must be a whole number from 0 to" $train --seed -1 --out errors_out
expect 2 "train_gpt: --sample: must be a whole number from 0 to" $train --sample 99999999999 --out errors_out
expect 2 "train_gpt: --threads: must be a whole number from 1 to" $train --threads 4294967297 --out errors_out
expect 1 "train_gpt: CharDataset: cannot read missing.txt" ./train_gpt --data missing.txt --out errors_out
expect 1 "needs at least" ./train_gpt --data text.txt --block 100000 --out errors_out
expect 1 "E5M2" $train --format E9M9 --out errors_out
expect 1 "no_such_layer" $train --skip no_such_layer --out errors_out
expect 1 "--inputs, --grads and --native-fp8 need a --format" $train --format none --inputs E4M3 --out errors_out
expect 1 "--inputs, --grads and --native-fp8 need a --format" $train --format none --native-fp8 --out errors_out
expect 1 "--dtype bf16 needs --device cuda" $train --dtype bf16 --out errors_out
expect 1 "--native-fp8 needs --device cuda" $train --grads E5M2 --native-fp8 --out errors_out
expect 1 "there is no errors_out/checkpoint.safetensors" $train --resume --out errors_out
expect 1 "dropout" $train --dropout 1 --out errors_out
[ ! -e errors_out ] || fail "an error left a folder behind"
expect 1 "cannot write to the folder text.txt: Not a directory" $train --out text.txt/out
expect 1 "cannot write missing/metrics.jsonl: No such file" $train --out json --json missing/metrics.jsonl
mkdir -p full/sample.txt
expect 1 "cannot write full/sample.txt: Is a directory" $train --steps 1 --out full
cp short/checkpoint.safetensors before
expect 1 "stopped without saving" $train --steps 30 --lr 1e30 --format none --out short
cmp short/checkpoint.safetensors before || fail "a run that diverged has overwritten the checkpoint"

# A start that fails leaves the files of the run before it.
cp -r short short-before
expect 1 "cannot write" $train --steps 3 --out short --seed 9 --csv missing/x.csv
diff -r -x train_gpt.lock short short-before || fail "a start that failed has changed files"

# A crash of the machine does not lose a new folder with what is in it: the parent of each is synced.
if ASAN_OPTIONS=detect_leaks=0 strace -f -e trace=mkdir,openat,fsync -o calls $train --steps 1 --out new/er/ >log 2>&1; then
  for folder in '"."' '"new"'; do
    awk -v folder="$folder" '/ mkdir\(/ { ++made } index($0, "openat(AT_FDCWD, " folder ", ") { fd = $NF }
      / fsync\(/ && index($0, "(" fd ")") { synced = made } END { exit !synced }' calls || fail "$folder is not synced"
  done
else
  echo "SKIPPED: train_gpt: new folders are synced: strace cannot be used here"
fi
echo "train_gpt: all as expected"
