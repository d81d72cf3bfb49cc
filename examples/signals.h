// Being asked to stop.
#pragma once

#include <csignal>

inline volatile std::sig_atomic_t stop_asked = 0;

// A first Ctrl-C (or SIGTERM) asks for an orderly stop; the handler is gone then, so a second one quits at once.
// So does a terminal or pipe that goes away, unless the run was started to outlive it (nohup); it tells more than
// once (the shell and the system, each line that is printed), so those handlers stay.
inline void watch_signals() {
  struct sigaction action = {}, inherited = {};
  action.sa_handler = [](int) { stop_asked = 1; };
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGHUP, SIGPIPE}) {
    sigaction(signal, nullptr, &inherited);
    if (inherited.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
  action.sa_flags |= SA_RESETHAND;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}
