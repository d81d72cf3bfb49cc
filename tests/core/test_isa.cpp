// Which kernels are used, against what the system says of this CPU.
#include <altgrad/core/cpu/isa.h>
#include <altgrad/core/internal/kernels/gemm.h>

#include "catch.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

using namespace altgrad;
using cpu::Isa;

namespace {

const std::vector<std::string> names = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

// ctest's kernels_ISA are for CPUs that have the instructions: elsewhere all of such a run is skipped.
struct RequiredIsa : CatchListener {
  using CatchListener::CatchListener;
  void testRunStarting(const Catch::TestRunInfo&) override {
    const char* const required = std::getenv("ALTGRAD_MIN_CPU_ISA");
    if (!required || names.at(size_t(cpu::isa())) == required) return;
    std::cout << "SKIPPED: kernels_" << required << ": this CPU or system lacks the instructions"
              << std::endl;
    std::exit(all_skipped);
  }
};
CATCH_REGISTER_LISTENER(RequiredIsa)

}  // namespace

TEST_CASE("kernels use what /proc/cpuinfo says that the CPU has", "[isa]") {
  std::ifstream file("/proc/cpuinfo");
  if (!file) SKIP_TEST("no /proc/cpuinfo");
  std::vector<std::string> flags;  // none on CPUs that are not x86
  for (std::string line; flags.empty() && std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    if (words >> word && word == "flags") flags.assign(std::istream_iterator<std::string>(words), {});
  }
  const auto has = [&](const char* flag) {
    return std::find(flags.begin(), flags.end(), flag) != flags.end();
  };
  Isa best = Isa::portable;
  if (has("avx2") && has("fma")) best = Isa::avx2;
  if (has("avx512bw")) {
    best = has("avx512_bf16") ? Isa::avx512_bf16 : Isa::avx512;
    if (has("amx_tile") && has("amx_bf16")) best = Isa::amx;
  }
  const char* const wanted = std::getenv("ALTGRAD_MAX_CPU_ISA");
  const auto most = wanted ? std::find(names.begin(), names.end(), wanted) - names.begin() : 4;
  CHECK(names.at(size_t(cpu::isa())) == names[size_t(std::min<int64_t>(most, int64_t(best)))]);
}

TEST_CASE("products of bf16 are used where there are instructions for them", "[codes]") {
  CHECK(kernels::has_bf16(Cpu{}) == (cpu::matmul_isa() >= Isa::avx512_bf16));
}
