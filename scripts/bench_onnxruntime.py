#!/usr/bin/env python3
"""Embeds texts with ONNX Runtime in fp32, for `make bench BENCH=embedding`.

    bench_onnxruntime.py MODEL_FOLDER THREADS

Reads one JSON list of texts from standard input, answers {"vectors": N}, then for each further line runs once over all texts
and answers {"seconds": s, "tokens": n}. Texts are sorted by length and padded to the longest of their batch; the batch
size is the best of a few, found first. The graph is built from the safetensors with the fused operators that ONNX
Runtime's own optimizer makes of an exported BERT: nothing slower than a user of it would have.
"""
import json
import pathlib
import sys
import time

import numpy
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LAYERS, HEADS, HIDDEN, MAX = 6, 12, 384, 256


def graph(weights):
    nodes, constants = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(numpy.ascontiguousarray(value), name))
        return name

    def node(kind, inputs, output, domain="", **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def norm(name):
        return [constant(f"{name}.{part}", weights[f"{name}.LayerNorm.{part}"]) for part in ("weight", "bias")]

    ms = "com.microsoft"
    words = node("Gather", [constant("words", weights["embeddings.word_embeddings.weight"]), "ids"], "word_rows")
    places = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    rows = node("Gather", [constant("places", places), "positions"], "place_rows")
    total = node("Add", [words, rows], "embedded")
    state = node("LayerNormalization", [total, *norm("embeddings")], "state", epsilon=1e-12, axis=-1)
    for n in range(LAYERS):
        at = f"encoder.layer.{n}"
        linear = lambda part: (weights[f"{at}.{part}.weight"].T, weights[f"{at}.{part}.bias"])
        parts = [linear(f"attention.self.{part}") for part in ("query", "key", "value")]
        qkv = constant(f"{n}.qkv", numpy.concatenate([w for w, _ in parts], axis=1))
        bias = constant(f"{n}.qkv.bias", numpy.concatenate([b for _, b in parts]))
        attended = node("Attention", [state, qkv, bias, "lengths"], f"{n}.attended", domain=ms, num_heads=HEADS)
        weight, bias = linear("attention.output.dense")
        out = node("MatMul", [attended, constant(f"{n}.out", weight)], f"{n}.projected")
        state = node("SkipLayerNormalization",
                     [out, state, *norm(f"{at}.attention.output"), constant(f"{n}.out.bias", bias)], f"{n}.mid", domain=ms, epsilon=1e-12)
        weight, bias = linear("intermediate.dense")
        wide = node("MatMul", [state, constant(f"{n}.up", weight)], f"{n}.wide")
        wide = node("BiasGelu", [wide, constant(f"{n}.up.bias", bias)], f"{n}.gelu", domain=ms)
        weight, bias = linear("output.dense")
        out = node("MatMul", [wide, constant(f"{n}.down", weight)], f"{n}.narrow")
        state = node("SkipLayerNormalization",
                     [out, state, *norm(f"{at}.output"), constant(f"{n}.down.bias", bias)], f"{n}.state", domain=ms, epsilon=1e-12)
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"]),
              helper.make_tensor_value_info("positions", TensorProto.INT64, ["length"]),
              helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"])]
    output = helper.make_tensor_value_info(state, TensorProto.FLOAT, ["batch", "length", HIDDEN])
    made = helper.make_graph(nodes, "minilm", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ms, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString()


def main():
    folder, threads = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    model = graph(load_file(folder / "model.safetensors"))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX)

    def embed(texts, batch):
        """All vectors in the order of the texts, and the tokens that counted. Tokenising is part of the work."""
        rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
        vectors = [None] * len(rows)
        for first in range(0, len(order), batch):
            some = order[first:first + batch]
            lengths = numpy.array([len(rows[n]) for n in some], dtype=numpy.int32)
            ids = numpy.zeros((len(some), lengths.max()), dtype=numpy.int64)
            for at, n in enumerate(some):
                ids[at, :lengths[at]] = rows[n]
            inputs = {"ids": ids, "positions": numpy.arange(ids.shape[1]), "lengths": lengths}
            states = session.run(None, inputs)[0]
            for at, n in enumerate(some):
                mean = states[at, :lengths[at]].mean(axis=0)
                vectors[n] = mean / max(numpy.linalg.norm(mean), 1e-12)
        return vectors, sum(map(len, rows))

    texts = json.loads(sys.stdin.readline())
    best = None
    for batch in (1, 4, 8, 32):
        embed(texts[:32], batch)
        began = time.perf_counter()
        embed(texts, batch)
        took = time.perf_counter() - began
        if best is None or took < best[0]:
            best = (took, batch)
    first = [[float(value) for value in vector] for vector in embed(texts[:8], best[1])[0]]
    print(json.dumps({"batch": best[1], "first": first, "version": onnxruntime.__version__}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        _, tokens = embed(texts, best[1])
        print(json.dumps({"seconds": time.perf_counter() - began, "tokens": tokens}), flush=True)


main()
