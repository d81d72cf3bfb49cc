// Warp collectives. The lane that comes last sees what all have brought, and does the work for all.
#include <bit>

#include "block.h"
#include "sanitizers.h"

namespace altgrad::simulator {
namespace {

template <class T>
T& of_lane(int lane) {
  return *static_cast<T*>(own_warp().values[lane]);
}

struct Shuffle {
  uint64_t value;
  int source;
};
struct Product {
  float* d;
  const uint32_t *a, *b;
};
struct Rows {
  uint32_t* fragments;
  const uint16_t* row;
};

float bf16(uint32_t pair, int i) { return std::bit_cast<float>(i == 0 ? pair << 16 : pair & 0xffff0000u); }
float tf32(uint32_t bits) {
  return std::bit_cast<float>(bits & ~0x1fffu);
}  // the low 13 bits are not looked at

// Lane 4 g + t holds columns 2 t and 2 t + 1 of rows g and g + 8. Products are exact, sums in f32 in ascending k: one
// of the orders that a tensor core may choose.
template <int K>
void add_product(const float (&a)[16][K], const float (&b)[K][8]) {
  for (int lane = 0; lane < warp_size; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float& d = of_lane<Product>(lane).d[i];
      for (int k = 0; k < K; ++k) d += a[row][k] * b[k][column];
    }
  }
}

}  // namespace

void warp_barrier(unsigned mask, Location where) {
  void* const address = warp_address();
  release(address);
  if (enter_collective("__syncwarp", mask, nullptr, where)) leave_collective();
  acquire(address);
}

uint64_t shuffle_bits(const char* what, unsigned mask, uint64_t value, int source, Location where) {
  Shuffle own{value, source};
  if (!enter_collective(what, mask, &own, where)) return own.value;
  uint64_t brought[warp_size];
  for (int i = 0; i < warp_size; ++i) brought[i] = of_lane<Shuffle>(i).value;
  for (int i = 0; i < warp_size; ++i) {
    Shuffle& to = of_lane<Shuffle>(i);
    if (to.source >= 0 && to.source < warp_size) to.value = brought[to.source];
  }
  leave_collective();
  return own.value;
}

unsigned ballot(const char* what, unsigned mask, bool predicate, Location where) {
  unsigned own = predicate;
  if (!enter_collective(what, mask, &own, where)) return own;
  unsigned bits = 0;
  for (int i = 0; i < warp_size; ++i) bits |= of_lane<unsigned>(i) << i;
  for (int i = 0; i < warp_size; ++i) of_lane<unsigned>(i) = bits;
  leave_collective();
  return own;
}

// Registers 0 to 3 of a, with g and t as above: rows g, g + 8, g, g + 8; columns 2 t and 2 t + 1 twice, then these +
// 8. Of b: rows 2 t and 2 t + 1, then these + 8, of column g.
void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Location where) {
  Product own{d, a, b};
  if (!enter_collective("mma.sync of bf16", ~0u, &own, where)) return;
  float A[16][16], B[16][8];
  for (int lane = 0; lane < warp_size; ++lane) {
    const int g = lane / 4, t = lane % 4;
    const Product& from = of_lane<Product>(lane);
    for (int r = 0; r < 4; ++r) {
      for (int i = 0; i < 2; ++i) A[g + r % 2 * 8][2 * t + i + r / 2 * 8] = bf16(from.a[r], i);
    }
    for (int r = 0; r < 2; ++r) {
      for (int i = 0; i < 2; ++i) B[2 * t + i + r * 8][g] = bf16(from.b[r], i);
    }
  }
  add_product(A, B);
  leave_collective();
}

// Registers of a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4). Of b: (t, g), (t + 4, g).
void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Location where) {
  Product own{d, a, b};
  if (!enter_collective("mma.sync of tf32", ~0u, &own, where)) return;
  float A[16][8], B[8][8];
  for (int lane = 0; lane < warp_size; ++lane) {
    const int g = lane / 4, t = lane % 4;
    const Product& from = of_lane<Product>(lane);
    for (int r = 0; r < 4; ++r) A[g + r % 2 * 8][t + r / 2 * 4] = tf32(from.a[r]);
    for (int r = 0; r < 2; ++r) B[t + r * 4][g] = tf32(from.b[r]);
  }
  add_product(A, B);
  leave_collective();
}

void exchange_rows(uint32_t (&fragments)[4], const uint16_t (&row)[8], bool transposed, Location where) {
  Rows own{fragments, row};
  if (!enter_collective("ldmatrix", ~0u, &own, where)) return;
  for (int lane = 0; lane < warp_size; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; ++m) {
      const auto value = [&](int i) -> uint32_t {
        return transposed ? of_lane<Rows>(8 * m + 2 * t + i).row[g] : of_lane<Rows>(8 * m + g).row[2 * t + i];
      };
      of_lane<Rows>(lane).fragments[m] = value(0) | value(1) << 16;
    }
  }
  leave_collective();
}

void fail_alignment(const char* what, size_t bytes, Location where) {
  fail(std::string(what) + ": an address that is not aligned to " + std::to_string(bytes), where);
}

void begin_copy(AsyncCopy copy) { self->copies.emplace_back(self->copy_group, copy); }
void commit_copies() { ++self->copy_group; }
bool take_copy(int pending, AsyncCopy& copy) {
  auto& copies = self->copies;
  if (copies.empty() || copies.front().first >= self->copy_group - pending) return false;
  copy = copies.front().second;
  copies.erase(copies.begin());
  return true;
}

}  // namespace altgrad::simulator
