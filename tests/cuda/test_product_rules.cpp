// What cuBLASLt refuses is refused here, for the reason that it should be.
#include <simulator/simulator.h>

#include <functional>

#include "catch.h"
#include "changed.h"
#include "product.h"

using namespace altgrad;

namespace {

// A product that is right, for a test to change one thing of.
struct Setting {
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cudaDataType_t scale = CUDA_R_32F;
  Matrix a{CUDA_R_32F, 16, 32, 16}, b{CUDA_R_32F, 32, 48, 32}, c{CUDA_R_32F, 16, 48, 16}, d = c;
  int32_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  int64_t aux_ld = 16;
  int32_t bias_type = -1;
  bool has_bias = true, has_scales = false, has_d_scale = false;
};
Setting fp8() {
  Setting s;
  s.op_a = CUBLAS_OP_T;
  s.a = {CUDA_R_8F_E4M3, 32, 16, 32};
  s.b = {CUDA_R_8F_E4M3, 32, 48, 32};
  s.c = s.d = {CUDA_R_16BF, 16, 48, 16};
  s.has_scales = true;
  return s;
}

// What the search for an algorithm says of it: empty where it is taken.
std::string refusal(const Setting& s) {
  const Buffer<float> memory(1024);
  Descriptors t(s.compute, s.scale);
  t.set(CUBLASLT_MATMUL_DESC_TRANSA, s.op_a);
  t.set(CUBLASLT_MATMUL_DESC_TRANSB, s.op_b);
  t.set(CUBLASLT_MATMUL_DESC_EPILOGUE, s.epilogue);
  if (s.has_bias) t.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<void*>(memory));
  t.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, s.bias_type);
  t.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, static_cast<void*>(memory));
  t.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, s.aux_ld);
  if (s.has_scales) t.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<void*>(memory));
  if (s.has_d_scale) t.set(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, static_cast<void*>(memory));
  for (const Matrix& m : {s.a, s.b, s.c, s.d}) t.add(m);
  cublasLtMatmulHeuristicResult_t result;
  return t.find(result) == CUBLAS_STATUS_SUCCESS ? "" : simulator::refusal();
}

using Change = std::pair<const char*, std::function<void(Setting&)>>;

void check_refused(const Setting& right, const std::vector<Change>& changes) {
  REQUIRE(refusal(right).empty());
  for (const auto& [reason, change] : changes) {
    Setting wrong = right;
    change(wrong);
    CHECK_THAT(refusal(wrong), ContainsSubstring(reason));
  }
}

}  // namespace

TEST_CASE("shapes, types and epilogues that do not go together are refused", "[products]") {
  check_refused({}, {{"shapes", [](Setting& s) { s.op_a = CUBLAS_OP_T; }},
                     {"shapes", [](Setting& s) { s.b.rows = 31; }},
                     {"shapes", [](Setting& s) { s.c.columns = 47; }},
                     {"leading dimension below", [](Setting& s) { s.b.ld = 31; }},
                     {"numbers of batches", [](Setting& s) { s.a.batch = 2; }},
                     {"batches of D that overlap",
                      [](Setting& s) {
                        for (Matrix* m : {&s.a, &s.b, &s.c, &s.d}) m->batch = 2;
                        s.d.stride = 16 * 48 - 1;
                      }},
                     {"an empty matrix", [](Setting& s) { s.a.columns = s.b.rows = 0; }},
                     {"types", [](Setting& s) { s.b.type = CUDA_R_16BF; }},
                     {"types", [](Setting& s) { s.d.type = CUDA_R_16BF; }},
                     {"types", [](Setting& s) { s.compute = CUBLAS_COMPUTE_64F; }},
                     {"types", [](Setting& s) { s.scale = CUDA_R_64F; }},
                     {"not N or T", [](Setting& s) { s.op_b = CUBLAS_OP_C; }},
                     {"not simulated", [](Setting& s) { s.epilogue = CUBLASLT_EPILOGUE_RELU; }},
                     {"scales of A or B that are not FP8", [](Setting& s) { s.has_scales = true; }},
                     {"a scale or the amax of D", [](Setting& s) { s.has_d_scale = true; }},
                     {"auxiliary leading dimension",
                      [](Setting& s) {
                        s.epilogue = CUBLASLT_EPILOGUE_GELU_AUX;
                        s.aux_ld = 20;
                      }},
                     {"auxiliary leading dimension",
                      [](Setting& s) {
                        s.epilogue = CUBLASLT_EPILOGUE_DGELU;
                        s.aux_ld = 8;
                      }},
                     {"bias of another type",
                      [](Setting& s) {
                        s.epilogue = CUBLASLT_EPILOGUE_BIAS;
                        s.bias_type = CUDA_R_16BF;
                      }},
                     {"no pointer to the bias", [](Setting& s) {
                        s.epilogue = CUBLASLT_EPILOGUE_BIAS;
                        s.has_bias = false;
                      }}});
}

