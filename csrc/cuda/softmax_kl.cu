// softmax_kl and softmax_kl_ce: the kernel, and its start.
#include "softmax_kl.h"

#include "interface.h"

namespace compressc::cuda {
namespace {

struct Task {
  SoftmaxKl a;
  bool student_aligned, teacher_aligned, grad_aligned;
  int kept_chunks;
};

// What is known of a row before it is read. `student` is the start of its logits.
struct RowTask {
  const void* student;
  void* grad;
  float factor;        // scale * weight
  std::int64_t label;  // negative: none
  float at_label;      // the student's logit there; known to thread 0 only
};

template <DType kStudent>
__device__ __forceinline__ RowTask row_task(const Task& task, std::int64_t i) {
  constexpr int kBytes = kStudent == DType::f32 ? 4 : 2;
  const SoftmaxKl& a = task.a;
  RowTask r;
  r.student = static_cast<const char*>(a.student) + i * a.student_stride * kBytes;
  r.grad = a.grad == nullptr ? nullptr : static_cast<char*>(a.grad) + i * a.vocab * kBytes;
  r.factor = a.scale * (a.weight == nullptr ? 1.0f : a.weight[i]);
  r.label = a.labels == nullptr ? -1 : a.labels[i];
  r.at_label = 0;
  if (r.factor == 0) return r;
  if (r.label >= a.vocab) {
    r.factor = NAN;  // nothing waits here to report it
    r.label = -1;
  } else if (r.label >= 0 && threadIdx.x == 0) {
    float x[kChunk];
    unpack(load_raw(r.student, kStudent, r.label, 1, false), kStudent, x);
    r.at_label = x[0];
  }
  return r;
}

// The loss of a row from its sums: the divergence, and for JS also what its gradient needs.
struct Solved {
  float divergence, mean_slope, ratio;
};

template <Loss kLoss, DType kStudent>
__device__ __forceinline__ Solved solve(const Row& row, const Sums& r, float temperature) {
  const float ratio = log_ratio(r), inverse_t = 1.0f / temperature;
  if (kLoss == Loss::reverse) {
    const float kl = r.dot / (r.z_s * temperature) - ratio;
    return {kl, kl, ratio};
  }
  if (kLoss != Loss::jensen_shannon) return {r.dot / (r.z_t * temperature) + ratio, 0, ratio};
  const float shift_s = finite_or_zero(r.m_s), shift_t = finite_or_zero(r.m_t);
  const float to_q = 1.0f / r.z_s, to_p = 1.0f / r.z_t, k = kLog2e * inverse_t;
  float sums[2] = {0, 0};
  each_chunk<kStudent, false>(row, [&](int, int, const float(&s)[kChunk], const float(&t)[kChunk]) {
    float terms = 0, slopes = 0;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float x_s = s[i] - shift_s, x_t = t[i] - shift_t;
      const float q = exp2f(x_s * k) * to_q, p = exp2f(x_t * k) * to_p;
      if (!(q > 0) && !(p > 0)) continue;
      const TermAndSlope x = jensen_shannon(p, q, log_odds(x_s, x_t, inverse_t, ratio));
      terms += x.term;
      if (q > 0) slopes += q * x.slope;
    }
    sums[0] += terms;
    sums[1] += slopes;
  });
  block_reduce<Sum>(sums);
  if (r.z_s != r.z_s || r.z_t != r.z_t) sums[0] = NAN;  // the guards stepped over it
  return {sums[0], sums[1], ratio};
}

// The cross-entropy at temperature 1, in thread 0.
template <DType kStudent>
__device__ __forceinline__ float cross_entropy(const SoftmaxKl& a, const Row& row, const Sums& r,
                                               float at_label) {
  const float log_z = logf(r.z_1), shift = finite_or_zero(r.m_s);
  float ce = (1.0f - a.smoothing) * (log_z - (at_label - shift));
  if (a.smoothing > 0) {  // needs the mean logit as well
    float below[1] = {0};
    each_chunk<kStudent, false>(row, [&](int, int n, const float(&s)[kChunk], const float(&)[kChunk]) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kChunk; ++i) sum += i < n ? s[i] - shift : 0.0f;
      below[0] += sum;
    });
    block_reduce<Sum>(below);
    ce += a.smoothing * (log_z - below[0] / static_cast<float>(a.vocab));
  }
  return ce;
}

