"""Rewrites of an exported ONNX graph: fused attention that masks only what is padded, and int8 weight products."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_SMOOTHING = 0.6
"""Share of an outlier that moves from the activations into the weights; measured in docs/performance.md."""

Batch = tuple[npt.NDArray[np.int64], ...]
"""What the graph takes, in its order: ids, mask and, of some, token types; each ``(rows, tokens)``."""


def fuse_attention(file: Path, heads: int, width: int) -> Any:
    """The graph in ``file`` with one ``MultiHeadAttention`` per layer, where its attention is of that kind.

    onnxruntime's own optimiser does it. Its other fusions are left out, for they run slower on CPUs than their parts
    (docs/performance.md).
    """
    from onnx import helper
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.use_multi_head_attention = True
    options.enable_bias_gelu = False
    options.enable_embed_layer_norm = False
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    optimizer = optimize_model(
        str(file), model_type="bert", num_heads=heads, hidden_size=width, optimization_options=options, opt_level=0
    )
    fused = optimizer.model
    # Where MultiHeadAttention is defined. The optimiser adds it only when it writes a file itself.
    fused.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return fused


def mask_where_padded(graph: Any) -> Any:
    """``graph``, each attention of which applies its mask only if something in the batch is padded.

    Without a mask onnxruntime computes attention in blocks that stay in the cache: 1.24 times as fast a model for 512
    tokens, 1.07 for 256.
    """
    from onnx import TensorProto, helper

    attentions = {node.name for node in _attentions(graph)}
    nodes = [
        helper.make_node("ReduceMin", ["attention_mask"], ["least_mask"], "least_mask", keepdims=0),
        helper.make_node("Cast", ["least_mask"], ["is_whole"], "is_whole", to=TensorProto.BOOL),
    ]
    for node in graph.graph.node:
        if node.name not in attentions:
            nodes.append(node)
            continue
        branches = {}
        for branch, inputs in (("then_branch", node.input[:4]), ("else_branch", node.input)):
            inner = type(node)()
            inner.CopyFrom(node)
            del inner.input[:], inner.output[:]
            inner.input.extend(inputs)
            inner.output.append(f"{node.output[0]}_{branch}")
            output = helper.make_tensor_value_info(inner.output[0], TensorProto.FLOAT, None)
            branches[branch] = helper.make_graph([inner], inner.output[0], [], [output])
        nodes.append(helper.make_node("If", ["is_whole"], list(node.output), f"{node.name}_masked", **branches))
    return _with_nodes(graph, nodes) if attentions else graph


def mask_everywhere(graph: Any) -> Any:
    """``graph`` as it was before :func:`mask_where_padded`."""
    nodes = []
    for node in graph.graph.node:
        branches = {branch.name: branch.g for branch in node.attribute} if node.op_type == "If" else {}
        if "else_branch" in branches and branches["else_branch"].node[0].op_type == "MultiHeadAttention":
            output = node.output[0]
            node = branches["else_branch"].node[0]
            node.output[0] = output
        nodes.append(node)
    return _with_nodes(graph, nodes)


def smooth(graph: Any, batches: Sequence[Batch]) -> Any:
    """``graph`` with the outliers of what enters its weight products moved into the weights, a channel at a time.

    Dynamic int8 has one scale for all that enters a product, so a channel with outliers costs all others their
    precision. ``batches`` show the largest value of each channel.

    Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
    ICML 2023. The scales stand in nodes of their own: the residual uses the same activations unscaled.
    """
    from onnx import helper, numpy_helper

    graph = _with_nodes(graph, graph.graph.node)  # a copy
    users = defaultdict(list)
    weights = {weight.name: weight for weight in graph.graph.initializer}
    for node in weight_products(graph):
        users[node.input[0]].append(node)
    largest = _largest(graph, list(users), batches)
    nodes = []
    for node in graph.graph.node:
        name = node.input[0] if node.input else ""
        if name in largest and any(node is user for user in users[name]):
            arrays = {user.input[1]: numpy_helper.to_array(weights[user.input[1]]) for user in users[name]}
            heaviest = np.max([np.abs(array).max(axis=1) for array in arrays.values()], axis=0)
            scale = _floor(largest.pop(name)) ** _SMOOTHING / _floor(heaviest) ** (1 - _SMOOTHING)
            scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
            graph.graph.initializer.append(numpy_helper.from_array(1 / scale, f"{name}_smoothing"))
            nodes.append(helper.make_node("Mul", [name, f"{name}_smoothing"], [f"{name}_smooth"], f"{name}_smooth"))
            for weight, array in arrays.items():
                weights[weight].CopyFrom(numpy_helper.from_array(array * scale[:, None], weight))
            for user in users[name]:
                user.input[0] = f"{name}_smooth"
        nodes.append(node)
    return _with_nodes(graph, nodes)


def quantize(graph: Any, spared: Sequence[str], target: Path) -> Any:
    """``graph`` with dynamic int8 weight products, per output channel, but for those named in ``spared``.

    Weights keep to 7 of the 8 bits: x86 processors without VNNI add two products in 16 bits, which 8 bits overflow,
    so that they would give other vectors than those with it. Embeddings, softmax and norms stay fp32. Written to
    ``target``, and returned.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        _with_nodes(graph, graph.graph.node),  # a copy, for it is changed
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(spared),
        # What comes out of onnxruntime's own operators has no type that shape inference could tell.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return onnx.load(target)


def weight_products(graph: Any) -> list[Any]:
    """The MatMul nodes whose second input is a two-dimensional weight."""
    shapes = {weight.name: len(weight.dims) for weight in graph.graph.initializer}
    return [node for node in graph.graph.node if node.op_type == "MatMul" and shapes.get(node.input[1]) == 2]


def sensitive_products(graph: Any) -> list[str]:
    """Names of the products that int8 harms most, worst first: each layer's second feed-forward product, in order.

    Their inputs have the widest outliers, the earlier the layer the more. In an encoder layer only they have a weight
    with more rows than columns.
    """
    shapes = {weight.name: tuple(weight.dims) for weight in graph.graph.initializer}
    return [node.name for node in weight_products(graph) if shapes[node.input[1]][0] > shapes[node.input[1]][1]]


def _attentions(graph: Any) -> list[Any]:
    return [node for node in graph.graph.node if node.op_type == "MultiHeadAttention"]


def _largest(graph: Any, names: Sequence[str], batches: Sequence[Batch]) -> dict[str, npt.NDArray[np.float32]]:
    """The largest absolute value of each channel (last axis) of the tensors ``names``."""
    import onnxruntime
    from onnx import TensorProto, helper

    seen = _with_nodes(graph, graph.graph.node)
    del seen.graph.output[:]
    seen.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(seen.SerializeToString(), providers=["CPUExecutionProvider"])
    largest: dict[str, npt.NDArray[np.float32]] = {}
    inputs = [each.name for each in session.get_inputs()]
    for batch in batches:
        for name, value in zip(names, session.run(None, dict(zip(inputs, batch, strict=True))), strict=True):
            channels = np.abs(value.reshape(-1, value.shape[-1])).max(axis=0)
            largest[name] = np.maximum(largest.get(name, channels), channels)
    return largest


def _floor(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A channel that is always zero would have no scale."""
    return np.maximum(values, np.float32(1e-4))


def _with_nodes(graph: Any, nodes: Sequence[Any]) -> Any:
    """A copy of ``graph`` with other nodes."""
    copy = type(graph)()
    copy.CopyFrom(graph)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy
