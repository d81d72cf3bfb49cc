// Trains a small GPT on text, its Linear layers in simulated 8-bit floats. Writes a checkpoint, the metrics,
// the loss curve and a sample of text to a folder. Ctrl-C, SIGTERM and a terminal that goes away stop it after
// the step, and it saves; --resume goes on, bit for bit as if it had never stopped: the learning rate depends on
// the step alone, batches and dropout on the generator that is in the checkpoint, and evaluation and sampling
// draw from generators of their own.
#include <altgrad/altgrad.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "corpus.h"
#include "metrics.h"
#include "options.h"
#include "progress.h"
#include "run_folder.h"
#include "settings.h"
#include "svg.h"

namespace ag = altgrad;
namespace fs = std::filesystem;

namespace {

constexpr uint64_t eval_seed = 1;  // the same batches for every run, so that runs compare

volatile std::sig_atomic_t stop_asked = 0;

// A first Ctrl-C (or SIGTERM) asks for an orderly stop; the handler is gone then, so a second one quits at once.
// So does a terminal or pipe that goes away, unless the run was started to outlive it (nohup); it tells more than
// once (the shell and the system, each line that is printed), so those handlers stay.
void watch_signals() {
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

class Stopwatch {
 public:
  double ms() const { return std::chrono::duration<double, std::milli>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

std::string text(const char* format, auto... values) {
  std::string line(size_t(std::snprintf(nullptr, 0, format, values...)) + 1, '\0');
  std::snprintf(line.data(), line.size(), format, values...);
  line.pop_back();
  return line;
}

// The shortest text that from_chars reads as this very number.
std::string exact(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}

class Training {
 public:
  explicit Training(const Options& options)
      : o(options),
        recipe(o.recipe()),
        corpus(o.data.empty() ? default_corpus(recipe.block) : Corpus(o.data, recipe.block)),
        model(seeded_model()),
        opt(model.decay_groups(0.1), {.lr = recipe.lr, .betas = {0.9, recipe.beta2}, .weight_decay = 0.1}),
        folder(o.out) {
    if (o.resume) resume();
  }

  // The whole run: exit status.
  int run() {
    banner();
    Metrics metrics(o.json.value_or(folder.file("metrics.jsonl")), step);
    const ag::optim::CosineSchedule lr{recipe.lr, recipe.lr / 10, recipe.warmup, recipe.steps};
    // Gives the loss and the norm of the gradients. A NaN is met where they are read.
    ag::optim::CapturedStep train_step(device, [&](const ag::Tensor& x, const ag::Tensor& y) {
      ag::Tape tape;
      const ag::Tensor loss = model.loss(x, y);
      tape.backward(loss);
      const ag::Tensor norm = opt.clipped_step(1.0);
      opt.zero_grad();
      return ag::stack({loss.detach().to(ag::DType::f64), norm});
    });
    const size_t read_together = device.is_cpu() ? 1 : 10;  // to read is to wait for a GPU
    std::vector<double> times;
    {
      Progress progress(step, recipe.steps);
      std::vector<ag::Tensor> unread;  // of the last steps
      std::optional<Stopwatch> watch;
      while (step < recipe.steps && (!stop_asked || !unread.empty())) {
        if (unread.empty()) watch.emplace();
        opt.set_lr(lr(step));
        const auto [x, y] = data.batch("train", recipe.batch);
        unread.push_back(train_step(x, y));
        ++step;
        const bool evaluates = step % o.eval_every == 0 || step == recipe.steps;
        if (unread.size() < read_together && !evaluates && !stop_asked) continue;

        for (ag::Tensor& numbers : unread) numbers = numbers.to(ag::Device::cpu());
        const double ms = watch->ms() / double(unread.size()), rate = tokens / ms * 1e3;
        int64_t done = step - int64_t(unread.size());
        for (const ag::Tensor& numbers : unread) {
          const double train_loss = numbers.data<double>()[0];
          require_finite("training loss", train_loss, done);
          require_finite("gradient norm", numbers.data<double>()[1], done);
          ++done;
          times.push_back(ms);
          nlohmann::ordered_json line = {{"step", done}, {"train_loss", train_loss}};
          if (evaluates && done == step) {
            const double val_loss = evaluate(o.eval_batches);
            best_val_loss = std::min(best_val_loss, val_loss);
            line["val_loss"] = val_loss;
            progress.note(text("step %ld/%ld  train loss %.4f  val loss %.4f", long(step), long(recipe.steps),
                               train_loss, val_loss));
          }
          line.update({{"lr", lr(done - 1)}, {"ms_per_step", ms}, {"tokens_per_s", rate}});
          try {
            metrics.write(line);
          } catch (...) {
            save();  // the step is done, whatever has become of its line
            throw;
          }
          progress.update(done, train_loss, rate);
        }
        unread.clear();
        if (evaluates) save();
      }
    }
    if (stop_asked && times.empty()) {
      std::printf("Stopped before a step was made. Nothing was saved.\n");
      return 130;
    }
    if (stop_asked) save();
    svg::write_loss_curve(folder.file("loss.svg"), title(), metrics.curves.train, metrics.curves.val);
    return stop_asked ? stopped() : finish(metrics, times);
  }

 private:
  // Seeds everything: the same weights and, later, the same batches for the same --seed.
  ag::models::GPT seeded_model() {
    ag::manual_seed(o.seed);
    ag::models::GPT gpt(o.model(data.vocab_size()));
    gpt.to(device);
    if (o.quantized()) report = ag::fp8::quantize_model(gpt, ag::fp8::format(o.format), o.surgery());
    return gpt;
  }

  std::string title() const {
    if (!o.quantized()) return o.size + " GPT in " + o.dtype;
    const auto name = [&](const std::string& format) { return format == "none" ? o.dtype : format; };
    return o.size + " GPT, " + o.format + " weights, " + name(o.input_format()) + " inputs, " +
           name(o.grads) + " gradients";
  }

  void banner() const {
    std::printf("%s: %ld layers, %ld heads, %ld wide, %ld parameters, on %s (%d thread%s)\n", title().c_str(),
                long(recipe.n_layer), long(recipe.n_head), long(recipe.n_embd), long(model.num_parameters()),
                o.device.c_str(), ag::num_threads(), ag::num_threads() == 1 ? "" : "s");
    if (o.quantized()) {
      std::printf("%zu of %zu Linear layers quantized, %s scaling over %ld steps\n", report.replaced.size(),
                  report.replaced.size() + report.skipped.size(), o.scaling.c_str(), long(o.history));
    }
    std::printf("%s: %ld tokens to train on, %ld to validate, vocabulary of %ld\n",
                o.data.empty() ? "headers of Eigen" : o.data.c_str(), long(data.size("train")),
                long(data.size("val")), long(data.vocab_size()));
    std::printf(
        "%ld steps of %ld sequences of %ld tokens, from step %ld, into %s. Ctrl-C stops and saves.\n\n",
        long(recipe.steps), long(recipe.batch), long(recipe.block), long(step), o.out.c_str());
    std::fflush(stdout);
  }

  // The mean loss on the validation split, of the same batches each time.
  double evaluate(int64_t batches) {
    ag::Generator generator(eval_seed);
    model.eval();
    double sum = 0;
    for (int64_t i = 0; i < batches; ++i) {
      auto [x, y] = data.batch("val", recipe.batch, generator);
      sum += model.loss(x.to(device), y.to(device)).item<double>();
    }
    model.train();
    require_finite("validation loss", sum, step);
    return sum / double(batches);
  }

  void require_finite(const char* what, double value, int64_t steps) const {
    if (std::isfinite(value)) return;
    ag::fail_runtime("the ", what, " is ", std::isnan(value) ? "NaN" : "infinite", " after ", steps,
                     " steps; stopped without saving (a smaller --lr may help)");
  }

  void save() const {
    ag::nn::save_checkpoint(checkpoint(), model, opt,
                            {.step = step,
                             .generator = ag::default_generator().state(),
                             .extra = {{"settings", settings_text(run_settings(o, corpus))},
                                       {"best_val_loss", exact(best_val_loss)}}});
  }

  std::string checkpoint() const { return folder.file("checkpoint.safetensors"); }

  void resume() {
    const std::string path = checkpoint();
    ag::Metadata metadata = ag::load_safetensors_metadata(path);
    require_settings(run_settings(o, corpus), metadata["extra.settings"], path);
    const std::string& best = metadata["extra.best_val_loss"];
    const auto [end, error] = std::from_chars(best.data(), best.data() + best.size(), best_val_loss);
    if (error != std::errc() || end != best.data() + best.size() || !(best_val_loss >= 0)) {
      ag::fail("--resume: ", path, ": \"best_val_loss\" must be a loss, got \"", shortened(best), "\"");
    }
    const ag::nn::TrainingState state = ag::nn::load_checkpoint(path, model, opt);
    if (state.step > recipe.steps) {
      ag::fail("--resume: ", path, " is at step ", state.step, ", past --steps ", recipe.steps);
    }
    step = state.step;
    ag::default_generator().set_state(state.generator);
    ag::rounding_generator().set_state(state.rounding);
  }

  int stopped() const {
    std::printf("Stopped after step %ld. Saved in %s; --resume goes on.\n", long(step), o.out.c_str());
    return 130;
  }

  // Every step is done, and saved.
  int finish(Metrics& metrics, std::vector<double>& times) {
    std::printf("Evaluating ...\n");
    std::fflush(stdout);
    const double val_loss = evaluate(10 * o.eval_batches);
    if (stop_asked) return stopped();
    best_val_loss = std::min(best_val_loss, val_loss);
    nlohmann::ordered_json line = {
        {"final", true}, {"step", step}, {"val_loss", val_loss}, {"best_val_loss", best_val_loss}};
    if (!times.empty()) {
      std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
      const double median = times[times.size() / 2];
      line.update({{"ms_per_step", median}, {"tokens_per_s", tokens / median * 1e3}});
    }
    metrics.write(line);
    std::printf("Final validation loss %.4f, best %.4f\n", val_loss, best_val_loss);
    if (o.sample > 0) sample();
    std::printf("\nLoss curve   %s\nMetrics      %s\nCheckpoint   %s\n", folder.file("loss.svg").c_str(),
                o.json.value_or(folder.file("metrics.jsonl")).c_str(), checkpoint().c_str());
    return 0;
  }

  // Text that starts from a random token of the validation split.
  void sample() {
    ag::Generator generator(eval_seed);
    const ag::Tensor start = data.batch("val", 1, generator).first.reshape({-1}).narrow(0, 0, 1);
    const ag::Tensor ids = model.generate(start, o.sample, {.temperature = 0.8, .generator = &generator});
    const std::string words = data.decode(ids);
    const std::string path = folder.file("sample.txt");
    std::ofstream out(path, std::ios::binary);
    out << words << '\n';
    if (!out.flush()) ag::fail_runtime("cannot write ", path, ": ", std::strerror(errno));
    std::printf("\n--- sample (%s) ---\n%s\n---\n", path.c_str(), words.c_str());
  }

  const Options o;
  const Recipe recipe;
  const ag::Device device = o.device == "cuda" ? ag::Device::cuda() : ag::Device::cpu();
  const double tokens = double(recipe.batch) * double(recipe.block);  // in a step
  const Corpus corpus;
  const ag::models::CharDataset& data = corpus.data;
  ag::fp8::SurgeryReport report;
  ag::models::GPT model;
  ag::optim::AdamW opt;
  const RunFolder folder;
  int64_t step = 0;
  double best_val_loss = std::numeric_limits<double>::infinity();
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Trains a small GPT on text, its Linear layers in simulated 8-bit floats.", "train_gpt");
  Options options;
  add_flags(app, options);
  app.set_version_flag(
      "--version", [] { return ag::concat(ag::build_info()); },
      "Print the version, how it was built, what it runs on");
  try {
    app.parse(argc, argv);
    if (!options.quantized() && (options.input_format() != "none" || options.grads != "none")) {
      ag::fail("--inputs and --grads need a --format for the weights");
    }
    if (options.dtype == "bf16" && options.device == "cpu") ag::fail("--dtype bf16 needs --device cuda");
    const fs::path checkpoint = fs::path(options.out) / "checkpoint.safetensors";
    std::error_code error;
    if (options.resume && !fs::exists(checkpoint, error)) {
      ag::fail_runtime("--resume: there is no ", checkpoint.string());
    }
    if (options.threads > 0) ag::set_num_threads(int(options.threads));
    watch_signals();
    return Training(options).run();
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "train_gpt: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "train_gpt: %s\n", error.what());
    return 1;
  }
}
