// Mistakes that AddressSanitizer and UndefinedBehaviorSanitizer find, by file and line.
#include "catch.h"
#include "mistakes.h"

TEST_CASE("accesses out of bounds of shared and device memory are found by file and line", "[mistakes]") {
#if !defined(__SANITIZE_ADDRESS__)
  SKIP_TEST("needs AddressSanitizer");
#else
  const std::string text = outcome("beyond_shared_array");
  INFO(text);
  CHECK_THAT(text,
             ContainsSubstring("index 128 out of bounds") && ContainsSubstring(place("beyond_shared_array")));
  for (const char* name :
       {"beyond_array_by_pointer", "beyond_dynamic_shared", "beyond_device_memory", "freed_memory"}) {
    const std::string report = outcome(name);
    INFO(report);
    CHECK_THAT(report,
               ContainsSubstring("AddressSanitizer: use-after-poison") && ContainsSubstring(place(name)));
  }
#endif
}

TEST_CASE("a vector of floats at a place that is not aligned is found by file and line", "[mistakes]") {
#if !defined(__SANITIZE_ADDRESS__) || defined(__clang__)
  SKIP_TEST("needs UndefinedBehaviorSanitizer of GCC: clang's does not look at copies of structs");
#else
  const std::string text = outcome("misaligned_vector");
  INFO(text);
  CHECK_THAT(text, ContainsSubstring("misaligned address") && ContainsSubstring(place("misaligned_vector")));
#endif
}
