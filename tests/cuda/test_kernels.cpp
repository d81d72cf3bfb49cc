#include "catch.h"
TEST_CASE("x") { CHECK(true); }