template <Loss kLoss, DType kStudent>
__device__ __forceinline__ void write_gradient(const Task& task, const Row& row, const RowTask& now,
                                               const Sums& r, const Solved& solved, bool labelled) {
  const SoftmaxKl& a = task.a;
  const float shift_s = finite_or_zero(r.m_s), shift_t = finite_or_zero(r.m_t);
  const float inverse_t = 1.0f / a.temperature, k = kLog2e * inverse_t;
  const float soft = now.factor * a.temperature * (kLoss == Loss::with_labels ? a.kl_share : 1.0f);
  const float of_s = soft / r.z_s, of_t = soft / r.z_t;
  const float hard = labelled ? now.factor * (1.0f - a.kl_share) : 0.0f;
  const float of_1 = hard / r.z_1, uniform = hard * a.smoothing / static_cast<float>(a.vocab);
  const float at_y = hard * (1.0f - a.smoothing);
  const bool steep = solved.divergence == INFINITY;  // no finite slope either
  const int label = labelled ? static_cast<int>(now.label) : -1;
  each_chunk<kStudent, false>(row, [&](int at, int n, const float(&s)[kChunk],
                                       const float(&t)[kChunk]) {
    float g[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float x_s = s[i] - shift_s, x_t = t[i] - shift_t;
      const float e_s = exp2f(x_s * k);
      if (kLoss == Loss::forward || kLoss == Loss::with_labels) {
        g[i] = e_s * of_s - exp2f(x_t * k) * of_t;
      } else {
        const float l = log_odds(x_s, x_t, inverse_t, solved.ratio);
        const float slope = kLoss == Loss::reverse ? l : jensen_shannon(0, 0, l).slope;
        g[i] = e_s > 0 && !steep ? e_s * of_s * (slope - solved.mean_slope) : 0.0f;
      }
      if (kLoss == Loss::with_labels && labelled) {
        g[i] += exp2f(x_s * kLog2e) * of_1 - uniform;
        if (at + i == label) g[i] -= at_y;
      }
    }
    store_chunk(now.grad, kStudent, at, n, task.grad_aligned, g);
  });
}

template <Loss kLoss, DType kStudent>
__global__ void __launch_bounds__(kMaxThreads, 2) softmax_kl_rows(Task task) {
  DYNAMIC_SHARED(shared);
  const SoftmaxKl& a = task.a;
  const std::int64_t i = blockIdx.x;
  const RowTask now = row_task<kStudent>(task, i);
  const int vocab = static_cast<int>(a.vocab);
  if (now.factor == 0) {
    if (threadIdx.x == 0) a.loss[i] = 0;
    if (now.grad != nullptr) fill_row<kStudent>(now.grad, vocab, task.grad_aligned, 0);
    return;
  }
  const std::int64_t teacher_bytes = a.teacher_type == DType::f32 ? 4 : 2;
  const Row row{now.student,
                static_cast<const char*>(a.teacher) + i * a.teacher_stride * teacher_bytes,
                a.teacher_type,
                vocab,
                task.student_aligned,
                task.teacher_aligned,
                shared,
                task.kept_chunks};
  const Sums r = row_sums<kLoss, kStudent>(row, {kLog2e / a.temperature, kLog2e});
  if (masked(r)) {  // the same in every thread, as are all sums
    if (threadIdx.x == 0) a.loss[i] = now.factor * 0.0f;  // NaN stays
    if (now.grad != nullptr) fill_row<kStudent>(now.grad, vocab, task.grad_aligned, 0);
    return;
  }
  const Solved solved = solve<kLoss, kStudent>(row, r, a.temperature);
  const bool labelled = kLoss == Loss::with_labels && now.label >= 0;
  float loss = solved.divergence < 0 ? 0.0f : solved.divergence;
  loss *= a.temperature * a.temperature;
  if (kLoss == Loss::with_labels) loss *= a.kl_share;
  if (labelled) loss += (1.0f - a.kl_share) * cross_entropy<kStudent>(a, row, r, now.at_label);
  if (threadIdx.x == 0) a.loss[i] = now.factor * loss;
  if (now.grad != nullptr) {
    write_gradient<kLoss, kStudent>(task, row, now, r, solved, labelled);
  }
}

template <Loss kLoss>
int start(const Task& task, std::size_t shared, Stream stream) {
  const int threads = threads_for(task.a.vocab);
  const auto rows = static_cast<unsigned>(task.a.rows);
  switch (task.a.student_type) {
    case DType::f32:
      return launch(softmax_kl_rows<kLoss, DType::f32>, task, rows, 1, threads, shared, stream);
    case DType::bf16:
      return launch(softmax_kl_rows<kLoss, DType::bf16>, task, rows, 1, threads, shared, stream);
    default:
      return launch(softmax_kl_rows<kLoss, DType::f16>, task, rows, 1, threads, shared, stream);
  }
}

}  // namespace
}  // namespace compressc::cuda

COMPRESSC_API int compressc_cuda_softmax_kl(const compressc::SoftmaxKl* args, void* stream) {
  using namespace compressc;
  using namespace compressc::cuda;
  const SoftmaxKl& a = *args;
  if (a.rows == 0) return 0;
  Task task{a, rows_aligned(a.student, a.student_stride, a.student_type),
            rows_aligned(a.teacher, a.teacher_stride, a.teacher_type),
            rows_aligned(a.grad, a.vocab, a.student_type), 0};
  const bool again = a.grad != nullptr || a.direction == Direction::jensen_shannon;
  const int bytes = (quads_of(a.student_type) + quads_of(a.teacher_type)) *
                    static_cast<int>(sizeof(Quad));
  if (again) task.kept_chunks = chunks_to_keep(a.vocab, bytes);
  const auto shared = static_cast<std::size_t>(task.kept_chunks) * static_cast<std::size_t>(bytes);
  const auto queue = static_cast<Stream>(stream);
  if (a.direction == Direction::reverse) return start<Loss::reverse>(task, shared, queue);
  if (a.direction == Direction::jensen_shannon) {
    return start<Loss::jensen_shannon>(task, shared, queue);
  }
  if (a.labels != nullptr) return start<Loss::with_labels>(task, shared, queue);
  return start<Loss::forward>(task, shared, queue);
}
