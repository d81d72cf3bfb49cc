// cuBLASLt's functions, linked in its place. The opaque structs of its header hold the descriptors themselves.
#include <cublasLt.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

#include "block.h"
#include "matmul.h"
#include "runtime.h"

namespace altgrad::simulator {
namespace {

struct Attribute {
  int id;
  size_t offset, bytes;
};
#define AG_FIELD(id, T, name) \
  { id, offsetof(T, name), sizeof(T::name) }
constexpr Attribute of_description[] = {
    AG_FIELD(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, Description, compute_type),
    AG_FIELD(CUBLASLT_MATMUL_DESC_SCALE_TYPE, Description, scale_type),
    AG_FIELD(CUBLASLT_MATMUL_DESC_POINTER_MODE, Description, pointer_mode),
    AG_FIELD(CUBLASLT_MATMUL_DESC_TRANSA, Description, op_a),
    AG_FIELD(CUBLASLT_MATMUL_DESC_TRANSB, Description, op_b),
    AG_FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE, Description, epilogue),
    AG_FIELD(CUBLASLT_MATMUL_DESC_BIAS_POINTER, Description, bias),
    AG_FIELD(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, Description, bias_stride),
    AG_FIELD(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, Description, bias_type),
    AG_FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, Description, aux),
    AG_FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, Description, aux_ld),
    AG_FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, Description, aux_stride),
    AG_FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, Description, aux_type),
    AG_FIELD(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, Description, a_scale),
    AG_FIELD(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, Description, b_scale),
    AG_FIELD(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, Description, d_scale),
    AG_FIELD(CUBLASLT_MATMUL_DESC_AMAX_D_POINTER, Description, amax),
    AG_FIELD(CUBLASLT_MATMUL_DESC_FAST_ACCUM, Description, fast_accumulation),
};
constexpr Attribute of_layout[] = {
    AG_FIELD(CUBLASLT_MATRIX_LAYOUT_TYPE, Layout, type),
    AG_FIELD(CUBLASLT_MATRIX_LAYOUT_ORDER, Layout, order),
    AG_FIELD(CUBLASLT_MATRIX_LAYOUT_ROWS, Layout, rows),
    AG_FIELD(CUBLASLT_MATRIX_LAYOUT_COLS, Layout, columns),
    AG_FIELD(CUBLASLT_MATRIX_LAYOUT_LD, Layout, ld),
    AG_FIELD(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, Layout, batch),
    AG_FIELD(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, Layout, stride),
};
constexpr Attribute of_preference[] = {
    AG_FIELD(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, Preference, workspace_bytes),
    AG_FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, Preference, alignment[0]),
    AG_FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, Preference, alignment[1]),
    AG_FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, Preference, alignment[2]),
    AG_FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, Preference, alignment[3]),
};
#undef AG_FIELD

cublasStatus_t set(void* object, std::span<const Attribute> attributes, int id, const void* value,
                   size_t bytes) {
  const auto found = std::ranges::find(attributes, id, &Attribute::id);
  if (found == attributes.end())
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "an attribute that is not simulated");
  if (!value || bytes != found->bytes)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "an attribute of another size");
  std::memcpy(static_cast<char*>(object) + found->offset, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

template <class T, class Opaque>
T load(const Opaque* p) {
  T value;
  std::memcpy(static_cast<void*>(&value), p, sizeof value);
  return value;
}
template <class T, class Opaque>
cublasStatus_t store(Opaque* p, const T& value) {
  static_assert(sizeof(T) <= sizeof(Opaque) && std::is_trivially_copyable_v<T>);
  std::memset(p, 0, sizeof *p);
  std::memcpy(p, &value, sizeof value);
  return CUBLAS_STATUS_SUCCESS;
}
template <class T, class Opaque>
cublasStatus_t create(Opaque** p, const T& value) {
  *p = new Opaque;
  return store(*p, value);
}

// An algorithm is for products of the kind it was asked for, with pointers aligned as was promised.
struct Algorithm {
  uint32_t mark;
  uint32_t kind;
  uint32_t alignment[4];
  uint64_t workspace_bytes;
};
constexpr uint32_t algorithm_mark = 0xa190;
constexpr uint64_t workspace_wanted = 64 << 10;

uint32_t kind(const Product& p) {
  uint32_t hash = 0;
  for (const uint32_t x :
       {p.a.type, p.b.type, p.c.type, p.d.type, uint32_t(p.description.compute_type),
        uint32_t(p.description.op_a), uint32_t(p.description.op_b), p.description.epilogue})
    hash = hash * 31 + x;
  return hash;
}

Product product(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  return {load<Description>(desc), load<Layout>(a), load<Layout>(b), load<Layout>(c), load<Layout>(d)};
}

bool is_aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// What is wrong with the pointers, or null.
const char* wrong_pointers(const Product& p, const Operands& x, const Algorithm& algorithm) {
  const Description& desc = p.description;
  const void* const pointers[] = {x.a, x.b, x.c, x.d};
  const Layout* const layouts[] = {&p.a, &p.b, &p.c, &p.d};
  for (int i = 0; i < 4; ++i) {
    if (!pointers[i] && i == 2) continue;  // C, where beta is 0
    if (!is_device(pointers[i])) return "a matrix that is not in device memory";
    if (!is_aligned(pointers[i], is_fp8(p.a.type) ? 16 : bytes_of(layouts[i]->type)))
      return "a matrix that is not aligned to its elements (to 16 bytes with FP8)";
    if (!is_aligned(pointers[i], algorithm.alignment[i]))
      return "a matrix less aligned than the algorithm was promised";
  }
  if (x.c == x.d && (p.c.ld != p.d.ld || p.c.type != p.d.type || p.c.stride != p.d.stride))
    return "C and D in one place with different layouts";
  for (const void* q : {static_cast<const void*>(desc.bias), static_cast<const void*>(desc.aux),
                        static_cast<const void*>(desc.a_scale), static_cast<const void*>(desc.b_scale),
                        static_cast<const void*>(desc.d_scale), static_cast<const void*>(desc.amax)}) {
    if (q && !is_device(q)) return "a bias, auxiliary matrix, scale or amax that is not in device memory";
  }
  if (desc.bias && !is_aligned(desc.bias, bytes_of(p.bias_type()))) return "a bias that is not aligned";
  if (desc.aux && !is_aligned(desc.aux, 16)) return "an auxiliary matrix that is not aligned to 16 bytes";
  return nullptr;
}

double number(const void* p, int32_t type) {
  return type == CUDA_R_64F ? *static_cast<const double*>(p) : double(*static_cast<const float*>(p));
}

}  // namespace
}  // namespace altgrad::simulator

