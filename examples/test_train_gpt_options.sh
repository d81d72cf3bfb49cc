#!/bin/sh
# Runs train_gpt with what it can do beside training on a text: tokens, config files, evaluation, accumulation, schedules,
# averages, patience, metrics for others.
# usage: test_train_gpt_options.sh ABSOLUTE_PATH_OF_TRAIN_GPT ABSOLUTE_PATH_OF_PLOT_LOSS
. "$(dirname "$0")/test_functions.sh"
ln -s "$1" train_gpt
ln -s "$2" plot_loss

# close TOLERANCE COLUMN FILE FILE: the numbers after "COLUMN": in the lines of two metrics files.
close() {
  for file in "$3" "$4"; do sed -n "s/.*\"$2\":\([^,}]*\).*/\1/p" "$file" >"$file.numbers"; done
  [ -s "$3.numbers" ] || fail "$3 has no $2"
  paste "$3.numbers" "$4.numbers" | awk -v most="$1" '{ d = $1 - $2; if (d < 0) d = -d; if (!(d <= most)) bad = 1 }
    END { exit bad }' || fail "$2 of $3 and $4 differ by more than $1"
}

# The config that a run writes repeats it; flags override it.
expect 0 "" $train --steps 20 --lr 0.002 --skip lm_head mlp.c_fc --inputs none --out first
expect 0 "" ./train_gpt --config first/config.toml --out again
for run in first again; do without_times $run/metrics.jsonl >$run/losses; done
cmp first/losses again/losses || fail "a run from a config has other losses"
cmp first/checkpoint.safetensors again/checkpoint.safetensors || fail "a run from a config has another checkpoint"
sed 's/^out=.*/out="again"/' first/config.toml | cmp - again/config.toml || fail "the config of a config is another"
expect 0 "" ./train_gpt --config first/config.toml --steps 5 --out fewer
[ "$(wc -l <fewer/metrics.jsonl)" -eq 6 ] || fail "a flag does not override the config"
expect 0 "" ./train_gpt --config first/config.toml --resume --steps 21
printf '# a comment\n[default]\nsteps = 3\nskip = ["lm_head", "c_proj"]\n' >own.toml
expect 0 "" $train --config own.toml --out own
grep -q '^skip=\["lm_head", "c_proj"\]$' own/config.toml || fail "a list of a config is lost"
expect 2 "missing.toml" $train --config missing.toml --out errors_out
for line in 'no_such_key = 1' '[section]' 'resume = true' 'eval-only = true' 'steps = many' 'steps' 'steps = -1' \
  'size = "huge"' 'lr = inf' 'config = "own.toml"'; do
  echo "$line" >bad.toml
  key=$(echo "$line" | tr -d '[]' | cut -d ' ' -f 1)
  expect 2 "$key" $train --config bad.toml --out errors_out
done
printf 'steps = 3\n\nstep_count = 4\n' >bad.toml
expect 2 "train_gpt: bad.toml: no flag that a file may set is called step_count" $train --config bad.toml --out errors_out
# The files of older versions of CLI11 cannot hold a #: then there is none.
cp text.txt 'a # text.txt'
expect 0 "" ./train_gpt --data 'a # text.txt' --batch 2 --block 16 --steps 2 --sample 0 --out hash
if [ -e hash/config.toml ]; then
  expect 0 "" ./train_gpt --config hash/config.toml --out hash-again
  cmp hash/checkpoint.safetensors hash-again/checkpoint.safetensors || fail "a config that does not repeat its run"
else
  grep -q "hash/config.toml is not written" log || fail "nothing says that there is no config"
fi

