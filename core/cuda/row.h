// Kernels on rows of numbers, each written once as a function of a row and of the threads that share it. Those of a
// short row are a warp, which keeps what it has read or worked out in registers. Those of a long one are a block, which
// reads again and works out again: what it reads is still in a cache.
#pragma once

#include <altgrad/core/cuda/approx.h>
#include <altgrad/core/cuda/packs.h>
#include <altgrad/core/dtype.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

namespace altgrad::cuda {

// f(p[k]...) for the packs at p, in the type that elements are computed in.
template <int size, class F, class... T>
AG_DEVICE auto pack_of(const F& f, bool aligned, const T*... p) {
  const auto run = [&](const Pack<T, size>&... packs) {
    Pack<decltype(f(Compute<T>()...)), size> y;
    for (int k = 0; k < size; ++k) y.at[k] = f(Compute<T>(packs.at[k])...);
    return y;
  };
  return run(load<size>(p, aligned)...);
}

// What a thread has of a row: pack j, which begins at element i.
template <class C, int size, int slots>
struct Kept {
  Pack<C, size> packs[slots];
  AG_DEVICE const Pack<C, size>& operator()(int j, int64_t) const { return packs[j]; }
};

struct Same {
  template <class T>
  AG_DEVICE T operator()(T x) const {
    return x;
  }
};

// A row of n numbers, cut into packs; a thread of a warp has `slots` of them, of a block, where slots = 0, as many as
// there are. Which thread has which, and so the order of sums, follows from n alone.
template <int size, int slots>
struct Row {
  static constexpr bool is_short = slots > 0;

  int64_t n;
  bool aligned;  // is what is read and written?
  bool held;     // has the block shared memory for a long row?

  AG_DEVICE int64_t begin(int j) const { return (j * 32 + thread()) * size; }  // of pack j of a short row
  AG_DEVICE int thread() const { return int(slots > 0 ? threadIdx.x % 32 : threadIdx.x); }

  // Is the number in this column the thread's?
  AG_DEVICE bool has(int64_t column) const {
    return column / size % (slots > 0 ? 32 : int64_t(blockDim.x)) == thread();
  }

  // f(i, values(j, i)...) for the packs that are the thread's.
  template <class F, class... V>
  AG_DEVICE void each(const F& f, const V&... values) const {
    if constexpr (slots > 0) {
      AG_UNROLL for (int j = 0; j < slots; ++j) {
        if (const int64_t i = begin(j); i < n) f(i, values(j, i)...);
      }
    } else {
      for (int64_t i = thread() * size; i < n; i += int64_t(blockDim.x) * size) f(i, values(0, i)...);
    }
  }

  // The numbers f(p[i]...): read when they are asked for.
  template <class F, class... T>
  AG_DEVICE auto read(const F& f, const T*... p) const {
    return [=, aligned = aligned](int, int64_t i) { return pack_of<size>(f, aligned, (p + i)...); };
  }
  // The same, kept where the row is short: all that the thread has is on its way before any of it is worked with.
  template <class F, class... T>
  AG_DEVICE auto keep(const F& f, const T*... p) const {
    if constexpr (slots > 0) {
      return worked_out<T...>(f, stored(true, p)...);
    } else {
      return read(f, p...);
    }
  }
  // The numbers at p where they are wanted, else zeros, and p is not read.
  template <class T>
  AG_DEVICE auto keep_if(bool wanted, const T* p) const {
    if constexpr (slots > 0) {
      return worked_out<T>(Same(), stored(wanted, p));
    } else {
      const auto read_p = read(Same(), p);
      return [=](int j, int64_t i) { return wanted ? read_p(j, i) : Pack<Compute<T>, size>{}; };
    }
  }

  // The numbers at p: kept where the row is short, in shared memory where it is long and held. There a thread reads
  // what it has put there itself, so that none waits for another.
  template <class T>
  AG_DEVICE auto hold(const T* p) const {
    if constexpr (slots > 0) {
      return keep(Same(), p);
    } else {
      if (!held) return read(Same(), p);
      T* const own = shared_memory<T>();
      each([&](int64_t i) {
        if (aligned && size * sizeof(T) == 16) {
          copy_async(own + i, p + i);
        } else {
          store(load<size>(p + i, aligned), own + i, true);
        }
      });
      commit_copies();
      wait_for_copies();
      return read(Same(), static_cast<const T*>(own));
    }
  }

