// Races that ThreadSanitizer finds, by file and line, in one order and at once between blocks.
#include "catch.h"
#include "mistakes.h"

TEST_CASE("races within a block, a warp and between blocks are found by file and line", "[mistakes]") {
#if !defined(__SANITIZE_THREAD__)
  SKIP_TEST("needs ThreadSanitizer");
#else
  for (const std::string name :
       {"race_in_block", "race_after_barrier", "race_in_warp", "race_after_shuffle", "race_after_syncwarp"}) {
    for (const int order : {0, 1, 12345}) {
      const std::string text = outcome(name, order);
      INFO(text);
      CHECK_THAT(text, ContainsSubstring("ThreadSanitizer: data race") &&
                           ContainsSubstring(place(name + ", writes")) &&
                           ContainsSubstring(place(name + ", reads")));
    }
  }
  const std::string text = outcome("race_between_blocks");
  INFO(text);
  CHECK_THAT(text, ContainsSubstring("ThreadSanitizer: data race") &&
                       ContainsSubstring(place("race_between_blocks")));
#endif
}

TEST_CASE("where barriers order all accesses, no race is reported", "[mistakes]") {
#if !defined(__SANITIZE_THREAD__)
  SKIP_TEST("needs ThreadSanitizer");
#else
  for (const int order : {0, 1, 12345}) {
    const std::string text = outcome("no_race", order);
    INFO(text);
    CHECK_THAT(text, ContainsSubstring("status 0") && !ContainsSubstring("ThreadSanitizer"));
  }
#endif
}
