// Mistakes that the simulator itself finds, in every build: the error names kernel, thread, block and place. And
// those that show in results: other ones in another order, NaN where nobody has written.
#include <simulator/sanitizers.h>

#include "catch.h"
#include "mistakes.h"

namespace {

struct Mistake {
  const char* name;
  std::vector<std::string> report;
};

}  // namespace

TEST_CASE("threads that do not wait, or do not meet, are an error that names kernel, threads and places",
          "[mistakes]") {
  const Mistake mistakes[] = {
      {"kernel_not_begun",
       {"kernel_not_begun: thread (64, 0, 0) of block (0, 0, 0) has returned without begin_kernel()"}},
      {"early_return",
       {"early_return: thread (0, 0, 0) of block (0, 0, 0) waits in __syncthreads, ", place("early_return"),
        "; thread (64, 0, 0) of block (0, 0, 0) has returned"}},
      {"different_barriers",
       {"different_barriers: __syncthreads, where others of the block are at another one, ",
        place("different_barriers, first"), "; here, ", place("different_barriers, second"),
        "thread (64, 0, 0) of block (0, 0, 0)"}},
      {"divergent_shuffle",
       {"divergent_shuffle: thread (0, 0, 0) of block (0, 0, 0) waits in __shfl_xor_sync, ",
        place("divergent_shuffle"), "; thread (16, 0, 0) of block (0, 0, 0) has returned"}},
      {"different_collectives",
       {"different_collectives: __shfl_xor_sync, where other lanes are at __shfl_xor_sync, ",
        place("different_collectives, first"), place("different_collectives, second"), "thread (16, 0, 0)"}},
      {"part_of_a_warp",
       {"part_of_a_warp: __shfl_xor_sync: a mask that is not all lanes, ", place("part_of_a_warp")}},
      {"misaligned_matrices",
       {"ldmatrix: an address that is not aligned to 16, ", place("misaligned_matrices")}},
  };
  for (const Mistake& m : mistakes) {
    const std::string text = outcome(m.name);
    INFO(text);
    CHECK_THAT(text, ContainsSubstring("simulator::Error: ") && ContainsSubstring("status 1"));
    for (const std::string& part : m.report) CHECK_THAT(text, ContainsSubstring(part));
  }
}

TEST_CASE("launches that a GPU would refuse are errors", "[mistakes]") {
  CHECK_THAT(outcome("block_of_48"),
             ContainsSubstring("block_of_48: launched with blocks of (48, 1, 1) threads"));
  CHECK_THAT(outcome("empty_grid"), ContainsSubstring("launched with a grid of (0, 1, 1) blocks"));
  CHECK_THAT(outcome("dynamic_shared_not_allowed"),
             ContainsSubstring("launched with 49153 bytes of dynamic shared memory, allowed are 49152"));
  CHECK_THAT(outcome("large_arrays"),
             ContainsSubstring("large_arrays: 65536 bytes of shared arrays (at most 49152)"));
  CHECK_THAT(outcome("pointer_of_the_host"),
             ContainsSubstring("pointer_of_the_host: is given a pointer to memory of the host"));
}

TEST_CASE("host code that touches device memory dies", "[mistakes]") {
  const std::string text = outcome("host_reads_device_memory");
  INFO(text);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  CHECK_THAT(text, ContainsSubstring("SEGV on unknown address") &&
                       ContainsSubstring(place("host_reads_device_memory")));
#else
  CHECK_THAT(text, ContainsSubstring("status 139"));
#endif
}

TEST_CASE("shared memory that nobody has written, or no copy has reached, is NaN", "[mistakes]") {
  for (const char* name : {"uninitialised_shared", "copy_not_waited_for"}) {
    const std::string text = outcome(name);
    INFO(text);
    CHECK_THAT(text, ContainsSubstring("nan") && ContainsSubstring("status 0"));
  }
}

#if !defined(__SANITIZE_THREAD__)
TEST_CASE("a race changes results from order to order", "[mistakes]") {
  for (const char* name : {"race_in_block", "race_after_barrier", "race_in_warp", "race_after_syncwarp"}) {
    CAPTURE(name);
    CHECK(outcome(name, 0) != outcome(name, 1));
  }
  CHECK(outcome("no_race", 0) == outcome("no_race", 1));
  CHECK(outcome("no_race", 0) == outcome("no_race", 12345));
}
#endif
