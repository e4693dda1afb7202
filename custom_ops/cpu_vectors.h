// The passes of cpu_walk.h in vectors of `Vec<T>`, which the including file has defined.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu_walk.h"

namespace onnxfit {
namespace {

constexpr int kUnrolled = 4;
// How far ahead a pass asks for what it will read, where that is far: it comes too late by itself. With half of it,
// passes over 8 to 64 MiB took up to 20 % longer; with half more, two threads took 1 to 4 % longer below 32 MiB.
constexpr int kAheadBytes = 8192;

// Jumps as vectors: `Next(i, k)` from one to the next, where k counts them in rounds of kUnrolled; `Any(i)` anywhere.
template <class T>
struct SameVector {
  typename Vec<T>::Reg jump;
  typename Vec<T>::Reg Next(std::int64_t, int) const { return jump; }
  typename Vec<T>::Reg Any(std::int64_t) const { return jump; }
};

template <class T>
struct OwnVectors {
  const T* jumps;
  typename Vec<T>::Reg Next(std::int64_t i, int) const { return Vec<T>::Prepare(Vec<T>::Load(jumps + i)); }
  typename Vec<T>::Reg Any(std::int64_t i) const { return Vec<T>::Prepare(Vec<T>::Load(jumps + i)); }
};

// Jumps that are prepared already.
template <class T>
struct ReadyVectors {
  const T* jumps;
  typename Vec<T>::Reg Next(std::int64_t i, int) const { return Vec<T>::Load(jumps + i); }
  typename Vec<T>::Reg Any(std::int64_t i) const { return Vec<T>::Load(jumps + i); }
};

// A vector of prepared jumps, of which `index` names one for each element.
template <class T>
struct PickedVectors {
  typename Vec<T>::Reg jumps;
  const T* index;
  typename Vec<T>::Reg Next(std::int64_t i, int) const { return Vec<T>::Pick(jumps, Vec<T>::Load(index + i)); }
  typename Vec<T>::Reg Any(std::int64_t i) const { return Vec<T>::Pick(jumps, Vec<T>::Load(index + i)); }
};

template <class T>
struct CyclicVectors {
  static constexpr int kLanes = Vec<T>::kLanes;
  static constexpr int kCycle = kCycleBytes / sizeof(T);
  const T* jumps;
  typename Vec<T>::Reg cycle[kCycle / kLanes];