# Tokens: a folder, a glob and a file to validate on, a file of which a part validates; 1 to 7 in turn.
mkdir tokens none
{ awk 'BEGIN { for (i = 0; i < 400; ++i) printf "\001\n\002\n\003\n\004\n\005\n\006\n\007\n" }' | tr '\n' '\000'; } >tokens/train.bin
head -c 700 tokens/train.bin >tokens/val.bin
more="./train_gpt --batch 2 --block 16 --eval-every 10 --eval-batches 2 --sample 5"
run="$more --steps 10"
expect 1 "tokens/train.bin needs a vocab_size: there is no meta.json beside it" $run --data tokens --out errors_out
expect 1 "token 7 at byte" $run --data tokens --vocab 7 --out errors_out
expect 1 "no file matches tokens/none*.bin" $run --data "tokens/none*.bin" --vocab 8 --out errors_out
expect 1 "no file matches none/train*.bin" $run --data none --vocab 8 --out errors_out
expect 1 "--val and --vocab need tokens" $run --data text.txt --vocab 8 --out errors_out
expect 1 "--val and --vocab need tokens" $run --val tokens/val.bin --out errors_out
expect 1 "tokens/meta.json" env sh -c 'echo "{}" >tokens/meta.json; "$@"' sh $run --data tokens --out errors_out
for meta in 'tokenizer' '[8]' '{"vocab_size": "8"}' '{"vocab_size": 0}' '{"vocab_size": 8, "tokenizer": 1}' \
  '{"vocab_size": 8, "tokenizer": "characters"}' '{"vocab_size": 2, "tokenizer": "characters", "characters": ["a", 1]}' \
  '{"vocab_size": 8, "tokenizer": "characters", "characters": ["a"]}'; do
  echo "$meta" >tokens/meta.json
  expect 1 "train_gpt: tokens/meta.json" $run --data tokens --vocab 8 --out errors_out
done
echo '{"vocab_size": 8, "tokenizer": "none"}' >tokens/meta.json
expect 0 "" $run --data tokens --out folder
grep -q "^tokens: 2800 tokens to train on, 350 to validate, vocabulary of 8$" log || fail "another data set: $(sed -n 3p log)"
expect 0 "" $run --data "tokens/tr*.bin" --val tokens/val.bin --vocab 8 --out glob
cmp folder/checkpoint.safetensors glob/checkpoint.safetensors || fail "a folder and its files differ"
grep -Eq '^[1-7]( [0-7]){5}$' folder/sample.txt || fail "a sample of tokens: $(cat folder/sample.txt)"
expect 0 "" $run --data tokens/train.bin --out file
grep -q ": 2520 tokens to train on, 280 to validate" log || fail "the last tenth does not validate"
expect 0 "" $more --data tokens --resume --steps 11 --out folder
head -c 698 tokens/train.bin >tokens/val.bin
expect 1 "has tokens of --data 3150, not 3149" $more --data tokens --resume --steps 12 --out folder
expect 0 "" $run --data tokens --eval-only --out folder  # other data may be evaluated
expect 1 "cannot be encoded" env sh -c 'echo "{\"ctx\":\"1\",\"endings\":[\"2\"],\"label\":0}" >c.jsonl; "$@"' sh \
  $run --data tokens --choices c.jsonl --out errors_out

# What meta.json says of the tokens makes text of them.
echo '{"vocab_size": 256, "tokenizer": "bytes"}' >tokens/meta.json
expect 0 "" $run --data tokens/train.bin --out bytes
[ "$(wc -c <bytes/sample.txt)" -eq 7 ] || fail "not six bytes and a newline: $(od -c bytes/sample.txt)"
expect 0 "" $run --data tokens/train.bin --eval-only --out bytes
bits=$(sed -n 's/^Validation loss \([0-9.]*\),.*bits per byte \([0-9.]*\),.*/\1 \2/p' log)
echo "$bits" | awk '{ d = $2 - $1 / log(2) } END { exit !(NF == 2 && d < 2e-4 && d > -2e-4) }' || fail "bits per byte: $(cat log)"

# Batches that are accumulated make the step of a larger batch, up to rounding.
plain="./train_gpt --data text.txt --block 8 --eval-batches 1 --sample 0 --format none"
expect 0 "" $plain --steps 10 --batch 8 --out large
expect 0 "" $plain --steps 10 --batch 2 --accumulate 4 --out small
close 1e-3 train_loss large/metrics.jsonl small/metrics.jsonl
cmp -s large/checkpoint.safetensors small/checkpoint.safetensors && fail "--accumulate has done nothing"

