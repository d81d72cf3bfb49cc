// All of altgrad but the opt-in interop header core/eigen.h.
#pragma once

#include <altgrad/autograd/gradcheck.h>
#include <altgrad/autograd/ops.h>
#include <altgrad/fp8/surgery.h>
#include <altgrad/models/data.h>
#include <altgrad/models/gpt.h>
#include <altgrad/nn/checkpoint.h>
#include <altgrad/nn/init.h>
#include <altgrad/nn/surgery.h>