  // Numbers that the thread has written to p: `values` where the row is short, those at p where it is long.
  template <class V, class T>
  AG_DEVICE auto written(const V& values, const T* p) const {
    if constexpr (slots > 0) {
      return values;
    } else {
      return read(Same(), p);
    }
  }

  // The numbers f(values...), kept where those are.
  template <class F, class... V>
  AG_DEVICE auto then(const F& f, const V&... values) const {
    const auto apply = [=](const auto&... packs) {
      Pack<std::decay_t<decltype(f(packs.at[0]...))>, size> y;
      for (int k = 0; k < size; ++k) y.at[k] = f(packs.at[k]...);
      return y;
    };
    if constexpr (slots > 0) {
      Kept<Result<F, V...>, size, slots> kept{};
      AG_UNROLL for (int j = 0; j < slots; ++j) {
        if (begin(j) < n) kept.packs[j] = apply(values(j, begin(j))...);
      }
      return kept;
    } else {
      return [=](int j, int64_t i) { return apply(values(j, i)...); };
    }
  }

  // The sum of f(values...), and the largest, of which NaN is none.
  template <class F, class... V>
  AG_DEVICE auto sum(const F& f, const V&... values) const {
    Result<F, V...> total = 0;
    each(
        [&](int64_t, const auto&... packs) {
          for (int k = 0; k < size; ++k) total += f(packs.at[k]...);
        },
        values...);
    return reduced(total, decltype(total)(0), Add());
  }
  template <class F, class... V>
  AG_DEVICE auto max(const F& f, const V&... values) const {
    constexpr auto none = -std::numeric_limits<Result<F, V...>>::infinity();
    Result<F, V...> top = none;
    each(
        [&](int64_t, const auto&... packs) {
          for (int k = 0; k < size; ++k) top = Larger()(top, f(packs.at[k]...));
        },
        values...);
    return reduced(top, none, Larger());
  }
  // Of a number of each thread.
  template <class C, class F>
  AG_DEVICE C reduced(C x, C neutral, const F& combine) const {
    if constexpr (slots > 0) return warp_reduce(x, combine);
    return block_reduce(x, neutral, combine);
  }

  // y[i] = f(values...)
  template <class T, class F, class... V>
  AG_DEVICE void write(T* y, const F& f, const V&... values) const {
    each(
        [&](int64_t i, const auto&... packs) {
          Pack<T, size> pack;
          for (int k = 0; k < size; ++k) pack.at[k] = rounded<T>(f(packs.at[k]...));
          store(pack, y + i, aligned);
        },
        values...);
  }

 private:
  template <class F, class... V>
  using Result = std::decay_t<decltype(std::declval<F>()(std::declval<V>()(0, int64_t(0)).at[0]...))>;

