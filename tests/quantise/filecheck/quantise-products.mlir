// RUN: quantise-products
// Between conversions a product becomes integer, codes to codes; a narrowed quantize becomes its clamp.
// WEIGHT: w 4x2
// WEIGHT: b 2
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4xf32>
    %p = graph.gemm %d weight <"w"> bias <"b"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
    %r = graph.quantize %p lo 3 hi 77 tensors ["y"] : (tensor<1x2xf32>) -> tensor<1x2x!graph.quant<u8, 0.25, 3>>
    %y = graph.dequantize %r tensors ["y"] : (tensor<1x2x!graph.quant<u8, 0.25, 3>>) -> tensor<1x2xf32>
    func.return %y : tensor<1x2xf32>
  }
}
// CHECK: %q = graph.quantize %x
// CHECK-NEXT: %p = graph.gemm %q weight <"w.i8"> bias <"b.int"> weight_bits 8 weight_scale <"w.scale"> acc_bits 32 lo 3 hi 77 tensors ["y"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x2x!graph.quant<u8, 0.25, 3>>
// CHECK-NEXT: graph.dequantize %p
// -----
// RUN: quantise-products
// Without a quantize behind it the result is real.
// WEIGHT: w 2x1x1x1
builtin.module {
  func.func @main(%x: tensor<1x1x4x4xf32>) -> tensor<1x2x4x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x1x4x4xf32>) -> tensor<1x1x4x4x!graph.quant<u8, 0.5, 9>>
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x1x4x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x1x4x4xf32>
    %y = graph.conv %d weight <"w"> kernel <1, 1> strides <1, 1> pads <0, 0, 0, 0> dilations <1, 1> group 1 tensors ["y"] : (tensor<1x1x4x4xf32>) -> tensor<1x2x4x4xf32>
    func.return %y : tensor<1x2x4x4xf32>
  }
}
// CHECK: graph.conv %q weight <"w.i8"> kernel <1, 1>
// CHECK-SAME: -> tensor<1x2x4x4xf32>
// CHECK-NEXT: func.return %y
// -----
// RUN: quantise-products{weight_bits=12 overrides="weight_bits=3 : n"}
// Widths by layer; more than 8 bits of weights and 16 of activations need a wide accumulator.
// WEIGHT: w 4096x2
builtin.module {
  func.func @main(%x: tensor<1x4096xf32>) -> (tensor<1x2xf32>, tensor<1x2xf32>) attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y", "n"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4096xf32>) -> tensor<1x4096x!graph.quant<u16, 0.5, 9>>
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x4096x!graph.quant<u16, 0.5, 9>>) -> tensor<1x4096xf32>
    %y = graph.gemm %d weight <"w"> tensors ["y"] : (tensor<1x4096xf32>) -> tensor<1x2xf32>
    %n = graph.gemm %d weight <"w"> tensors ["n"] : (tensor<1x4096xf32>) -> tensor<1x2xf32>
    func.return %y, %n : tensor<1x2xf32>, tensor<1x2xf32>
  }
}
// CHECK: graph.gemm %q weight <"w.i12"> weight_bits 12 weight_scale <"w.scale"> acc_bits 64 tensors ["y"]
// CHECK: graph.gemm %q weight <"w.i3"> weight_bits 3 weight_scale <"w.scale.1"> acc_bits 32 tensors ["n"]
