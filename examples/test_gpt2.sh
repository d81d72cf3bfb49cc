#!/bin/sh
# Other people's models and tokens through prepare, train_gpt, generate and export, as their users run them.
# usage: test_gpt2.sh ABSOLUTE_PATHS_OF_PREPARE_TRAIN_GPT_GENERATE_AND_EXPORT ROOT_OF_THE_SOURCES ON_OR_OFF
# The last says whether there is PCRE2, without which there is no tokenizer.
. "$(dirname "$0")/test_functions.sh"
ln -s "$1" prepare  # its own path may have spaces
ln -s "$2" train_gpt
ln -s "$3" generate
ln -s "$4" export
gpt2=$5/tests/interop/gpt2 vocabulary=$5/tests/models/tokenizer

# prints STATUS TEXT COMMAND...: the exit status, and the text in what is printed.
prints() {
  status=$1 text=$2
  shift 2
  "$@" >log 2>&1
  got=$?
  [ $got -eq "$status" ] || { cat log; fail "exit $got, not $status: $*"; }
  grep -qFe "$text" log || { cat log; fail "no '$text': $*"; }
}
train="./train_gpt --batch 2 --block 16 --eval-every 10 --eval-batches 2 --sample 20"

# A GPT-2 of two layers goes on with tokens that are below its vocabulary of 61, in 8 bits.
seq 1 2000 >text.txt
prints 0 "" ./prepare text.txt --tokenizer characters --out tokens
prints 0 "2 layers, 2 heads, 32 wide, 29472 parameters" $train --data tokens --init-from "$gpt2" --steps 20 --out run
prints 0 "8 of 9 Linear layers quantized" $train --data tokens --init-from "$gpt2" --steps 20 --out run
prints 0 "gpt2, a GPT in f32, weights at step 0" $train --data tokens --init-from "$gpt2" --out none --eval-only
prints 0 "gpt2, a GPT, E4M3 weights, E4M3 inputs, f32 gradients, weights at step 0" $train --data tokens --init-from "$gpt2" \
  --out none --eval-only --format E4M3
prints 1 "need a --format" $train --data tokens --init-from "$gpt2" --out none --eval-only --inputs E4M3
prints 0 "Final validation loss" $train --data tokens --init-from "$gpt2" --steps 30 --out run --resume
ln -s "$gpt2" elsewhere  # where its weights are does not matter, these are in the checkpoint; its sizes do
prints 0 "elsewhere, a GPT, E4M3 weights" $train --data tokens --init-from elsewhere --steps 31 --out run --resume
prints 0 "2 layers, 2 heads, 32 wide" $train --data tokens --steps 32 --out run --resume
prints 0 "elsewhere, a GPT, E4M3 weights, E4M3 inputs, f32 gradients, weights at step 32" ./train_gpt --data tokens --out run --eval-only
prints 0 "" $train --data tokens --steps 1 --format none --out tiny
prints 0 "" ./export --model tiny --out other
prints 1 'has a model of {"bias":true,"block_size":64,' $train --data tokens --init-from other --out run --resume
prints 1 "vocabulary of 61" $train --data tokens --vocab 62 --init-from "$gpt2"
prints 1 "sees 64 tokens at most" ./train_gpt --data tokens --init-from "$gpt2" --block 65
prints 1 "load_gpt2: cannot read nowhere" $train --data tokens --init-from nowhere
prints 1 "there is no tokenizer in" $train --data text.txt --init-from "$gpt2"
prints 0 "tokens/s" ./generate --model run --prompt "1 2 3" --tokens 9

# It begins with the folder's weights: a step that changes nothing leaves a model that says the same.
prints 0 "Final" $train --data tokens --init-from "$gpt2" --format none --lr 1e-30 --steps 1 --out same
for model in "$gpt2" same; do
  prints 0 "tokens/s" ./generate --model "$model" --prompt "1 2 3" --tokens 9 --temperature 0
  head -n 1 log >>said
done
[ "$(uniq said | wc -l)" -eq 1 ] || fail "--init-from begins with other weights: $(cat said)"

# Tokens that are characters are written as such; they are of 7 bytes in 4 here.
printf 'a\303\251\342\202\254b%.0s' $(seq 1 320) >characters.txt
prints 0 "" ./prepare characters.txt --tokenizer characters --out characters
echo '{"context": "a\u00e9", "endings": ["\u20ac", "b"], "label": 0}' >choices.jsonl
prints 1 "begins with what is not in characters" $train --data characters --choices choices.jsonl --out none
prints 0 "" $train --data characters --steps 10 --out written
LC_ALL=C grep -q "$(printf '\342\202\254')" written/sample.txt && ! grep -q '[0-9]' written/sample.txt ||
  fail "not characters: $(cat written/sample.txt)"
prints 0 "bits per byte" $train --data characters --out written --eval-only
sed -n 's/^Validation loss \([0-9.]*\),.*bits per byte \([0-9.]*\),.*/\1 \2/p' log |
  awk '{ d = $2 - $1 / log(2) * 4 / 7 } END { exit !(NF == 2 && d < 2e-4 && d > -2e-4) }' || fail "bits per byte: $(cat log)"
prints 0 "a" ./generate --model written --data characters --prompt "a$(printf '\303\251')" --tokens 4
! head -n 1 log | grep -q '[0-9]' || fail "generate writes no characters: $(cat log)"
# As many characters, numbered otherwise.
printf 'b\342\202\254\303\251a%.0s' $(seq 1 320) >reversed.txt
prints 0 "" ./prepare reversed.txt --tokenizer characters --out reversed
prints 1 'has alphabet of --data "' $train --data reversed --out written --eval-only
prints 1 "reversed has other tokens than the text" ./generate --model written --data reversed --prompt a
prints 1 "--val: tokens/meta.json tells of other tokens than characters/meta.json" \
  $train --data characters --val tokens/val.bin --out none
