// The training of a run: its steps, its evaluations, and what it leaves in its folder.
#pragma once

#include <chrono>
#include <functional>

#include "metrics.h"
#include "progress.h"
#include "run.h"
#include "run_folder.h"
#include "signals.h"
#include "svg.h"

constexpr uint64_t eval_seed = 1;  // the same batches for every run, so that runs compare

class Stopwatch {
 public:
  double ms() const { return std::chrono::duration<double, std::milli>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

inline std::string text(const char* format, auto... values) {
  std::string line(size_t(std::snprintf(nullptr, 0, format, values...)) + 1, '\0');
  std::snprintf(line.data(), line.size(), format, values...);
  line.pop_back();
  return line;
}

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  if (!out.flush()) ag::fail_runtime("cannot write ", path, ": ", std::strerror(errno));
}

inline std::function<double(int64_t)> schedule_of(const Options& o) {
  using namespace ag::optim;
  const Recipe r = o.recipe();
  if (o.schedule == "linear") return LinearSchedule{r.lr, r.lr / 10, r.warmup, r.steps};
  if (o.schedule == "constant") return LinearSchedule{r.lr, r.lr, r.warmup, r.steps};
  if (o.schedule == "wsd") return WSDSchedule{r.lr, r.lr / 10, r.warmup, r.steps, r.steps / 5};
  return CosineSchedule{r.lr, r.lr / 10, r.warmup, r.steps};
}

class Training {
 public:
  // Takes the run's folder, and goes on from its checkpoint where it is resumed. `config` is written there, if any.
  Training(Run& run, const std::optional<std::string>& config) : run(run), o(run.o), folder(o.out) {
    if (o.resume) run.load("--resume");
    metrics.emplace(o.json.value_or(run.file("metrics.jsonl")), o.csv, o.tensorboard, run.step);
    if (config) {
      write_file(run.file("config.toml"), *config);
    } else {
      std::error_code error;
      std::filesystem::remove(run.file("config.toml"), error);  // another run's
      std::printf("%s is not written: no such file can hold these flags.\n", run.file("config.toml").c_str());
    }
  }

  // The whole run: exit status.
  int train() {
    banner();
    // A NaN is met where the numbers are read.
    ag::optim::CapturedStep train_step(run.device,
                                       [&](const ag::Tensor& x, const ag::Tensor& y) { return step(x, y); });
    const size_t read_together = run.device.is_cpu() ? 1 : 10;  // to read is to wait for a GPU
    {
      Progress progress(run.step, steps);
      std::vector<ag::Tensor> unread;  // of the last steps
      std::optional<Stopwatch> watch;
      while (run.step < steps && !out_of_patience() && (!stop_asked || !unread.empty())) {
        if (unread.empty()) watch.emplace();
        run.opt.set_lr(lr(run.step));
        const auto [x, y] = run.corpus.train.batch(run.recipe.batch * o.accumulate);
        unread.push_back(train_step(x, y));
        ++run.step;
        const bool evaluates = run.step % o.eval_every == 0 || run.step == steps;
        if (unread.size() < read_together && !evaluates && !stop_asked) continue;
        for (ag::Tensor& numbers : unread) numbers = numbers.to(ag::Device::cpu());
        read(unread, watch->ms() / double(unread.size()), evaluates, progress);
        unread.clear();
        if (!evaluates) continue;
        // A kill between these two leaves a checkpoint that gets to the best one again.
        if (run.evaluations_since_best == 0) run.save(run.file("best.safetensors"));
        run.save(run.checkpoint());
      }
    }
    if (stop_asked && times.empty()) {
      std::printf("Stopped before a step was made. Nothing was saved.\n");
      return 130;
    }
    if (stop_asked) run.save(run.checkpoint());
    const LossCurves& curves = metrics->curves();
    svg::write_loss_curve(run.file("loss.svg"), run.title(), curves.train, curves.val);
    if (stop_asked) return stopped();
    if (run.step < steps) {
      std::printf("Stopped at step %ld: %ld evaluations were not better than %.4f.\n", long(run.step),
                  long(run.evaluations_since_best), run.best_val_loss);
    }
    return finish();
  }

 private:
  void banner() const {
    const Recipe& recipe = run.recipe;
    const ag::models::GPTConfig& model = run.model.config();
    std::printf("%s: %ld layers, %ld heads, %ld wide, %ld parameters, on %s (%d thread%s)\n",
                run.title().c_str(), long(model.n_layer), long(model.n_head), long(model.n_embd),
                long(run.model.num_parameters()), o.device.c_str(), ag::num_threads(),
                ag::num_threads() == 1 ? "" : "s");
    if (o.quantized()) {
      std::printf("%zu of %zu Linear layers quantized, %s scaling over %ld steps\n",
                  run.report.replaced.size(), run.report.replaced.size() + run.report.skipped.size(),
                  o.scaling.c_str(), long(o.history));
    }
    std::printf("%s: %ld tokens to train on, %ld to validate, vocabulary of %ld\n", run.corpus.name.c_str(),
                long(run.corpus.train.size()), long(run.corpus.val.size()), long(run.corpus.vocab_size()));
    std::printf(
        "%ld steps of %ld sequences of %ld tokens, from step %ld, into %s. Ctrl-C stops and saves.\n\n",
        long(steps), long(recipe.batch * o.accumulate), long(recipe.block), long(run.step), o.out.c_str());
    std::fflush(stdout);
  }

