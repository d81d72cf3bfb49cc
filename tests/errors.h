// Checking that a call throws, and what it says. (String matchers differ between Catch2 2 and 3.)
#pragma once

#include "catch.h"

#include <initializer_list>
#include <stdexcept>
#include <string>

// Does f throw an E whose text contains all the parts? What happened instead is shown where the check fails.
template <class E = std::invalid_argument, class F>
bool throws(F&& f, std::initializer_list<std::string> parts) {
  try {
    f();
  } catch (const E& e) {
    const std::string text = e.what();
    for (const std::string& part : parts) {
      if (text.find(part) == std::string::npos) {
        UNSCOPED_INFO("the error lacks \"" << part << "\": " << text);
        return false;
      }
    }
    return true;
  } catch (const std::exception& e) {
    UNSCOPED_INFO("an error of another type: " << e.what());
    return false;
  }
  UNSCOPED_INFO("nothing was thrown");
  return false;
}
