// All optimizers, clipping, learning-rate schedules, averages of parameters, and whole steps as one piece.
#pragma once

#include <altgrad/nn/clip_grad_norm.h>
#include <altgrad/nn/optim/adamw.h>
#include <altgrad/nn/optim/captured_step.h>
#include <altgrad/nn/optim/ema.h>
#include <altgrad/nn/optim/schedules.h>
#include <altgrad/nn/optim/sgd.h>
