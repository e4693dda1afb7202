// Times the CPU kernel beside a pass over the same memory, in place, and prints a line of JSON for each measurement.
//
//   bench_cpu [--threads N] [--rounds N] [--least KIB] [--most KIB]
//
// Every form is first checked against the scalar definition.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "add.h"
#include "broadcast.h"
#include "check_cases.h"
#include "cpu_path.h"
#include "kernels.h"

#if ONNXFIT_X86_PATHS && defined(__GNUC__)
#include <immintrin.h>
#define ONNXFIT_TARGET(names) __attribute__((target(names)))
#endif

namespace onnxfit::check {
namespace {

using Clock = std::chrono::steady_clock;
using Word = std::uint64_t;
// A value that the compiler cannot know: without it the pass would change nothing and be dropped.
volatile Word all_ones = ~Word{0};

void PlainPass(Word* words, std::size_t count, Word mask) {
  for (std::size_t i = 0; i + 8 <= count; i += 8) {
    for (std::size_t k = 0; k < 8; ++k) {
      words[i + k] &= mask;
    }
  }
}

#if defined(ONNXFIT_TARGET)
ONNXFIT_TARGET("avx2") void Avx2Pass(Word* words, std::size_t count, Word mask) {
  const __m256i all = _mm256_set1_epi64x(static_cast<long long>(mask));
  for (std::size_t i = 0; i + 16 <= count; i += 16) {
    for (std::size_t k = 0; k < 16; k += 4) {
      auto* const at = reinterpret_cast<__m256i*>(words + i + k);
      _mm256_storeu_si256(at, _mm256_and_si256(_mm256_loadu_si256(at), all));
    }
  }
}

ONNXFIT_TARGET("avx512f") void Avx512Pass(Word* words, std::size_t count, Word mask) {
  const __m512i all = _mm512_set1_epi64(static_cast<long long>(mask));
  for (std::size_t i = 0; i + 32 <= count; i += 32) {
    for (std::size_t k = 0; k < 32; k += 8) {
      _mm512_storeu_si512(words + i + k, _mm512_and_si512(_mm512_loadu_si512(words + i + k), all));
    }
  }
}
#endif

// Reads and writes every byte in the widest vectors of the path in use; the size is a multiple of 256 bytes.
void MemoryPass(void* data, std::size_t bytes) {
  auto* const words = static_cast<Word*>(data);
  const std::size_t count = bytes / sizeof(Word);
#if defined(ONNXFIT_TARGET)
  const std::string path = CpuPathInUse();
  if (path != "baseline") {
    (path == "avx2" ? Avx2Pass : Avx512Pass)(words, count, all_ones);
    return;
  }
#endif
  PlainPass(words, count, all_ones);
}

// Threads that wait for work in a loop, as ONNX Runtime's do.
class Team {
 public:
  explicit Team(int size) {
    for (int index = 1; index < size; ++index) {
      others_.emplace_back([this, index] { Follow(index); });
    }
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    work_ = nullptr;
    ++turn_;
    for (std::thread& other : others_) {
      other.join();
    }
  }

  int size() const { return static_cast<int>(others_.size()) + 1; }

  // Call work(index) on each thread, and wait for all.
  void Run(const std::function<void(int)>& work) {
    work_ = &work;
    left_ = static_cast<int>(others_.size());
    ++turn_;
    work(0);
    while (left_ != 0) {
    }
  }

 private:
  void Follow(int index) {
    for (int seen = 0;; ++seen) {
      while (turn_ == seen) {
      }
      if (work_ == nullptr) {
        return;
      }
      (*work_)(index);
      --left_;
    }
  }

