// RUN: map-stages calibrate-converters assign-copies partition-stages segment-stages
// What fits is one phase; nothing changes.
// WEIGHT: w 6x2x3x3 -127 127
// WEIGHT: b 6 -50 50
// SCALE: s 0.01 6
builtin.module {
  func.func @main(%x: tensor<1x2x6x6xf32>) -> tensor<1x6x6x6xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x2x6x6xf32>) -> tensor<1x2x6x6x!graph.quant<u8, 0.1, 3>>
    %c = graph.conv %q weight <"w"> bias <"b"> kernel <3, 3> strides <1, 1> pads <1, 1, 1, 1> dilations <1, 1> group 1 weight_bits 8 weight_scale <"s"> acc_bits 32 lo 7 hi 255 tensors ["y"] : (tensor<1x2x6x6x!graph.quant<u8, 0.1, 3>>) -> tensor<1x6x6x6x!graph.quant<u8, 0.2, 7>> loc("conv1"("m.onnx":0:0))
    %y = graph.dequantize %c tensors ["y"] : (tensor<1x6x6x6x!graph.quant<u8, 0.2, 7>>) -> tensor<1x6x6x6xf32>
    func.return %y : tensor<1x6x6x6xf32>
  }
}
// CHECK: placement <"conv1.partition">
// -----
// RUN: map-stages calibrate-converters assign-copies partition-stages segment-stages
// One core of one crossbar takes four turns: in each column block the chunk that adds up comes after the other.
// MACHINE: cores=1 crossbars=1 allow_writes=1
// SHOW: conv1.phases
// WEIGHT: w 6x2x3x3 -127 127
// WEIGHT: b 6 -50 50
// SCALE: s 0.01 6
builtin.module {
  func.func @main(%x: tensor<1x2x6x6xf32>) -> tensor<1x6x6x6xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x2x6x6xf32>) -> tensor<1x2x6x6x!graph.quant<u8, 0.1, 3>>
    %c = graph.conv %q weight <"w"> bias <"b"> kernel <3, 3> strides <1, 1> pads <1, 1, 1, 1> dilations <1, 1> group 1 weight_bits 8 weight_scale <"s"> acc_bits 32 lo 7 hi 255 tensors ["y"] : (tensor<1x2x6x6x!graph.quant<u8, 0.1, 3>>) -> tensor<1x6x6x6x!graph.quant<u8, 0.2, 7>> loc("conv1"("m.onnx":0:0))
    %y = graph.dequantize %c tensors ["y"] : (tensor<1x6x6x6x!graph.quant<u8, 0.2, 7>>) -> tensor<1x6x6x6xf32>
    func.return %y : tensor<1x6x6x6xf32>
  }
}
// CHECK: placement <"conv1.phases">
// CHECK: conv1.phases = {{\[\[}}0, 0, 0, 16, 0, 4, 0, 6, 1, 1, -1, -1, 0], [0, 1, 16, 18, 0, 4, 0, 6, 1, 0, -1, -1, 0], [0, 0, 0, 16, 4, 6, 0, 6, 1, 3, -1, -1, 0], [0, 1, 16, 18, 4, 6, 0, 6, 1, 2, -1, -1, 0]]
// -----
// RUN: map-stages calibrate-converters assign-copies partition-stages segment-stages
// Copies that do not fit together are dropped rather than run one after another: 3 of 4.
// MACHINE: cores=3 allow_writes=1
// MAPPING: copies=4
// SHOW: conv1.phases
// WEIGHT: w 6x2x3x3 -127 127
// WEIGHT: b 6 -50 50
// SCALE: s 0.01 6
builtin.module {
  func.func @main(%x: tensor<1x2x6x6xf32>) -> tensor<1x6x6x6xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x2x6x6xf32>) -> tensor<1x2x6x6x!graph.quant<u8, 0.1, 3>>
    %c = graph.conv %q weight <"w"> bias <"b"> kernel <3, 3> strides <1, 1> pads <1, 1, 1, 1> dilations <1, 1> group 1 weight_bits 8 weight_scale <"s"> acc_bits 32 lo 7 hi 255 tensors ["y"] : (tensor<1x2x6x6x!graph.quant<u8, 0.1, 3>>) -> tensor<1x6x6x6x!graph.quant<u8, 0.2, 7>> loc("conv1"("m.onnx":0:0))
    %y = graph.dequantize %c tensors ["y"] : (tensor<1x6x6x6x!graph.quant<u8, 0.2, 7>>) -> tensor<1x6x6x6xf32>
    func.return %y : tensor<1x6x6x6xf32>
  }
}
// CHECK: cim.stage "conv1" copies 3(
// CHECK: conv1.phases = {{\[\[}}0, 0, 0, 18, 0, 6, 0, 2, 4, 0, -1, -1, 0], [0, 0, 0, 18, 0, 6, 2, 4, 4, 0, -1, -1, 0], [0, 0, 0, 18, 0, 6, 4, 6, 4, 0, -1, -1, 0]]
