// How the CPU kernels walk along X with a broadcast J, in terms of passes that an instruction set provides.
//
// For inclusion by the file of an instruction set only, below its passes. All is in an unnamed namespace, and nothing
// of the C++ library is used: a template shared with another file could bring this file's instructions there.
#pragma once

#include <cstdint>
#include <cstring>

#include "broadcast.h"
#include "cpu_path.h"

namespace onnxfit {
namespace {

// Where jumps that change more often than a pass can follow are laid out one per element, or the index to pick them by.
constexpr std::int64_t kScratchBytes = 16384;
// Tensors of this size together do not stay in a core's own caches. At half of it, asking ahead cost two threads 4 %.
constexpr std::int64_t kFarBytes = 8 << 20;
// Jumps that come again after this many bytes, or after a divisor of it, stay in registers.
constexpr std::int64_t kCycleBytes = 64;

inline std::int64_t Min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// What JumpReLU reads: X, or the sum of A and B; `is_far` where these come from beyond a core's own caches.
template <class T>
struct PlainSource {
  using Element = T;
  const T* x;
  bool is_far;
  PlainSource From(std::int64_t i) const { return {x + i, is_far}; }
};

template <class T>
struct SumSource {
  using Element = T;
  const T* a;
  const T* b;
  bool is_far;
  SumSource From(std::int64_t i) const { return {a + i, b + i, is_far}; }
};

// The innermost runs: J's elements, each for `repeats` neighbours, come again after `period` elements. After `segment`
// elements, one of the `outer` remaining runs makes a step.
struct Pattern {
  std::int64_t repeats;
  std::int64_t period;
  std::int64_t segment;
  int outer;

  explicit Pattern(const Broadcast& layout) : repeats(1), outer(layout.runs - 1) {
    period = layout.size[outer];
    if (layout.stride[outer] == 0 && outer > 0) {
      repeats = period;
      period *= layout.size[--outer];
    }
    segment = outer > 0 ? period * layout.size[--outer] : period;
  }
};

// Where J stands as the runs outside a segment advance.
template <class T>
class Odometer {
 public:
  Odometer(const Broadcast& layout, int runs, std::int64_t segment, const T* jump)
      : layout_(layout), runs_(runs), jump_(jump) {
    for (int run = runs - 1; run >= 0; --run) {
      position_[run] = segment % layout.size[run];
      segment /= layout.size[run];
      jump_ += position_[run] * layout.stride[run];
    }
  }

  const T* jump() const { return jump_; }

  void Step() {
    for (int run = runs_ - 1; run >= 0; --run) {
      jump_ += layout_.stride[run];
      if (++position_[run] < layout_.size[run]) {
        return;
      }
      jump_ -= layout_.size[run] * layout_.stride[run];
      position_[run] = 0;
    }
  }

 private:
  const Broadcast& layout_;
  int runs_;
  const T* jump_;
  std::int64_t position_[Broadcast::kMaxRuns];
};

// What an instruction set provides, each for `count` elements:
//   SameJump      one jump
//   OwnJumps      a jump per element
//   ChannelJumps  jumps that repeat kLeastRun<T> times or more; the first one `left` times
//   Repeat        writes each of `count` jumps several times, where kPrepared as Prepare leaves them; may write up to
//                 kCycleBytes too many
//   LaidOutJumps  a jump per element, prepared where kHasVectors, again and again after `length`; X begins at element
//                 `phase` of these; may read up to kCycleBytes behind them, where they begin again
//   Leave         leaves the registers as other code expects them
// and, where kHasVectors,
//   Prepare       turns jumps into what these take; may touch up to kCycleBytes behind them
//   CyclicJumps   prepared jumps that come again after kCycleBytes, of which two cycles are given
//   MakeIndex     what picks each of kTile<T> jumps several times; followed by kCycleBytes of zeros
//   TiledJumps    `channels` jumps that repeat less than kLeastRun<T> times, again and again, by such an index; X
//                 begins at element `at` of these
template <class Passes, class Source>
class Walk {
  using T = typename Source::Element;
  static constexpr std::int64_t kScratch = kScratchBytes / sizeof(T);
  static constexpr std::int64_t kCycle = kCycleBytes / sizeof(T);

