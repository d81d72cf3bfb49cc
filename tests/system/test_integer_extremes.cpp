// Integers at their extremes, in every public function that takes any: refused by name, or doing what they say. The
// sanitizers watch for what overflows on the way.
#include <altgrad/autograd/ops.h>
#include <altgrad/fp8/quantized_linear.h>

#include <climits>
#include <functional>

#include "errors.h"
#include "reference.h"
#include "thread_count.h"

using namespace altgrad;

namespace {

constexpr int64_t most = int64_t(1) << 58;  // the largest power of two that a size may be

Tensor ones(const Shape& shape) { return here::ones(shape); }
Tensor ids(const Shape& shape) { return here::zeros(shape, {.dtype = DType::i64}); }

}  // namespace

TEST_CASE("integers at their extremes are refused by name, or do what they say", "[edges]") {
  const Tensor x = ones({2, 3}), y = ones({1, 4, 12}), none = here::empty({0, most});
  const Shape shape{2, 3};
  const std::vector<std::pair<std::function<void()>, std::string>> refused = {
      {[] { Shape{INT64_MIN}; }, "shape: negative size"},
      {[] { Shape{INT64_MAX}; }, "shape: too many"},
      {[] {
         Shape{INT64_MAX, 0};
       },
       "shape: too many"},
      {[] {
         Shape{0, INT64_MAX};
       },
       "shape: too many"},
      {[] {
         Shape{int64_t(1) << 62, 0, int64_t(1) << 62};
       },
       "shape: too many"},
      {[] {
         Shape{0, int64_t(1) << 30, int64_t(1) << 30};
       },
       "shape: too many"},
      {[] {
         Shape{int64_t(1) << 32, int64_t(1) << 32, 0};
       },
       "shape: too many"},
      {[&] { shape.with(0, INT64_MAX); }, "shape: too many"},
      {[&] { shape.with(INT_MAX, 1); }, "axis 2147483647"},
      {[&] { shape.inserted(INT_MIN, 1); }, "axis -2147483648"},
      {[&] { shape.inserted(INT_MAX, 1); }, "axis 2147483647"},
      {[&] { shape.inserted(0, INT64_MAX); }, "shape: too many"},
      {[&] { shape.erased(INT_MIN); }, "axis -2147483648"},
      {[&] { shape.wrap(INT_MAX); }, "axis 2147483647"},
      {[&] { shape.size(INT_MIN); }, "axis -2147483648"},
      {[&] { shape.product(INT_MIN, INT_MAX); }, "shape: axes [-2147483648, 2147483647)"},
      {[&] { shape.product(0, 3); }, "shape: axes [0, 3)"},

      {[] { here::arange(INT64_MIN); }, "arange: n = -9223372036854775808"},
      {[] { here::arange(INT64_MAX); }, "too many"},
      {[] { here::arange(INT64_MAX, {.dtype = DType::u8}); }, "arange: u8 cannot hold"},
      {[] { here::randint(INT64_MIN, {2}); }, "randint: high"},
      {[] { here::randint(0, {2}); }, "randint: high"},
      {[] { here::empty({2}).size(INT_MIN); }, "axis -2147483648"},
      {[] { here::full({1}, 1e300, {.dtype = DType::i64}); }, "fill: i64"},

      {[&] {
         x.reshape({INT64_MAX, -1});
       },
       "too many"},
      {[&] {
         x.reshape({-1, most});
       },
       "reshape: (2, 3)"},
      {[&] {
         x.reshape({-1, INT64_MIN});
       },
       "negative size"},
      {[&] { x.reshape({INT64_MIN}); }, "negative size"},
      {[&] {
         none.reshape({-1, 0});
       },
       "reshape: (0, "},
      {[&] {
         none.reshape({most, -1, 2});
       },
       "too many"},
      {[&] { x.narrow(INT_MAX, 0, 0); }, "narrow: axis 2147483647"},
      {[&] { x.narrow(0, INT64_MAX, INT64_MAX); }, "narrow: ["},
      {[&] { x.narrow(0, INT64_MIN, INT64_MIN); }, "narrow: ["},
      {[&] { x.narrow(0, 0, INT64_MAX); }, "narrow: ["},
      {[&] { x.narrow(0, 1, INT64_MAX); }, "narrow: ["},
      {[&] { x.narrow(0, INT64_MIN, INT64_MAX); }, "narrow: ["},
      {[&] { x.transpose(INT_MIN, INT_MAX); }, "transpose: axis"},
      {[&] {
         x.permute({INT_MIN, INT_MAX});
       },
       "permute: axis -2147483648"},
      {[&] {
         expand(x, {most, 2, 3});
       },
       "too many"},
      {[&] {
         expand(x, {INT64_MAX, 3});
       },
       "too many"},
      {[&] { cat({x}, INT_MIN); }, "cat: axis -2147483648"},
      {[&] { cat(std::vector<Tensor>(40, none), 1); }, "cat: too many elements along axis 1"},
      {[&] { stack({x}, INT_MIN); }, "stack: axis -2147483648"},
      {[&] { stack({x}, INT_MAX); }, "stack: axis 2147483647"},
      {[&] { stack(std::vector<Tensor>(40, none)); }, "too many"},
      {[&] { index_select(x, INT_MIN, ids({1})); }, "index_select: axis -2147483648"},
      {[&] { index_select(x, 0, here::from({INT64_MAX}, {1})); }, "index_select: id 9223372036854775807"},
      {[&] { index_select(x, 0, here::from({INT64_MIN}, {1})); }, "index_select: id -9223372036854775808"},

      {[&] { sum(x, {INT_MIN}); }, "sum: axis -2147483648"},
      {[&] { mean(x, {INT_MAX}); }, "mean: axis 2147483647"},
      {[&] { max(x, {INT_MIN}); }, "max: axis -2147483648"},
      {[&] { var(x, {INT_MAX}); }, "var: axis 2147483647"},
      {[&] { softmax(x, INT_MIN); }, "softmax: axis -2147483648"},
      {[&] { log_softmax(x, INT_MAX); }, "log_softmax: axis 2147483647"},
      {[&] { causal_attention(y, INT64_MAX); }, "causal_attention: "},
      {[&] { causal_attention(y, INT64_MIN); }, "causal_attention: "},
      {[&] { causal_attention(y, 0x5555555555555556); }, "causal_attention: "},  // 3 heads wraps around to 2
      {[&] { embedding(here::from({INT64_MIN}, {1}), x); }, "embedding: id -9223372036854775808"},
      {[&] { embedding(here::from({INT64_MAX}, {1}), x); }, "embedding: id 9223372036854775807"},
      {[&] {
         cross_entropy(x, here::from<int64_t>({INT64_MAX, 0}, {2}));
       },
       "cross_entropy: id 9223372036854775807"},
      {[&] {
         cross_entropy(x, here::from<int64_t>({0, INT64_MIN}, {2}), INT64_MAX);
       },
       "cross_entropy: id -9223372036854775808"},

      {[] { set_num_threads(INT_MIN); }, "set_num_threads: "},
      {[] { fp8::AmaxHistory(INT64_MIN, device()); }, "must be at least 1"},
      {[] { fp8::AmaxHistory(0, device()); }, "must be at least 1"},
      {[] { fp8::AmaxHistory(INT64_MAX, device()); }, "too many"},
      {[] {
         fp8::QuantizedLinear::from_linear(on_device(nn::Linear(2, 2)), fp8::E4M3,
                                           {.history_length = INT64_MIN});
       },
       "history_length"},
      {[] {
         fp8::QuantizedLinear::from_linear(on_device(nn::Linear(2, 2)), fp8::E4M3,
                                           {.history_length = INT64_MAX});
       },
       "too many"},
  };
  for (size_t i = 0; i < refused.size(); ++i) {
    const auto& [call, text] = refused[i];
    CAPTURE(i, text);
    const auto done = [&call = call] {
      call();
      synchronize(device());  // where a GPU has looked at ids
    };
    CHECK(throws(done, {text}));
  }
  for (const auto& call :
       std::vector<std::function<void()>>{[] { here::zeros({most}); }, [] { here::arange(most); },
                                          [] {
                                            here::rand({most / 4, 3});
                                          },
                                          [] { expand(ones({1}), {most}); },
                                          [] {
                                            sum(here::empty({most / 2, 0}), {1});
                                          }}) {
    CHECK(throws<std::runtime_error>(call, {"out of memory"}));
  }

  for (const double v : values(here::randint(INT64_MAX, {100}))) CHECK((v >= 0 && v < 0x1p63));
  CHECK(std::isfinite(cross_entropy(x, here::from<int64_t>({INT64_MIN, 0}, {2}), INT64_MIN).item<double>()));
  CHECK(std::isfinite(cross_entropy(x, here::from<int64_t>({1, INT64_MAX}, {2}), INT64_MAX).item<double>()));
  CHECK(shape.product(INT_MAX, INT_MIN) == 1);
  Generator last(UINT64_MAX);
  last.set_state({UINT64_MAX, UINT64_MAX});
  CHECK(here::rand({3}, {}, last).shape() == Shape{3});
  CHECK(dropout(x, 0.5, last).shape() == shape);
  const ThreadCount all(INT_MAX);
  CHECK(causal_attention(y, 2).shape() == Shape{1, 4, 4});
  CHECK(sum(matmul(x, x.transpose())).item<double>() == 12);
}
