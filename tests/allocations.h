// Counts every call of operator new in the test program, so that tests can assert that a piece of code makes
// none, or that it holds little at once.
#pragma once

#include <cstdint>

int64_t heap_allocations();  // so far
// The most bytes that were held at once since heap_watch, over those that were held then.
void heap_watch();
int64_t heap_peak();
