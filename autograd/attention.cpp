// Causal attention: one op from queries, keys and values to the heads' outputs, which holds no T x T matrix.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/attention.h>

namespace altgrad {
namespace {

struct CausalAttention final : Op {
  static constexpr const char* name = "causal_attention";
  Tensor qkv, y, lse;
  int64_t heads;

  Tensor forward(const Tensor& qkv_in, int64_t heads_in) {
    qkv = qkv_in, heads = heads_in;
    const int64_t B = qkv.size(0), T = qkv.size(1), C = qkv.size(2) / 3;
    y = Tensor::empty({B, T, C}, qkv.options());
    if (y.numel() == 0) return y;  // B, T or the heads may still be more than can be walked
    lse = Tensor::empty({B, heads, T, 2}, detail::in_compute_dtype(qkv));
    launch(name, AG_KERNEL(kernels::attention), y, structs_in<kernels::LogSumExp>(lse), qkv, B, T, heads,
           C / heads);
    return y;
  }

  // With P = softmax(S), S = q k^T / sqrt(C / heads), dP = dy v^T and dS = P * (dP - sum(dy * y)):
  // dv = P^T dy, dq = dS k / sqrt(C / heads), dk = dS^T q / sqrt(C / heads); P is made again from lse
  void backward(const Tensor& dy, Grads& d) override {
    const int64_t B = y.size(0), T = y.size(1), C = y.size(2);
    Tensor dqkv = Tensor::empty(qkv.shape(), qkv.options());
    if (y.numel() == 0) return d.add(0, dqkv);
    launch(name, AG_KERNEL(kernels::attention_grad), dqkv, dy, qkv, y, structs_in<kernels::LogSumExp>(lse), B,
           T, heads, C / heads);
    d.add(0, dqkv);
  }
};

}  // namespace

Tensor causal_attention(const Tensor& qkv, int64_t heads) {
  check_activation("causal_attention", qkv);
  if (qkv.dim() != 3) fail("causal_attention: qkv ", qkv.shape(), " needs three axes, (B, T, 3 C)");
  if (heads < 1 || qkv.size(2) % 3 != 0 || qkv.size(2) / 3 % heads != 0) {
    fail("causal_attention: qkv ", qkv.shape(), " does not hold q, k, v of ", heads, " heads: ", qkv.size(2),
         " is not a multiple of 3 * heads");
  }
  return apply<CausalAttention>(qkv, heads);
}

}  // namespace altgrad
