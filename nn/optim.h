// All optimizers, clipping, and the learning-rate schedule.
#pragma once

#include <altgrad/nn/clip_grad_norm.h>
#include <altgrad/nn/optim/adamw.h>
#include <altgrad/nn/optim/cosine_schedule.h>
#include <altgrad/nn/optim/sgd.h>
