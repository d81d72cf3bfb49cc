// What a plugin gives its host.
#pragma once

#include <altgrad/altgrad.h>

#include <memory>

#pragma GCC visibility push(default)
extern "C" {
altgrad::Tensor* make_tensor();
void drop_tensor(altgrad::Tensor* t);
void make_layer(std::shared_ptr<altgrad::nn::Module>& out);
double train_with(const std::shared_ptr<altgrad::nn::Module>& other);
void seed(uint64_t s);
void fail_in_altgrad();
}
#pragma GCC visibility pop
