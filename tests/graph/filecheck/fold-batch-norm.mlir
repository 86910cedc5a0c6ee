// RUN: graph-fold-batch-norm
// WEIGHTS: w=f32:4x3x3x3 b=f32:4 s=f64:4 t=f64:4 v=f32:6x5 s5=f64:5 t5=f64:5 s6=f64:6 t6=f64:6

builtin.module {
  func.func @main(%x: tensor<1x3x8x8xf32>, %u: tensor<2x6xf32>) -> (tensor<1x4x8x8xf32>, tensor<1x4x8x8xf32>, tensor<1x4x8x8xf32>, tensor<2x5xf32>, tensor<2x6xf32>) attributes {"graph.inputs" = ["x", "u"], "graph.outputs" = ["y", "c2", "n2", "z", "o"]} {
    // A normalisation is folded into the convolution before it: the convolution takes its tensor's name, keeps its own location.
    // CHECK: [[Y:%.*]] = graph.conv %x weight <"w.folded"> bias <"w.folded.bias"> {{.*}} tensors ["n"] {{.*}} loc("conv1"("m.onnx":0:0))
    // CHECK-NOT: graph.affine
    %c = graph.conv %x weight <"w"> bias <"b"> kernel <3, 3> strides <1, 1> pads <1, 1, 1, 1> dilations <1, 1> group 1 tensors ["c"] : (tensor<1x3x8x8xf32>) -> tensor<1x4x8x8xf32> loc("conv1"("m.onnx":0:0))
    %n = graph.affine %c scale <"s"> shift <"t"> axis 1 of "BatchNormalization" tensors ["n"] : (tensor<1x4x8x8xf32>) -> tensor<1x4x8x8xf32> loc("bn1"("m.onnx":1:0))

    // A convolution whose own result is returned too must stay as it is: the map goes to the digital unit, at its location.
    // CHECK: [[C2:%.*]] = graph.conv %x weight <"w"> kernel
    // CHECK: [[M2:%.*]] = graph.binary_constant "mul" [[C2]] constant <"n2.mul"> per_frame tensors ["n2/mul"] {{.*}} loc("bn2"("m.onnx":3:0))
    // CHECK-NEXT: [[N2:%.*]] = graph.binary_constant "add" [[M2]] constant <"n2.add"> per_frame tensors ["n2"] {{.*}} loc("bn2"("m.onnx":3:0))
    %c2 = graph.conv %x weight <"w"> kernel <3, 3> strides <1, 1> pads <1, 1, 1, 1> dilations <1, 1> group 1 tensors ["c2"] : (tensor<1x3x8x8xf32>) -> tensor<1x4x8x8xf32>
    %n2 = graph.affine %c2 scale <"s"> shift <"t"> axis 1 of "BatchNormalization" tensors ["n2"] : (tensor<1x4x8x8xf32>) -> tensor<1x4x8x8xf32> loc("bn2"("m.onnx":3:0))

    // Two maps in a row fold one after the other.
    // CHECK: [[Z:%.*]] = graph.gemm %u weight <"v.folded.folded"> bias <"v.folded.folded.bias"> tensors ["z"]
    %g = graph.gemm %u weight <"v"> tensors ["g"] : (tensor<2x6xf32>) -> tensor<2x5xf32>
    %h = graph.affine %g scale <"s5"> shift <"t5"> axis 1 of "Mul" tensors ["h"] : (tensor<2x5xf32>) -> tensor<2x5xf32>
    %z = graph.affine %h scale <"s5"> shift <"t5"> axis 1 of "Add" tensors ["z"] : (tensor<2x5xf32>) -> tensor<2x5xf32>

    // With no product before it, the digital unit does it.
    // CHECK: [[P:%.*]] = graph.binary_constant "mul" %u
    // CHECK-NEXT: [[O:%.*]] = graph.binary_constant "add" [[P]]
    // CHECK: func.return [[Y]], [[C2]], [[N2]], [[Z]], [[O]]
    %o = graph.affine %u scale <"s6"> shift <"t6"> axis 1 of "Mul" tensors ["o"] : (tensor<2x6xf32>) -> tensor<2x6xf32>
    func.return %n, %c2, %n2, %z, %o : tensor<1x4x8x8xf32>, tensor<1x4x8x8xf32>, tensor<1x4x8x8xf32>, tensor<2x5xf32>, tensor<2x6xf32>
  }
}
