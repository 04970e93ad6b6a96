"""A name → the text of a first pattern, which compiles, and says in its comments what to change."""

from __future__ import annotations

TEXT = '''\
"""NAME: what it does, in one line; name the paper here, if there is one.

Change the equations below. A kernel, a CPU version and a dense reference follow from them.
"""

# Tensors over their indices; K and V have fewer heads (g) than Q (h). A number with a default is an argument
# of every call, and no value of it is another kernel.
pattern NAME(Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], window: int = 256) -> O[b,h,q,e]:
    # batched indices stand in every equation below without being written
    over b, h with g = h // (|h| // |g|)
    # q and k count the same positions, and the last query is the last key
    align q to k
    # the score of a query and a key: a sum over the features d, of which there are |d|
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    # who sees whom: any predicate of q, k and the numbers; a key that is not seen does not exist
    P[q,k] = softmax(k where k <= q and q - k < window) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
    # an equation that is no output costs nothing, and can be asked for: attend(q, k, v, outputs=("O", "lse"))
    lse[q] = logsumexp(k where k <= q and q - k < window) S[q,k]
'''


def starter(name: str) -> str:
    """The text of a first pattern of that name."""
    return TEXT.replace("NAME", name)