 public:
  explicit Walk(const Pattern& pattern)
      : pattern_(pattern),
        by_channel_(pattern.repeats >= Passes::template kLeastRun<T>),
        cyclic_(Passes::kHasVectors && !by_channel_ && pattern.period <= kCycle && kCycle % pattern.period == 0) {
    const bool comes_again = pattern.period < pattern.segment;
    if constexpr (Passes::kHasVectors) {
      const bool is_short = comes_again && pattern.period <= kScratch / 2;
      const std::int64_t jumps = pattern.period / pattern.repeats;
      tiled_ = pattern.repeats > 1 && !by_channel_ && !is_short && jumps >= Passes::template kTile<T>;
      if (tiled_) {
        Passes::MakeIndex(pattern.repeats, scratch_);
        return;
      }
    }
    if (cyclic_) {
      length_ = 2 * kCycle;  // A pass may begin anywhere in the first cycle, and Fill adds a third.
    } else if (!by_channel_ && pattern.period <= kScratch && (pattern.repeats > 1 || comes_again)) {
      length_ = pattern.period;
      while (length_ % kCycle != 0) {
        length_ *= 2;  // After so many periods, jumps are aligned beside X as before.
      }
      if (length_ > Min(kScratch, pattern.segment)) {
        length_ = pattern.period;
      }
      // Long enough for long passes, and short beside what is to be done.
      const std::int64_t wanted = Min(kScratch / 2, pattern.segment / 8);
      length_ *= length_ < wanted ? wanted / length_ : 1;
    }
  }

  // Elements `at` to `at + count` of a segment whose jumps begin at `jump`.
  void Segment(Source source, T* y, std::int64_t at, std::int64_t count, const T* jump) {
    if constexpr (Passes::kHasVectors) {
      if (tiled_) {
        const std::int64_t channels = pattern_.period / pattern_.repeats;
        Passes::TiledJumps(source, y, at, count, jump, channels, pattern_.repeats, scratch_);
        return;
      }
    }
    std::int64_t phase = at < pattern_.period ? at : at % pattern_.period;
    if (length_ > 0) {
      Fill(jump);
      if constexpr (Passes::kHasVectors) {
        if (cyclic_) {
          Passes::CyclicJumps(source, y, count, scratch_ + phase);
          return;
        }
      }
      Passes::LaidOutJumps(source, y, count, scratch_, length_, phase);
      return;
    }
    for (std::int64_t done = 0; done < count; phase = 0) {
      const std::int64_t part = Min(count - done, pattern_.period - phase);
      if (pattern_.repeats == 1) {
        Passes::OwnJumps(source.From(done), y + done, part, jump + phase);
      } else {
        Channels(source.From(done), y + done, phase, part, jump);
      }
      done += part;
    }
  }

 private:
  // Part of one period in which each jump repeats.
  void Channels(Source source, T* y, std::int64_t phase, std::int64_t count, const T* jump) {
    const std::int64_t repeats = pattern_.repeats;
    std::int64_t column = phase;
    if (phase >= repeats) {
      jump += phase / repeats;
      column = phase % repeats;
    }
    if (by_channel_) {
      Passes::ChannelJumps(source, y, count, jump, repeats, repeats - column);
      return;
    }
    const std::int64_t channels = kScratch / repeats;
    for (std::int64_t done = 0; done < count; column = 0, jump += channels) {
      const std::int64_t part = Min(count - done, channels * repeats - column);
      Passes::template Repeat<false>(jump, (column + part + repeats - 1) / repeats, repeats, scratch_);
      Passes::OwnJumps(source.From(done), y + done, part, scratch_ + column);
      done += part;
    }
  }

