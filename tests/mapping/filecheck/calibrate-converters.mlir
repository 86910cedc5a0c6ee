// RUN: map-stages calibrate-converters
// 8 rows at once reach 24, far inside 8 bits: nothing to choose, step 1 in units of 1.
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
// CHECK: frac_bits 0
// CHECK: cim.read_row
// CHECK-NOT: steps
// CHECK-SAME: -> tensor<6x6x6xi32>
// -----
// RUN: map-stages calibrate-converters
// With 3-bit converters the same sums are cut: full steps cover the largest of each of the 4 cells of a weight, in all
// 8 digit cycles.
// MACHINE: adc_bits=3
// MAPPING: converter=full
// SHOW: conv1.steps
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
// CHECK: cim.read_row {{.*}} steps <"conv1.steps">
// CHECK: conv1.steps = {{\[\[}}3, 2, 3, 3], [3, 2, 3, 3], [3, 2, 3, 3], [3, 2, 3, 3], [3, 2, 3, 3], [3, 2, 3, 3], [3, 2, 3, 3], [3, 2, 3, 3]]
