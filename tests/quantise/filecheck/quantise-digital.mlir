// RUN: quantise-digital
// Add between conversions works on codes, each operand with its own scale.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4xf32>
    %r = graph.requantize %q tensors ["r"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4x!graph.quant<u4, 2.0, 1>>
    %e = graph.dequantize %r tensors ["r"] : (tensor<1x4x!graph.quant<u4, 2.0, 1>>) -> tensor<1x4xf32>
    %s = graph.add %d, %e tensors ["y"] : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    %t = graph.quantize %s lo 9 hi 200 tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    %y = graph.dequantize %t tensors ["y"] : (tensor<1x4x!graph.quant<u8, 1.0, 9>>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK: graph.add %q, %r lo 9 hi 200 tensors ["y"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>, tensor<1x4x!graph.quant<u4, 2.0, 1>>) -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
// CHECK-NEXT: graph.dequantize
// -----
// RUN: quantise-digital
// A real operand keeps the Add real.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4xf32>
    %s = graph.add %d, %x tensors ["y"] : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    %t = graph.quantize %s tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    %y = graph.dequantize %t tensors ["y"] : (tensor<1x4x!graph.quant<u8, 1.0, 9>>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK: graph.add %d, %x tensors ["y"] : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
// -----
// RUN: quantise-digital
// Average pools too.
builtin.module {
  func.func @main(%x: tensor<1x1x4x4xf32>) -> tensor<1x1x1x1xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x1x4x4xf32>) -> tensor<1x1x4x4x!graph.quant<u8, 0.5, 9>>
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x1x4x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x1x4x4xf32>
    %a = graph.average_pool %d kernel <2, 2> strides <2, 2> pads <0, 0, 0, 0> dilations <1, 1> count_include_pad false tensors ["a"] : (tensor<1x1x4x4xf32>) -> tensor<1x1x2x2xf32>
    %b = graph.quantize %a tensors ["a"] : (tensor<1x1x2x2xf32>) -> tensor<1x1x2x2x!graph.quant<u8, 0.25, 9>>
    %c = graph.dequantize %b tensors ["a"] : (tensor<1x1x2x2x!graph.quant<u8, 0.25, 9>>) -> tensor<1x1x2x2xf32>
    %g = graph.global_average_pool %c tensors ["y"] : (tensor<1x1x2x2xf32>) -> tensor<1x1x1x1xf32>
    %h = graph.quantize %g tensors ["y"] : (tensor<1x1x1x1xf32>) -> tensor<1x1x1x1x!graph.quant<u8, 0.125, 9>>
    %y = graph.dequantize %h tensors ["y"] : (tensor<1x1x1x1x!graph.quant<u8, 0.125, 9>>) -> tensor<1x1x1x1xf32>
    func.return %y : tensor<1x1x1x1xf32>
  }
}
// CHECK: %q = graph.quantize
// CHECK-NEXT: [[A:%.*]] = graph.average_pool %q {{.*}} -> tensor<1x1x2x2x!graph.quant<u8, 0.25, 9>>
// CHECK-NEXT: [[G:%.*]] = graph.global_average_pool [[A]] {{.*}} -> tensor<1x1x1x1x!graph.quant<u8, 0.125, 9>>
// CHECK-NEXT: graph.dequantize [[G]]
