// The tests' main. Stricter than Catch2's own: a test case that asserts nothing fails, unless it says that it was
// skipped. Returns all_skipped where all were, as ctest is told, 1 for any failure.
#define CATCH_CONFIG_RUNNER
#include "catch.h"

namespace {

int cases = 0, skipped = 0, vacuous = 0;

struct CaseCounter : CatchListener {
  using CatchListener::CatchListener;
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    ++cases;
    skipped += case_is_skipped;
    if (!case_is_skipped && stats.totals.assertions.total() == 0) {
      ++vacuous;
      std::cout << "FAILED: " << Catch::getResultCapture().getCurrentTestName() << ": asserts nothing"
                << std::endl;
    }
    case_is_skipped = false;
  }
};
CATCH_REGISTER_LISTENER(CaseCounter)

}  // namespace

// LeakSanitizer asks for it. LLVM's OpenMP forgets some memory of its own when the number of threads changes.
extern "C" const char* __lsan_default_suppressions() { return "leak:libomp.so"; }

int main(int argc, char** argv) {
  if (Catch::Session().run(argc, argv) != 0 || vacuous > 0) return 1;
  return cases > 0 && skipped == cases ? all_skipped : 0;
}
