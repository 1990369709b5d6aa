// Runs every emulated CUDA kernel on a few shapes, for the thread sanitizer to watch. Values are not
// looked at: that is what the Python tests are for.
#include <cmath>
#include <cstdio>
#include <vector>

#include "../../csrc/cuda/interface.h"

extern "C" void compressc_cuda_emulate(unsigned order, std::int64_t shared_limit);

namespace {

std::vector<float> numbers(std::int64_t count, float step) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 3 * std::sin(step * static_cast<float>(i));
  return x;
}

int losses(std::int64_t rows, std::int64_t vocab) {
  const auto student = numbers(rows * vocab, 0.37f), teacher = numbers(rows * vocab, 0.73f);
  std::vector<float> loss(static_cast<std::size_t>(rows)), grad(student.size());
  std::vector<std::int64_t> labels(static_cast<std::size_t>(rows), vocab / 2);
  compressc::SoftmaxKl a{};
  a.student = student.data();
  a.teacher = teacher.data();
  a.loss = loss.data();
  a.grad = grad.data();
  a.rows = rows;
  a.vocab = a.student_stride = a.teacher_stride = vocab;
  a.temperature = 2;
  a.scale = 1;
  a.kl_share = 0.5f;
  a.smoothing = 0.1f;
  int failed = 0;
  for (int direction = 0; direction < 3; ++direction) {
    a.direction = static_cast<compressc::Direction>(direction);
    failed |= compressc_cuda_softmax_kl(&a, nullptr);
  }
  a.direction = compressc::Direction::forward;
  a.labels = labels.data();
  failed |= compressc_cuda_softmax_kl(&a, nullptr);

  const std::int64_t k = vocab < 5 ? vocab : 5;
  std::vector<std::int64_t> indices;
  for (std::int64_t i = 0; i < rows * k; ++i) indices.push_back(i % k * (vocab / k));
  const auto values = numbers(rows * k, 0.5f);
  const std::vector<float> tail(static_cast<std::size_t>(rows), 0.25f);
  compressc::TopkKl b{};
  b.student = student.data();
  b.values = values.data();
  b.indices = indices.data();
  b.tail = tail.data();
  b.loss = loss.data();
  b.grad = grad.data();
  b.rows = rows;
  b.vocab = b.student_stride = vocab;
  b.k = k;
  b.temperature = 2;
  b.scale = 1;
  return failed | compressc_cuda_topk_kl(&b, nullptr);
}

int lowrank(std::int64_t rows, std::int64_t in, std::int64_t rank, std::int64_t out) {
  const auto x = numbers(rows * in, 0.1f), v = numbers(rank * in, 0.2f), u = numbers(out * rank, 0.3f);
  std::vector<float> y(static_cast<std::size_t>(rows * out));
  const compressc::LowrankLinear a{x.data(), v.data(), u.data(), nullptr,           y.data(),
                                   rows,     in,       rank,     out,     compressc::DType::f32};
  return compressc_cuda_lowrank_linear(&a, nullptr);
}

}  // namespace

int main() {
  int failed = 0;
  for (unsigned order = 0; order < 4; ++order) {
    compressc_cuda_emulate(order, 30000);
    failed |= losses(2, 10) | losses(2, 1500) | losses(1, 3001);
    failed |= lowrank(3, 40, 9, 100) | lowrank(9, 100, 33, 31);
  }
  std::printf(failed == 0 ? "ran\n" : "failed\n");
  return failed;
}
