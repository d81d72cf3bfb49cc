// Draws the loss curves of several runs of train_gpt into one SVG file, from their metrics: validation losses with dots,
// training losses beside them, thin. Each run is given as LABEL=FILE:
//   plot_loss loss.svg "tiny GPT" f32=out/f32/metrics.jsonl E4M3=out/e4m3/metrics.jsonl
#include "metrics.h"

namespace {

// Curves of one run share a hue. There are as many as can be told apart.
constexpr const char* colors[][2] = {
    {"#1f77b4", "#9ecae1"}, {"#d62728", "#f4a6a0"}, {"#2ca02c", "#a1d99b"}, {"#9467bd", "#cab8e0"}};

LossCurves read_curves(const std::string& path) {
  LossCurves curves;
  std::ifstream in(path);
  if (!in) throw std::runtime_error("cannot read " + path + ": " + std::strerror(errno));
  for (std::string line; std::getline(in, line);)
    curves.add(nlohmann::ordered_json::parse(line, nullptr, /*allow_exceptions=*/false));
  return curves;
}

int plot(const std::string& path, const std::string& title, const std::vector<std::string>& runs) {
  std::vector<svg::Curve> train, val;
  for (const std::string& run : runs) {
    const size_t mark = run.find('=');
    if (mark == std::string::npos) throw std::runtime_error(run + " is not LABEL=FILE");
    const std::string label = run.substr(0, mark);
    const auto& [strong, pale] = colors[train.size() % std::size(colors)];
    const LossCurves curves = read_curves(run.substr(mark + 1));
    train.push_back({label + ", training", pale, 1.5, svg::smooth(curves.train)});
    const double width =
        2 + 1.5 * double(runs.size() - 1 - val.size());  // the first ones show beneath the last
    val.push_back({label + ", validation", strong, width, curves.val, true});
  }
  train.insert(train.end(), val.begin(), val.end());
  svg::write_curves(path, title, train);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: plot_loss OUT.svg TITLE LABEL=METRICS...\n");
    return 2;
  }
  try {
    return plot(argv[1], argv[2], {argv + 3, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "plot_loss: %s\n", error.what());
    return 1;
  }
}