using namespace altgrad::simulator;

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (settings().devices == 0) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "no device");
  static char only;
  *handle = reinterpret_cast<cublasLtHandle_t>(&only);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "success";
    case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "the functionality requested is not supported";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "the library was not initialized";
    default: return "the function failed";
  }
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  return store(desc, Description{.compute_type = compute, .scale_type = scale});
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  return create(desc, Description{.compute_type = compute, .scale_type = scale});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t id,
                                              const void* value, size_t bytes) {
  return set(desc, of_description, id, value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t, cudaDataType type,
                                                 uint64_t rows, uint64_t columns, int64_t ld) {
  return store(layout, Layout{.type = uint32_t(type), .rows = rows, .columns = columns, .ld = ld});
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
  return create(layout, Layout{.type = uint32_t(type), .rows = rows, .columns = columns, .ld = ld});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t id, const void* value,
                                                size_t bytes) {
  return set(layout, of_layout, id, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference, size_t) {
  return store(preference, Preference());
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return create(preference, Preference());
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t id,
                                                    const void* value, size_t bytes) {
  if (id == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK && bytes == sizeof(uint32_t))
    return CUBLAS_STATUS_SUCCESS;
  return set(preference, of_preference, id, value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int* found) {
  *found = 0;
  if (wanted < 1) return refuse(CUBLAS_STATUS_INVALID_VALUE, "no algorithm is asked for");
  const Product p = product(desc, a, b, c, d);
  const cublasStatus_t status = check(p);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const Preference wish = load<Preference>(preference);
  Algorithm algorithm{algorithm_mark, kind(p), {}, std::min(wish.workspace_bytes, workspace_wanted)};
  std::ranges::copy(wish.alignment, algorithm.alignment);
  results[0] = {};
  results[0].workspaceSize = algorithm.workspace_bytes;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return store(&results[0].algo, algorithm);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  const Lock lock;
  const Product p = product(desc, a_layout, b_layout, c_layout, d_layout);
  const Operands x{a, b, c, d};
  const cublasStatus_t status = check(p);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const Algorithm algorithm =
      algo ? load<Algorithm>(algo) : Algorithm{algorithm_mark, kind(p), {1, 1, 1, 1}, 0};
  if (algorithm.mark != algorithm_mark)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "an algorithm that is none");
  if (algorithm.kind != kind(p))
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                  "an algorithm for other types, transposes or another epilogue");
  if (const char* why = wrong_pointers(p, x, algorithm)) return refuse(CUBLAS_STATUS_INVALID_VALUE, why);
  if (workspace_bytes < algorithm.workspace_bytes)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "less workspace than the algorithm needs");
  if (workspace_bytes > 0 && (!is_aligned(workspace, 256) || !is_device(workspace, workspace_bytes)))
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "a workspace that is not device memory aligned to 256 bytes");

  const int32_t type = p.description.scale_type;
  const bool by_host = p.description.pointer_mode == CUBLASLT_POINTER_MODE_HOST;
  if (is_device(alpha) == by_host || is_device(beta) == by_host)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "alpha or beta not where the pointer mode says");
  const double host_alpha = by_host ? number(alpha, type) : 0, host_beta = by_host ? number(beta, type) : 0;
  if (!c && (!by_host || host_beta != 0))
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "no C where beta is not 0");
  const auto run = [=] {
    ++mutable_counts().launches;
    if (algorithm.workspace_bytes > 0)
      std::memset(workspace, 0xff, algorithm.workspace_bytes);  // who shares it sees
    multiply(p, x, by_host ? host_alpha : number(alpha, type), by_host ? host_beta : number(beta, type));
  };
  const bool queued = enqueue(stream, {"product", run}) == cudaSuccess;
  return queued ? CUBLAS_STATUS_SUCCESS : refuse(CUBLAS_STATUS_EXECUTION_FAILED, "the stream takes no work");
}

}  // extern "C"