  explicit CyclicVectors(const T* two_cycles) : jumps(two_cycles) {
    for (int k = 0; k < kCycle / kLanes; ++k) {
      cycle[k] = Vec<T>::Load(jumps + k * kLanes);
    }
  }
  typename Vec<T>::Reg Next(std::int64_t, int k) const { return cycle[k % (kCycle / kLanes)]; }
  typename Vec<T>::Reg Any(std::int64_t i) const { return Vec<T>::Load(jumps + i % kCycle); }
};

template <class T>
typename Vec<T>::Reg LoadVector(PlainSource<T> source, std::int64_t i) {
  return Vec<T>::Load(source.x + i);
}

template <class T>
typename Vec<T>::Reg LoadVector(SumSource<T> source, std::int64_t i) {
  return Vec<T>::Add(Vec<T>::Load(source.a + i), Vec<T>::Load(source.b + i));
}

// Ask for what a round of LoadVector will read later on, which may lie behind X. Only x86 has files that come here.
template <class T>
void FetchAhead(PlainSource<T> source, std::int64_t i) {
  const char* const at = reinterpret_cast<const char*>(source.x + i) + kAheadBytes;
  for (std::size_t line = 0; line < kUnrolled * Vec<T>::kLanes * sizeof(T); line += 64) {
    _mm_prefetch(at + line, _MM_HINT_T0);
  }
}

template <class T>
void FetchAhead(SumSource<T> source, std::int64_t i) {
  FetchAhead(PlainSource<T>{source.a, true}, i);
  FetchAhead(PlainSource<T>{source.b, true}, i);
}

// Fewer elements than a vector has: copied to where a vector can be read.
template <class T>
PlainSource<T> Copied(PlainSource<T> source, std::int64_t count, T* buffer) {
  std::memcpy(buffer, source.x, static_cast<std::size_t>(count) * sizeof(T));
  return {buffer, false};
}

template <class T>
SumSource<T> Copied(SumSource<T> source, std::int64_t count, T* buffer) {
  std::memcpy(buffer, source.a, static_cast<std::size_t>(count) * sizeof(T));
  std::memcpy(buffer + Vec<T>::kLanes, source.b, static_cast<std::size_t>(count) * sizeof(T));
  return {buffer, buffer + Vec<T>::kLanes, false};
}

// As many rounds of kUnrolled vectors as there are; returns how many elements these are.
template <bool kFetchesAhead, class Source, class T, class Jumps>
std::int64_t Rounds(Source source, T* y, std::int64_t count, Jumps jumps) {
  using V = Vec<T>;
  constexpr std::int64_t kLanes = V::kLanes;
  std::int64_t i = 0;
  for (; i + kUnrolled * kLanes <= count; i += kUnrolled * kLanes) {
    // All loads first: a store may share the lower bits of its address with a load behind it, which then waits.
    typename V::Reg results[kUnrolled];
    for (int k = 0; k < kUnrolled; ++k) {
      const std::int64_t at = i + k * kLanes;
      results[k] = V::JumpRelu(LoadVector(source, at), jumps.Next(at, k));
    }
    if constexpr (kFetchesAhead) {
      FetchAhead(source, i);
    }
    for (int k = 0; k < kUnrolled; ++k) {
      V::Store(y + i + k * kLanes, results[k]);
    }
  }
  return i;
}

// As many whole vectors as there are; returns how many elements these are.
template <class Source, class T, class Jumps>
std::int64_t WholeVectors(Source source, T* y, std::int64_t count, Jumps jumps) {
  using V = Vec<T>;
  std::int64_t i =
      source.is_far ? Rounds<true>(source, y, count, jumps) : Rounds<false>(source, y, count, jumps);
  for (int k = 0; i + V::kLanes <= count; i += V::kLanes, ++k) {
    V::Store(y + i, V::JumpRelu(LoadVector(source, i), jumps.Next(i, k)));
  }
  return i;
}

// At least a vector.
template <class Source, class T, class Jumps>
void Pass(Source source, T* y, std::int64_t count, Jumps jumps) {
  using V = Vec<T>;
  // The last vector overlaps the one before it, so it is computed before that one is written: y may be an input.
  const std::int64_t at = count - V::kLanes;
  const auto last = V::JumpRelu(LoadVector(source, at), jumps.Any(at));
  if (WholeVectors(source, y, count, jumps) < count) {
    V::Store(y + at, last);
  }
}

template <class Source, class T, class Jumps>
void ShortPass(Source source, T* y, std::int64_t count, Jumps jumps) {
  using V = Vec<T>;
  T buffer[2 * V::kLanes] = {};
  const Source copied = Copied(source, count, buffer);
  V::Store(buffer, V::JumpRelu(LoadVector(copied, 0), jumps.Any(0)));
  std::memcpy(y, buffer, static_cast<std::size_t>(count) * sizeof(T));
}

template <class Source, class T, class Jumps>
void AnyPass(Source source, T* y, std::int64_t count, Jumps jumps) {
  count < Vec<T>::kLanes ? ShortPass(source, y, count, jumps) : Pass(source, y, count, jumps);
}

// At least a vector, with prepared jumps that come again after `length`; X begins at element `phase` of these. Vectors
// go on across the end.
template <class Source, class T>
void LaidOutPass(Source source, T* y, std::int64_t count, const T* jumps, std::int64_t length, std::int64_t phase) {
  using V = Vec<T>;
  constexpr std::int64_t kLanes = V::kLanes;
  // As in Pass, but only where the last vector is a part: beyond the caches it costs to read it first.
  const std::int64_t whole = count / kLanes * kLanes;
  const std::int64_t at = whole < count ? count - kLanes : 0;
  const std::int64_t last_phase = phase + at < length ? phase + at : (phase + at) % length;
  const auto last = V::JumpRelu(LoadVector(source, at), V::Load(jumps + last_phase));
  for (std::int64_t i = 0; i < whole;) {
    const std::int64_t to_end = (length - phase + kLanes - 1) / kLanes * kLanes;
    const std::int64_t part = Min(whole - i, to_end);
    WholeVectors(source.From(i), y + i, part, ReadyVectors<T>{jumps + phase});
    i += part;
    // A vector may hold jumps that come again more than once.
    for (phase += part; phase >= length; phase -= length) {
    }
  }
  if (whole < count) {
    V::Store(y + at, last);
  }
}

// Whole tiles of `size` elements, each for a vector of jumps: `index` names the jump of each element.
template <class Source, class T>
void Tiles(Source source, T* y, std::int64_t tiles, const T* jumps, std::int64_t size, const T* index) {
  using V = Vec<T>;
  for (; tiles > 0; --tiles) {
    WholeVectors(source, y, size, PickedVectors<T>{V::Prepare(V::Load(jumps)), index});
    source = source.From(size);
    y += size;
    jumps += V::kLanes;
  }
}

// `channels` jumps, at least a vector, each for `repeats` elements, again and again; X begins at element `at` of these.
// In tiles, each for a vector of jumps; the first and last may be a part.
template <class Source, class T>
void TilePass(Source source, T* y, std::int64_t at, std::int64_t count, const T* jumps, std::int64_t channels,
              std::int64_t repeats, const T* index) {
  constexpr std::int64_t kLanes = Vec<T>::kLanes;
  const std::int64_t size = repeats * kLanes;
  std::int64_t channel = at / size * kLanes % channels;
  std::int64_t phase = at % size;
  for (std::int64_t i = 0; i < count; phase = 0) {
    const std::int64_t tiles = phase > 0 ? 0 : Min((count - i) / size, (channels - channel) / kLanes);
    std::int64_t next = channel + tiles * kLanes;
    if (tiles > 0) {
      Tiles(source.From(i), y + i, tiles, jumps + channel, size, index);
      i += tiles * size;
    } else {
      // A part of a tile, or one whose jumps begin anew.
      T buffer[kLanes];
      const std::int64_t left = Min(channels - channel, kLanes);
      std::memcpy(buffer, jumps + channel, static_cast<std::size_t>(left) * sizeof(T));
      std::memcpy(buffer + left, jumps, static_cast<std::size_t>(kLanes - left) * sizeof(T));
      const std::int64_t part = Min(count - i, size - phase);
      const auto picked = Vec<T>::Prepare(Vec<T>::Load(buffer));
      AnyPass(source.From(i), y + i, part, PickedVectors<T>{picked, index + phase});
      i += part;
      next = channel + kLanes;
    }
    channel = next < channels ? next : next - channels;
  }
}

// Each jump for `repeats` elements, but the first for `left`. `repeats` is at least a vector, so that a vector holds
// two jumps at most.
template <class Source, class T>
void ChannelPass(Source source, T* y, std::int64_t count, const T* jump, std::int64_t repeats, std::int64_t left) {
  using V = Vec<T>;
  constexpr std::int64_t kLanes = V::kLanes;
  auto same = V::Prepare(V::Splat(*jump));
  std::int64_t end = left;
  std::int64_t i = 0;
  while (i + kLanes <= count) {
    i += WholeVectors(source.From(i), y + i, Min(end, count) - i, SameVector<T>{same});
    if (i + kLanes <= count) {
      const auto next = V::Prepare(V::Splat(*++jump));
      V::Store(y + i, V::JumpRelu(LoadVector(source, i), V::Join(same, next, end - i)));
      same = next;
      i += kLanes;
      end += repeats;
    }
  }
  if (i < count) {
    // Fewer elements than a vector: of this jump and maybe of the next.
    T jumps[kLanes] = {};
    for (std::int64_t k = 0; k < count - i; ++k) {
      jumps[k] = i + k < end ? *jump : jump[1];
    }
    ShortPass(source.From(i), y + i, count - i, OwnVectors<T>{jumps});
  }
}

struct VectorPasses {
  static constexpr bool kHasVectors = true;
  template <class T>
  static constexpr std::int64_t kTile = Vec<T>::kLanes;
  template <class T>
  static constexpr std::int64_t kLeastRun = kLongestPicked<T> + 1;

