// RUN: map-stages calibrate-converters assign-copies partition-stages segment-stages place-contexts
// Two copies on two cores. Their rings hold the 6 rows that are there at the pace of the slowest, and two advances of 2 more; the output's 1 and 2.
// MAPPING: copies=2
// SHOW: conv1.place
// SHOW: ring_slots
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
// CHECK: cim.ring_slots = #graph.ref<"ring_slots">
// CHECK: cim.stage "conv1" copies 2({{.*}} placement <"conv1.place">
// CHECK: conv1.place = {{\[\[}}0, 0, 0, 18, 0, 6, 0, 3, 4, 0, 0, 0, 0], [0, 0, 0, 18, 0, 6, 3, 6, 4, 0, 1, 0, 0]]
// CHECK: ring_slots = [8, 8, 3]
// -----
// RUN: map-stages calibrate-converters assign-copies partition-stages segment-stages place-contexts
// Contexts get cores of their own where there are as many.
// MACHINE: crossbars=8
// MAPPING: copies=3
// SHOW: conv1.place
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
// CHECK: conv1.place = {{\[\[}}0, 0, 0, 18, 0, 6, 0, 2, 4, 0, 1, 0, 0], [0, 0, 0, 18, 0, 6, 2, 4, 4, 0, 0, 0, 0], [0, 0, 0, 18, 0, 6, 4, 6, 4, 0, 2, 0, 0]]
