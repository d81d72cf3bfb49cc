// Counts every call of operator new in the test program, so that tests can assert that a piece of code makes
// none.
#pragma once

#include <cstdint>

int64_t heap_allocations();  // so far