  std::atomic<const std::function<void(int)>*> work_{nullptr};
  std::atomic<int> turn_{0};
  std::atomic<int> left_{0};
  std::vector<std::thread> others_;
};

double Seconds(const std::function<void()>& work, int times) {
  const auto start = Clock::now();
  for (int i = 0; i < times; ++i) {
    work();
  }
  return std::chrono::duration<double>(Clock::now() - start).count() / times;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// How J lies along X, which is [N, C, row] and J [C, 1], or [N, row] and J [row] where it advances along a row.
struct Form {
  const char* name;
  std::int64_t row;  // 0 where one jump is for all elements.
  bool advances;
  bool adds = false;  // Of the sum of X and another tensor, which is all zeros.
};

constexpr std::int64_t kChannels = 256;
constexpr Form kForms[] = {
    {"scalar", 0, false},
    {"channels of 1", kChannels, true},
    {"channels of 4", 4, false},
    {"channels of 7", 7, false},
    {"channels of 16", 16, false},
    {"channels of 49", 49, false},
    {"channels of 196", 196, false},
    {"channels of 3136", 3136, false},
    {"10 classes", 10, true},
    {"blocks of 16", 16, true},
    {"sums, scalar", 0, false, true},
    {"sums, channels of 49", 49, false, true},
};

// As much of `count` elements as whole rows and channels take; an empty shape where that is none.
Case ShapesOf(const Form& form, std::int64_t count) {
  if (form.row == 0) {
    return {{count}, {}};
  }
  if (form.advances) {
    return {{count / form.row, form.row}, {form.row}};
  }
  const std::int64_t channels = std::min(kChannels, count / form.row);
  return {{channels ? count / form.row / channels : 0, channels, form.row}, {channels, 1}};
}

struct Settings {
  int threads = 1;
  int rounds = 31;
  std::int64_t least = 4;
  std::int64_t most = 256 << 10;
};

template <class T>
void Measure(const Form& form, std::int64_t bytes, Team& team, int rounds) {
  const auto whole = static_cast<std::int64_t>(bytes / sizeof(T));
  const Case shapes = ShapesOf(form, whole);
  const std::int64_t count = Count(shapes.x);
  if (count == 0) {
    return;
  }
  const Broadcast layout = MakeBroadcast(shapes.x, shapes.j);
  const std::vector<T> jumps = EdgeValues<T>(Count(shapes.j), 3);
  const std::unique_ptr<T, decltype(&std::free)> data(
      static_cast<T*>(std::aligned_alloc(4096, static_cast<std::size_t>(bytes))), std::free);
  const std::vector<T> zeros(form.adds ? static_cast<std::size_t>(whole) : 0);
  const std::vector<T> x = EdgeValues<T>(std::min<std::int64_t>(whole, 1 << 16), 0);
  for (std::int64_t at = 0; at < whole; at += static_cast<std::int64_t>(x.size())) {
    std::memcpy(data.get() + at, x.data(), x.size() * sizeof(T));
  }
  // Whole multiples of 256 bytes, but for the last.
  const std::int64_t share = whole / team.size() / 256 * 256;
  const auto limit = [&](int index, std::int64_t end) { return index == team.size() ? end : index * share; };
  const std::function<void(int)> kernel_part = [&](int index) {
    const std::int64_t begin = limit(index, count);
    const std::int64_t end = limit(index + 1, count);
    form.adds ? AddJumpReluCpu(data.get(), zeros.data(), data.get(), begin, end, jumps.data(), layout)
              : JumpReluCpu(data.get(), data.get(), begin, end, jumps.data(), layout);
  };
  const std::function<void(int)> pass_part = [&](int index) {
    const std::int64_t begin = limit(index, whole);
    MemoryPass(data.get() + begin, static_cast<std::size_t>(limit(index + 1, whole) - begin) * sizeof(T));
  };
  const auto kernel = [&] { team.Run(kernel_part); };
  const auto pass = [&] { team.Run(pass_part); };

  kernel();
  for (std::int64_t i = 0; i < std::min<std::int64_t>(count, 1 << 16); ++i) {
    const T value = x[static_cast<std::size_t>(i)];
    const T expected = JumpRelu(form.adds ? Add(value, T{}) : value,
                                jumps[static_cast<std::size_t>(JumpIndex(shapes.x, shapes.j, i))]);
    // The bits of a NaN that a sum makes depend on the hardware.
    if (ToBits(expected) != ToBits(data.get()[i]) && !(form.adds && std::isnan(Decode(expected)))) {
      std::fprintf(stderr, "%s, %s: element %lld is wrong\n", Format<T>::kName, form.name, static_cast<long long>(i));
      std::exit(1);
    }
  }

  const double streams = form.adds ? 3 : 2;  // So often has each byte of X to be moved.
  const int times = static_cast<int>(std::clamp<std::int64_t>((4 << 20) / bytes, 1, 1000));
  std::vector<double> kernel_seconds, pass_seconds, ratios;
  for (int round = 0; round < rounds; ++round) {
    double took[2];
    for (const int which : {round % 2, 1 - round % 2}) {
      took[which] = which == 0 ? Seconds(kernel, times) : Seconds(pass, times);
    }
    kernel_seconds.push_back(took[0]);
    pass_seconds.push_back(took[1]);
    ratios.push_back(took[1] / took[0] * streams / 2);
  }
  const double moved = 1e-9 * static_cast<double>(bytes);
  std::sort(ratios.begin(), ratios.end());
  std::printf(
      "{\"type\": \"%s\", \"form\": \"%s\", \"bytes\": %lld, \"threads\": %d, \"path\": \"%s\", "
      "\"kernel_gb_per_s\": %.2f, \"pass_gb_per_s\": %.2f, \"ratio\": %.3f, \"ratio_quartiles\": [%.3f, %.3f]}\n",
      Format<T>::kName, form.name, static_cast<long long>(bytes), team.size(), CpuPathInUse(),
      streams * moved / Median(kernel_seconds), 2 * moved / Median(pass_seconds), Median(ratios),
      ratios[ratios.size() / 4], ratios[ratios.size() * 3 / 4]);
  std::fflush(stdout);
}

Settings Parse(int count, char** arguments) {
  Settings settings;
  for (int i = 1; i < count; i += 2) {
    const std::string name = arguments[i];
    const long value = i + 1 < count ? std::atol(arguments[i + 1]) : 0;
    if (name == "--threads" && value > 0) {
      settings.threads = static_cast<int>(value);
    } else if (name == "--rounds" && value > 0) {
      settings.rounds = static_cast<int>(value);
    } else if (name == "--least" && value > 0) {
      settings.least = value;
    } else if (name == "--most" && value > 0) {
      settings.most = value;
    } else {
      std::fputs("usage: bench_cpu [--threads N] [--rounds N] [--least KIB] [--most KIB]\n", stderr);
      std::exit(2);
    }
  }
  return settings;
}

void Run(const Settings& settings) {
  Team team(settings.threads);
  for (std::int64_t kib = settings.least; kib <= settings.most; kib *= 4) {
    for (const Form& form : kForms) {
      Measure<float>(form, kib << 10, team, settings.rounds);
      Measure<double>(form, kib << 10, team, settings.rounds);
      Measure<Float16>(form, kib << 10, team, settings.rounds);
      Measure<BFloat16>(form, kib << 10, team, settings.rounds);
    }
  }
}

}  // namespace
}  // namespace onnxfit::check

int main(int count, char** arguments) { onnxfit::check::Run(onnxfit::check::Parse(count, arguments)); }
