// Which element of a matrix each register of each lane holds, written down from the PTX ISA's sections on fragments of
// mma.m16n8k16, mma.m16n8k8 and ldmatrix. A GPU must pass this as well.
#include "kernels.h"

#include <array>
#include <bit>

#include "buffer.h"
#include "catch.h"

using namespace altgrad;

namespace {

struct Element {
  int row, column;
};

// Element i of a lane, with the manual's names for lane / 4 and lane % 4.
Element a_of_bf16(int lane, int i) {
  const int group = lane >> 2, in_group = lane % 4;
  return {i < 2 || (i >= 4 && i < 6) ? group : group + 8, in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
Element b_of_bf16(int lane, int i) {
  const int group = lane >> 2, in_group = lane % 4;
  return {in_group * 2 + (i & 1) + (i < 2 ? 0 : 8), group};
}
Element a_of_tf32(int lane, int i) {
  const int group = lane >> 2, in_group = lane % 4;
  return {i == 0 || i == 2 ? group : group + 8, i < 2 ? in_group : in_group + 4};
}
Element b_of_tf32(int lane, int i) {
  const int group = lane >> 2, in_group = lane % 4;
  return {i == 0 ? in_group : in_group + 4, group};
}
Element d_of_both(int lane, int i) {
  const int group = lane >> 2, in_group = lane % 4;
  return {i < 2 ? group : group + 8, in_group * 2 + (i & 1)};
}

// Small numbers without symmetry, so that an element in a wrong place changes the product.
int value_a(Element e) { return (e.row * 7 + e.column * 3 + e.row * e.column) % 31 - 15; }
int value_b(Element e) { return (e.row * 5 + e.column * 11 + e.row * e.row) % 29 - 14; }
int value_d(Element e) { return e.row * 8 + e.column; }

uint32_t bits(int value) { return std::bit_cast<uint32_t>(float(value)); }

void check_product(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b, int k, bool tf32) {
  std::vector<float> d;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) d.push_back(float(value_d(d_of_both(lane, i))));
  }
  const Buffer<uint32_t> da(a), db(b);
  const Buffer<float> dd(d);
  cuda::multiply_fragments(dd, da, db, tf32);
  const std::vector<float> got = dd.host();
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const Element e = d_of_both(lane, i);
      int expected = value_d(e);
      for (int p = 0; p < k; ++p) expected += value_a({e.row, p}) * value_b({p, e.column});
      CAPTURE(lane, i);
      CHECK(got[size_t(lane * 4 + i)] == float(expected));
    }
  }
}

}  // namespace

TEST_CASE("fragments of mma.m16n8k16 in bf16", "[fragments]") {
  std::vector<uint32_t> a, b;
  for (int lane = 0; lane < 32; ++lane) {
    for (int r = 0; r < 4; ++r)
      a.push_back(bits(value_a(a_of_bf16(lane, 2 * r))) >> 16 |
                  (bits(value_a(a_of_bf16(lane, 2 * r + 1))) & 0xffff0000u));
    for (int r = 0; r < 2; ++r)
      b.push_back(bits(value_b(b_of_bf16(lane, 2 * r))) >> 16 |
                  (bits(value_b(b_of_bf16(lane, 2 * r + 1))) & 0xffff0000u));
  }
  check_product(a, b, 16, false);
}

TEST_CASE("fragments of mma.m16n8k8 in tf32, whose low 13 bits count for nothing", "[fragments]") {
  std::vector<uint32_t> a, b;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) a.push_back(bits(value_a(a_of_tf32(lane, i))) | 0x1fffu);
    for (int i = 0; i < 2; ++i) b.push_back(bits(value_b(b_of_tf32(lane, i))) | 0x1abcu);
  }
  check_product(a, b, 8, true);
}

TEST_CASE("fragments of ldmatrix, as stored and transposed", "[fragments]") {
  std::vector<uint16_t> x;  // matrix, row, column as digits of its own
  for (int i = 0; i < 256; ++i) x.push_back(uint16_t(1000 * (i / 64) + 10 * (i / 8 % 8) + i % 8));
  const Buffer<uint16_t> dx(x);
  const Buffer<uint32_t> fragments(128);
  for (const bool transposed : {false, true}) {
    cuda::load_fragments(fragments, dx, transposed);
    const std::vector<uint32_t> got = fragments.host();
    for (int lane = 0; lane < 32; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const int row = lane / 4, column = 2 * (lane % 4);
        const auto element = [&](int c) {
          return uint32_t(1000 * matrix + (transposed ? 10 * c + row : 10 * row + c));
        };
        CAPTURE(transposed, lane, matrix);
        CHECK(got[size_t(lane * 4 + matrix)] == (element(column) | element(column + 1) << 16));
      }
    }
  }
}
