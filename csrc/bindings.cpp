// The Python module compressc.kernels._native. Tensors arrive as addresses, checked by the caller:
// so it needs no torch to build, and works with any.
#include <pybind11/pybind11.h>

#include "compressc/kernels.h"

namespace py = pybind11;

namespace {

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

bool softmax_kl(std::uintptr_t student, int student_type, std::int64_t student_stride,
                std::uintptr_t teacher, int teacher_type, std::int64_t teacher_stride,
                std::uintptr_t weight, std::uintptr_t labels, std::uintptr_t loss,
                std::uintptr_t total, std::uintptr_t grad, std::int64_t rows, std::int64_t vocab,
                int direction, float temperature, float scale, float kl_share, float smoothing,
                int threads) {
  compressc::SoftmaxKl args;
  args.student = pointer<const void>(student);
  args.teacher = pointer<const void>(teacher);
  args.weight = pointer<const float>(weight);
  args.labels = pointer<const std::int64_t>(labels);
  args.loss = pointer<float>(loss);
  args.total = pointer<float>(total);
  args.grad = pointer<void>(grad);
  args.rows = rows;
  args.vocab = vocab;
  args.student_stride = student_stride;
  args.teacher_stride = teacher_stride;
  args.student_type = static_cast<compressc::DType>(student_type);
  args.teacher_type = static_cast<compressc::DType>(teacher_type);
  args.direction = static_cast<compressc::Direction>(direction);
  args.temperature = temperature;
  args.scale = scale;
  args.kl_share = kl_share;
  args.smoothing = smoothing;
  py::gil_scoped_release unlocked;
  return compressc::softmax_kl(args, threads);
}

bool topk_kl(std::uintptr_t student, int student_type, std::int64_t student_stride,
             std::uintptr_t values, std::uintptr_t indices, std::uintptr_t tail,
             std::uintptr_t weight, std::uintptr_t loss, std::uintptr_t grad, std::int64_t rows,
             std::int64_t vocab, std::int64_t k, float temperature, float scale, int threads) {
  compressc::TopkKl args;
  args.student = pointer<const void>(student);
  args.values = pointer<const float>(values);
  args.indices = pointer<const std::int64_t>(indices);
  args.tail = pointer<const float>(tail);
  args.weight = pointer<const float>(weight);
  args.loss = pointer<float>(loss);
  args.grad = pointer<void>(grad);
  args.rows = rows;
  args.vocab = vocab;
  args.k = k;
  args.student_stride = student_stride;
  args.student_type = static_cast<compressc::DType>(student_type);
  args.temperature = temperature;
  args.scale = scale;
  py::gil_scoped_release unlocked;
  return compressc::topk_kl(args, threads);
}

void scale_rows(std::uintptr_t data, int type, std::uintptr_t scale, std::int64_t rows,
                std::int64_t columns, int threads) {
  py::gil_scoped_release unlocked;
  compressc::scale_rows(pointer<void>(data), static_cast<compressc::DType>(type),
                        pointer<const float>(scale), rows, columns, threads);
}

void int8_linear(std::uintptr_t x, std::uintptr_t weight, std::uintptr_t scale,
                 std::uintptr_t bias, std::uintptr_t y, std::int64_t rows, std::int64_t in,
                 std::int64_t out, int threads) {
  const compressc::Int8Linear args{pointer<const float>(x),     pointer<const std::int8_t>(weight),
                                   pointer<const float>(scale), pointer<const float>(bias),
                                   pointer<float>(y),           rows,
                                   in,                          out};
  py::gil_scoped_release unlocked;
  compressc::int8_linear(args, threads);
}

bool lowrank_linear(std::uintptr_t x, std::uintptr_t v, std::uintptr_t u, std::uintptr_t bias,
                    std::uintptr_t y, std::int64_t rows, std::int64_t in, std::int64_t rank,
                    std::int64_t out, int type, int threads) {
  const compressc::LowRankLinear args{pointer<const void>(x),
                                      pointer<const void>(v),
                                      pointer<const void>(u),
                                      pointer<const void>(bias),
                                      pointer<void>(y),
                                      rows,
                                      in,
                                      rank,
                                      out,
                                      static_cast<compressc::DType>(type)};
  py::gil_scoped_release unlocked;
  return compressc::lowrank_linear(args, threads);
}

bool has_lowrank_linear(int type) {
  return compressc::has_lowrank_linear(static_cast<compressc::DType>(type));
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "compressc's CPU kernels; addresses in, nothing checked: call compressc.kernels instead.";
  m.def("softmax_kl", &softmax_kl);
  m.def("topk_kl", &topk_kl);
  m.def("scale_rows", &scale_rows);
  m.def("int8_linear", &int8_linear);
  m.def("lowrank_linear", &lowrank_linear);
  m.def("has_lowrank_linear", &has_lowrank_linear);
  m.def("instruction_set", &compressc::instruction_set);
  m.def("use_instruction_set", &compressc::use_instruction_set);
}
