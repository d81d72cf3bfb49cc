// Learning rates at the steps where their formulas can be read off.
#include "catch.h"
#include "errors.h"

#include <altgrad/nn/optim.h>

using namespace altgrad;

namespace {

constexpr int64_t most = INT64_MAX, least = INT64_MIN;

}  // namespace

TEST_CASE("the linear schedule is a line", "[optim]") {
  const optim::LinearSchedule lr{.max_lr = 1e-3, .min_lr = 1e-4, .warmup = 100, .total = 1100};
  CHECK(lr(0) == Approx(1e-3 / 101));
  CHECK(lr(99) == Approx(1e-3 * 100 / 101));
  CHECK(lr(100) == 1e-3);
  for (int64_t step = 100; step <= 1100; ++step) {
    REQUIRE(lr(step) == Approx(1e-3 - 9e-4 * double(step - 100) / 1000));
  }
  CHECK(lr(1100) == 1e-4);
  CHECK(lr(most) == 1e-4);
  const optim::LinearSchedule constant{.max_lr = 0.5, .min_lr = 0.5, .warmup = 2, .total = 10};
  CHECK(constant(1) == Approx(1. / 3));
  for (const int64_t step : {2, 5, 9, 10, 11}) CHECK(constant(step) == 0.5);
}

TEST_CASE("the schedule of warm-up, stable and decay has these three", "[optim]") {
  const optim::WSDSchedule lr{.max_lr = 1e-3, .min_lr = 1e-4, .warmup = 100, .total = 1100, .decay = 200};
  CHECK(lr(49) == Approx(1e-3 * 50 / 101));
  for (const int64_t step : {100, 101, 500, 899, 900}) CHECK(lr(step) == 1e-3);
  CHECK(lr(901) < 1e-3);
  CHECK(lr(1000) == Approx(5.5e-4));
  CHECK(lr(1050) == Approx(3.25e-4));
  CHECK(lr(1100) == 1e-4);
  // The decay follows at once, is all there is, or is not there.
  const optim::WSDSchedule all{.max_lr = 1, .min_lr = 0, .warmup = 10, .total = 20, .decay = 10};
  CHECK(all(9) == Approx(10. / 11));
  CHECK(all(10) == 1);
  CHECK(all(15) == 0.5);
  const optim::WSDSchedule none{.max_lr = 1, .min_lr = 0, .warmup = 0, .total = 20, .decay = 0};
  CHECK(none(19) == 1);
  CHECK(none(20) == 0);
}

TEST_CASE("schedules at the ends of the integers, and what they refuse", "[optim]") {
  const auto linear = [](int64_t warmup, int64_t total, int64_t step) {
    return optim::LinearSchedule{.max_lr = 1, .min_lr = 0.25, .warmup = warmup, .total = total}(step);
  };
  const auto wsd = [](int64_t warmup, int64_t total, int64_t decay, int64_t step) {
    return optim::WSDSchedule{
        .max_lr = 1, .min_lr = 0.25, .warmup = warmup, .total = total, .decay = decay}(step);
  };
  for (const int64_t warmup : {int64_t(0), int64_t(1), most - 1, most}) {
    for (const int64_t total : {least, int64_t(-1), int64_t(0), int64_t(10), most - 1, most}) {
      for (const int64_t step : {int64_t(0), int64_t(5), most / 2, most - 1, most}) {
        INFO(warmup << ' ' << total << ' ' << step);
        CHECK((linear(warmup, total, step) >= 0 && linear(warmup, total, step) <= 1));
        if (step >= warmup && step >= total) CHECK(linear(warmup, total, step) == 0.25);
        if (total < warmup) {
          CHECK(throws([&] { wsd(warmup, total, 0, step); }, {"WSDSchedule: decay"}));
        } else {
          CHECK((wsd(warmup, total, total - warmup, step) >= 0 && wsd(warmup, total, 0, step) <= 1));
          if (total - warmup < most)
            CHECK(throws([&] { wsd(warmup, total, total - warmup + 1, step); }, {"WSDSchedule: decay"}));
        }
      }
    }
  }
  CHECK(throws([&] { wsd(10, 20, -1, 0); },
               {"WSDSchedule: decay must be in [0, total - warmup], got decay -1"}));
  CHECK(throws([&] { wsd(10, 20, least, 0); }, {"WSDSchedule: decay"}));
  CHECK(throws([&] { wsd(-1, 20, 5, 0); }, {"WSDSchedule", "warmup -1"}));
  CHECK(throws([&] { linear(10, 20, -1); }, {"LinearSchedule", "step -1"}));
  CHECK(throws([&] { linear(least, most, most); }, {"LinearSchedule", "warmup"}));
  for (const double bad : {double(NAN), double(INFINITY), -1.0}) {
    CHECK(throws([&] { optim::LinearSchedule{.max_lr = bad}(0); }, {"LinearSchedule: max_lr"}));
    CHECK(throws([&] { optim::WSDSchedule{.min_lr = bad}(0); }, {"WSDSchedule: min_lr"}));
  }
}