  // The gradients of all batches, whose mean loss it descends; gives that and the gradients' norm.
  ag::Tensor step(const ag::Tensor& x, const ag::Tensor& y) {
    const int64_t rows = run.recipe.batch;
    std::vector<ag::Tensor> losses;
    for (int64_t i = 0; i < o.accumulate; ++i) {
      ag::Tape tape;
      const ag::Tensor loss = run.model.loss(x.narrow(0, i * rows, rows), y.narrow(0, i * rows, rows));
      tape.backward(o.accumulate == 1 ? loss : loss / double(o.accumulate));
      losses.push_back(loss.detach().to(ag::DType::f64));
    }
    const ag::Tensor norm = run.opt.clipped_step(1.0);
    run.opt.zero_grad();
    if (run.ema) run.ema->update();
    return ag::stack({o.accumulate == 1 ? losses[0] : ag::mean(ag::stack(losses)), norm});
  }

  // What the last steps gave: each a loss and a norm. The last of them may be one to evaluate after.
  void read(const std::vector<ag::Tensor>& numbers, double ms, bool evaluates, Progress& progress) {
    const double rate = tokens / ms * 1e3;
    int64_t done = run.step - int64_t(numbers.size());
    for (const ag::Tensor& of_step : numbers) {
      const double train_loss = of_step.data<double>()[0];
      require_finite("training loss", train_loss, done);
      require_finite("gradient norm", of_step.data<double>()[1], done);
      ++done;
      times.push_back(ms);
      nlohmann::ordered_json line = {{"step", done}, {"train_loss", train_loss}};
      if (evaluates && done == run.step) {
        const double val_loss = evaluate(o.eval_batches);
        run.evaluations_since_best = val_loss < run.best_val_loss ? 0 : run.evaluations_since_best + 1;
        run.best_val_loss = std::min(run.best_val_loss, val_loss);
        line["val_loss"] = val_loss;
        progress.note(text("step %ld/%ld  train loss %.4f  val loss %.4f", long(run.step), long(steps),
                           train_loss, val_loss));
      }
      line.update({{"lr", lr(done - 1)}, {"ms_per_step", ms}, {"tokens_per_s", rate}});
      try {
        metrics->write(line);
      } catch (...) {
        run.save(run.checkpoint());  // the step is done, whatever has become of its line
        throw;
      }
      progress.update(done, train_loss, rate);
    }
  }

  bool out_of_patience() const { return o.patience && run.evaluations_since_best >= *o.patience; }

  // The mean loss on the validation split, of the same batches each time.
  double evaluate(int64_t batches) {
    const Evaluated evaluated(run);
    ag::Generator generator(eval_seed);
    double sum = 0;
    for (int64_t i = 0; i < batches; ++i) {
      auto [x, y] = run.corpus.val.batch(run.recipe.batch, generator);
      sum += run.model.loss(x.to(run.device), y.to(run.device)).item<double>();
    }
    require_finite("validation loss", sum, run.step);
    return sum / double(batches);
  }

  void require_finite(const char* what, double value, int64_t steps) const {
    if (std::isfinite(value)) return;
    ag::fail_runtime("the ", what, " is ", std::isnan(value) ? "NaN" : "infinite", " after ", steps,
                     " steps; stopped without saving (a smaller --lr may help)");
  }

  int stopped() const {
    std::printf("Stopped after step %ld. Saved in %s; --resume goes on.\n", long(run.step), o.out.c_str());
    return 130;
  }

  // Every step is done, and saved.
  int finish() {
    std::printf("Evaluating ...\n");
    std::fflush(stdout);
    const double val_loss = evaluate(10 * o.eval_batches);
    if (stop_asked) return stopped();
    run.best_val_loss = std::min(run.best_val_loss, val_loss);
    nlohmann::ordered_json line = {
        {"final", true}, {"step", run.step}, {"val_loss", val_loss}, {"best_val_loss", run.best_val_loss}};
    if (!times.empty()) {
      std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
      const double median = times[times.size() / 2];
      line.update({{"ms_per_step", median}, {"tokens_per_s", tokens / median * 1e3}});
    }
    if (o.choices) {
      const std::optional<double> accuracy = print_accuracy(run);
      if (!accuracy) return stopped();
      line["choices_accuracy"] = *accuracy;
    }
    metrics->write(line);
    std::printf("Final validation loss %.4f, best %.4f\n", val_loss, run.best_val_loss);
    if (o.sample > 0) sample();
    std::printf("\nLoss curve   %s\nMetrics      %s\nCheckpoint   %s\n", run.file("loss.svg").c_str(),
                o.json.value_or(run.file("metrics.jsonl")).c_str(), run.checkpoint().c_str());
    return 0;
  }

  // Text that starts from a random token of the validation split.
  void sample() {
    const Evaluated evaluated(run);
    ag::Generator generator(eval_seed);
    const ag::Tensor start = run.corpus.val.batch(1, generator).first.reshape({-1}).narrow(0, 0, 1);
    const ag::Tensor ids = run.model.generate(start, o.sample, {.temperature = 0.8, .generator = &generator});
    const std::string words = run.corpus.decode(ids);
    const std::string path = run.file("sample.txt");
    write_file(path, words + '\n');
    std::printf("\n--- sample (%s) ---\n%s\n---\n", path.c_str(), words.c_str());
  }

  Run& run;
  const Options& o;
  const RunFolder folder;
  std::optional<Metrics> metrics;
  const int64_t steps = run.recipe.steps;
  const std::function<double(int64_t)> lr = schedule_of(o);
  const double tokens = double(run.recipe.batch * o.accumulate) * double(run.recipe.block);  // in a step
  std::vector<double> times;
};
