// All of altgrad, but for the opt-in interop header core/eigen.h.
#pragma once

#include <altgrad/core/bfloat16.h>
#include <altgrad/core/device.h>
#include <altgrad/core/dispatch.h>
#include <altgrad/core/dtype.h>
#include <altgrad/core/error.h>
#include <altgrad/core/float_environment.h>
#include <altgrad/core/matmul_precision.h>
#include <altgrad/core/memory.h>
#include <altgrad/core/parallel.h>
#include <altgrad/core/random.h>
#include <altgrad/core/shape.h>
#include <altgrad/core/tensor.h>
#include <altgrad/core/version.h>

#include <altgrad/autograd/gradcheck.h>
#include <altgrad/autograd/op_writer.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/autograd/tape.h>

#include <altgrad/nn/checkpoint.h>
#include <altgrad/nn/containers.h>
#include <altgrad/nn/init.h>
#include <altgrad/nn/layers.h>
#include <altgrad/nn/module.h>
#include <altgrad/nn/optim.h>
#include <altgrad/nn/safetensors.h>
#include <altgrad/nn/surgery.h>

#include <altgrad/fp8/amax_history.h>
#include <altgrad/fp8/coded_linear.h>
#include <altgrad/fp8/format.h>
#include <altgrad/fp8/qtensor.h>
#include <altgrad/fp8/quantize.h>
#include <altgrad/fp8/quantized_linear.h>
#include <altgrad/fp8/quantized_state.h>
#include <altgrad/fp8/quantizer.h>
#include <altgrad/fp8/surgery.h>

#include <altgrad/models/data.h>
#include <altgrad/models/generate.h>
#include <altgrad/models/gpt.h>
#include <altgrad/models/gpt2.h>
#include <altgrad/models/kv_cache.h>
#include <altgrad/models/token_dataset.h>
#include <altgrad/models/tokenizer.h>
