"""Recurrent layers: what they read becomes thin before it meets the gates."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from compressc_lowrank.leading import balanced, leading
from compressc_lowrank.matrices import matrix_of, put_matrix
from compressc_lowrank.schemes.scheme import Chain, Link, Ranks, linear
from compressc_lowrank.schemes.svd import Svd
from compressc_lowrank.seen import Seen, weighed


class RecurrentInput(Svd):
    """The matrix of the input [directions * gates * hidden, in] becomes U V.

    V is a linear layer in front, U the matrix of the input of the same layer with r inputs, so that
    every runtime has its own kernel for it still. Both directions share V. The matrix of the state
    stays whole: a product of two in its place is a kernel that no runtime has (torch's `proj_size`
    makes what goes out thin, too).
    """

    name: ClassVar[str] = "recurrent"
    kinds: ClassVar[frozenset[str]] = frozenset({"lstm", "gru", "rnn"})

    def fits(self, layer: Any) -> bool:
        """All of them; of several layers, which `split_layers` makes ops of, the first."""
        return True

    def chain(self, layer: Any, ranks: Ranks, seen: Seen | None) -> Chain:
        """V, and the layer behind it."""
        wide = matrix_of(layer).double()
        basis = leading(weighed(wide, seen), *ranks)
        left, right = balanced(basis, basis.T @ wide)
        thin = copy.copy(layer)
        thin._parameters = dict(layer._parameters)  # the tensors that stay are the same ones
        thin.input_size = ranks[0]
        put_matrix(thin, left)
        front = linear(right, layer.weight_ih_l0.dtype)
        return Chain((Link("v", "linear", front), Link("", "", thin)), left @ right)
