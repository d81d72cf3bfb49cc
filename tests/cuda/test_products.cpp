// Products through cuBLASLt against plain loops in f64: all types and transposes, padded and batched matrices,
// epilogues, alpha and beta of the host and of the device.
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <simulator/simulator.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <random>

#include "catch.h"
#include "product.h"

using namespace altgrad;

namespace {

// Numbers as the type holds them, and what they are.
struct Values {
  std::vector<double> numbers;
  std::vector<char> bytes;
};

template <class T>
Values rounded(const std::vector<double>& numbers) {
  Values v;
  for (const double x : numbers) {
    const T held = T(float(x));
    if constexpr (std::is_same_v<T, double>) {
      v.numbers.push_back(x);
      v.bytes.insert(v.bytes.end(), reinterpret_cast<const char*>(&x), reinterpret_cast<const char*>(&x + 1));
    } else {
      v.numbers.push_back(double(float(held)));
      v.bytes.insert(v.bytes.end(), reinterpret_cast<const char*>(&held),
                     reinterpret_cast<const char*>(&held + 1));
    }
  }
  return v;
}
Values as(cudaDataType_t type, const std::vector<double>& numbers) {
  switch (type) {
    case CUDA_R_64F: return rounded<double>(numbers);
    case CUDA_R_16BF: return rounded<__nv_bfloat16>(numbers);
    case CUDA_R_8F_E4M3: return rounded<__nv_fp8_e4m3>(numbers);
    case CUDA_R_8F_E5M2: return rounded<__nv_fp8_e5m2>(numbers);
    default: return rounded<float>(numbers);
  }
}
std::vector<double> numbers_of(cudaDataType_t type, const std::vector<char>& bytes) {
  std::vector<double> numbers;
  const auto read = [&]<class T>(T) {
    for (size_t i = 0; i < bytes.size(); i += sizeof(T)) {
      T x;
      std::memcpy(static_cast<void*>(&x), &bytes[i], sizeof x);
      if constexpr (std::is_same_v<T, double>) {
        numbers.push_back(x);
      } else {
        numbers.push_back(double(float(x)));
      }
    }
  };
  if (type == CUDA_R_64F) read(double());
  if (type == CUDA_R_32F) read(float());
  if (type == CUDA_R_16BF) read(__nv_bfloat16());
  if (type == CUDA_R_8F_E4M3) read(__nv_fp8_e4m3());
  return numbers;
}
std::vector<double> random(size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(-2, 2);
  std::vector<double> numbers(n);
  for (double& x : numbers) x = uniform(generator);
  return numbers;
}

struct Case {
  cudaDataType_t ab, cd;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  bool ta = false, tb = false;
  int64_t m = 5, n = 7, k = 9;
  double alpha = 1, beta = 0;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  bool on_device = false;  // alpha and beta
  int32_t batch = 1;
  std::optional<cudaDataType_t> b = std::nullopt;  // where it differs from ab
};

struct Results {
  std::vector<double> d, bias, aux;
};

double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double gelu_slope(double x) {  // by a difference
  return (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5;
}

// The largest difference between what cuBLASLt gives and plain loops, all of them: D and what lies between its
// columns, the bias's gradient, the auxiliary matrix.
double difference(const Case& c) {
  const cudaDataType_t type_b = c.b.value_or(c.ab);
  const bool fp8 = c.ab == CUDA_R_8F_E4M3 || c.ab == CUDA_R_8F_E5M2;
  const cudaDataType_t scale_type = c.ab == CUDA_R_64F ? CUDA_R_64F : CUDA_R_32F;
  const int64_t pad = fp8 ? 16 : 3, aux_ld = (c.m + 7) / 8 * 8;
  const int64_t rows_a = c.ta ? c.k : c.m, columns_a = c.ta ? c.m : c.k;
  const int64_t rows_b = c.tb ? c.n : c.k, columns_b = c.tb ? c.k : c.n;
  const Matrix ma{c.ab, rows_a, columns_a, rows_a + pad, c.batch, (rows_a + pad) * columns_a};
  const Matrix mb{type_b, rows_b, columns_b, rows_b + pad, c.batch, (rows_b + pad) * columns_b};
  const Matrix md{c.cd, c.m, c.n, c.m + pad, c.batch, (c.m + pad) * c.n};
  const Values a = as(c.ab, random(size_t(ma.stride * c.batch), 1));
  const Values b = as(type_b, random(size_t(mb.stride * c.batch), 2));
  const Values d = as(c.cd, random(size_t(md.stride * c.batch), 3));
  const int64_t length = c.epilogue == CUBLASLT_EPILOGUE_BGRADB ? c.n : c.m;
  const Values bias = as(fp8 ? CUDA_R_16BF : c.cd, random(size_t(length * c.batch), 4));
  const Values aux = as(c.cd, random(size_t(aux_ld * c.n * c.batch), 5));
  const Values numbers = as(scale_type, {c.alpha, c.beta});
  const float scales[2] = {0.5f, 3};

  const Buffer<char> da(a.bytes), db(b.bytes), dd(d.bytes), dbias(bias.bytes), daux(aux.bytes),
      dnumbers(numbers.bytes);
  const Buffer<float> dscales({scales[0], scales[1]});
  Descriptors t(c.compute, scale_type);
  t.set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t(c.ta ? CUBLAS_OP_T : CUBLAS_OP_N));
  t.set(CUBLASLT_MATMUL_DESC_TRANSB, int32_t(c.tb ? CUBLAS_OP_T : CUBLAS_OP_N));
  t.set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t(c.epilogue));
  t.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(dbias));
  t.set(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, length);
  t.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(daux));
  t.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, aux_ld);
  t.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, aux_ld * c.n);
  if (c.on_device) t.set(CUBLASLT_MATMUL_DESC_POINTER_MODE, int32_t(CUBLASLT_POINTER_MODE_DEVICE));
  if (fp8) {
    t.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<void*>(dscales));
    t.set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<void*>(dscales + 1));
  }
  for (const Matrix& m : {ma, mb, md, md}) t.add(m);
  const size_t bytes = scale_type == CUDA_R_64F ? 8 : 4;
  const char* const scalars = c.on_device ? static_cast<const char*>(dnumbers) : numbers.bytes.data();
  const cublasStatus_t status = t.multiply(scalars, da, db, scalars + bytes, dd, dd);
  INFO((status == CUBLAS_STATUS_SUCCESS ? "" : simulator::refusal()));
  REQUIRE(status == CUBLAS_STATUS_SUCCESS);
  const Results got{numbers_of(c.cd, dd.host()), numbers_of(fp8 ? CUDA_R_16BF : c.cd, dbias.host()),
                    numbers_of(c.cd, daux.host())};

  Results expected{d.numbers, bias.numbers, aux.numbers};
  const bool adds_bias = (c.epilogue & 4) != 0, sums_rows = (c.epilogue & 16) != 0,
             is_gelu = (c.epilogue & 32) != 0;
  for (int64_t z = 0; z < c.batch; ++z) {
    const auto at_a = [&](int64_t i, int64_t p) {
      return a.numbers[size_t(z * ma.stride + (c.ta ? p + i * ma.ld : i + p * ma.ld))];
    };
    const auto at_b = [&](int64_t p, int64_t j) {
      return b.numbers[size_t(z * mb.stride + (c.tb ? j + p * mb.ld : p + j * mb.ld))];
    };
    for (int64_t i = 0; i < length; ++i) {
      double& sum = expected.bias[size_t(z * length + i)];
      if (sums_rows) sum = 0;
      if (c.epilogue == CUBLASLT_EPILOGUE_BGRADA || c.epilogue == CUBLASLT_EPILOGUE_BGRADB) {
        sum = 0;
        for (int64_t p = 0; p < c.k; ++p)
          sum += c.epilogue == CUBLASLT_EPILOGUE_BGRADA ? at_a(i, p) : at_b(p, i);
      }
    }
    for (int64_t i = 0; i < c.m; ++i) {
      for (int64_t j = 0; j < c.n; ++j) {
        double& to = expected.d[size_t(z * md.stride + i + j * md.ld)];
        double& at_aux = expected.aux[size_t(z * aux_ld * c.n + i + j * aux_ld)];
        double sum = 0;
        for (int64_t p = 0; p < c.k; ++p) sum += at_a(i, p) * at_b(p, j);
        double value = c.alpha * sum * (fp8 ? double(scales[0]) * double(scales[1]) : 1) + c.beta * to;
        if (adds_bias) value += bias.numbers[size_t(z * c.m + i)];
        if (is_gelu && (c.epilogue & 128)) at_aux = value;
        if (is_gelu) value = gelu(value);
        if (c.epilogue & 64) value *= gelu_slope(at_aux);
        if (sums_rows) expected.bias[size_t(z * c.m + i)] += value;
        to = value;
      }
    }
  }
  double worst = 0;
  const auto compare = [&](const std::vector<double>& x, const std::vector<double>& y) {
    REQUIRE(x.size() == y.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double off = std::abs(x[i] - y[i]) / (1 + std::abs(y[i]));
      worst = off <= worst ? worst : off;  // NaN counts
    }
  };
  compare(got.d, expected.d);
  compare(got.bias, expected.bias);
  compare(got.aux, expected.aux);
  return worst;
}

