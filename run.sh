#!/usr/bin/env bash
# The commands: train a tiny GPT in simulated 8-bit floats, run every test, run what takes a GPU or other people's programs.
# They name what is missing and install it (apt), configure and build first. What a step prints goes to a log beside the build, shown only where the
# step fails. ALTGRAD_PRESET picks another of CMakePresets.json than release.
set -euo pipefail

usage() {
  cat <<'TXT'
usage: ./run.sh train [args]   train a tiny GPT on text; ./run.sh train --help lists the args
       ./run.sh test           build and run every test
       ./run.sh test-gpu       build for this machine's GPU, run every test there, time it; writes a report
       ./run.sh docs           make pages of the public headers and the guides, by Doxygen
       ./run.sh interop        load what altgrad writes in transformers, which pip installs under build/
They name the Debian packages that are missing here and install them; with --no-install they name them and stop.
TXT
}

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
preset=${ALTGRAD_PRESET:-release}
build=$root/build/$preset
jobs=$(getconf _NPROCESSORS_ONLN)
{ : <&0; } 2>/dev/null || exec </dev/null  # a closed stdin would lend its number to the next file opened

# step NAME COMMAND...: runs it quietly and says how long it took; shows the log's end where it fails.
step() {
  local name=$1 log=$root/build/$preset-$1.log start=$SECONDS
  shift
  mkdir -p "$root/build"
  if ! "$@" </dev/null 2>&1 | tee "$log" | progress "$name"; then
    printf '%s failed; the end of %s:\n' "$name" "$log"
    tail -n 40 "$log"
    return 1
  fi
  printf '%s: %d s\n' "$name" $((SECONDS - start))
}

# On a terminal, one line that shows the build tool's counter, cleared at the end; elsewhere nothing.
progress() {
  local line
  [ -t 1 ] || exec cat >/dev/null
  printf '%s ...' "$1"
  while IFS= read -r line; do
    if [[ $line =~ ^(\[[^]]*\]) ]]; then printf '\r\033[K%s %s' "$1" "${BASH_REMATCH[1]}"; fi
  done
  printf '\r\033[K'
}

# Can the compiler do what altgrad asks of it?
compiles() {
  printf '#include <bit>\n#include <omp.h>\n#include <span>\nunsigned bits = std::bit_cast<unsigned>(1.0f);\n' |
    "${CXX:-c++}" -std=c++20 -fopenmp -fsyntax-only -x c++ - >/dev/null 2>&1
}

# Is one of these headers where CMake will look?
header() {
  local dirs dir name
  IFS=':;' read -ra dirs <<<"${CMAKE_PREFIX_PATH:-}"
  for dir in /usr /usr/local /opt/homebrew "${dirs[@]}"; do
    for name in "$@"; do
      if [ -e "$dir/include/$name" ]; then return; fi
    done
  done
  return 1
}

# Prints the Debian package of everything that $1 (train, test or docs) needs and this machine lacks.
missing() {
  local version
  if [ "$1" = docs ]; then
    command -v doxygen >/dev/null || echo doxygen
    return
  fi
  compiles || echo g++
  version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version //p') || true
  printf '3.22\n%s\n' "${version:-0}" | sort -V -C || echo cmake
  command -v ninja >/dev/null || command -v make >/dev/null || echo ninja-build
  header eigen3/Eigen/Core Eigen/Core || echo libeigen3-dev
  header nlohmann/json.hpp || echo nlohmann-json3-dev
  header CLI/CLI.hpp || echo libcli11-dev
  header pcre2.h || echo libpcre2-dev
  [ "$1" = train ] || header catch2/catch_all.hpp catch2/catch.hpp || echo catch2
}

# Installs packages as root or through sudo; fails where neither is to be had, or apt-get itself.
apt_install() {
  local sudo=
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || return 1
    sudo=sudo
  fi
  echo "missing here, now installed by ${sudo:+$sudo }apt-get with what they depend on: $*"
  [ -z "$sudo" ] || sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; } || return 1
  step install ${sudo:+"$sudo"} env DEBIAN_FRONTEND=noninteractive "PATH=$PATH:/usr/sbin:/sbin" sh -c \
    'apt-get -q update; exec apt-get -q -y install --no-install-recommends "$@"' sh "$@"
}

install_missing() {
  local packages
  packages=$(missing "$1" | xargs)
  # shellcheck disable=SC2086  # a list of words
  if [ -n "$packages" ] && [ $install = yes ] && apt_install $packages; then packages=$(missing "$1" | xargs); fi
  [ -n "$packages" ] || return 0
  if [ "$1" = docs ]; then
    echo "the pages are made by $packages, which is missing here: install it and run this again" >&2
    exit 1
  fi
  if [ "$packages" = libpcre2-dev ]; then  # all but the tokenizer goes without
    echo "libpcre2-dev is missing: altgrad is built without its tokenizer"
    return 0
  fi
  cat >&2 <<TXT
altgrad needs a C++20 compiler with OpenMP, CMake 3.22 or newer, ninja or make, Eigen 3.4 or newer, nlohmann-json,
CLI11, PCRE2 and, for the tests, Catch2. Missing here, by Debian's names: $packages
Install them and run this again:
  Debian, Ubuntu:  sudo apt-get install $packages
  Fedora:          sudo dnf install gcc-c++ cmake ninja-build eigen3-devel json-devel cli11-devel pcre2-devel catch-devel
  Homebrew:        brew install gcc cmake ninja eigen nlohmann-json cli11 pcre2 catch2    (then CXX=g++-14 ./run.sh ...)
TXT
  exit 1
}

