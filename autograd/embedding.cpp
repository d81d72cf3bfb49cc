// Embedding: rows of a table, picked by ids.
#include <altgrad/autograd/internal/common.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/core/internal/kernels/gather.h>

namespace altgrad {
namespace {

struct EmbeddingOp final : Op {
  static constexpr const char* name = "embedding";
  Tensor ids;
  Shape w_shape;

  Tensor forward(const Tensor& ids_in, const Tensor& w) {
    ids = ids_in, w_shape = w.shape();
    const int64_t V = w_shape[0], C = w_shape[1];
    Tensor y = Tensor::empty(ids.shape().inserted(ids.dim(), C), w.options());
    launch(name, AG_KERNEL(kernels::gather), y, w, ids.ptr<int64_t>(), 1, V, ids.numel(), C);
    return y;
  }
  // dw = each row of dy added to the row it came from
  void backward(const Tensor& dy, Grads& d) override {
    d.accumulate(1, [&](const Tensor& dw, double beta) {
      launch(name, AG_KERNEL(kernels::gather_grad), dw, beta, dy, ids.ptr<int64_t>(), 1, w_shape[0],
             ids.numel(), w_shape[1]);
    });
  }
};

}  // namespace

Tensor embedding(const Tensor& ids, const Tensor& w) {
  check_floating("embedding", w);
  if (w.dim() != 2) fail("embedding: weight ", w.shape(), " needs two axes, (num_embeddings, dim)");
  if (ids.device() != w.device())
    fail("embedding: ids are on ", ids.device(), ", the weight on ", w.device());
  detail::check_ids("embedding", ids, w.size(0));
  return apply<EmbeddingOp>(ids, w);
}

}  // namespace altgrad
