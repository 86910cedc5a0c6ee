// RUN: graph-hoist-pointwise
// WEIGHTS: w=f32:4x3x1x3 s=f64:4 t=f64:4

builtin.module {
  func.func @main(%x: tensor<1x3x1x8xf32>) -> (tensor<1x4x6xf32>, tensor<4x6xf32>, tensor<1x4x6xf32>) attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y", "z", "k"]} {
    // A normalisation and an activation behind a reshape of a convolution come before it, with their own locations; the reshape takes the last name.
    // CHECK: [[C:%.*]] = graph.conv %x
    // CHECK-NEXT: [[N:%.*]] = graph.affine [[C]] scale <"s"> shift <"t"> axis 1 {{.*}} tensors ["n/0"] {{.*}} loc("bn"("m.onnx":1:0))
    // CHECK-NEXT: [[A:%.*]] = graph.relu [[N]] tensors ["y/0"] {{.*}} loc("relu"("m.onnx":2:0))
    // CHECK-NEXT: [[Y:%.*]] = graph.reshape [[A]] tensors ["y"] : (tensor<1x4x1x6xf32>) -> tensor<1x4x6xf32>
    %c = graph.conv %x weight <"w"> kernel <1, 3> strides <1, 1> pads <0, 0, 0, 0> dilations <1, 1> group 1 tensors ["c"] : (tensor<1x3x1x8xf32>) -> tensor<1x4x1x6xf32>
    %r = graph.reshape %c tensors ["r"] : (tensor<1x4x1x6xf32>) -> tensor<1x4x6xf32>
    %n = graph.affine %r scale <"s"> shift <"t"> axis 1 of "BatchNormalization" tensors ["n"] : (tensor<1x4x6xf32>) -> tensor<1x4x6xf32> loc("bn"("m.onnx":1:0))
    %y = graph.relu %n tensors ["y"] : (tensor<1x4x6xf32>) -> tensor<1x4x6xf32> loc("relu"("m.onnx":2:0))

    // A reshape that moves the channels stays before a per-channel map.
    // CHECK: graph.reshape {{.*}} tensors ["r2"]
    // CHECK-NEXT: graph.affine
    %c2 = graph.conv %x weight <"w"> kernel <1, 3> strides <1, 1> pads <0, 0, 0, 0> dilations <1, 1> group 1 tensors ["c2"] : (tensor<1x3x1x8xf32>) -> tensor<1x4x1x6xf32>
    %r2 = graph.reshape %c2 tensors ["r2"] : (tensor<1x4x1x6xf32>) -> tensor<4x6xf32>
    %z = graph.affine %r2 scale <"s"> shift <"t"> axis 0 of "Mul" tensors ["z"] : (tensor<4x6xf32>) -> tensor<4x6xf32>

    // The sum of two sequences is one of two rows.
    // CHECK: [[S:%.*]] = graph.add {{.*}} tensors ["k/0"] : (tensor<1x4x1x6xf32>, tensor<1x4x1x6xf32>) -> tensor<1x4x1x6xf32>
    // CHECK-NEXT: graph.reshape [[S]] tensors ["k"]
    %c3 = graph.conv %x weight <"w"> kernel <1, 3> strides <1, 1> pads <0, 0, 0, 0> dilations <1, 1> group 1 tensors ["c3"] : (tensor<1x3x1x8xf32>) -> tensor<1x4x1x6xf32>
    %r3 = graph.reshape %c3 tensors ["r3"] : (tensor<1x4x1x6xf32>) -> tensor<1x4x6xf32>
    %k = graph.add %r3, %y tensors ["k"] : (tensor<1x4x6xf32>, tensor<1x4x6xf32>) -> tensor<1x4x6xf32>
    func.return %y, %z, %k : tensor<1x4x6xf32>, tensor<4x6xf32>, tensor<1x4x6xf32>
  }
}
