// RUN: fuse-activations
// A Relu on fresh codes raises lo to the zero point; the producer takes over its name.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["r"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %s = graph.add %q, %q tensors ["s"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>, tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    %r = graph.relu %s tensors ["r"] : (tensor<1x4x!graph.quant<u8, 1.0, 9>>) -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    %y = graph.dequantize %r tensors ["r"] : (tensor<1x4x!graph.quant<u8, 1.0, 9>>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK: graph.add %q, %q lo 9 hi 255 tensors ["r"]
// CHECK-NEXT: graph.dequantize %s
// -----
// RUN: fuse-activations
// Clip(-1, 6) at scale 0.5 and zero point 9: codes 7 to 21; a Relu behind it raises lo again.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["r"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %c = graph.clip %q min -1.0 max 6.0 tensors ["c"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %s = graph.requantize %c tensors ["s"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4x!graph.quant<u8, 0.5, 8>>
    %t = graph.clip %s min -1.0 max 6.0 tensors ["t"] : (tensor<1x4x!graph.quant<u8, 0.5, 8>>) -> tensor<1x4x!graph.quant<u8, 0.5, 8>>
    %r = graph.relu %t tensors ["r"] : (tensor<1x4x!graph.quant<u8, 0.5, 8>>) -> tensor<1x4x!graph.quant<u8, 0.5, 8>>
    %y = graph.dequantize %r tensors ["r"] : (tensor<1x4x!graph.quant<u8, 0.5, 8>>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK: graph.quantize %x lo 7 hi 21 tensors ["c"]
// CHECK-NEXT: graph.requantize %q lo 8 hi 20 tensors ["r"]
// CHECK-NEXT: graph.dequantize
// -----
// RUN: fuse-activations
// Codes that something else sees too are not narrowed.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %r = graph.relu %q tensors ["r"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %s = graph.add %q, %r tensors ["y"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>, tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4x!graph.quant<u8, 1.0, 9>>
    %y = graph.dequantize %s tensors ["y"] : (tensor<1x4x!graph.quant<u8, 1.0, 9>>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK: graph.quantize %x tensors ["x"]
// CHECK-NEXT: graph.relu %q
