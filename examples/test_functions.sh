# What the scripts share that run the examples. They work in a folder of their own, where the programs, which they are
# given by absolute paths, get names without spaces.
dir=$(mktemp -d) || exit 1
trap 'kill -KILL $pid 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1

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
# start OUT COMMAND...: in the background with that --out, until it has trained 15 steps. Its number is $pid.
start() {
  out=$1
  shift
  "$@" --out "$out" >log 2>&1 &
  pid=$!
  while kill -0 $pid 2>/dev/null && [ "$(cat "$out/metrics.jsonl" 2>/dev/null | wc -l)" -lt 15 ]; do sleep 0.02; done
}
# ended STATUS: what was started ends so.
ended() {
  wait $pid
  got=$?
  [ $got -eq "$1" ] || { cat log; fail "exit $got, not $1, of what writes to $out"; }
}
# A metrics file without what is measured with a clock.
without_times() { sed 's/,"ms_per_step".*//' "$1"; }
train="./train_gpt --data text.txt --batch 2 --block 16 --eval-every 10 --eval-batches 2 --sample 20"

seq 1 2000 >text.txt