  template <class Source, class T>
  static void SameJump(Source source, T* y, std::int64_t count, T jump) {
    AnyPass(source, y, count, SameVector<T>{Vec<T>::Prepare(Vec<T>::Splat(jump))});
  }

  template <class Source, class T>
  static void OwnJumps(Source source, T* y, std::int64_t count, const T* jumps) {
    if (count >= Vec<T>::kLanes) {
      Pass(source, y, count, OwnVectors<T>{jumps});
      return;
    }
    T buffer[Vec<T>::kLanes] = {};
    std::memcpy(buffer, jumps, static_cast<std::size_t>(count) * sizeof(T));
    ShortPass(source, y, count, OwnVectors<T>{buffer});
  }

  template <class T>
  static void Prepare(T* jumps, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += Vec<T>::kLanes) {
      Vec<T>::Store(jumps + i, Vec<T>::Prepare(Vec<T>::Load(jumps + i)));
    }
  }

  template <class Source, class T>
  static void LaidOutJumps(Source source, T* y, std::int64_t count, const T* jumps, std::int64_t length,
                           std::int64_t phase) {
    count < Vec<T>::kLanes ? ShortPass(source, y, count, ReadyVectors<T>{jumps + phase})
                           : LaidOutPass(source, y, count, jumps, length, phase);
  }

