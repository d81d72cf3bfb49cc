#!/bin/sh
# What run.sh says and does where something is missing, and how it counts tests: with a compiler, a sudo, an apt-get, a
# cmake and a ctest that only pretend. usage: test_run.sh RUN_SH
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/bin" && cp "$1" "$dir/run.sh" && cd "$dir" || exit 1

fail() {
  cat log
  echo "FAILED: $*"
  exit 1
}
# pretend NAME: what stdin says is a command of that name.
pretend() {
  { echo '#!/bin/sh'; cat; } >"bin/$1" && chmod +x "bin/$1"
}
PATH=$dir/bin:$PATH
echo 'echo 1000' | pretend id
echo 'cp -n log said; [ "$1" != -n ] || shift; exec "$@"' | pretend sudo
echo 'echo "$@" >>asked; if [ -e works ]; then touch compiler; fi' | pretend apt-get
echo 'cat >/dev/null; [ -e compiler ]' | pretend compiler  # it reads what it is given, or the pipe breaks
echo 'echo "cmake version 3.25.1"' | pretend cmake
cat <<'CTEST' | pretend ctest
while [ "$1" != --output-junit ]; do shift; done
mkdir -p "$(dirname "$2")"
cp report.xml "$2"
exit 8
CTEST
export CXX=compiler

# A compiler is missing: with --no-install, wherever it stands, nothing is asked of apt-get; without it, sudo and apt-get
# are, after it has been said what for.
for command in "test --no-install" "train --steps 3 --no-install" "--no-install test"; do
  # shellcheck disable=SC2086  # words
  bash run.sh $command >log 2>&1 && fail "$command: succeeds without a compiler"
  grep -q 'Missing here, by Debian.s names: .*g++' log || fail "$command: does not name what is missing"
  [ ! -e asked ] || fail "$command: has asked apt-get"
done
bash run.sh test >log 2>&1 && fail "succeeds where apt-get does not help"
grep -q 'g++' said || fail "does not say what it installs before it asks sudo"
grep -q 'install .*g++' asked || fail "does not install"

# Without a GPU nothing is tested, and that is not taken for success.
echo 'exit 9' | pretend nvidia-smi
bash run.sh test-gpu >log 2>&1
[ $? = 77 ] || fail "test-gpu: does not return 77 without a GPU"
grep -q 'no GPU here' log || fail "test-gpu: does not say that there is no GPU"

# Where pip installs nothing, interop says so and is not taken for success.
echo 'exit 1' | pretend python3
bash run.sh interop >log 2>&1
[ $? = 77 ] || fail "interop: does not return 77 without Python's packages"
grep -q 'interop: skipped: .*requirements.txt' log || fail "interop: does not say why it is skipped"

# Test cases are counted, other programs as one; those that run test cases again as one; skipped ones have not passed.
touch works
cat >report.xml <<'XML'
<testsuite name="(empty)"
	tests="9"
	>
	<testcase name="test_a" classname="test_a" time="1" status="run">
		<system-out>SKIPPED: a case: this machine lacks bf16
===============================================================================
All tests passed (40 assertions in 5 test cases)

</system-out>
	</testcase>
	<testcase name="test_b" classname="test_b" time="1" status="fail">
		<failure message=""/>
		<system-out>SKIPPED: another case: as before
test cases:  7 |  5 passed | 2 failed
assertions: 70 | 68 passed | 2 failed

</system-out>
	</testcase>
	<testcase name="test_c" classname="test_c" time="1" status="notrun">
		<skipped message="SKIP_RETURN_CODE=4"/>
		<system-out>SKIPPED: a: b
SKIPPED: c: d
All tests passed (no assertions in 2 test cases)
</system-out>
	</testcase>
	<testcase name="kernels_avx2" classname="kernels_avx2" time="1" status="run">
		<system-out>All tests passed (4000 assertions in 26 test cases)
</system-out>
	</testcase>
	<testcase name="kernels_amx" classname="kernels_amx" time="1" status="notrun">
		<skipped message="SKIP_RETURN_CODE=4"/>
		<system-out></system-out>
	</testcase>
	<testcase name="train_gpt" classname="train_gpt" time="1" status="run">
		<system-out>train_gpt: all as expected
</system-out>
	</testcase>
	<testcase name="crashed" classname="crashed" time="1" status="fail">
		<failure message=""/>
		<system-out></system-out>
	</testcase>
	<testcase name="late" classname="late" time="1" status="fail">
		<failure message="Timeout"/>
		<system-out>All tests passed (1 assertion in 1 test case)
</system-out>
	</testcase>
	<testcase name="gone" classname="gone" time="0" status="notrun">
		<skipped message="Unable to find executable"/>
		<system-out>Unable to find executable: gone</system-out>
	</testcase>
</testsuite>
XML
bash run.sh test >log 2>&1 && fail "succeeds where ctest does not"
[ "$(tail -n 1 log)" = "10 passed, 5 failed, 5 skipped" ] || fail "counts wrongly"
sed -i '/SKIP/d; /status="notrun"/,/testcase>/d' report.xml
bash run.sh test >log 2>&1
[ "$(tail -n 1 log)" = "12 passed, 4 failed" ] || fail "counts wrongly where nothing is skipped"
echo "run.sh: all as expected"
