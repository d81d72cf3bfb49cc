#!/bin/sh
# Runs prepare as its users do: each kind of token, a folder of texts, any number of threads, errors, killed runs.
# usage: test_prepare.sh ABSOLUTE_PATH_OF_PREPARE ROOT_OF_THE_SOURCES ON_OR_OFF
# The last says whether there is PCRE2, without which there is no tokenizer.
. "$(dirname "$0")/test_functions.sh"
root=$2 has_pcre2=$3
ln -s "$1" prepare  # its own path may have spaces

# tokens FILE: of 16 bits, in one line.
tokens() { od -An -v -tu2 "$1" | xargs; }
meta() { grep -qFe "$2" "$1/meta.json" || { cat "$1/meta.json"; fail "$1/meta.json lacks $2"; }; }

# Bytes, the last tenth to val.
printf 'abcdefghij' >ten.txt
expect 0 "" ./prepare ten.txt
[ "$(tokens data/train.bin)" = "97 98 99 100 101 102 103 104 105" ] || fail "bytes: $(tokens data/train.bin)"
[ "$(tokens data/val.bin)" = "106" ] || fail "bytes of val"
meta data '"vocab_size": 256' && meta data '"tokenizer": "bytes"' && meta data '"dtype": "uint16"'
[ "$(find data -type f | wc -l)" -eq 3 ] || fail "other files in data: $(ls -A data)"

# Characters, numbered as they come up; no character is cut, neither by the split nor by the parts that are read.
printf 'a\303\251\342\202\254a\360\237\230\200\303\251' >characters.txt  # 13 bytes, 9 of them end within a character
expect 0 "" ./prepare characters.txt --tokenizer characters --val-fraction 0.3 --out chars
[ "$(tokens chars/train.bin)" = "0 1 2 0 3" ] || fail "characters: $(tokens chars/train.bin)"
[ "$(tokens chars/val.bin)" = "1" ] || fail "characters of val: $(tokens chars/val.bin)"
meta chars '"vocab_size": 4'
yes "$(cat characters.txt)" | tr -d '\n' | head -c $((183600 * 13)) >long.txt  # more than one part
expect 0 "" ./prepare long.txt --tokenizer characters --val-fraction 0 --out chars
[ "$(wc -c <chars/train.bin)" -eq $((183600 * 6 * 2)) ] || fail "characters of a long text"
[ "$(wc -c <chars/val.bin)" -eq 0 ] || fail "val is not empty"

# Errors leave what was there, and no folder that was not.
cp -r chars before
printf 'a\377' >bad.txt
expect 1 "bad.txt: byte 255 is not UTF-8" ./prepare bad.txt --tokenizer characters --out chars
diff -r chars before || fail "an error changed files"
expect 1 "bad.txt: byte 255" ./prepare bad.txt --tokenizer characters --out new
[ ! -e new ] || fail "an error leaves a folder"
mkdir empty
expect 1 "empty has no text" ./prepare empty --out new
expect 1 "is the folder of texts" ./prepare empty --out empty
expect 2 "none.txt" ./prepare none.txt
for fraction in 2 1 nan -0.1; do expect 2 "--val-fraction" ./prepare ten.txt --val-fraction=$fraction; done
expect 1 "no-folder" ./prepare ten.txt --tokenizer no-folder --out new
expect 1 "cannot write" ./prepare ten.txt --out /dev/null/x
[ ! -e new ] || fail "an error leaves a folder"

if [ "$has_pcre2" = OFF ]; then
  expect 1 "built without PCRE2" ./prepare ten.txt --tokenizer "$root/tests/models/tokenizer"
  echo "SKIPPED: prepare with a tokenizer: this altgrad was built without PCRE2"
  exit 0
fi

# A folder of texts by a tokenizer: by name, hidden ones left out, the special token between them; and the same bytes on
# any number of threads.
mkdir -p texts/b
printf 'the' >texts/a.txt
printf ' the<|endoftext|>' >texts/b/c.txt
printf 'x' >texts/.hidden
tokenizer=$root/tests/models/tokenizer
expect 0 "" ./prepare texts --tokenizer "$tokenizer" --val-fraction 0 --out texts/out
case "$(tokens texts/out/train.bin)" in
  "263 0 273 "*) ;;
  *) fail "two texts: $(tokens texts/out/train.bin)" ;;
esac
tokens texts/out/train.bin | grep -q ' 0 .* 0 ' && fail "text became a special token"
meta texts/out '"vocab_size": 700' && meta texts/out '"separator": 0' && meta texts/out '"texts": 2'
expect 0 "" ./prepare texts --tokenizer "$tokenizer" --val-fraction 0 --out texts/out  # not its own files
meta texts/out '"texts": 2'
touch texts/big
while [ "$(wc -c <texts/big)" -lt 1500000 ]; do cat "$root/README.md" "$root"/models/*.cpp >>texts/big; done
for threads in 1 2 5; do
  expect 0 "" ./prepare texts --tokenizer "$tokenizer/tokenizer.json" --out "t$threads" --threads $threads
  diff -r t1 "t$threads" || fail "$threads threads write other bytes"
done

# Killed, it leaves whole files, and the next run goes through.
expect 0 "" ./prepare long.txt --out whole
for delay in 0 0.01 0.03; do
  expect 0 "" ./prepare ten.txt --out killed
  ./prepare long.txt --out killed >log 2>&1 &
  pid=$!
  sleep $delay
  kill -KILL $pid 2>/dev/null
  wait $pid 2>/dev/null
  for file in train.bin val.bin meta.json; do
    cmp -s killed/$file data/$file || cmp -s killed/$file whole/$file || fail "a killed run leaves half of $file"
  done
done
expect 0 "" ./prepare ten.txt --out killed
diff -r data killed || fail "the run after a killed one differs"
echo "prepare: all as expected"
