// Runs a mistake of mistakes.cu in a process of its own, which it may kill.
#pragma once

#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>

// All that it prints, a sanitizer's report too, and then its exit status.
inline std::string outcome(const std::string& mistake, int order = 0) {
  const std::string command = "ALTGRAD_SIMULATOR_ORDER=" + std::to_string(order) + " " CUDA_MISTAKES " " +
                              mistake + " 2>&1; echo status $?";
  FILE* const pipe = popen(command.c_str(), "r");
  if (!pipe) throw std::runtime_error("cannot run " CUDA_MISTAKES);
  std::string text;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) text += char(c);
  pclose(pipe);
  return text;
}

// "mistakes.cu:LINE" of the line that has the comment MISTAKE `mark`.
inline std::string place(const std::string& mark) {
  std::ifstream source(CUDA_MISTAKES_SOURCE);
  std::string line;
  for (int number = 1; std::getline(source, line); ++number) {
    if (line.ends_with("// MISTAKE " + mark)) return "mistakes.cu:" + std::to_string(number);
  }
  throw std::runtime_error("no line of mistakes.cu is marked " + mark);
}