TEST_CASE("FP8 products that cuBLASLt does not have are refused", "[products]") {
  {
    const Changed changed(simulator::settings().capability, 86);
    CHECK_THAT(refusal(fp8()), ContainsSubstring("below compute capability 8.9"));
  }
  check_refused(fp8(), {{"A^T B",
                         [](Setting& s) {
                           s.op_a = CUBLAS_OP_N;
                           s.a = {CUDA_R_8F_E4M3, 16, 32, 16};
                         }},
                        {"A^T B",
                         [](Setting& s) {
                           s.op_b = CUBLAS_OP_T;
                           s.b = {CUDA_R_8F_E4M3, 48, 32, 48};
                         }},
                        {"multiple of 16", [](Setting& s) { s.a.rows = s.b.rows = 24; }},
                        {"multiple of 16 bytes", [](Setting& s) { s.a.ld = 40; }},
                        {"multiple of 16 bytes", [](Setting& s) { s.c.ld = s.d.ld = 20; }},
                        {"E5M2 times E5M2", [](Setting& s) { s.a.type = s.b.type = CUDA_R_8F_E5M2; }},
                        {"in E5M2 of two factors in E4M3", [](Setting& s) { s.d.type = CUDA_R_8F_E5M2; }},
                        {"types", [](Setting& s) { s.b.type = CUDA_R_16BF; }},
                        {"bias and a result in f32",
                         [](Setting& s) {
                           s.c.type = s.d.type = CUDA_R_32F;
                           s.epilogue = CUBLASLT_EPILOGUE_BIAS;
                         }},
                        {"a scale or the amax of D", [](Setting& s) { s.has_d_scale = true; }}});
}

TEST_CASE("pointers, workspace and algorithms must be those that were promised", "[products]") {
  const Buffer<float> a(32 * 32 + 64), d(32 * 32 + 64);
  const Buffer<char> workspace(1 << 20);
  const float one = 1, zero = 0;
  Descriptors t(CUBLAS_COMPUTE_32F, CUDA_R_32F);
  for (int i = 0; i < 4; ++i) t.add({CUDA_R_32F, 32, 32, 32});
  REQUIRE(t.prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(1 << 20)) == CUBLAS_STATUS_SUCCESS);
  cublasLtMatmulHeuristicResult_t found;
  REQUIRE(t.find(found) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(found.workspaceSize > 0);
  const size_t bytes = found.workspaceSize;
  const auto refused = [&](cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "" : simulator::refusal();
  };
  const cublasLtMatmulAlgo_t* const algo = &found.algo;
  CHECK(refused(t.multiply(&one, a, a, &zero, d, d, algo, workspace, bytes)) == std::string());
  CHECK_THAT(refused(t.multiply(&one, a + 1, a, &zero, d, d, algo, workspace, bytes)),
             ContainsSubstring("less aligned than the algorithm was promised"));
  CHECK(refused(t.multiply(&one, a + 1, a, &zero, d, d)) == std::string());  // an algorithm of its own
  CHECK_THAT(refused(t.multiply(&one, reinterpret_cast<char*>(+a) + 2, a, &zero, d, d)),
             ContainsSubstring("not aligned to its elements"));
  CHECK_THAT(refused(t.multiply(&one, &one, a, &zero, d, d)), ContainsSubstring("not in device memory"));
  CHECK_THAT(refused(t.multiply(&one, a, a, &one, nullptr, d)),
             ContainsSubstring("no C where beta is not 0"));
  CHECK(refused(t.multiply(&one, a, a, &zero, nullptr, d)) == std::string());
  CHECK_THAT(refused(t.multiply(a, a, a, a, d, d)), ContainsSubstring("not where the pointer mode says"));
  CHECK_THAT(refused(t.multiply(&one, a, a, &zero, d, d, algo, workspace, bytes - 1)),
             ContainsSubstring("less workspace"));
  CHECK_THAT(refused(t.multiply(&one, a, a, &zero, d, d, algo, workspace + 128, bytes)),
             ContainsSubstring("aligned to 256"));
  CHECK_THAT(refused(t.multiply(&one, a, a, &zero, d, d, algo, nullptr, bytes)),
             ContainsSubstring("aligned to 256"));
  const cublasLtMatmulAlgo_t none{};
  CHECK_THAT(refused(t.multiply(&one, a, a, &zero, d, d, &none)),
             ContainsSubstring("an algorithm that is none"));
  t.set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t(CUBLAS_OP_T));
  CHECK_THAT(refused(t.multiply(&one, a, a, &zero, d, d, algo, workspace, bytes)),
             ContainsSubstring("an algorithm for other types"));
  CHECK(t.set(CUBLASLT_MATMUL_DESC_TRANSA, int8_t(1)) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(t.set(CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, int32_t(1)) == CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST_CASE("a workspace is overwritten, whoever shares it", "[products]") {
  const Buffer<float> a(std::vector<float>(256, 1)), d(256);
  const Buffer<float> workspace(std::vector<float>(1 << 16, 5));
  const float one = 1, zero = 0;
  Descriptors t(CUBLAS_COMPUTE_32F, CUDA_R_32F);
  for (int i = 0; i < 4; ++i) t.add({CUDA_R_32F, 16, 16, 16});
  t.prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(1 << 18));
  cublasLtMatmulHeuristicResult_t found;
  REQUIRE(t.find(found) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(t.multiply(&one, a, a, &zero, d, d, &found.algo, workspace, found.workspaceSize) ==
          CUBLAS_STATUS_SUCCESS);
  CHECK(d.host()[0] == 16);
  CHECK(workspace.host()[0] != 5);
}
