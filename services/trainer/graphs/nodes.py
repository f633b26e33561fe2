"""Adds nodes and constants with names of our own to a graph that skl2onnx is writing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

MICROSOFT = "com.microsoft"
ML = "ai.onnx.ml"
OPERATOR_VERSIONS = {"": 20, ML: 2, MICROSOFT: 1}


@dataclass(frozen=True)
class GraphNodes:
    """The graph, which is an skl2onnx container; each method returns the name of the tensor that it adds."""

    container: Any

    def node(self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; the node is named by its operator and its output."""
        self.container.add_node(
            op,
            inputs,
            [output],
            op_domain=domain,
            op_version=OPERATOR_VERSIONS[domain],
            name=f"{op}_{output}",
            **attributes,
        )
        return output

    def array(self, name: str, values: np.ndarray) -> str:
        """Add a constant with the type and shape of an array."""
        self.container.add_initializer(name, None, None, numpy_helper.from_array(values))
        return name

    def integers(self, name: str, *values: int) -> str:
        """Add a constant int64 vector."""
        return self.array(name, np.array(values, np.int64))

    def string(self, name: str, value: str) -> str:
        """Add a constant string [1]."""
        self.container.add_initializer(name, TensorProto.STRING, [1], [value.encode()])
        return name
