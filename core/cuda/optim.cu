// Optimizer updates and clipping: a launch for as many tensors as the arguments of a kernel have room for.
#include <altgrad/core/internal/kernels/optim.h>

#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/internal/instantiate.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

namespace altgrad::kernels {
inline namespace on_cuda {
namespace {

using cuda::most_threads;

constexpr int64_t chunk = 1 << 13;  // elements to a block

template <class T>
struct Elements {
  T* x;
  int64_t n, first_chunk;
};
template <class T>
const void* begin_of(const Elements<T>& tensor) {
  return tensor.x;
}
template <class T>
const void* begin_of(const optim::ParamView<T>& p) {
  return p.w;
}

// Tensors of n elements each, one after the other, a block for each chunk of each. An item has n elements.
template <class Item>
struct Table {
  static constexpr int most = int(3840 / (sizeof(Item) + sizeof(unsigned)));  // arguments are at most 4 KB

  Item items[most];
  unsigned ends[most];  // blocks of the items up to each
  int count = 0;

  unsigned blocks() const { return count == 0 ? 0 : ends[count - 1]; }
  bool holds(const Item& item) const {
    return std::any_of(items, items + count,
                       [&](const Item& other) { return begin_of(other) == begin_of(item); });
  }
  void add(const Item& item) {
    ends[count] = blocks() + unsigned((item.n + chunk - 1) / chunk);
    items[count++] = item;
  }
};

// f(item, first), by a block, for each chunk of each item, which begins at element `first`. A tensor that is given twice
// begins another launch.
template <class Item, class F>
__global__ void __launch_bounds__(most_threads, 2) chunks_kernel(Table<Item> table, F f) {
  cuda::begin_kernel();
  int k = 0;
  while (table.ends[k] <= blockIdx.x) ++k;
  const Item item = table.items[k];
  f(item, int64_t(blockIdx.x - (k == 0 ? 0 : table.ends[k - 1])) * chunk);
}
template <class Item, class F>
void launch_chunks(const Cuda& device, const char* name, Table<Item>& table, F f) {
  if (table.blocks() > 0) {
    cuda::launch(name, chunks_kernel<Item, F>, device.stream, {table.blocks(), most_threads}, table, f);
  }
  table.count = 0;
}
template <class Item, class F>
void each_chunk(const Cuda& device, const char* name, std::span<const Item> items, F f) {
  Table<Item> table{};
  for (const Item& item : items) {
    if (item.n == 0) continue;
    if (table.count == Table<Item>::most || table.holds(item)) launch_chunks(device, name, table, f);
    table.add(item);
  }
  launch_chunks(device, name, table, f);
}

// f(p[i]...) for the elements of the block's chunk.
template <class F, class... T>
AG_DEVICE void for_chunk(int64_t first, int64_t n, const F& f, T*... p) {
  constexpr int size = cuda::pack_size<T...>;
  const bool aligned = cuda::aligned<size>(p...);
  const int64_t end = first + chunk < n ? first + chunk : n;
  for (int64_t i = first + threadIdx.x * size; i < end; i += most_threads * size) {
    cuda::for_pack<size>(aligned && i + size <= end, end - i, f, (p + i)...);
  }
}

// The gradients of dtype T, each with the number of chunks before it.
template <class T>
std::vector<Elements<T>>& elements(std::span<const Gradient> grads) {
  thread_local std::vector<Elements<T>> all;  // kept, so that a step allocates nothing
  all.clear();
  int64_t chunks = 0;
  for (const Gradient& g : grads) {
    std::visit(
        [&](auto x) {
          if constexpr (std::is_same_v<decltype(x), std::span<T>>)
            all.push_back({x.data(), int64_t(x.size()), chunks});
          chunks += (int64_t(x.size()) + chunk - 1) / chunk;
        },
        g);
  }
  return all;
}

template <class T>
void sum_squares(const Cuda& device, double* sums, std::span<const Gradient> grads) {
  each_chunk(device, "grad_norm", std::span<const Elements<T>>(elements<T>(grads)),
             [=] AG_LAMBDA(const Elements<T>& g, int64_t first) {
               double sum = 0;
               for_chunk(
                   first, g.n, [&](T x) { sum += double(x) * double(x); }, static_cast<const T*>(g.x));
               sum = cuda::block_sum(sum);
               if (threadIdx.x == 0) sums[g.first_chunk + first / chunk] = sum;
             });
}

template <class T>
void scale(const Cuda& device, std::span<const Gradient> grads, const Clip& clip) {
  each_chunk(device, "clip_grads", std::span<const Elements<T>>(elements<T>(grads)),
             [=] AG_LAMBDA(const Elements<T>& g, int64_t first) {
               const double factor = clip.factor();
               if (factor == 1) return;
               for_chunk(
                   first, g.n, [=](T& x) { x *= T(factor); }, g.x);
             });
}

}  // namespace

// The numbers of the step, which lie in memory of the device, are worked out once a block.
template <class T>
void adamw(const Cuda& device, std::span<const optim::ParamView<T>> params, double beta1, double beta2,
           double eps, const Clip& clip) {
  each_chunk(device, "adamw", params, [=] AG_LAMBDA(const optim::ParamView<T>& p, int64_t first) {
    AG_SHARED(T, numbers, 4);
    if (threadIdx.x == 0) {
      numbers[0] = T(1 - *p.lr * p.weight_decay);
      numbers[1] = T(*p.lr / (1 - std::pow(beta1, *p.step)));
      numbers[2] = T(1 / std::sqrt(1 - std::pow(beta2, *p.step)));
      numbers[3] = T(clip.factor());
    }
    __syncthreads();
    const T keep = numbers[0], rate = numbers[1], root = numbers[2], factor = numbers[3], epsilon = T(eps);
    const T old1 = T(beta1), new1 = T(1 - beta1), old2 = T(beta2), new2 = T(1 - beta2);
    const auto update = [=](T& w, T& m, T& v, T g) {
      const T d = g * factor;
      m = old1 * m + new1 * d;
      v = old2 * v + new2 * (d * d);
      w = keep * w - rate * m / (std::sqrt(v) * root + epsilon);
    };
    for_chunk(first, p.n, update, p.w, p.state[0], p.state[1], p.g);
  });
}

template <class T>
void sgd(const Cuda& device, std::span<const optim::ParamView<T>> params, double momentum, bool nesterov) {
  each_chunk(device, "sgd", params, [=] AG_LAMBDA(const optim::ParamView<T>& p, int64_t first) {
    const T lr = T(*p.lr), mu = T(momentum), decay = T(p.weight_decay);
    if (T* const velocities = p.state[0]) {
      const auto update = [=](T& w, T& v, T g) {
        const T d = g + decay * w;
        v = mu * v + d;
        w -= lr * (nesterov ? d + mu * v : v);
      };
      for_chunk(first, p.n, update, p.w, velocities, p.g);
    } else {
      for_chunk(
          first, p.n, [=](T& w, T g) { w -= lr * (g + decay * w); }, p.w, p.g);
    }
  });
}

template <class T>
void ema(const Cuda& device, std::span<const optim::ParamView<T>> params, double decay) {
  const T share = T(1 - decay);
  each_chunk(device, "ema", params, [=] AG_LAMBDA(const optim::ParamView<T>& p, int64_t first) {
    for_chunk(
        first, p.n, [=](T& w, T g) { w += share * (g - w); }, p.w, p.g);
  });
}

void grad_norm(const Cuda& device, double* norm, std::span<const Gradient> grads) {
  int64_t chunks = 0;
  for (const Gradient& g : grads)
    std::visit([&](auto x) { chunks += (int64_t(x.size()) + chunk - 1) / chunk; }, g);
  const cuda::Scratch<double> sums(device, chunks);
  sum_squares<float>(device, sums.data(), grads);
  sum_squares<double>(device, sums.data(), grads);
  cuda::rows(device, "grad_norm", 1, chunks, [=, sums = sums.data()] AG_LAMBDA(int64_t) {
    const double total = cuda::row_sum<double>(chunks, [=](int64_t i) { return sums[i]; });
    if (threadIdx.x == 0) *norm = std::sqrt(total);
  });
}

void clip_grads(const Cuda& device, std::span<const Gradient> grads, const Clip& clip) {
  scale<float>(device, grads, clip);
  scale<double>(device, grads, clip);
}

AG_INSTANTIATE_FLOATING(adamw)
AG_INSTANTIATE_FLOATING(sgd)
AG_INSTANTIATE_FLOATING(ema)

}  // namespace on_cuda
}  // namespace altgrad::kernels
