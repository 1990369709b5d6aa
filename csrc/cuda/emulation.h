// A GPU's execution model on one processor core, so that the kernels' source runs, and can be checked,
// where there is no GPU. It proves logic: not PTX, not tensor cores, not a memory model, not speed.
//
// Each thread of a block is a fiber that runs until it waits at a barrier; then the others run, in an
// order that the caller chooses, so that a missing barrier shows as a wrong result under one order or
// another. Shuffles exchange values at a barrier of the warp. Shared memory is filled with NaN before
// each block. Built with -fsanitize=thread, accesses that no barrier separates are reported as well.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SHARED_ARRAY(type, name, size) \
  static type name[size];              \
  emulation::shared_array(name, sizeof name)
#define DYNAMIC_SHARED(name) auto* const name = emulation::dynamic_shared<compressc::cuda::Quad>()
#define threadIdx (emulation::thread_index())
#define blockIdx (emulation::block_index())
#define blockDim (emulation::block_size())

// What belongs to the emulation itself is not looked at by the thread sanitizer.
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define EMULATION __attribute__((no_sanitize("thread"), noinline)) inline
#else
#define EMULATION inline
#endif

namespace emulation {

inline constexpr int kWarp = 32;
inline constexpr std::size_t kStack = 64 << 10;
inline constexpr int kArrays = 64;
inline constexpr int kDeadlock = 100000;  // no error of CUDA's

struct Dim {
  unsigned x, y;
};

enum class State { ready, at_warp, at_block, done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::done;
  Dim index{0, 0};
  unsigned shuffles = 0;  // counted, to alternate between two sets of slots
  void* sanitizer = nullptr;
};

struct Settings {
  unsigned order = 0;                      // 0: ascending, 1: descending, above: seed of a random one
  std::size_t shared_limit = 100 << 10;    // bytes a block may ask for
};

inline Settings& settings() {
  static Settings s;
  return s;
}

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::uint64_t> slots;      // [warp][2][lane], for shuffles
  std::vector<std::uint64_t> dynamic;    // dynamic shared memory
  struct {
    void* place;
    std::size_t bytes;
  } arrays[kArrays];  // static shared memory. No vector: the sanitizer would look into its methods.
  int array_count = 0;
  std::function<void()> kernel;
  Fiber* current = nullptr;
  ucontext_t scheduler;
  void* scheduler_sanitizer = nullptr;
  Dim block{0, 0}, size{0, 1};
  char started = 0, finished = 0, barrier = 0, warp_barriers[kWarp];  // named to the sanitizer
};

inline Machine& machine() {
  static Machine m;
  return m;
}

EMULATION Dim thread_index() { return machine().current->index; }
EMULATION Dim block_index() { return machine().block; }
EMULATION Dim block_size() { return machine().size; }

EMULATION void shared_array(void* array, std::size_t bytes) {
  Machine& m = machine();
  for (int i = 0; i < m.array_count; ++i) {
    if (m.arrays[i].place == array) return;
  }
  if (m.array_count == kArrays) std::abort();
  m.arrays[m.array_count++] = {array, bytes};
  std::memset(array, 0xff, bytes);
}

template <typename T>
EMULATION T* dynamic_shared() {
  return reinterpret_cast<T*>(machine().dynamic.data());
}

EMULATION void switch_to(ucontext_t* from, ucontext_t* to, [[maybe_unused]] void* sanitizer) {
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  swapcontext(from, to);
}

EMULATION char* warp_barrier() {
  return machine().warp_barriers + machine().current->index.x / kWarp;
}

EMULATION void happens([[maybe_unused]] char* place, [[maybe_unused]] bool release) {
#if defined(__SANITIZE_THREAD__)
  release ? __tsan_release(place) : __tsan_acquire(place);
#endif
}

EMULATION void wait(State state) {
  Machine& m = machine();
  Fiber* const self = m.current;
  self->state = state;
  switch_to(&self->context, &m.scheduler, m.scheduler_sanitizer);
}

// What a fiber does for ever: one thread of one block after another.
EMULATION void live() {
  for (;;) {
    happens(&machine().started, false);
    machine().kernel();
    happens(&machine().finished, true);
    wait(State::done);
  }
}

EMULATION void make_fibers(unsigned count) {
  Machine& m = machine();
  while (m.fibers.size() < count) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = std::make_unique<char[]>(kStack);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = kStack;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, live, 0);
