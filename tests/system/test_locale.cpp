// Numbers in names, keys, files and texts are written as in C++ source, in a program whose global locale groups digits and
// has a decimal comma, and in streams that took it over.
#include <altgrad/altgrad.h>

#include <locale>
#include <sstream>

#include "catch.h"
#include "errors.h"
#include "temp_folder.h"

using namespace altgrad;

namespace {

struct German final : std::numpunct<char> {  // what std::locale("de_DE.UTF-8") brings
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
  char do_decimal_point() const override { return ','; }
};

// The global locale for a scope.
class GlobalLocale {
 public:
  explicit GlobalLocale(const std::locale& locale) : before_(std::locale::global(locale)) {}
  ~GlobalLocale() { std::locale::global(before_); }

 private:
  std::locale before_;
};

template <class T>
std::string printed(const T& value) {
  std::ostringstream out;  // takes over the global locale
  out << value;
  return out.str();
}

}  // namespace

TEST_CASE("texts do not follow the global locale", "[locale]") {
  const GlobalLocale german(std::locale(std::locale::classic(), new German));
  REQUIRE(printed(1234.5) == "1.234,5");
  CHECK(concat(1234.5, ' ', 1200) == "1234.5 1200");
  CHECK(printed(Shape{1200, 3}) == "(1200, 3)");
  CHECK(printed(Tensor::full({2}, 1234.5)) == "tensor([1234.5, 1234.5], shape=(2), f32)");
  CHECK(printed(Tensor::full({1}, 1234, {.dtype = DType::i64})) == "tensor([1234], shape=(1), i64)");
  CHECK(printed(Device::cuda(1000)) == "cuda:1000");
  CHECK(printed(nn::Linear(1200, 1)) == "Linear(in_features=1200, out_features=1, bias=true)");
  CHECK(printed(nn::Dropout(0.5)) == "Dropout(p=0.5)");
  CHECK(throws([] { matmul(Tensor::ones({1200, 2}), Tensor::ones({3, 1})); }, {"(1200, 2)"}));
  CHECK(throws([] { fp8::quantize(Tensor::ones({1}), fp8::E4M3, -1234.5f); }, {"-1234.5"}));

  std::ostringstream out;
  Tape tape;
  const Tensor x = Tensor::ones({1200}).requires_grad(true);
  Tensor y = x;
  for (int i = 0; i < 1001; ++i) y = neg(y);
  tape.print(out);
  CHECK(out.str().find("tape: 1001 ops, 1 leaves") == 0);
  CHECK(out.str().find("\n  1000: %1001 = neg(%1000 (1200)) -> (1200) f32\n") != std::string::npos);

  const auto check = gradcheck([](std::span<const Tensor> in) { return in[0] * 1234.5; },
                               {Tensor::ones({1}, {.dtype = DType::f64})});
  const std::string_view word =
      "analytic ";  // a number of hundreds; with grouped digits it would read 1.1 or so
  CHECK(std::stod(check.message.substr(check.message.find(word) + word.size())) > 500);
}

TEST_CASE("names, keys and files do not follow the global locale", "[locale]") {
  const TempFolder folder;
  std::vector<Tensor> parameters;
  nn::ModuleList list;
  for (int i = 0; i < 1001; ++i) {
    parameters.push_back(Tensor::zeros({1}).requires_grad(true));
    list.push_back(nn::Linear(1, 1));
  }
  optim::AdamW opt(parameters, {});
  const StateDict saved = opt.state_dict();
  nn::save_checkpoint(folder / "classic", list, optim::SGD(list.parameters(), {}), {.step = 123456});

  const GlobalLocale german(std::locale(std::locale::classic(), new German));
  CHECK(saved.contains("exp_avg.1000"));
  CHECK(opt.state_dict().size() == saved.size());
  CHECK_NOTHROW(opt.load_state_dict(saved));
  CHECK(list.state_dict().contains("1000.weight"));
  optim::SGD sgd(list.parameters(), {});
  CHECK(nn::load_checkpoint(folder / "classic", list, sgd).step == 123456);
  nn::save_checkpoint(folder / "german", list, sgd, {.step = 123456});
  CHECK(read_bytes(folder / "german") == read_bytes(folder / "classic"));
}