# Schedules, as the CSV tells: the rates at steps 1, 10, 80, 90 and 100 of 100, of which ten warm up.
rates() {
  expect 0 "" $plain --batch 1 --steps 100 --schedule "$1" --csv "$1.csv" --out "$1"
  awk -F , 'NR == 1 { next } $1 == 1 || $1 == 10 || $1 == 80 || $1 == 90 || $1 == 100 { printf "%.6f ", $4 }' "$1.csv"
}
for expected in "constant 0.000091 0.000909 0.001000 0.001000 0.001000 " "linear 0.000091 0.000909 0.000310 0.000210 0.000110 " \
  "wsd 0.000091 0.000909 0.001000 0.000595 0.000145 " "cosine 0.000091 0.000909 0.000216 0.000133 0.000100 "; do
  name=${expected%% *}
  got=$(rates "$name")
  [ "$name $got" = "$expected" ] || fail "rates of $name: $got"
done

# Whatever is asked for, a resumed run ends as the one that never was.
long="$train --steps 60 --dropout 0.1 --accumulate 2 --schedule wsd --ema 0.9 --patience 100"
expect 0 "" $long --out whole --csv whole.csv --tensorboard whole/events
start parts $long --csv parts.csv --tensorboard parts/events
kill -INT $pid
ended 130
stopped=$(wc -l <parts/metrics.jsonl)
[ "$stopped" -lt 60 ] || fail "the run did not stop"
again="./train_gpt --config parts/config.toml --resume"
expect 1 "has --ema 0.9, not 0.99" $again --ema 0.99
expect 1 "has --accumulate 2, not 3" $again --accumulate 3
expect 1 'has --schedule "wsd", not "cosine"' $again --schedule cosine
echo '1000000,1,,1,1,1' >>parts.csv
expect 0 "" $train --patience 100 --out parts --csv parts.csv --tensorboard parts/events --resume
for run in whole parts; do
  without_times $run/metrics.jsonl >$run/losses
  cut -d , -f 1-4 $run.csv >$run/rows
done
cmp whole/losses parts/losses || fail "a resumed run has other losses"
cmp whole/rows parts/rows || fail "a resumed run has another CSV file"
[ "$(wc -l <whole.csv)" -eq 61 ] || fail "the CSV file has not a line a step and a header"
for file in checkpoint best; do
  cmp whole/$file.safetensors parts/$file.safetensors || fail "a resumed run has another $file"
  grep -aq '"ema.transformer.wte.weight"' whole/$file.safetensors || fail "$file.safetensors holds no averages"
done
[ "$(cat whole/events/* | wc -c)" -eq "$(cat parts/events/* | wc -c)" ] || fail "a resumed run has other events"
if "${PYTHON:-python3}" -c 'import tensorboard' 2>/dev/null; then
  for run in whole parts; do
    "${PYTHON:-python3}" - $run/events >$run/scalars 2>errors <<'PYTHON' || { cat errors; fail "tensorboard cannot read $run/events"; }
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}).Reload()
assert sorted(events.Tags()["scalars"]) == ["lr", "ms_per_step", "tokens_per_s", "train_loss", "val_loss"]
for tag in ["lr", "train_loss", "val_loss"]:
    for e in events.Scalars(tag):
        print(tag, e.step, "%.5g" % e.value)
PYTHON
  done
  cmp whole/scalars parts/scalars || fail "tensorboard reads other scalars of a resumed run"
  awk -F , 'NR > 1 { printf "train_loss %d %.5g\n", $1, $2 }' whole.csv >losses
  grep '^train_loss' whole/scalars | cmp - losses || fail "tensorboard reads other losses than the CSV has"
else
  echo "SKIPPED: train_gpt_options: TensorBoard reads the events: the Python package tensorboard is not here"
fi

# A rate at which nothing is learned: the first evaluation is the best, and after three more the run has lost patience.
expect 0 "" $train --format none --steps 100 --lr 1e-30 --patience 3 --out patience
grep -q "^Stopped at step 40: 3 evaluations were not better than " log || fail "no patience was lost: $(tail -n 20 log)"
tail -n 1 patience/metrics.jsonl | grep -q '"final":true,"step":40,' || fail "another last step"
grep -aq '"step":"10"' patience/best.safetensors || fail "best.safetensors is not of the best step"
grep -aq '"step":"40"' patience/checkpoint.safetensors || fail "the checkpoint is not of the last step"
expect 0 "" $train --format none --steps 100 --lr 1e-30 --patience 3 --resume --out patience  # and stays where it is
tail -n 1 patience/metrics.jsonl | grep -q '"final":true,"step":40,' || fail "a run without patience has gone on"