  // What lies at p for the thread's slots; behind the row, and where it is not wanted, there are zeros.
  template <class T>
  AG_DEVICE Kept<T, size, slots> stored(bool wanted, const T* p) const {
    Kept<T, size, slots> kept{};
    const int64_t end = wanted ? n : 0;
    AG_UNROLL for (int j = 0; j < slots; ++j) {
      if (const int64_t i = begin(j); i < end) kept.packs[j] = load<size>(p + i, aligned);
    }
    return kept;
  }
  template <class... T, class F>
  AG_DEVICE static auto worked_out(const F& f, const Kept<T, size, slots>&... x) {
    Kept<decltype(f(Compute<T>()...)), size, slots> kept;
    AG_UNROLL for (int j = 0; j < slots; ++j) {
      for (int k = 0; k < size; ++k) kept.packs[j].at[k] = f(Compute<T>(x.packs[j].at[k])...);
    }
    return kept;
  }
};

constexpr int warps = 4;  // of a block, each with a row
// The threads of a long row, at most. Half of them leave a thread the registers that f64 takes.
template <class T>
constexpr int most_row_threads = sizeof(T) < sizeof(double) ? 512 : 256;

// Of a short row of T's, for what a thread keeps of it: the packs in 128 bytes of registers, and how long it may be.
template <class T, int size>
constexpr int slots_of = int(128 / (size * sizeof(Compute<T>)));
template <class T>
constexpr int64_t longest_short_row = 32 * 128 / sizeof(Compute<T>);

// Calls f with the size of the packs that rows of n T's are cut into.
template <class T, class F>
void with_pack_size(int64_t n, F f) {
  if (n % pack_size<T> == 0) {
    f(std::integral_constant<int, pack_size<T>>());
  } else {
    f(std::integral_constant<int, 1>());
  }
}
// Calls f with how many slots short rows of n T's have, and whether they are aligned: a kernel that knows it at once has
// all its loads on their way at once. Slots come in quarters of the most.
template <class T>
int quarters(int64_t n) {
  return int(std::clamp<int64_t>((4 * n + longest_short_row<T> - 1) / longest_short_row<T>, 2, 4));
}
template <class T, int size, class F>
void with_slots(int64_t n, bool aligned, F f) {
  constexpr int quarter = slots_of<T, size> / 4;
  if (size == 1 || !aligned) return f(std::integral_constant<int, 4 * quarter>(), std::false_type());
  if constexpr (size > 1) {
    switch (quarters<T>(n)) {
      case 2: return f(std::integral_constant<int, 2 * quarter>(), std::true_type());
      case 3: return f(std::integral_constant<int, 3 * quarter>(), std::true_type());
      default: return f(std::integral_constant<int, 4 * quarter>(), std::true_type());
    }
  }
}

template <int size, int slots, bool aligned, class F>
__global__ void __launch_bounds__(32 * warps, 2) short_row_kernel(F f, int64_t rows, int64_t n) {
  begin_kernel();
  const int64_t r = int64_t(blockIdx.x) * warps + threadIdx.x / 32;
  if (r < rows) f(r, Row<size, slots>{n, aligned, false});
}
template <int size, int threads, class F>
__global__ void __launch_bounds__(threads, 2)
    long_row_kernel(F f, int64_t rows, int64_t n, bool aligned, bool held) {
  begin_kernel();
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) f(r, Row<size, 0>{n, aligned, held});
}

template <class T, class F, class... P>
void launch_rows(const Cuda& device, const char* name, int64_t rows, int64_t n, int64_t most_held, F f,
                 const P*... p) {
  if (rows <= 0) return;
  with_pack_size<T>(n, [&]<int size>(std::integral_constant<int, size>) {
    const bool packs_are_aligned = aligned<size>(p...);
    if (n <= longest_short_row<T>) {
      with_slots<T, size>(
          n, packs_are_aligned,
          [&]<int slots, bool aligned>(std::integral_constant<int, slots>, std::bool_constant<aligned>) {
            launch(name, short_row_kernel<size, slots, aligned, F>, device.stream,
                   {unsigned((rows + warps - 1) / warps), 32 * warps}, f, rows, n);
          });
    } else {
      constexpr int threads = most_row_threads<T>;
      const int64_t bytes = n * int64_t(sizeof(T));
      const bool held = bytes <= most_held;
      if (held) {
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(long_row_kernel<size, threads, F>),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, int(most_held)),
              name);
      }
      launch(name, long_row_kernel<size, threads, F>, device.stream,
             {blocks_for(rows), threads_for(n / size, threads), held ? size_t(bytes) : 0}, f, rows, n,
             packs_are_aligned, held);
    }
  });
}

// f(r, row) for r < rows, by all threads that share row r. Of T are the rows among what the pointers p point to, all of which
// f reads or writes in packs.
template <class T, class F, class... P>
void each_row(const Cuda& device, const char* name, int64_t rows, int64_t n, F f, const P*... p) {
  launch_rows<T>(device, name, rows, n, 0, f, p...);
}

// The same, where f holds a row of T's: one that is so short that a multiprocessor has room for a second block, which
// works while the first one reads. Results do not depend on it.
template <class T, class F, class... P>
void each_held_row(const Cuda& device, const char* name, int64_t rows, int64_t n, F f, const P*... p) {
  constexpr int others = 2048;  // bytes that a block has beside
  int most = 0;
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index), name);
  launch_rows<T>(device, name, rows, n, most / 2 - others, f, p...);
}

}  // namespace altgrad::cuda