  template <class Source, class T>
  static void CyclicJumps(Source source, T* y, std::int64_t count, const T* jumps) {
    AnyPass(source, y, count, CyclicVectors<T>(jumps));
  }

  template <class T>
  static void MakeIndex(std::int64_t repeats, T* out) {
    constexpr int kLanes = Vec<T>::kLanes;
    T lanes[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto index = Vec<T>::Index(lane);
      static_assert(sizeof index == sizeof(T), "an index is as wide as an element");
      std::memcpy(&lanes[lane], &index, sizeof index);
    }
    Repeat<false>(lanes, kLanes, repeats, out);
    std::memset(static_cast<void*>(out + repeats * kLanes), 0, kCycleBytes);
  }

  template <class Source, class T>
  static void TiledJumps(Source source, T* y, std::int64_t at, std::int64_t count, const T* jumps,
                         std::int64_t channels, std::int64_t repeats, const T* index) {
    TilePass(source, y, at, count, jumps, channels, repeats, index);
  }

  template <class Source, class T>
  static void ChannelJumps(Source source, T* y, std::int64_t count, const T* jumps, std::int64_t repeats,
                           std::int64_t left) {
    ChannelPass(source, y, count, jumps, repeats, left);
  }

  // Compilers add this by themselves only where every function that takes a vector was inlined.
  static void Leave() { _mm256_zeroupper(); }

  template <bool kPrepared, class T>
  static void Repeat(const T* jumps, std::int64_t count, std::int64_t repeats, T* out) {
    for (std::int64_t row = 0; row < count; ++row, out += repeats) {
      auto same = Vec<T>::Splat(jumps[row]);
      if constexpr (kPrepared) {
        same = Vec<T>::Prepare(same);
      }
      for (std::int64_t column = 0; column < repeats; column += Vec<T>::kLanes) {
        Vec<T>::Store(out + column, same);
      }
    }
  }
};

}  // namespace
}  // namespace onnxfit
