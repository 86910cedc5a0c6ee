// RUN: quantise-pass-through
// Codes pass through a pool between two conversions of one type; the conversions go.
builtin.module {
  func.func @main(%x: tensor<1x1x4x4xf32>) -> tensor<1x1x2x2xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x1x4x4xf32>) -> tensor<1x1x4x4x!graph.quant<u8, 0.5, 9>>
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x1x4x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x1x4x4xf32>
    %p = graph.max_pool %d kernel <2, 2> strides <2, 2> pads <0, 0, 0, 0> dilations <1, 1> tensors ["y"] : (tensor<1x1x4x4xf32>) -> tensor<1x1x2x2xf32>
    %r = graph.quantize %p tensors ["y"] : (tensor<1x1x2x2xf32>) -> tensor<1x1x2x2x!graph.quant<u8, 0.5, 9>>
    %y = graph.dequantize %r tensors ["y"] : (tensor<1x1x2x2x!graph.quant<u8, 0.5, 9>>) -> tensor<1x1x2x2xf32>
    func.return %y : tensor<1x1x2x2xf32>
  }
}
// CHECK: %q = graph.quantize %x
// CHECK-NEXT: [[P:%.*]] = graph.max_pool %q {{.*}} : (tensor<1x1x4x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x1x2x2x!graph.quant<u8, 0.5, 9>>
// CHECK-NEXT: graph.dequantize [[P]]
// CHECK-NEXT: func.return
// -----
// RUN: quantise-pass-through
// A quantize is hoisted above a Relu onto what makes the values.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %s = graph.add %x, %x tensors ["s"] : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    %y = graph.relu %s tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x4xf32>
    %q = graph.quantize %y tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 0>>
    %d = graph.dequantize %q tensors ["y"] : (tensor<1x4x!graph.quant<u8, 0.5, 0>>) -> tensor<1x4xf32>
    func.return %d : tensor<1x4xf32>
  }
}
// CHECK: graph.add
// CHECK-NEXT: [[Q:%.*]] = graph.quantize %s tensors ["s"]
// CHECK-NEXT: graph.relu [[Q]] tensors ["y"] : (tensor<1x4x!graph.quant<u8, 0.5, 0>>) -> tensor<1x4x!graph.quant<u8, 0.5, 0>>
// -----
// RUN: quantise-pass-through
// Another type behind a dequantize: codes change scale.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["x"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %d = graph.dequantize %q tensors ["x"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4xf32>
    %r = graph.quantize %d tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<i4, 2.0, 0>>
    %y = graph.dequantize %r tensors ["x"] : (tensor<1x4x!graph.quant<i4, 2.0, 0>>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK: graph.requantize %q tensors ["x"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4x!graph.quant<i4, 2.0, 0>>
// -----
// RUN: quantise-pass-through
// A pool whose real result is used too keeps working on real values.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> (tensor<2x2xf32>, tensor<2x2xf32>) attributes {"graph.inputs" = ["x"], "graph.outputs" = ["r", "y"]} {
    %r = graph.reshape %x tensors ["r"] : (tensor<1x4xf32>) -> tensor<2x2xf32>
    %q = graph.quantize %r tensors ["r"] : (tensor<2x2xf32>) -> tensor<2x2x!graph.quant<u8, 0.5, 9>>
    %d = graph.dequantize %q tensors ["r"] : (tensor<2x2x!graph.quant<u8, 0.5, 9>>) -> tensor<2x2xf32>
    func.return %r, %d : tensor<2x2xf32>, tensor<2x2xf32>
  }
}
// CHECK: graph.reshape %x
// CHECK-NEXT: graph.quantize %r
