"""Geometry of a few vectors, one a row: frames, angles, energies, ranks, and how two layers align.

Pure functions of float64 tensors. E = (I - 11^T/K)/sqrt(K-1) is the unit-norm Gram of a simplex equiangular
tight frame (ETF), I/sqrt(K) that of an orthogonal frame (OF).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ncpipe.collapse.pairs import Block, Products, distances_of, moments, off_frames, over_distances, pooled, rows_by
from ncpipe.collapse.strands import in_order
from ncpipe.system.lazy import Tensor, torch

NAN = float("nan")


def simplex_etf_gram(num_classes: int) -> Tensor:
    """E = (I - 11^T/K) / sqrt(K-1), (K, K) float64 of unit Frobenius norm."""
    return (torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes) / math.sqrt(num_classes - 1)


def orthogonal_frame_gram(num_classes: int) -> Tensor:
    """I / sqrt(K), (K, K) float64 of unit Frobenius norm."""
    return torch.eye(num_classes, dtype=torch.float64) / math.sqrt(num_classes)


def frame_distance(gram: Tensor, target: Tensor) -> float:
    """|| G/||G||_F - target ||_F for a Gram matrix (K, K); NaN for G = 0 (Kothapalli; Tirer & Bruna)."""
    norm = gram.norm()
    return float((gram / norm - target).norm()) if norm > 0 else NAN


def equinorm(vectors: Tensor) -> float:
    """std/mean over the rows (ddof = 0) of their norms, (K, d) -> scalar; 0 at any frame (Papyan)."""
    norms = vectors.norm(dim=1)
    return float(norms.std(correction=0) / norms.mean()) if norms.mean() > 0 else NAN


def cosines(vectors: Tensor) -> Tensor:
    """Cosines between rows, (K, d) -> (K, K); NaN where a row is zero."""
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    return unit @ unit.T


def mean_cdnv(means: Tensor, variances: Tensor) -> float:
    """Mean over c != c' of (v_c + v_c') / (2 |mu_c - mu_c'|^2), v_c = mean_i |h_i - mu_c|^2 (Galanti)."""

    def cdnv(block: Block, squared: Tensor) -> Tensor:
        both = variances[block.rows, None] + variances[block.columns]
        return moments(block, block.off_diagonal(both / (2 * squared)))

    return pooled(over_distances(means, cdnv))[0]


def hyperspherical_energy(vectors: Tensor, power: float = 0.0) -> float:
    """Mean over pairs of the Riesz kernel |u_c - u_c'|^-s of the normalised rows, (K, d) -> scalar.

    ``power`` is s; s = 0 stands for the logarithmic kernel, log 1/|u_c - u_c'|. Least where the directions are
    spread evenly over the sphere: for K <= d + 1 at the simplex ETF, with value (2K/(K-1))^(-s/2) and, for s = 0,
    -log(2K/(K-1))/2; for K > d + 1 no frame is known in general. Infinite where two directions agree.
    (Liu et al. 2018, 2023)
    """

    def kernel(block: Block, squared: Tensor) -> Tensor:
        apart = block.off_diagonal(squared)
        return moments(block, -apart.log() / 2 if power == 0 else apart.pow(-power / 2))

    return pooled(over_distances(vectors / vectors.norm(dim=1, keepdim=True), kernel))[0]


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of s / sum(s), s the singular values: K - 1 at an ETF, K at an OF (Roy & Vetterli 2007)."""
    return spectral_ranks(torch.linalg.svdvals(matrix))[0]


def stable_rank(matrix: Tensor) -> float:
    """|A|_F^2 / |A|_2^2: K - 1 at an ETF, K at an OF; at most the rank."""
    return spectral_ranks(torch.linalg.svdvals(matrix))[1]


def spectral_ranks(singular_values: Tensor) -> tuple[float, float]:
    """Effective and stable rank from singular values (r,), descending; NaN where all are zero."""
    if len(singular_values) == 0 or not singular_values[0] > 0:
        return NAN, NAN
    share = singular_values / singular_values[0]
    return float(torch.special.entr(share / share.sum()).sum().exp()), float(share.square().sum())


def frame_metrics(name: str, vectors: Tensor, singular_values: Tensor) -> dict[str, float]:
    """NC2 of the rows of ``vectors`` (K, d): norms; std over c != c' (ddof = 0) of the cosines, 0 at any frame, and
    mean of |cos + 1/(K-1)|, 0 at an ETF (Papyan); distance of their Gram to simplex ETF and OF; and, from their
    ``singular_values`` (r,), effective and stable rank."""
    effective, stable = spectral_ranks(singular_values)
    gram, norms, even = Products(vectors), vectors.norm(dim=1), 1 / (len(vectors) - 1)
    norm = gram.norm

    def found_in(block: Block, table: Tensor) -> Tensor:
        angles = block.off_diagonal(table / norms[block.rows, None] / norms[block.columns])
        of_angles = moments(block, angles), moments(block, (angles + even).abs())
        return torch.cat([*of_angles, off_frames(block, table / norm, len(vectors))])

    angles, off_even, off_target = gram.over_blocks(found_in).split([3, 3, 2], dim=1)
    to_etf, to_of = distances_of(off_target)
    return {
        f"nc2_{name}_equinorm": equinorm(vectors),
        f"nc2_{name}_angle_std": math.sqrt(pooled(angles)[1]),
        f"nc2_{name}_equiangle": pooled(off_even)[0],
        f"nc2_{name}_etf": to_etf,
        f"nc2_{name}_of": to_of,
        f"{name}_effective_rank": effective,
        f"{name}_stable_rank": stable,
    }


def subspace_alignment(weight: Tensor, means: Tensor, rank: int | None = None) -> float:
    """How far a layer's weight reads the space that the class means of its input span: (1/r) sum of the
    singular values of V_r^T U_r, the mean cosine of the principal angles; 1 = aligned (Rangamani et al. 2023).

    Args:
        weight: the layer that reads the features, (m, d); V_r are its top r right singular vectors.
        means: uncentred class means, (K, d); U_r are the top r left singular vectors of the d x K matrix.
        rank: r. Default: K, or the smaller numerical rank of the two where that is less, as at an exact
            simplex ETF: the directions beyond it are arbitrary.

    Raises:
        ValueError: the widths differ, or ``rank`` is not in [1, min(K, m, d)].
    """
    require_same_width(weight, means)
    read, spanned = row_space(weight), row_space(means)
    most = min(len(weight), *means.shape)
    if rank is not None and not 1 <= rank <= most:
        raise ValueError(f"rank must lie in [1, {most}], got {rank}")
    return aligned_share(read, spanned, rank)


class RowSpace(NamedTuple):
    """Singular values and right singular vectors of a matrix (m, d), of which the first r are above rounding."""

    sizes: Tensor
    """(min(m, d),), descending."""
    directions: Tensor
    """(min(m, d), d)."""
    rank: int
    """r."""

    @property
    def whitening(self) -> Tensor:
        """S^-1 U^T, (r, d), where it is cut at r: takes the rows to orthonormal coordinates."""
        return self.directions / self.sizes[:, None]


def right_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (r,), descending, and right singular vectors (r, d) of a matrix (m, d), r = min(m, d)."""
    square = torch.linalg.qr(matrix, mode="r")[1] if len(matrix) > matrix.shape[1] else matrix
    return torch.linalg.svd(square, full_matrices=False)[1:]


def row_space(matrix: Tensor) -> RowSpace:
    """The thin SVD of a matrix (m, d), without the left singular vectors."""
    sizes, directions = right_singular(matrix.double())
    above = sizes > max(matrix.shape) * torch.finfo(torch.float64).eps * sizes[0]
    return RowSpace(sizes, directions, int(above.sum()))


def aligned_share(read: RowSpace, spanned: RowSpace, rank: int | None = None) -> float:
    """``subspace_alignment`` of the row spaces of a weight and of class means."""
    count = min(read.rank, spanned.rank) if rank is None else rank
    if count == 0:
        return NAN
    return float(torch.linalg.svdvals(read.directions[:count] @ spanned.directions[:count].T).sum() / count)


def nc3_rows(weight: Tensor, means: Tensor) -> float:
    r"""DNC3, how far the rows of a layer's weight are from the directions of the class means of its input:

    .. math:: \sum_j |w_j|^2 (1 - \max_c \cos^2(w_j, \mu_c)) / \sum_j |w_j|^2,

    0 where every row is zero or collinear with a class mean, of either sign; at most 1. A mean that is zero has no
    direction and is passed over. NaN where the weight or all means are zero. (Sukenik, Mondelli & Lampert 2023)

    Args:
        weight: the layer that reads the features, rows w_j, (m, d).
        means: uncentred class means mu_c, (K, d).

    Raises:
        ValueError: the widths differ.
    """
    require_same_width(weight, means)
    rows, means = weight.double(), means.double()
    sizes = means.norm(dim=1)
    total = rows.square().sum()
    if not sizes.any() or not total > 0:
        return NAN
    directions = means[sizes > 0] / sizes[sizes > 0, None]

    def off(row: Tensor) -> Tensor:
        lengths = row @ directions.T
        nearest = lengths.abs().argmax(dim=1)
        # from differences: 1 - cos^2 loses digits near 0
        return (row - lengths.gather(1, nearest[:, None]) * directions[nearest]).square().sum()

    return float(torch.stack(in_order(rows, rows.split(rows_by(len(directions))), off)).sum() / total)


def require_same_width(weight: Tensor, means: Tensor) -> None:
    """``ValueError`` unless a weight (m, d) reads features whose class means are (K, d)."""
    if weight.ndim != 2 or means.ndim != 2 or weight.shape[1] != means.shape[1]:
        found = f"{tuple(weight.shape)} and {tuple(means.shape)}"
        raise ValueError(f"weight (m, d) and means (K, d) must share d, got {found}")


def balancedness(next_weight: Tensor, weight: Tensor) -> float:
    """| W_{l+1}^T W_{l+1} - W_l W_l^T |_F / |W_l|_F^2: 0 where two linear layers are balanced (Jacot et al. 2024).

    Args:
        next_weight: W_{l+1}, (p, m).
        weight: W_l, (m, d).

    Raises:
        ValueError: the rows of ``weight`` are not what ``next_weight`` reads.
    """
    if next_weight.ndim != 2 or weight.ndim != 2 or next_weight.shape[1] != weight.shape[0]:
        found = f"{tuple(next_weight.shape)}, {tuple(weight.shape)}"
        raise ValueError(f"next_weight (p, m) must read weight (m, d), got {found}")
    upper, lower = next_weight.double(), weight.double()
    size = lower.square().sum()
    return float((upper.T @ upper - lower @ lower.T).norm() / size) if size > 0 else NAN


def ood_orthogonality(means: Tensor, ood_mean: Tensor) -> float:
    """NC5: mean over classes of |cos(mu_c, mu_O)|, means (K, d) uncentred, mu_O (d,) the mean feature of
    out-of-distribution samples; 0 where these are orthogonal to all classes (NECO, Ammar et al. 2024)."""
    products = means @ ood_mean / (means.norm(dim=1) * ood_mean.norm())
    return float(products.abs().mean())


def helmert(classes: int) -> Tensor:
    """Orthonormal basis of the vectors that sum to zero, (K, K - 1)."""
    basis = torch.zeros(classes, classes - 1, dtype=torch.float64)
    for j in range(1, classes):
        basis[:j, j - 1] = 1 / math.sqrt(j * (j + 1))
        basis[j, j - 1] = -j / math.sqrt(j * (j + 1))
    return basis


def simplex_etf(classes: int, dim: int) -> Tensor:
    """Simplex equiangular tight frame in the first K - 1 of d >= K - 1 coordinates, (K, d): rows of unit norm."""
    frame = torch.zeros(classes, dim, dtype=torch.float64)
    frame[:, : classes - 1] = math.sqrt(classes / (classes - 1)) * helmert(classes)
    return frame