constexpr cublasLtEpilogue_t epilogues[] = {CUBLASLT_EPILOGUE_DEFAULT,  CUBLASLT_EPILOGUE_BIAS,
                                            CUBLASLT_EPILOGUE_GELU,     CUBLASLT_EPILOGUE_GELU_BIAS,
                                            CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                                            CUBLASLT_EPILOGUE_DGELU,    CUBLASLT_EPILOGUE_BGRADA,
                                            CUBLASLT_EPILOGUE_BGRADB,   CUBLASLT_EPILOGUE_DGELU_BGRAD};

}  // namespace

TEST_CASE("products of all types in all four layouts, padded, batched, scaled and added", "[products]") {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      for (const bool on_device : {false, true}) {
        for (const int32_t batch : {1, 3}) {
          CAPTURE(ta, tb, on_device, batch);
          Case c{.ab = CUDA_R_32F, .cd = CUDA_R_32F, .ta = ta, .tb = tb, .alpha = 0.5, .beta = 2};
          c.on_device = on_device;
          c.batch = batch;
          CHECK(difference(c) < 1e-6);
          c.ab = CUDA_R_16BF;
          CHECK(difference(c) < 1e-6);
          c.cd = CUDA_R_16BF;
          CHECK(difference(c) < 1.0 / 256);
          c.ab = c.cd = CUDA_R_64F;
          c.compute = CUBLAS_COMPUTE_64F;
          CHECK(difference(c) < 1e-14);
        }
      }
    }
  }
}

