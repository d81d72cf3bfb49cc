// All optimizers, clipping, the learning-rate schedule, and whole steps as one piece.
#pragma once

#include <altgrad/nn/clip_grad_norm.h>
#include <altgrad/nn/optim/adamw.h>
#include <altgrad/nn/optim/captured_step.h>
#include <altgrad/nn/optim/cosine_schedule.h>
#include <altgrad/nn/optim/sgd.h>