  // Lay out the first `length_` jumps of a segment and a cycle more, unless they are there.
  void Fill(const T* jump) {
    if (jump == filled_) {
      return;
    }
    filled_ = jump;
    const std::int64_t period = pattern_.period;
    const std::int64_t repeats = pattern_.repeats;
    if (repeats >= kCycle) {
      Passes::template Repeat<Passes::kHasVectors>(jump, period / repeats, repeats, scratch_);
    } else {
      if (repeats == 1) {
        std::memcpy(scratch_, jump, static_cast<std::size_t>(period) * sizeof(T));
      } else {
        Passes::template Repeat<false>(jump, period / repeats, repeats, scratch_);
      }
      if constexpr (Passes::kHasVectors) {
        Passes::Prepare(scratch_, period);
      }
    }
    for (std::int64_t done = period; done < length_ + kCycle;) {
      const std::int64_t part = Min(done, length_ + kCycle - done);
      std::memcpy(scratch_ + done, scratch_, static_cast<std::size_t>(part) * sizeof(T));
      done += part;
    }
  }

  const Pattern& pattern_;
  const bool by_channel_;
  const bool cyclic_;
  bool tiled_ = false;
  std::int64_t length_ = 0;  // Of the whole periods in scratch; 0 where they are not kept there.
  const T* filled_ = nullptr;
  alignas(64) T scratch_[kScratch + kCycle];
};

// One jump after the other, each for a run of its own.
template <class Passes, class Source, class T>
void RunByRun(Source source, T* y, std::int64_t count, const T* jump, std::int64_t repeats, std::int64_t left) {
  for (std::int64_t done = 0; done < count; left = repeats, ++jump) {
    const std::int64_t part = Min(count - done, left);
    Passes::SameJump(source.From(done), y + done, part, *jump);
    done += part;
  }
}

template <class Passes, class Source>
void WalkRange(Source source, typename Source::Element* y, std::int64_t begin, std::int64_t end,
               const typename Source::Element* jump, const Broadcast& layout) {
  if (begin >= end) {
    return;
  }
  if (layout.runs == 1) {
    if (layout.stride[0] == 0) {
      Passes::SameJump(source.From(begin), y + begin, end - begin, *jump);
    } else {
      Passes::OwnJumps(source.From(begin), y + begin, end - begin, jump + begin);
    }
    return;
  }
  const Pattern pattern(layout);
  std::int64_t at = begin;
  std::int64_t segment = 0;
  if (begin >= pattern.segment) {
    segment = begin / pattern.segment;
    at = begin % pattern.segment;
  }
  Odometer<typename Source::Element> outer(layout, pattern.outer, segment, jump);
  Walk<Passes, Source> walk(pattern);
  for (std::int64_t i = begin; i < end; at = 0, outer.Step()) {
    const std::int64_t count = Min(end - i, pattern.segment - at);
    walk.Segment(source.From(i), y + i, at, count, outer.jump());
    i += count;
  }
}

// Whether so many bytes for each element do not stay in a core's own caches.
inline bool IsFar(std::int64_t bytes, const Broadcast& layout) {
  for (int run = 0; run < layout.runs; ++run) {
    bytes *= layout.size[run];
  }
  return bytes >= kFarBytes;
}

template <class Passes, class T>
void JumpReluOn(const T* x, T* y, std::int64_t begin, std::int64_t end, const T* jump, const Broadcast& layout) {
  WalkRange<Passes>(PlainSource<T>{x, IsFar(sizeof(T), layout)}, y, begin, end, jump, layout);
  Passes::Leave();
}

template <class Passes, class T>
void AddJumpReluOn(const T* a, const T* b, T* y, std::int64_t begin, std::int64_t end, const T* jump,
                   const Broadcast& layout) {
  WalkRange<Passes>(SumSource<T>{a, b, IsFar(2 * sizeof(T), layout)}, y, begin, end, jump, layout);
  Passes::Leave();
}

template <class Passes, class T>
constexpr CpuKernels<T> KernelsOn() {
  return {JumpReluOn<Passes, T>, AddJumpReluOn<Passes, T>};
}

template <class Passes>
constexpr CpuPath PathOf(const char* name) {
  return {KernelsOn<Passes, float>(), KernelsOn<Passes, double>(), KernelsOn<Passes, Float16>(),
          KernelsOn<Passes, BFloat16>(), name};
}

}  // namespace
}  // namespace onnxfit
