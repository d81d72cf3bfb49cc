// Research code with matrices of its own in Eigen, and an 8-bit model of them: data goes in by copy,
// predictions come out as a map.
#include <altgrad/altgrad.h>
#include <altgrad/core/eigen.h>

#include <cstdio>

namespace ag = altgrad;

int main() {
  ag::manual_seed(0);
  // y = |x A|, for the model to find out.
  const ag::RowMatrixXf a = (ag::RowMatrixXf(4, 2) << 1, -1, 0.5, 2, -2, 0, 1, 1).finished();
  const ag::Tensor x = ag::Tensor::randn({256, 4});
  const ag::RowMatrixXf target = (ag::as_matrix(x) * a).cwiseAbs();
  const ag::Tensor y = ag::from_matrix(target);

  ag::nn::Sequential model(ag::nn::Linear(4, 64), ag::nn::GELU(), ag::nn::Linear(64, 2));
  ag::fp8::quantize_model(model, ag::fp8::E4M3,
                          {.input_format = ag::fp8::E4M3, .grad_format = ag::fp8::E5M2});
  ag::optim::AdamW opt(model.parameters(), {.lr = 3e-3});
  for (int step = 0; step < 500; ++step) {
    ag::Tape tape;
    const ag::Tensor loss = ag::mse_loss(model(x), y);
    tape.backward(loss);
    opt.step();
    opt.zero_grad();
  }

  model.eval();
  const ag::Tensor predicted = model(x);
  const Eigen::Map<ag::RowMatrixXf> m = ag::as_matrix(predicted);
  const float error = (m - target).norm() / target.norm();
  std::printf("relative error in 8 bits: %.3f\n", error);
  return error < 0.2f ? 0 : 1;
}
