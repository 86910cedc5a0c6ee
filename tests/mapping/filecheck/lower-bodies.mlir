// RUN: map-stages calibrate-converters assign-copies partition-stages segment-stages place-contexts lower-bodies
// One body for all copies of the stage: counts, buffers, routes and the copy's number are parameters.
// MAPPING: copies=2
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
// CHECK: isa.body "x.chip" node "x"
// CHECK: isa.dma
// CHECK: isa.alu "quantise"
// CHECK: isa.body "conv1.main.6.block" node "conv1"
// CHECK-NEXT: isa.write <"arrays"> <0> <"wordlines"> by_row
// CHECK-NEXT: isa.loop images
// CHECK-NEXT: isa.recv <"in0"> <"hold_in0">
// CHECK-NEXT: isa.loop count <"turns">
// CHECK-NEXT: isa.recv <"in0"> <"advance_in0">
// CHECK-NEXT: isa.loop count <"positions">
// CHECK-NEXT: isa.read <"arrays"> <0> <"wordlines"> by_row source <"in0"[0, "first_in0"] cols [0, 0, 2]> window <"window"> to <"acc"[0, 0] cols [0, 0, 6]> n <6>
// CHECK: isa.free <"in0"> <"advance_in0">
// CHECK-NEXT: isa.alu "requantise"
// CHECK-SAME: and <-1[0, "n0"]> n <6> m <"positions">
// CHECK-NEXT: isa.send {{.*}} row <-1["copy", 0] rows [0, 1]> routes <"routes0">
// CHECK: isa.free <"in0"> <"hold_in0">
// CHECK-NOT: conv1.main
// CHECK: isa.body "y.chip" node "y"
// -----
// RUN: map-stages calibrate-converters assign-copies partition-stages segment-stages place-contexts lower-bodies
// Row chunks on two cores: one body adds what the other sends.
// MACHINE: crossbars=1
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
// CHECK: isa.body "conv1.main.4"
// CHECK: isa.recv <"psum1"> <1>
// CHECK-NEXT: isa.alu "add_int" to <"acc"[0, 0]> from <"acc"[0, 0]> and <"psum1"[0, 0]>
// CHECK-NEXT: isa.free <"psum1"> <1>
// CHECK-NEXT: isa.alu "requantise"
// CHECK: isa.body "conv1.partial.4"
// CHECK: isa.read
// CHECK-NOT: isa.alu
// CHECK: isa.send <"acc"[0, 0]>
