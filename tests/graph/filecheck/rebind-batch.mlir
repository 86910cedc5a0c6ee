// RUN: graph-rebind-batch{batch=1}

builtin.module {
  // Types of arguments, results and the function follow; weights are not touched.
  // CHECK: func.func @main(%x: tensor<1x3x8x8xf32> loc(unknown)) -> tensor<1x10xf32>
  func.func @main(%x: tensor<8x3x8x8xf32>) -> tensor<8x10xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    // CHECK-NEXT: graph.conv %x weight <"w"> {{.*}} : (tensor<1x3x8x8xf32>) -> tensor<1x4x8x8xf32>
    %c = graph.conv %x weight <"w"> kernel <3, 3> strides <1, 1> pads <1, 1, 1, 1> dilations <1, 1> group 1 tensors ["c"] : (tensor<8x3x8x8xf32>) -> tensor<8x4x8x8xf32>
    // A host operator that says it is batch parallel is rebound like any other.
    // CHECK-NEXT: graph.host "Sigmoid"({{.*}}) {{.*}} : (tensor<1x4x8x8xf32>) -> tensor<1x4x8x8xf32>
    %s = graph.host "Sigmoid"(%c) model <"m"> reason "r" batch_parallel tensors ["s"] : (tensor<8x4x8x8xf32>) -> tensor<8x4x8x8xf32>
    // A reshape that keeps the batch keeps the images apart.
    // CHECK-NEXT: graph.reshape {{.*}} : (tensor<1x4x8x8xf32>) -> tensor<1x256xf32>
    %r = graph.reshape %s tensors ["r"] : (tensor<8x4x8x8xf32>) -> tensor<8x256xf32>
    // CHECK-NEXT: graph.gemm {{.*}} : (tensor<1x256xf32>) -> tensor<1x10xf32>
    %y = graph.gemm %r weight <"v"> tensors ["y"] : (tensor<8x256xf32>) -> tensor<8x10xf32>
    func.return %y : tensor<8x10xf32>
  }
}