# An evaluation of everything changes nothing; it is near that of the run's end, which is of random windows.
yes 'one two three four' | head -n 500 >text.txt
cat >choices.jsonl <<'CHOICES'
{"context": "four\none two", "endings": ["three", "four"], "label": 0}
{"ctx": "two three four\none", "endings": ["one two", "four one", "two three"], "label": 2}
{"context": "two", "endings": ["one", "three", "two"], "label": 0}
CHOICES
expect 0 "" $train --steps 100 --lr 0.003 --choices choices.jsonl --out evaluated
grep -q "^Right endings in choices.jsonl: 2 of 3, accuracy 0.6667$" log || fail "accuracy: $(grep Right log)"
tail -n 1 evaluated/metrics.jsonl | grep -q '"choices_accuracy":0.66666' || fail "no accuracy in the metrics"
final=$(sed -n 's/^Final validation loss \([0-9.]*\),.*/\1/p' log)
ls -l evaluated >before
expect 0 "" ./train_gpt --config evaluated/config.toml --eval-only
cat log
ls -l evaluated | cmp - before || fail "an evaluation has changed the folder"
grep -q "accuracy 0.6667" log || fail "an evaluation without its choices"
sed -n 's/^Validation loss \([0-9.]*\), perplexity \([0-9.]*\), bits per byte \([0-9.]*\), over \([0-9]*\) windows of 16.*/\1 \2 \3 \4/p' log |
  awk -v final="$final" 'function far(a, b, d) { return a - b > d || b - a > d }
    END { exit NF != 4 || far($1, final, 0.05) || far($2, exp($1), 1e-3) || far($3, $1 / log(2), 2e-4) || $4 != 59 }' ||
  fail "an evaluation of $(cat log), where the run's end has $final"
# The flags are the checkpoint's: a --block, too, that is another size's recipe.
expect 0 "" ./train_gpt --data text.txt --size baby --block 64 --batch 1 --steps 1 --eval-batches 1 --sample 0 --format none --out baby
expect 0 "" ./train_gpt --data text.txt --out baby --eval-only
grep -q "^baby GPT in f32, weights at step 1$" log && grep -q "windows of 64 tokens" log || fail "evaluated otherwise: $(cat log)"
# Another text may be evaluated that has the same bytes.
cat text.txt text.txt >twice.txt
expect 0 "" ./train_gpt --data twice.txt --out baby --eval-only
tr e '\001' <text.txt >other.txt
expect 1 'has alphabet of --data "' ./train_gpt --data other.txt --out baby --eval-only
expect 1 'has tokens of --data ' ./train_gpt --data twice.txt --size baby --block 64 --batch 1 --steps 2 --out baby --resume
expect 1 'has --format "none", not "E4M3"' ./train_gpt --data text.txt --out baby --eval-only --format E4M3
expect 1 'has --format "E4M3", not "none"' ./train_gpt --data text.txt --out evaluated --eval-only --format none
echo 'format = "E5M2"' >given.toml
expect 1 'has --format "none", not "E5M2"' ./train_gpt --data text.txt --config given.toml --out baby --eval-only
expect 1 "--eval-only: there is no errors_out/checkpoint.safetensors" $train --eval-only --out errors_out
expect 1 "--choices: cannot read missing.jsonl: No such file" $train --choices missing.jsonl --out errors_out
echo '{"context": "one", "endings": ["two"], "label": 1}' >bad.jsonl
expect 1 'bad.jsonl, line 1: "label" must be' $train --choices bad.jsonl --out errors_out

for flags in "--ema 1" "--ema 0" "--ema nan" "--patience 0" "--accumulate 0" "--schedule step" "--vocab 0"; do
  # shellcheck disable=SC2086  # a flag and its value
  expect 2 "train_gpt: ${flags%% *}" $train $flags --out errors_out
done
expect 1 "cannot write missing/m.csv" $train --csv missing/m.csv --out csv
expect 1 "cannot write text.txt/events" $train --tensorboard text.txt/events --out csv
[ ! -e errors_out ] || fail "an error left a folder behind"
echo "train_gpt_options: all as expected"
