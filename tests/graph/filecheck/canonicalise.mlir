// RUN: graph-canonicalise

builtin.module {
  func.func @main(%x: tensor<1x16x2x2xf32>) -> (tensor<1x64xf32>, tensor<1x16x2x2xf32>) attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y", "z"]} {
    // CHECK: func.func @main
    // Three reshapes in a row are one, which keeps the last one's name and location.
    // CHECK-NEXT: [[Y:%.*]] = graph.reshape %x tensors ["c"] : (tensor<1x16x2x2xf32>) -> tensor<1x64xf32> loc("third"("m.onnx":2:0))
    %a = graph.reshape %x tensors ["a"] : (tensor<1x16x2x2xf32>) -> tensor<16x4xf32>
    %b = graph.reshape %a tensors ["b"] : (tensor<16x4xf32>) -> tensor<64xf32>
    %c = graph.reshape %b tensors ["c"] : (tensor<64xf32>) -> tensor<1x64xf32> loc("third"("m.onnx":2:0))
    // There and back again is nothing.
    // CHECK-NEXT: [[Z:%.*]] = graph.relu %x
    %d = graph.reshape %c tensors ["d"] : (tensor<1x64xf32>) -> tensor<1x16x2x2xf32>
    %e = graph.relu %d tensors ["e"] : (tensor<1x16x2x2xf32>) -> tensor<1x16x2x2xf32>
    // A chain nobody reads goes, from its end.
    // CHECK-NEXT: func.return [[Y]], [[Z]]
    %f = graph.relu %e tensors ["f"] : (tensor<1x16x2x2xf32>) -> tensor<1x16x2x2xf32>
    %g = graph.add %f, %e tensors ["g"] : (tensor<1x16x2x2xf32>, tensor<1x16x2x2xf32>) -> tensor<1x16x2x2xf32>
    func.return %c, %e : tensor<1x64xf32>, tensor<1x16x2x2xf32>
  }
}