TEST_CASE("the fast modes round their factors, to tf32 and to bf16", "[products]") {
  Case c{.ab = CUDA_R_32F, .cd = CUDA_R_32F, .compute = CUBLAS_COMPUTE_32F_FAST_TF32};
  const double tf32 = difference(c);
  CHECK(tf32 < 2e-3);
  CHECK(tf32 > 1e-5);
  c.compute = CUBLAS_COMPUTE_32F_FAST_16BF;
  const double bf16 = difference(c);
  CHECK(bf16 < 1.6e-2);
  CHECK(bf16 > 4 * tf32);
}

TEST_CASE("epilogues: bias, gelu, what it keeps, its gradient, gradients of biases", "[products]") {
  for (const cublasLtEpilogue_t epilogue : epilogues) {
    for (const int32_t batch : {1, 2}) {
      CAPTURE(epilogue, batch);
      Case c{.ab = CUDA_R_32F, .cd = CUDA_R_32F, .alpha = 0.25, .epilogue = epilogue};
      c.batch = batch;
      CHECK(difference(c) < 2e-6);
      c.ab = c.cd = CUDA_R_64F;
      c.compute = CUBLAS_COMPUTE_64F;
      CHECK(difference(c) < 1e-9);
    }
  }
}

TEST_CASE("FP8 products take scales of the device, and give bf16 or f32", "[products]") {
  Case c{.ab = CUDA_R_8F_E4M3, .cd = CUDA_R_32F, .ta = true, .m = 32, .n = 16, .k = 48};
  CHECK(difference(c) < 1e-6);
  c.b = CUDA_R_8F_E5M2;
  CHECK(difference(c) < 1e-6);
  c.ab = CUDA_R_8F_E5M2;
  c.b = CUDA_R_8F_E4M3;
  CHECK(difference(c) < 1e-6);
  c.cd = CUDA_R_16BF;
  c.epilogue = CUBLASLT_EPILOGUE_BIAS;
  c.beta = 1;
  CHECK(difference(c) < 1.0 / 256);
}

