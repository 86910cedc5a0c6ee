// RUN: map-stages calibrate-converters assign-copies copy-digital
// A product of two activations holds its second operand; it gets the copies that keep pace with the slowest array stage.
// MAPPING: copies=1
// WEIGHT: w 4x4 -127 127
// WEIGHT: v 4x6 -127 127
// WEIGHT: b 4 -50 50
// WEIGHT: c 6 -50 50
// SCALE: s 0.01 4
// SCALE: t 0.01 6
builtin.module {
  func.func @main(%x: tensor<1x8x4xf32>, %z: tensor<1x4x4xf32>) -> tensor<1x8x6xf32> attributes {"graph.inputs" = ["x", "z"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x8x4xf32>) -> tensor<1x8x4x!graph.quant<u8, 0.1, 3>>
    %r = graph.quantize %z tensors ["z"] : (tensor<1x4x4xf32>) -> tensor<1x4x4x!graph.quant<u8, 0.1, 3>>
    %a = graph.gemm %q weight <"w"> bias <"b"> weight_bits 8 weight_scale <"s"> acc_bits 32 tensors ["a"] : (tensor<1x8x4x!graph.quant<u8, 0.1, 3>>) -> tensor<1x8x4xf32>
    %d = graph.gemm %r weight <"v"> bias <"c"> weight_bits 8 weight_scale <"t"> acc_bits 32 tensors ["d"] : (tensor<1x4x4x!graph.quant<u8, 0.1, 3>>) -> tensor<1x4x6xf32>
    %m = graph.matmul %a, %d tensors ["m"] : (tensor<1x8x4xf32>, tensor<1x4x6xf32>) -> tensor<1x8x6xf32>
    %y = graph.softmax %m axis 2 tensors ["y"] : (tensor<1x8x6xf32>) -> tensor<1x8x6xf32>
    func.return %y : tensor<1x8x6xf32>
  }
}
// CHECK: cim.stage "m" copies 2(
// CHECK: cim.frame_product
// CHECK: cim.dcom softmax
