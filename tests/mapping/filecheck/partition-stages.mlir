// RUN: map-stages calibrate-converters partition-stages
// 18 rows are 2 row tiles, 6 columns are 2 column tiles: 4 crossbars, one core, one context.
// SHOW: conv1.partition
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
// CHECK: cim.stage "conv1"({{.*}} placement <"conv1.partition">
// CHECK: conv1.partition = {{\[\[}}0, 0, 0, 18, 0, 6, 0, 6, 4, 0, -1, -1, 0]]
// -----
// RUN: map-stages calibrate-converters assign-copies partition-stages
// Cores of 2 crossbars take one column tile each; a copy repeats the blocks.
// MACHINE: crossbars=2
// MAPPING: copies=2
// SHOW: conv1.partition
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
// CHECK: conv1.partition = {{\[\[}}0, 0, 0, 18, 0, 4, 0, 3, 2, 0, -1, -1, 0], [0, 0, 0, 18, 4, 6, 0, 3, 2, 0, -1, -1, 0], [0, 0, 0, 18, 0, 4, 3, 6, 2, 0, -1, -1, 0], [0, 0, 0, 18, 4, 6, 3, 6, 2, 0, -1, -1, 0]]
// -----
// RUN: map-stages calibrate-converters assign-copies partition-stages
// Cores of one crossbar hold one row tile: chunk 1 sends its partial sums to chunk 0.
// MACHINE: crossbars=1
// SHOW: conv1.partition
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
// CHECK: conv1.partition = {{\[\[}}0, 0, 0, 16, 0, 4, 0, 6, 1, 0, -1, -1, 0], [0, 1, 16, 18, 0, 4, 0, 6, 1, 0, -1, -1, 0], [0, 0, 0, 16, 4, 6, 0, 6, 1, 0, -1, -1, 0], [0, 1, 16, 18, 4, 6, 0, 6, 1, 0, -1, -1, 0]]
