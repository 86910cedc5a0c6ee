// RUN: quantise-activations
// A float edge into a product gets a pair, and so does the edge out of it; zero lies in every range.
// RANGE: x 0.25 2.55
// RANGE: y -1 1
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %y = graph.gemm %x weight <"w"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
    func.return %y : tensor<1x2xf32>
  }
}
// CHECK: graph.quantize %x tensors ["x"] : (tensor<1x4xf32>) -> tensor<1x4x!graph.quant<u8, 0.01, 0>>
// CHECK-NEXT: graph.dequantize %{{.*}} tensors ["x"]
// CHECK-NEXT: graph.gemm
// CHECK-NEXT: graph.quantize %y tensors ["y"]
// CHECK-SAME: !graph.quant<u8, 0.007843138, 127>
// CHECK-NEXT: [[OUT:%.*]] = graph.dequantize
// CHECK-NEXT: func.return [[OUT]]
// -----
// RUN: quantise-activations{activations="all"}
// Concat: both operands and the result share one type, of the union of the ranges.
// RANGE: a -1 0
// RANGE: b 0 3
// RANGE: y -1 3
builtin.module {
  func.func @main(%a: tensor<1x2xf32>, %b: tensor<1x2xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["a", "b"], "graph.outputs" = ["y"]} {
    %y = graph.concat %a, %b axis 1 tensors ["y"] : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK: graph.quantize %b {{.*}}!graph.quant<u8, 0.015686275, 64>
// CHECK: graph.quantize %a {{.*}}!graph.quant<u8, 0.015686275, 64>
// CHECK: graph.concat
// CHECK: graph.quantize %y {{.*}}!graph.quant<u8, 0.015686275, 64>
// -----
// RUN: quantise-activations{activations="all"}
// An edge that only feeds a Relu gets no pair, and its range does not widen the Relu's.
// RANGE: x -2 2
// RANGE: y -100 2.55
// RANGE: r 0 2.55
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["r"]} {
    %y = graph.gemm %x weight <"w"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
    %r = graph.relu %y tensors ["r"] : (tensor<1x2xf32>) -> tensor<1x2xf32>
    func.return %r : tensor<1x2xf32>
  }
}
// CHECK: graph.gemm
// CHECK-NEXT: graph.relu %y
// CHECK-NEXT: graph.quantize %r {{.*}}!graph.quant<u8, 0.01, 0>
// -----
// RUN: quantise-activations{activations="all"}
// An edge that feeds a Relu and something else keeps its negative part, and the Relu's result with it.
// RANGE: x -2 2
// RANGE: r 0 2
// RANGE: y -2 4
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %r = graph.relu %x tensors ["r"] : (tensor<1x4xf32>) -> tensor<1x4xf32>
    %y = graph.add %x, %r tensors ["y"] : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK: graph.quantize %x {{.*}}!graph.quant<u8, 0.015686275, 127>
// CHECK: graph.quantize %r {{.*}}!graph.quant<u8, 0.015686275, 127>
// -----
// RUN: quantise-activations{activations="arrays"}
// arrays: only the product's input is coded.
// RANGE: x -2 2
// RANGE: y -9 9
// RANGE: s -9 9
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["s"]} {
    %y = graph.gemm %x weight <"w"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x4xf32>
    %s = graph.add %x, %y tensors ["s"] : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    func.return %s : tensor<1x4xf32>
  }
}
// CHECK: [[Q:%.*]] = graph.quantize %x
// CHECK-NEXT: [[D:%.*]] = graph.dequantize [[Q]]
// CHECK-NEXT: graph.gemm [[D]]
// CHECK-NEXT: graph.add %x, %y
// CHECK-NEXT: func.return %s
// -----
// RUN: quantise-activations
// auto is arrays for a model that multiplies two activations on the host.
// RANGE: x -2 2
// RANGE: y -9 9
// RANGE: s -9 9
builtin.module {
  func.func @main(%x: tensor<4x4xf32>) -> tensor<4x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["s"]} {
    %y = graph.gemm %x weight <"w"> tensors ["y"] : (tensor<4x4xf32>) -> tensor<4x4xf32>
    %s = graph.host "MatMul"(%x, %y) model <"m"> reason "two activations" tensors ["s"] : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
    func.return %s : tensor<4x4xf32>
  }
}
// CHECK-COUNT-1: graph.quantize
// CHECK: graph.host "MatMul"(%x, %y)
// CHECK-NEXT: func.return %s
// -----
// RUN: quantise-activations{activations="all" overrides="activation_bits=4 symmetric=true : narrow"}
// Where two products wish for different codes of one edge, the edge has the default and the other a pair of its own.
// RANGE: x -2 2
// RANGE: narrow -9 9
// RANGE: wide -9 9
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> (tensor<1x2xf32>, tensor<1x2xf32>) attributes {"graph.inputs" = ["x"], "graph.outputs" = ["narrow", "wide"]} {
    %n = graph.gemm %x weight <"w"> tensors ["narrow"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
    %w = graph.gemm %x weight <"v"> tensors ["wide"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
    func.return %n, %w : tensor<1x2xf32>, tensor<1x2xf32>
  }
}
// CHECK: graph.quantize %x {{.*}}!graph.quant<u8, 0.015686275, 127>
// CHECK-NEXT: [[WIDE:%.*]] = graph.dequantize
// CHECK-NEXT: [[Q:%.*]] = graph.quantize [[WIDE]] tensors ["x"] {{.*}}!graph.quant<i4, 0.2857143, 0>
// CHECK-NEXT: [[NARROW:%.*]] = graph.dequantize [[Q]]
// CHECK-NEXT: graph.gemm [[NARROW]] weight <"w">
// CHECK: graph.gemm [[WIDE]] weight <"v">
// -----
// RUN: quantise-activations{overrides="activation_bits=4 : y"}
// Where all products of an edge agree, the edge itself has their codes.
// RANGE: x 0 1.5
// RANGE: y -9 9
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %y = graph.gemm %x weight <"w"> tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x2xf32>
    func.return %y : tensor<1x2xf32>
  }
}
// CHECK: graph.quantize %x {{.*}}!graph.quant<u4, 0.1, 0>
// CHECK-NOT: graph.quant<u8{{.*}} graph.gemm
// -----
// RUN: quantise-activations
// What only real operators see stays real: a softmax on the graph's input gets no codes.
builtin.module {
  func.func @main(%x: tensor<1x4xf32>) -> tensor<1x4xf32> attributes {"graph.inputs" = ["x"], "graph.outputs" = ["y"]} {
    %y = graph.softmax %x axis 1 tensors ["y"] : (tensor<1x4xf32>) -> tensor<1x4xf32>
    func.return %y : tensor<1x4xf32>
  }
}
// CHECK-NOT: graph.quant