stop_without_cuda() {
  local why
  why=$(sed -n 's/^ALTGRAD_WITHOUT_CUDA:INTERNAL=//p' "$build/CMakeCache.txt")
  [ -n "$why" ] || return 0
  echo "train --device cuda: altgrad has no CUDA kernels here, as $why" >&2
  exit 1
}

# configure_and_build TARGETS CMAKE_ARGS...
configure_and_build() {
  local targets
  read -ra targets <<<"$1"
  shift
  if [ ! -f "$build/CMakeCache.txt" ] && command -v ninja >/dev/null; then set -- -G Ninja "$@"; fi
  step configure cmake -S "$root" --preset "$preset" "$@"
  [ -z "$needs_cuda" ] || stop_without_cuda
  step build cmake --build "$build" --target "${targets[@]}" --parallel "$jobs"
}

# Reads ctest's report and prints the closing line: Catch's test cases, and 1 for every other program. A program that runs
# test cases again, with the kernels of other CPUs, is 1, too. What a line "SKIPPED: ..." tells of has not passed.
count_tests() {
  awk '
    /^\t<testcase / { status = $NF; again = /name="((kernels|emulated)_|attention_on_sm_)/; cases = good = bad = skips = 0 }
    /^\t\t<skipped message="SKIP_/ { status = "skipped" }
    { sub(/^\t\t<system-out>/, "") }
    /^SKIPPED: / { ++skips }
    /^All tests passed \(/ { cases = $(NF - 2) }
    /^test cases:/ { for (i = 2; i < NF; ++i) { if ($(i + 1) == "passed") good = $i; if ($(i + 1) == "failed") bad = $i } }
    /^\t<\/testcase>/ {
      if (again) cases = good = bad = skips = 0
      if (status == "skipped") skipped += skips ? skips : 1
      else if (status ~ /"run"/) { all = cases ? cases : good; passed += all ? all - skips : 1; skipped += skips }
      else { passed += good ? good - skips : 0; failed += bad ? bad : 1; skipped += skips }
    }
    END { printf "%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : "" }
  ' "$build/tests.xml"
}

# Makes the environment of Python in which other people's programs run, unless the caller has named one.
make_venv() {
  [ -z "${ALTGRAD_PYTHON:-}" ] || return 1
  python3 -m venv "$root/build/interop" &&
    "$root/build/interop/bin/python" -m pip install --retries 1 -r "$root/tests/interop/requirements.txt"
}

needs_cuda=
install=yes
for arg; do  # all but --no-install go round to their places
  shift
  if [ "$arg" = --no-install ]; then install=no; else set -- "$@" "$arg"; fi
done

case ${1:-} in
  train)
    shift
    case " $* " in *" --device cuda"* | *" --device=cuda"*) needs_cuda=yes ;; esac
    install_missing train
    configure_and_build train_gpt -DALTGRAD_TESTS=OFF  # no Catch2 needed
    # Threads that wait look about for microseconds, then sleep: as fast as looking on, and not much slower on a busy machine.
    [ -n "${OMP_WAIT_POLICY:-}" ] || export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
    exec "$build/examples/train_gpt" "$@"
    ;;
  test)
    if [ $# -gt 1 ]; then usage >&2; exit 2; fi
    install_missing test
    configure_and_build all -DALTGRAD_TESTS=ON
    status=0
    rm -f "$build/tests.xml"
    ctest --test-dir "$build" --output-on-failure --parallel "$jobs" --output-junit "$build/tests.xml" \
      --test-output-size-passed 1000000 --test-output-size-failed 1000000 </dev/null || status=1
    count_tests
    exit $status
    ;;
  test-gpu)
    if [ $# -gt 1 ]; then usage >&2; exit 2; fi
    gpu=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1) || true
    if [ -z "$gpu" ]; then
      echo "test-gpu: there is no GPU here, nvidia-smi lists none: nothing was tested"
      exit 77
    fi
    preset=gpu build=$root/build/gpu
    install_missing test
    configure_and_build "altgrad_tests bench train_gpt" -DALTGRAD_TESTS=ON -DCMAKE_CUDA_ARCHITECTURES="${gpu/./}"
    status=0
    "$root/tests/gpu.sh" "$build" || status=1
    count_tests
    exit $status
    ;;
  docs)
    if [ $# -gt 1 ]; then usage >&2; exit 2; fi
    install_missing docs
    cd "$root"
    step docs sh -c '{ cat .github/Doxyfile; sed -n "s/.*define ALTGRAD_VERSION /PROJECT_NUMBER = /p" core/version.h; } | doxygen -'
    echo "build/docs/html/index.html"
    ;;
  interop)
    if [ $# -gt 1 ]; then usage >&2; exit 2; fi
    python=${ALTGRAD_PYTHON:-$root/build/interop/bin/python}
    imports="import compressed_tensors, safetensors, torch, transformers"
    if ! "$python" -c "$imports" 2>/dev/null && ! step pip make_venv; then
      echo "interop: skipped: $python cannot import what tests/interop/requirements.txt names, and pip cannot install it"
      exit 77
    fi
    install_missing test
    configure_and_build altgrad_interop -DALTGRAD_TESTS=ON
    rm -rf "$build/interop"
    "$build/tests/altgrad_interop" "$root/tests/interop" "$build/interop"
    exec "$python" "$root/tests/interop/check.py" "$build/interop"
    ;;
  -h | --help | help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
