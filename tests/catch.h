// Catch2, version 2 or 3, under the names of version 3, and a way to say that this machine cannot run a test. Which of
// the two is linked, the build says: headers of both may be found.
#pragma once

#if CATCH2_VERSION_MAJOR >= 3
#include <catch2/catch_all.hpp>
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
using CatchListener = Catch::EventListenerBase;
#else
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <catch2/catch.hpp>
inline auto ContainsSubstring(const std::string& text) { return Catch::Matchers::Contains(text); }
using CatchListener = Catch::TestEventListenerBase;
#endif

#include <iostream>

// clang says by which sanitizers a program is watched in another way than GCC.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif

// Ends a test case that this machine cannot run, with a line that ./run.sh counts. (Not the SKIP of Catch2 3, which
// version 2 lacks.) main.cpp returns the code where it is all that the program did.
inline bool case_is_skipped = false;
constexpr int all_skipped = 4;
#define SKIP_TEST(reason)                                                                          \
  do {                                                                                             \
    std::cout << "SKIPPED: " << Catch::getResultCapture().getCurrentTestName() << ": " << (reason) \
              << std::endl;                                                                        \
    case_is_skipped = true;                                                                        \
    return;                                                                                        \
  } while (false)
