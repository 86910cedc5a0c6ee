// RUN: map-stages
// Operators become stages on channel-last rows; the input's quantiser and the output's dequantiser are the chip's.
// The weight matrix has rows by kernel row, kernel column, channel: 18 on 16 wordlines, 6 columns of 4 cells on 16.
// WEIGHT: w 6x2x3x3 -127 127
// WEIGHT: b 6 -50 50
// SCALE: s 0.01 6
builtin.module {
  func.func @main(%x: tensor<1x2x6x6xf32>) -> tensor<1x6x3x3xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x2x6x6xf32>) -> tensor<1x2x6x6x!graph.quant<u8, 0.1, 3>>
    %c = graph.conv %q weight <"w"> bias <"b"> kernel <3, 3> strides <1, 1> pads <1, 1, 1, 1> dilations <1, 1> group 1 weight_bits 8 weight_scale <"s"> acc_bits 32 lo 7 hi 255 tensors ["c"] : (tensor<1x2x6x6x!graph.quant<u8, 0.1, 3>>) -> tensor<1x6x6x6x!graph.quant<u8, 0.2, 7>> loc("conv1"("m.onnx":0:0))
    %p = graph.max_pool %c kernel <2, 2> strides <2, 2> pads <0, 0, 0, 0> dilations <1, 1> tensors ["y"] : (tensor<1x6x6x6x!graph.quant<u8, 0.2, 7>>) -> tensor<1x6x3x3x!graph.quant<u8, 0.2, 7>> loc("pool1"("m.onnx":2:0))
    %y = graph.dequantize %p tensors ["y"] : (tensor<1x6x3x3x!graph.quant<u8, 0.2, 7>>) -> tensor<1x6x3x3xf32>
    func.return %y : tensor<1x6x3x3xf32>
  }
}
// CHECK: [[x:%[0-9]+]] = mem.input "x" frame <2, 6, 6> tensors ["x"] : tensor<6x6x2x!graph.quant<u8, 0.1, 3>>
// CHECK-NEXT: [[c:%[0-9]+]] = cim.stage "conv1"([[x]]) frame <6, 6, 6>
// CHECK: cim.write_row <"conv1.matrix"> grid <2, 2> coding <weight_bits 8, weight_encoding offset
// CHECK-SAME: : !cim.arrays<18x6> loc("conv1"("m.onnx":0:0))
// CHECK-NEXT: cim.read_row {{.*}} <3 3 stride 1 1 pad 1 1 1 1 dilation 1 1>
// CHECK-SAME: -> tensor<6x6x6xi32>
// CHECK-NEXT: cim.requantise {{.*}} lo 7 hi 255
// CHECK-NEXT: cim.yield
// CHECK: [[p:%[0-9]+]] = cim.stage "pool1"([[c]]) frame <6, 3, 3>
// CHECK: cim.dcom max_pool({{.*}}) window <2 2 stride 2 2 pad 0 0 0 0 dilation 1 1> lo 0 hi 255
// CHECK: mem.output "y" frame <6, 3, 3> [[p]]
// CHECK-NOT: graph.max_pool
// -----
// RUN: map-stages
// An Add joins the later of its operands' stages and takes the other through a source of its own. Machines that
// read whole crossbars have read_xb.
// MACHINE: parallel_rows=16
// WEIGHT: w 2x2x1x1 -127 127
// SCALE: s 0.01 2
builtin.module {
  func.func @main(%x: tensor<1x2x4x4xf32>) -> tensor<1x2x4x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x2x4x4xf32>) -> tensor<1x2x4x4x!graph.quant<u8, 0.1, 3>>
    %c = graph.conv %q weight <"w"> kernel <1, 1> strides <1, 1> pads <0, 0, 0, 0> dilations <1, 1> group 1 weight_bits 8 weight_scale <"s"> acc_bits 32 tensors ["c"] : (tensor<1x2x4x4x!graph.quant<u8, 0.1, 3>>) -> tensor<1x2x4x4x!graph.quant<u8, 0.2, 7>> loc("conv1"("m.onnx":0:0))
    %a = graph.add %q, %c tensors ["y"] : (tensor<1x2x4x4x!graph.quant<u8, 0.1, 3>>, tensor<1x2x4x4x!graph.quant<u8, 0.2, 7>>) -> tensor<1x2x4x4x!graph.quant<u8, 0.4, 7>>
    %y = graph.dequantize %a tensors ["y"] : (tensor<1x2x4x4x!graph.quant<u8, 0.4, 7>>) -> tensor<1x2x4x4xf32>
    func.return %y : tensor<1x2x4x4xf32>
  }
}
// CHECK: [[x:%[0-9]+]] = mem.input
// CHECK-NEXT: cim.stage "conv1"([[x]], [[x]])
// CHECK-NEXT: ^bb0([[a:%[0-9]+]]: {{.*}}, [[b:%[0-9]+]]:
// CHECK: cim.read_xb %{{[0-9]+}}, [[a]]
// CHECK: [[r:%[0-9]+]] = cim.requantise
// CHECK-NEXT: [[s:%[0-9]+]] = cim.dcom add([[b]], [[r]]) lo 0 hi 255
// CHECK-NEXT: cim.yield [[s]]
// -----
// RUN: map-stages
// A flattened image that enters a product is a window over the whole image: nothing moves. Its rows are 3x2 positions
// of 4 channels.
// WEIGHT: w 24x5 -127 127
// SCALE: s 0.01 5
builtin.module {
  func.func @main(%x: tensor<1x4x3x2xf32>) -> tensor<1x5xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4x3x2xf32>) -> tensor<1x4x3x2x!graph.quant<u8, 0.1, 3>>
    %f = graph.reshape %q tensors ["f"] : (tensor<1x4x3x2x!graph.quant<u8, 0.1, 3>>) -> tensor<1x24x!graph.quant<u8, 0.1, 3>>
    %y = graph.gemm %f weight <"w"> weight_bits 8 weight_scale <"s"> acc_bits 32 tensors ["y"] : (tensor<1x24x!graph.quant<u8, 0.1, 3>>) -> tensor<1x5xf32> loc("fc"("m.onnx":1:0))
    func.return %y : tensor<1x5xf32>
  }
}
// CHECK: [[x:%[0-9]+]] = mem.input "x" frame <4, 3, 2>
// CHECK-NEXT: cim.stage "fc"([[x]]) frame <5>
// CHECK: cim.read_row {{.*}} <3 2 stride 1 1 pad 0 0 0 0 dilation 1 1>
// CHECK-NEXT: cim.requantise
// CHECK-NOT: lo
// CHECK-SAME: -> tensor<1x1x5xf32>
// CHECK-NOT: relayout
// -----
// RUN: map-stages
// A flattening that is no product's input passes the global buffer, and so do tokens made of an image.
// WEIGHT: w 6x3 -127 127
// SCALE: s 0.01 3
builtin.module {
  func.func @main(%x: tensor<1x4x3x2xf32>) -> (tensor<1x24xf32>, tensor<1x4x3xf32>) attributes {"graph.inputs" = ["x"], "graph.outputs" = ["f", "y"]} {
    %q = graph.quantize %x tensors ["x"] : (tensor<1x4x3x2xf32>) -> tensor<1x4x3x2x!graph.quant<u8, 0.1, 3>>
    %g = graph.reshape %q tensors ["f"] : (tensor<1x4x3x2x!graph.quant<u8, 0.1, 3>>) -> tensor<1x24x!graph.quant<u8, 0.1, 3>>
    %t = graph.reshape %q tensors ["t"] : (tensor<1x4x3x2x!graph.quant<u8, 0.1, 3>>) -> tensor<1x4x6x!graph.quant<u8, 0.1, 3>>
    %y = graph.gemm %t weight <"w"> weight_bits 8 weight_scale <"s"> acc_bits 32 tensors ["y"] : (tensor<1x4x6x!graph.quant<u8, 0.1, 3>>) -> tensor<1x4x3xf32> loc("fc"("m.onnx":1:0))
    %f = graph.dequantize %g tensors ["f"] : (tensor<1x24x!graph.quant<u8, 0.1, 3>>) -> tensor<1x24xf32>
    func.return %f, %y : tensor<1x24xf32>, tensor<1x4x3xf32>
  }
}
// CHECK: mem.relayout {{.*}} from <4, 3, 2> to <24> tensors ["f"] : tensor<3x2x4x
// CHECK-SAME: -> tensor<1x1x24x
// CHECK: mem.relayout {{.*}} to <4, 6> tensors ["t"]
// CHECK-SAME: -> tensor<4x1x6x
// CHECK: cim.read_row {{.*}} -> tensor<4x1x3xi32>
// -----
// RUN: map-stages
// A quantiser into which a Relu is fused is a stage: the chip's own quantises to all codes.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %q = graph.quantize %x lo 9 hi 255 tensors ["r"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.5, 9>>
    %y = graph.dequantize %q tensors ["r"] : (tensor<1x4x!graph.quant<u8, 0.5, 9>>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK: mem.input "x" frame <4> tensors ["x"] : tensor<1x1x4xf32>
// CHECK: cim.dcom quantise({{.*}}) lo 9 hi 255
