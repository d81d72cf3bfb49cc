// Inside research code: Eigen, devices, saving.
#include <altgrad/altgrad.h>
#include <altgrad/core/eigen.h>

#include <filesystem>

#include "../catch.h"

namespace ag = altgrad;

TEST_CASE("Eigen interop", "[contract]") {
  auto x = ag::Tensor::from({1.f, 2.f, 3.f, 4.f, 5.f, 6.f}, {2, 3});
  Eigen::Map<ag::RowMatrixXf> m = ag::as_matrix(x);  // no copy
  CHECK(m(1, 0) == 4.f);
  m(1, 0) = 7.f;
  CHECK(x.data<float>()[3] == 7.f);
  ag::Tensor t = ag::from_matrix(m);  // copies
  CHECK(t.shape() == x.shape());
  CHECK(!t.is(x));
  CHECK(t.data<float>()[3] == 7.f);
}

TEST_CASE("a device that is not there", "[contract]") {
  ag::nn::Linear model(3, 2);
  if (ag::cuda_device_count() == 0) {
    CHECK_THROWS_AS(model.to(ag::Device::cuda()), std::runtime_error);
    CHECK(model.weight().device() == ag::Device::cpu());
  } else {
    model.to(ag::Device::cuda());
    CHECK(model.weight().device() == ag::Device::cuda());
  }
}

TEST_CASE("saving and loading", "[contract]") {
  ag::nn::Linear model(3, 2), other(3, 2);
  const auto path = std::filesystem::temp_directory_path() / "altgrad_contract.safetensors";
  ag::save_safetensors(path.string(), model.state_dict());
  other.load_state_dict(ag::load_safetensors(path.string()));
  std::filesystem::remove(path);
  CHECK(std::ranges::equal(other.weight().data<float>(), model.weight().data<float>()));
}
