// Where the tests are to run on a GPU and there is none, all are skipped.
#include <altgrad/core/device.h>

#include <cstdlib>

#include "catch.h"
#include "device.h"

namespace {

struct NoGpu : CatchListener {
  using CatchListener::CatchListener;
  void testRunStarting(const Catch::TestRunInfo&) override {
    if (device().is_cpu() || altgrad::cuda_device_count() > 0) return;
    std::cout << "SKIPPED: ALTGRAD_TEST_DEVICE=cuda: there is no GPU here" << std::endl;
    std::exit(all_skipped);
  }
};
CATCH_REGISTER_LISTENER(NoGpu)

}  // namespace