TEST_CASE("a result in FP8 is scaled, saturates, and its amax is written", "[products]") {
  const std::vector<double> ones(256, 1);
  const Buffer<char> a(as(CUDA_R_8F_E4M3, ones).bytes), d(256);
  const Buffer<float> scale(std::vector<float>{16}), amax(1);
  Descriptors t(CUBLAS_COMPUTE_32F, CUDA_R_32F);
  t.set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t(CUBLAS_OP_T));
  t.set(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, static_cast<void*>(scale));
  t.set(CUBLASLT_MATMUL_DESC_AMAX_D_POINTER, static_cast<void*>(amax));
  for (const cudaDataType_t type : {CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, CUDA_R_16BF, CUDA_R_8F_E4M3})
    t.add({type, 16, 16, 16});
  for (const float alpha : {0.5f, -2.0f}) {
    const float beta = 0;
    REQUIRE(t.multiply(&alpha, a, a, &beta, nullptr, d) == CUBLAS_STATUS_SUCCESS);
    CHECK(numbers_of(CUDA_R_8F_E4M3, d.host())[255] == (alpha > 0 ? 128 : -448));  // 16 * 16 * alpha
    CHECK(amax.host()[0] == 16 * std::abs(alpha));
  }
}

TEST_CASE("a product is work of its stream: it runs when the host waits, and in a graph", "[products]") {
  const Buffer<float> a(std::vector<float>(4, 1)), d(std::vector<float>(4, 0)), numbers({2, 0});
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  Descriptors t(CUBLAS_COMPUTE_32F, CUDA_R_32F);
  t.set(CUBLASLT_MATMUL_DESC_POINTER_MODE, int32_t(CUBLASLT_POINTER_MODE_DEVICE));
  for (int i = 0; i < 4; ++i) t.add({CUDA_R_32F, 2, 2, 2});
  REQUIRE(cublasLtMatmul(t.handle(), t.desc, numbers, a, t.layouts[0], a, t.layouts[1], numbers + 1, d,
                         t.layouts[2], d, t.layouts[3], nullptr, nullptr, 0,
                         stream) == CUBLAS_STATUS_SUCCESS);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStreamEndCapture(stream, &graph);
  cudaGraphInstantiate(&exec, graph, 0);
  numbers.set({3, 1});  // alpha and beta are read when it runs
  cudaGraphLaunch(exec, stream);
  CHECK(d.host()[0] == 0);
  cudaGraphLaunch(exec, stream);
  cudaStreamSynchronize(stream);
  CHECK(d.host()[0] == 12);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}
