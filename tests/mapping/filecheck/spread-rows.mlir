// RUN: map-stages calibrate-converters spread-rows
// 18 rows on crossbars of 16 that read 8 at once: packed 16 + 2 take 2 steps on 2 crossbars, spread 1 step on 3.
// MACHINE: cores=64
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
// CHECK: cim.write_row <"conv1.matrix"> grid <3, 2>
// -----
// RUN: map-stages calibrate-converters spread-rows
// Not where the chip has no crossbars to spare.
// MACHINE: cores=1
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
// CHECK: cim.write_row <"conv1.matrix"> grid <2, 2>
// -----
// RUN: map-stages calibrate-converters spread-rows
// Not where all wordlines work at once.
// MACHINE: cores=64 parallel_rows=16
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
// CHECK: cim.write_xb <"conv1.matrix"> grid <2, 2>