printf ' ' >>characters.txt  # which choices put before an ending
prints 0 "" ./prepare characters.txt --tokenizer characters --out characters
prints 0 "Right endings in choices.jsonl" $train --data characters --choices choices.jsonl --steps 10 --out written

# What was trained is handed on: in f32 the model says the same, and in FP8 codes it is a folder for others.
prints 0 "Final" $train --data tokens --init-from "$gpt2" --steps 20 --format none --ema 0.9 --out plain
prints 0 "tokens/s" ./generate --model plain --prompt "1 2 3" --tokens 9 --temperature 0
head -n 1 log >trained
prints 0 "parameters in f32, as GPT2LMHeadModel: folder" ./export --model plain --out folder
prints 0 "tokens/s" ./generate --model folder --prompt "1 2 3" --tokens 9 --temperature 0
head -n 1 log | cmp - trained || fail "the exported model goes on otherwise"
prints 0 "8 Linear layers in E4M3" ./export --model run --out fp8 --dtype fp8
grep -q '"quant_method": "compressed-tensors"' fp8/config.json || fail "fp8/config.json does not say how to read it"
prints 1 "there is no nope" ./export --model nope --out none2
prints 1 "missing" ./export --model plain --out none2 --tokenizer missing
[ ! -e none2 ] || fail "an error has left a folder"
prints 1 "--out is --model" ./export --model folder --out ./folder --dtype fp8
prints 0 "tokens/s" ./generate --model folder --prompt "1 2 3" --tokens 9
# A checkpoint that says other sizes than its tensors have is refused before a model of these is made.
LC_ALL=C sed 's/\(n_layer[\": ]*\)2/\19/' plain/checkpoint.safetensors >nine.safetensors
prints 1 "n_layer is 9, the tensors have 2 layers" ./generate --model nine.safetensors --prompt 1
prints 0 "tokens/s" ./generate --model "$gpt2" --prompt "1 2 3" --tokens 9 --format E4M3 --temperature 0
grep -qE "^1 2 3( [0-9]+){9}\$" log || fail "not the prompt and 9 tokens"

if [ "$6" != ON ]; then
  prints 1 "PCRE2" $train --data text.txt --tokenizer "$vocabulary"
  exit 0
fi
# A text by a tokenizer's tokens, or those tokens in files: the same run.
prints 0 "--- sample" $train --data text.txt --tokenizer "$vocabulary" --steps 20 --out words
prints 0 "" ./prepare text.txt --tokenizer "$vocabulary" --out words-in-files
prints 0 "bits per byte" $train --data text.txt --tokenizer "$vocabulary" --steps 20 --out words --eval-only
cat words-in-files/train.bin words-in-files/val.bin >all.bin
prints 0 "--- sample" $train --data all.bin --tokenizer "$vocabulary" --steps 20 --out files
cmp words/sample.txt files/sample.txt || fail "the same tokens, another sample"
prints 1 "vocabulary of 61" $train --data text.txt --tokenizer "$vocabulary" --init-from "$gpt2"
# Tokens say whose they are: of another's it is refused, and nothing is made; without --tokenizer it is taken.
prints 1 "has a vocabulary of 700, tokens/meta.json tells one of 11" $train --data tokens --tokenizer "$vocabulary" --out none
[ ! -e none ] || fail "an error has left a folder"
prints 0 "--- sample" $train --data words-in-files --tokenizer "$vocabulary" --steps 20 --out named
prints 0 "--- sample" $train --data words-in-files --steps 20 --out by-default
cmp named/sample.txt by-default/sample.txt || fail "the tokenizer that meta.json names is not taken"
prints 0 "bits per byte" $train --data words-in-files --eval-only --steps 20 --out by-default
sed "s|\"tokenizer\": \"[^\"]*|&.gone|" words-in-files/meta.json >meta && mv meta words-in-files/meta.json
prints 0 "" $train --data words-in-files --steps 10 --out gone
grep -q "^words-in-files/meta.json names the tokenizer .*gone, which is not there: tokens stay numbers" log ||
  fail "a tokenizer that is not there: $(cat log)"
(cd "$(dirname "$vocabulary")" && "$dir/prepare" "$dir/text.txt" --tokenizer "$(basename "$vocabulary")" --out "$dir/relative") >log 2>&1 ||
  fail "prepare: $(cat log)"
grep -q '"tokenizer": "/' relative/meta.json || fail "meta.json names a tokenizer from where it was made: $(cat relative/meta.json)"
prints 0 "parameters in bf16" ./export --model words --out exported --tokenizer "$vocabulary" --dtype bf16
prints 0 "1 2" ./generate --model exported --prompt "1 2" --tokens 20
prints 0 "1 2" ./generate --model words --tokenizer "$vocabulary" --prompt "1 2" --tokens 20
# The name of a special token is text, of several tokens, unless it is asked to be that token.
for prompt in "1 2<|endoftext|>" "1 2"; do
  prints 0 "tokens/s" ./generate --model exported --prompt "$prompt" --tokens 2
  sed -n 's/^prompt of \([0-9]*\) tokens.*/\1/p' log >>counts
done
prints 0 "tokens/s" ./generate --model exported --prompt "1 2<|endoftext|>" --special --tokens 2
grep -q "^prompt of $(($(tail -n 1 counts) + 1)) tokens" log || fail "--special: $(cat log), without it $(xargs <counts)"
[ "$(head -n 1 counts)" -gt $(($(tail -n 1 counts) + 1)) ] || fail "text has become a special token"
prints 1 "without --tokenizer or --data" ./generate --model words --prompt "one two"
