"""Random sampling of positives and negatives for a loss, with static shapes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from maskrcnn_jax.ops import ranking

Key = PRNGKeyArray | UInt32[Array, "2"]  # A new-style key, or an old-style one.


def priorities(key: Key, positions: Int[Array, " n"]) -> UInt32[Array, " n"]:
    """A random number for each position, which depends on the key and the position only.

    It does not depend on the number of positions: a wider bucket or more empty slots must not
    change the draws of the others.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, positions)
    return jax.random.key_data(keys)[..., -1]


def sample(
    priority: UInt32[Array, " n"],
    positive: Bool[Array, " n"],
    negative: Bool[Array, " n"],
    *,
    num_samples: int,
    max_positives: int,
) -> tuple[Int[Array, " s"], Bool[Array, " s"], Bool[Array, " s"]]:
    """Draws at most ``max_positives`` positives, then negatives up to ``num_samples`` in total.

    Args:
        priority: Candidates of the highest priority are drawn.
        positive: The positive candidates.
        negative: The negative candidates.
        num_samples: Slots of the result.
        max_positives: Positives at most.

    Returns:
        Indices into the candidates, whether each is positive, and whether the slot is used.
        Positives come first, so they always lie in the first ``max_positives`` slots.
    """
    positives, num_positives = _draw(priority, positive, max_positives)
    negatives, num_negatives = _draw(priority, negative, num_samples)
    slots = jnp.arange(num_samples)
    is_positive = slots < num_positives
    indices = jnp.where(
        is_positive,
        positives[jnp.minimum(slots, positives.shape[0] - 1)],
        negatives[jnp.clip(slots - num_positives, 0, negatives.shape[0] - 1)],
    )
    return indices, is_positive, slots < num_positives + num_negatives


def _draw(
    priority: UInt32[Array, " n"], eligible: Bool[Array, " n"], count: int
) -> tuple[Int[Array, " s"], Int[Array, ""]]:
    """The eligible candidates of highest priority, and their number (at most ``count``)."""
    # Signed numbers: 31 random bits for eligible candidates, -1 for all others.
    key = jnp.where(eligible, (priority >> 1).astype(jnp.int32), -1)
    _, indices = ranking.top_k(key, min(count, key.shape[0]))
    return indices, jnp.minimum(eligible.sum(), count)


def weighted(key: Key, weights: Float[Array, " n"], count: Int[Array, ""]) -> Bool[Array, " n"]:
    """Draws ``count`` candidates without replacement, with probabilities proportional to weights.

    Candidates of weight 0 are never drawn, so there may be fewer. The draw of a candidate depends
    on the key, its position and the weights.

    The first ``count`` of exponential times with the rates ``weights`` are such a draw (Efraimidis
    and Spirakis, 2006).
    """
    bits = priorities(key, jnp.arange(len(weights)))
    uniform = ((bits >> 8).astype(jnp.float32) + 0.5) / (1 << 24)  # Above 0.
    times = jnp.where(weights > 0, -jnp.log(uniform) / weights, jnp.inf)
    rank = jnp.argsort(jnp.argsort(times))
    return (rank < count) & (weights > 0)
