#!/bin/sh
# Runs generate as its users do, on a model of a few steps.
# usage: test_generate.sh ABSOLUTE_PATH_OF_TRAIN_GPT ABSOLUTE_PATH_OF_GENERATE
. "$(dirname "$0")/test_functions.sh"
ln -s "$1" train_gpt  # its own path may have spaces
ln -s "$2" generate

seq 1 2000 >text.txt
for format in E4M3 none; do
  ./train_gpt --data text.txt --batch 2 --block 16 --steps 20 --sample 0 --format $format --out $format >/dev/null || fail "train_gpt"
done

generate="./generate --model none --data text.txt --prompt 12"
expect 0 "tokens/s" $generate --tokens 40
cp log first
[ "$(head -c 2 first)" = 12 ] && [ "$(wc -c <first)" -eq 43 ] || fail "not the prompt and 40 tokens"
expect 0 "prompt of 2 tokens" ./generate --model none/checkpoint.safetensors --data text.txt --prompt 12 --tokens 40
cmp -s log first || fail "the same seed, another text"
expect 0 "tokens/s" $generate --tokens 40 --seed 5
cmp -s log first && fail "another seed, the same text"
expect 0 "tokens/s" $generate --tokens 40 --temperature 0
cp log greedy
for filter in "--top-k 1" "--top-p 0" "--min-p 1" "--threads 2 --temperature 0"; do
  expect 0 "tokens/s" $generate --tokens 40 $filter
  cmp -s log greedy || fail "$filter is not greedy"
done
expect 0 "tokens/s" $generate --tokens 40 --temperature 0 --penalty 5
cmp -s log greedy && fail "--penalty changes nothing"
expect 0 "tokens/s" $generate --tokens 4000 --temperature 5 --stop 77
tail -c 3 log | grep -q '^77$' || fail "--stop does not end the text"
expect 0 "tokens/s" $generate --rows 3 --tokens 9
[ "$(grep -c '^--- . ---$' log)" -eq 3 ] || fail "not three rows"
expect 0 "tokens/s" $generate --format E5M2 --tokens 40
expect 0 "tokens/s" ./generate --model E4M3 --data text.txt --prompt 12 --tokens 40
expect 0 "tokens/s" ./generate --model none --prompt "1 2 3" --tokens 5
grep -qE '^1 2 3( [0-9]+){5}$' log || fail "tokens are not written as numbers"

expect 1 "top_p must be in [0, 1], got nan" $generate --top-p nan
expect 1 "repetition_penalty" $generate --penalty 0
grep -q "^12" log && fail "the prompt is written before options are looked at"
grep -q "generate: generate" errors && fail "generate says its name twice"
expect 1 "--prompt is empty" ./generate --model none --data text.txt --prompt "" --tokens 5
expect 1 "quantized already" ./generate --model E4M3 --data text.txt --prompt 12 --format E4M3
expect 1 "is not in" ./generate --model none --data text.txt --prompt x
expect 1 "--special needs a --tokenizer" $generate --special
expect 2 "--top-k" $generate --top-k 99999999999999999999
# Another text's tokens are not the model's, be they as many or not.
printf 'a1b2\n' >short.txt
tr '\n' ' ' <text.txt >other.txt
expect 1 "other.txt has other tokens than the text" ./generate --model none --data other.txt --prompt 12
expect 1 "short.txt has a vocabulary of 5, the model one of 11" ./generate --model none --data short.txt --prompt 1
expect 1 "has no meta.json of bytes or characters" ./generate --model none --data . --prompt 1
expect 1 "must be numbers" ./generate --model none --prompt x
expect 1 "no format" ./generate --model none --data text.txt --prompt 1 --format E9M9
expect 1 "text.txt" ./generate --model text.txt --prompt 1
expect 1 "missing" ./generate --model missing --prompt 1
expect 2 "--prompt" ./generate --model none
expect 2 "--tokens" $generate --tokens -1
