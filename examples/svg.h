// The loss curve as an SVG file: axes with round numbers, a legend, the training loss as it came and
// averaged, the validation loss with a dot at each evaluation.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Point {
  double x, y;
};

namespace svg {

constexpr double width = 800, height = 480, left = 70, right = 20, top = 50, bottom = 60;

// About five steps of 1, 2 or 5 times a power of ten.
inline double tick_step(double range) {
  const double rough = range / 5, power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * power) return factor * power;
  }
  return 10 * power;
}

// From numbers to pixels, with the range widened to whole ticks.
struct Axis {
  double low, high, step, from, to;  // from, to: pixels of low and high
  Axis(double lowest, double highest, double from, double to) : from(from), to(to) {
    if (highest - lowest < 1e-9) highest = lowest + 1;
    step = tick_step(highest - lowest);
    low = std::floor(lowest / step) * step;
    high = std::ceil(highest / step) * step;
  }
  double operator()(double value) const { return from + (value - low) / (high - low) * (to - from); }
  int ticks() const { return int(std::lround((high - low) / step)) + 1; }
  double tick(int i) const { return low + i * step; }
};

inline std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

// Means of `size` neighbours each, in their middle.
inline std::vector<Point> averaged(const std::vector<Point>& points, size_t size) {
  std::vector<Point> means;
  for (size_t i = 0; i < points.size(); i += size) {
    const size_t n = std::min(size, points.size() - i);
    Point sum = {0, 0};
    for (size_t j = i; j < i + n; ++j) sum.x += points[j].x, sum.y += points[j].y;
    means.push_back({sum.x / double(n), sum.y / double(n)});
  }
  return means;
}

inline void polyline(std::ostream& out, const std::vector<Point>& points, const Axis& x, const Axis& y,
                     const char* style) {
  out << "<polyline fill=\"none\" " << style << " points=\"";
  for (const Point& p : points) out << x(p.x) << ',' << y(p.y) << ' ';
  out << "\"/>\n";
}

// Throws std::runtime_error where the file cannot be written.
inline void write_loss_curve(const std::string& path, const std::string& title,
                             const std::vector<Point>& train, const std::vector<Point>& val) {
  double low = INFINITY, high = -INFINITY, last = 1;
  for (const auto* curve : {&train, &val}) {
    for (const Point& p : *curve) {
      low = std::min(low, p.y), high = std::max(high, p.y), last = std::max(last, p.x);
    }
  }
  if (low > high) low = 0, high = 1;  // nothing to draw
  const Axis x(0, last, left, width - right), y(low, high, height - bottom, top);
  const char* light = "stroke=\"#9ecae1\" stroke-width=\"1\"";
  const char* blue = "stroke=\"#1f77b4\" stroke-width=\"2\"";
  const char* red = "stroke=\"#d62728\" stroke-width=\"2.5\"";

  std::ostringstream out;
  out.imbue(std::locale::classic());  // "0.5" and "2000" whatever the program's locale writes
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << width << ' ' << height << "\" width=\""
      << width << "\" height=\"" << height << "\" font-family=\"sans-serif\" font-size=\"13\">\n"
      << "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      << "<text x=\"" << width / 2 << "\" y=\"28\" text-anchor=\"middle\" font-size=\"16\">" << escaped(title)
      << "</text>\n";
  for (int i = 0; i < x.ticks(); ++i) {
    const double at = x(x.tick(i));
    out << "<line x1=\"" << at << "\" y1=\"" << top << "\" x2=\"" << at << "\" y2=\"" << height - bottom
        << "\" stroke=\"#eee\"/>\n<text x=\"" << at << "\" y=\"" << height - bottom + 20
        << "\" text-anchor=\"middle\">" << x.tick(i) << "</text>\n";
  }
  for (int i = 0; i < y.ticks(); ++i) {
    const double at = y(y.tick(i));
    out << "<line x1=\"" << left << "\" y1=\"" << at << "\" x2=\"" << width - right << "\" y2=\"" << at
        << "\" stroke=\"#eee\"/>\n<text x=\"" << left - 8 << "\" y=\"" << at + 4 << "\" text-anchor=\"end\">"
        << std::round(y.tick(i) * 1e6) / 1e6 << "</text>\n";
  }
  out << "<rect x=\"" << left << "\" y=\"" << top << "\" width=\"" << width - left - right << "\" height=\""
      << height - top - bottom << "\" fill=\"none\" stroke=\"#444\"/>\n"
      << "<text x=\"" << (left + width - right) / 2 << "\" y=\"" << height - 16
      << "\" text-anchor=\"middle\">step</text>\n"
      << "<text transform=\"translate(20 " << (top + height - bottom) / 2
      << ") rotate(-90)\" text-anchor=\"middle\">loss (nats per token)</text>\n";

  polyline(out, averaged(train, train.size() / 2000 + 1), x, y, light);
  polyline(out, averaged(train, train.size() / 100 + 1), x, y, blue);
  polyline(out, val, x, y, red);
  for (const Point& p : val) {
    out << "<circle cx=\"" << x(p.x) << "\" cy=\"" << y(p.y) << "\" r=\"3.5\" fill=\"#d62728\"/>\n";
  }
  const char* labels[] = {"train, each step", "train, mean", "validation"};
  const char* styles[] = {light, blue, red};
  for (int i = 0; i < 3; ++i) {
    const double at = top + 22 + 20 * i, start = width - right - 180;
    out << "<line x1=\"" << start << "\" y1=\"" << at << "\" x2=\"" << start + 30 << "\" y2=\"" << at << "\" "
        << styles[i] << "/>\n<text x=\"" << start + 40 << "\" y=\"" << at + 4 << "\">" << labels[i]
        << "</text>\n";
  }
  out << "</svg>\n";

  std::ofstream file(path, std::ios::binary);
  file << out.str();
  if (!file.flush()) throw std::runtime_error("cannot write " + path + ": " + std::strerror(errno));
}

}  // namespace svg