#if defined(__SANITIZE_THREAD__)
    fiber->sanitizer = __tsan_create_fiber(0);
#endif
    m.fibers.push_back(std::move(fiber));
  }
#if defined(__SANITIZE_THREAD__)
  m.scheduler_sanitizer = __tsan_get_current_fiber();
#endif
}

// Lets go whoever stands at a barrier that everyone has reached.
EMULATION void release_barriers(unsigned threads) {
  auto& fibers = machine().fibers;
  const auto all_at = [&](unsigned begin, unsigned end, State state) {
    for (unsigned i = begin; i < end; ++i) {
      if (fibers[i]->state != state) return;
    }
    for (unsigned i = begin; i < end; ++i) fibers[i]->state = State::ready;
  };
  for (unsigned i = 0; i < threads; i += kWarp) all_at(i, i + kWarp, State::at_warp);
  all_at(0, threads, State::at_block);
}

// False if the block's threads wait for one another at different places.
EMULATION bool run_block(unsigned threads, std::mt19937& random) {
  Machine& m = machine();
  std::vector<unsigned> order(threads);
  for (unsigned i = 0; i < threads; ++i) {
    order[i] = settings().order == 1 ? threads - 1 - i : i;
    m.fibers[i]->state = State::ready;
    m.fibers[i]->index = {i, 0};
    m.fibers[i]->shuffles = 0;
  }
  if (!m.dynamic.empty()) std::memset(m.dynamic.data(), 0xff, m.dynamic.size() * 8);
  for (int i = 0; i < m.array_count; ++i) std::memset(m.arrays[i].place, 0xff, m.arrays[i].bytes);
  happens(&m.started, true);
  for (bool any = true; any;) {
    any = false;
    if (settings().order > 1) std::shuffle(order.begin(), order.end(), random);
    for (const unsigned i : order) {
      if (m.fibers[i]->state != State::ready) continue;
      any = true;
      m.current = m.fibers[i].get();
      switch_to(&m.scheduler, &m.current->context, m.current->sanitizer);
    }
    release_barriers(threads);
  }
  happens(&m.finished, false);
  for (unsigned i = 0; i < threads; ++i) {
    if (m.fibers[i]->state != State::done) return false;
  }
  return true;
}

// Runs `kernel` once for each thread of each block, blocks one after another.
inline int launch(std::function<void()> kernel, unsigned blocks_x, unsigned blocks_y, int threads,
                  std::size_t shared) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  Machine& m = machine();
  m.kernel = std::move(kernel);
  m.size = {static_cast<unsigned>(threads), 1};
  m.dynamic.assign((shared + 7) / 8, 0);
  m.slots.assign(static_cast<std::size_t>(threads) * 2, 0);
  make_fibers(m.size.x);
  std::mt19937 random(settings().order);
  for (unsigned y = 0; y < blocks_y; ++y) {
    for (unsigned x = 0; x < blocks_x; ++x) {
      m.block = {x, y};
      if (run_block(m.size.x, random)) continue;
      m.fibers.clear();  // they wait for ever
      return kDeadlock;
    }
  }
  return 0;
}

template <typename T>
EMULATION T exchange(T value, unsigned lane) {
  static_assert(sizeof(T) <= 8);
  Machine& m = machine();
  Fiber* const self = m.current;
  const unsigned warp = self->index.x / kWarp, set = self->shuffles++ % 2;
  std::uint64_t* const slots = m.slots.data() + (warp * 2 + set) * kWarp;
  std::memcpy(slots + self->index.x % kWarp, &value, sizeof value);
  wait(State::at_warp);
  std::memcpy(&value, slots + lane, sizeof value);
  return value;
}

}  // namespace emulation

inline void __syncthreads() {
  emulation::happens(&emulation::machine().barrier, true);
  emulation::wait(emulation::State::at_block);
  emulation::happens(&emulation::machine().barrier, false);
}

inline void __syncwarp() {
  char* const place = emulation::warp_barrier();
  emulation::happens(place, true);
  emulation::wait(emulation::State::at_warp);
  emulation::happens(place, false);
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulation::exchange(value, emulation::thread_index().x % 32 ^ static_cast<unsigned>(mask));
}

EMULATION unsigned atomicOr(unsigned* place, unsigned bits) {
  return __atomic_fetch_or(place, bits, __ATOMIC_RELAXED);
}
