// A product through cuBLASLt's own functions, for tests: descriptors, an algorithm, the call.
#pragma once

#include <cublasLt.h>

#include <cstdint>

#include "buffer.h"

struct Matrix {
  cudaDataType_t type;
  int64_t rows, columns, ld;
  int32_t batch = 1;
  int64_t stride = 0;
};

class Descriptors {
 public:
  Descriptors(cublasComputeType_t compute, cudaDataType_t scale) {
    cublasLtMatmulDescCreate(&desc, compute, scale);
    cublasLtMatmulPreferenceCreate(&preference);
  }
  ~Descriptors() {
    cublasLtMatmulDescDestroy(desc);
    cublasLtMatmulPreferenceDestroy(preference);
    for (const cublasLtMatrixLayout_t layout : layouts) cublasLtMatrixLayoutDestroy(layout);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  template <class T>
  cublasStatus_t set(cublasLtMatmulDescAttributes_t attribute, T value) {
    return cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof value);
  }
  template <class T>
  cublasStatus_t prefer(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    return cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
  }
  // In the order A, B, C, D.
  void add(const Matrix& m) {
    cublasLtMatrixLayout_t layout = nullptr;
    cublasLtMatrixLayoutCreate(&layout, m.type, uint64_t(m.rows), uint64_t(m.columns), m.ld);
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &m.batch, sizeof m.batch);
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &m.stride,
                                     sizeof m.stride);
    layouts.push_back(layout);
  }
  cublasStatus_t find(cublasLtMatmulHeuristicResult_t& result) {
    int found = 0;
    return cublasLtMatmulAlgoGetHeuristic(handle(), desc, layouts[0], layouts[1], layouts[2], layouts[3],
                                          preference, 1, &result, &found);
  }
  cublasStatus_t multiply(const void* alpha, const void* a, const void* b, const void* beta, const void* c,
                          void* d, const cublasLtMatmulAlgo_t* algo = nullptr, void* workspace = nullptr,
                          size_t workspace_bytes = 0) {
    return cublasLtMatmul(handle(), desc, alpha, a, layouts[0], b, layouts[1], beta, c, layouts[2], d,
                          layouts[3], algo, workspace, workspace_bytes, nullptr);
  }
  static cublasLtHandle_t handle() {
    static const cublasLtHandle_t made = [] {
      cublasLtHandle_t h = nullptr;
      cublasLtCreate(&h);
      return h;
    }();
    return made;
  }

  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  std::vector<cublasLtMatrixLayout_t> layouts;
};
