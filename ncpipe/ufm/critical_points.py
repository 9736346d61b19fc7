r"""The landscape of an unconstrained-features model: its critical points, and the curvature at each.

A point is critical where the gradient vanishes. Above the optimum it is a strict saddle where the Hessian has a
negative eigenvalue: a benign landscape has no other (Zhu et al. 2021; Zhou et al. 2022; with the Riemannian gradient
and Hessian of spheres, Yaras et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.func import grad, jacrev, vmap

from ncpipe.ufm.layout import Layout
from ncpipe.ufm.minimiser import Minimiser
from ncpipe.ufm.objective import penalties
from ncpipe.ufm.problem import Problem
from ncpipe.ufm.result import known_optimum

STATIONARY, EXACT = 1e-9, 1e-13
"""Gradient norms below which a point is critical, and as good as it gets, in units of the objective's (``unit``)."""
SAME = 1e-6
"""Relative distance of values and singular values of the factors below which two points are one."""
ZERO = 1e-7
"""Eigenvalues of the Hessian below this, over the largest, are zero; so are singular values of the logits."""
GLOBAL = 1e-9
"""Relative distance to the optimum's value below which a point is the optimum."""
ITERATIONS = 120
DAMPING = 1e-2
SCALES = (0.03, 3.0)
"""Standard deviations of the starts, log-uniform: saddles near zero are found from small ones."""
MOST_DAMPING = 1e8
MOST_DESCENTS = 24
LARGEST_HESSIAN = 1200
"""Parameters beyond which Hessians are known by their products with vectors."""
KRYLOV = 60
"""Then a step stays in the span of the gradient and so many products of its."""
AT_ONCE = 8
"""Eigenvalues that Lanczos' method looks for at once."""
LOST = 1e-12
"""What is left of a product outside a span, relative, below which it is rounding."""


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """A critical point of a problem, one of all that rotations and permutations of classes make of it."""

    value: float
    """Objective."""
    gradient_norm: float
    """Norm of the gradient, on spheres of the Riemannian one, in the problem's variables."""
    least_eigenvalue: float
    """Smallest one of the Hessian, on spheres of the Riemannian one."""
    index: int
    """Number of negative eigenvalues."""
    flat: int | None
    """Number of zero eigenvalues that no rotation of a hidden space explains; None where not all are known."""
    gauge: int | None
    """Number of directions in which rotations of hidden spaces lead to equal points, eigenvalues that must be 0; None
    where not all are known."""
    dimension: int
    """Number of parameters, on spheres of the tangent space."""
    live_directions: int
    """Rank of the logits without the bias."""
    kinks: int
    """Pre-activations at zero, where a ReLU has no derivative: the Hessian takes it to be 0 there."""
    is_global: bool | None
    """Whether its value is the optimum's; None where there is no closed form."""
    starts: int
    """From how many starts it was reached."""
    eigenvalues: Tensor = field(repr=False)
    """Those of the Hessian, ascending, (P,); on spheres with zeros along the radii left out. Of more than 1,200
    parameters the lowest: all negative ones, and at least one more."""
    point: Minimiser = field(repr=False)

    @property
    def negative_share(self) -> float:
        """Share of negative eigenvalues."""
        return self.index / self.dimension

    @property
    def is_strict_saddle(self) -> bool:
        """Whether a direction of negative curvature leads down."""
        return self.index > 0


def landscape(
    problem: Problem,
    starts: int = 64,
    seed: int = 0,
    tied: bool = True,
    report: Callable[[int, int], None] | None = None,
) -> list[CriticalPoint]:
    r"""Find critical points from random starts, and the curvature at each.

    From Gaussian starts of log-uniform scale, half of them after some damped Newton steps down (as Frye et al. 2019
    start on the way of a descent), Levenberg-Marquardt on the gradient g,

    .. math:: x \leftarrow x - (\nabla^2 f^2 + \mu I)^{-1} \nabla^2 f\, g,

    which goes to saddles as well as to minima. It finds some of all there are: more starts may find more. Beyond
    1,200 parameters no Hessian is held: a step stays in its Krylov space from the gradient (Dauphin et al. 2014), and
    Lanczos' method (ARPACK) finds the lowest eigenvalues.

    Args:
        problem: any, but with constrained features.
        starts: how many.
        seed: of the starts.
        tied: samples of a class share their features. All critical points of a model that is linear behind the
            features are of this kind if its loss is convex; curvatures of the rest, lambda_H or more, are left out.
        report: called with the number of starts that have ended, and of all.

    Returns:
        The points found, by value; of those that rotations of hidden spaces and permutations of classes lead into
        each other, one.

    Raises:
        ValueError: no start, features are constrained, or the loss has no second derivative.

    Sources: Zhu et al., NeurIPS 2021, theorem 3.2; Zhou et al., NeurIPS 2022; Yaras et al., NeurIPS 2022, theorem 2.

    Example:
        >>> problem = Problem(4, samples=5, dim=6, weight_decay=5e-3, feature_decay=1e-3)
        >>> [(round(p.value, 5), p.index) for p in landscape(problem)]
        [(0.0198, 0), (0.13985, 3), (0.2599, 8), (0.37995, 15), (0.5, 24)]
    """
    if starts < 1:
        raise ValueError(f"starts: got {starts}; needs at least 1")
    if problem.nonnegative:
        raise ValueError("nonnegative: a landscape with bounds has no Hessian; leave them out")
    surface = _Surface(Layout.of(problem, tied), torch.tensor(penalties(problem), dtype=torch.float64))
    _check(surface)
    vectors = _critical(surface, *_starts(surface, starts, seed), report)
    known = known_optimum(problem)
    optimum = known.value if known is not None and known.is_global else None
    return [_described(problem, surface, vector, count, optimum) for vector, count in _merged(surface, vectors)]


class _Surface:
    """The objective of one problem as a function of one vector of parameters (P,)."""

    def __init__(self, layout: Layout, decays: Tensor) -> None:
        self.layout, self.size = layout, sum(layout.sizes)
        self.decay = decays.repeat_interleave(torch.tensor(layout.sizes))
        self.targets, self.share = layout.targets, layout.multiplicities.double() / sum(layout.counts)
        self.frame = layout.frame()
        self.values, self.domains = vmap(self.value), vmap(self.domain)
        self.gradients, self.hessians = vmap(grad(self.value)), vmap(jacrev(grad(self.value)), chunk_size=64)
        self.products = vmap(lambda x, v: grad(lambda y: grad(self.value)(y) @ v)(x))

    def domain(self, vector: Tensor) -> Tensor:
        """The point of the domain that a vector stands for: on spheres every feature and row over its norm."""
        if self.layout.temperature is None:
            return vector
        features, (classifier,), _ = self.layout.views(vector[None])
        unit = features / features.norm(dim=1, keepdim=True) * self.layout.column_scales
        rows = classifier / classifier.norm(dim=2, keepdim=True)
        return torch.cat([unit.flatten(), rows.flatten()])

    def logits(self, vector: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (K, M) without the bias, and what the ReLUs between weight layers read."""
        features, weights, _ = self.layout.views(vector[None])
        layer, read = features[0], []
        chain = [*(weight[0] for weight in weights), *self.frame]
        for weight in chain[:-1]:
            layer = weight @ layer
            if self.layout.activation == "relu":
                read.append(layer)
                layer = layer.relu()
        scaled = chain[-1] @ layer / self.layout.column_scales
        return scaled if self.layout.temperature is None else scaled * self.layout.temperature, read

    def value(self, vector: Tensor) -> Tensor:
        """Objective."""
        inside = self.domain(vector)
        logits, _ = self.logits(inside)
        bias = self.layout.views(inside[None]).bias
        whole = logits[None] if bias is None else logits[None] + bias
        loss = (self.layout.loss.loss(whole, self.targets)[0] * self.share).sum()
        return loss + (self.decay * inside.square()).sum() / 2

    @property
    def radii(self) -> int:
        """Directions along which ``domain`` does not change."""
        return 0 if self.layout.temperature is None else self.layout.num_columns + self.layout.classes

    def unit(self, values: Tensor) -> Tensor:
        """Size of a gradient, given the objective (B,): that of the penalty where all of the objective is penalty."""
        return values if self.layout.temperature is not None else (self.decay[0] * values).sqrt()

    def inward(self, vectors: Tensor, directions: Tensor) -> Tensor:
        """Directions (B, P) along the domain at vectors (B, P): on spheres without their parts along the radii."""
        if not self.radii:
            return directions
        (features, (rows,), _), (a, (b,), _) = self.layout.views(vectors), self.layout.views(directions)
        sides = ((features / features.norm(dim=1, keepdim=True), a, 1), (rows / rows.norm(dim=2, keepdim=True), b, 2))
        kept = [part - radius * (radius * part).sum(dim=dim, keepdim=True) for radius, part, dim in sides]
        return torch.cat([part.flatten(1) for part in kept], dim=1)

    def curved(self, vectors: Tensor, directions: Tensor) -> Tensor:
        """Products (B, P) of the Hessians along the domain with directions (B, P)."""
        return self.inward(vectors, self.products(vectors, self.inward(vectors, directions)))

    def spectra(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues (B, P) and eigenvectors (B, P, P) of the Hessians along the domain."""
        hessians = self.hessians(vectors)
        if self.radii:
            every = torch.eye(self.size, dtype=vectors.dtype)
            along = torch.stack([self.inward(vector.expand_as(every), every) for vector in vectors])
            hessians = along @ hessians @ along
        return torch.linalg.eigh(hessians)

    def krylov_spectra(self, vectors: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Ritz values (B, M) and vectors (B, P, M) of the Hessians along the domain from the directions ``first``."""
        images: list[Tensor] = []
        basis, following = vectors.new_zeros(*vectors.shape, 0), first
        for _ in range(min(KRYLOV, self.size)):
            for _ in range(2):  # once leaves what rounding has made of large parts
                following = following - (basis @ (basis.mT @ following[:, :, None]))[:, :, 0]
            length, reference = following.norm(dim=1, keepdim=True), images[-1] if images else first
            # of a space that is full 0, which takes no part
            lost = length <= LOST * reference.norm(dim=1, keepdim=True)
            following = torch.where(lost, 0.0, following / length)
            basis = torch.cat([basis, following[:, :, None]], dim=2)
            images.append(self.curved(vectors, following))
            following = images[-1]
        values, axes = torch.linalg.eigh(basis.mT @ torch.stack(images, dim=2))
        return values, basis @ axes

    def lowest(self, vector: Tensor) -> tuple[Tensor, float]:
        """The lowest eigenvalues of the Hessian along the domain, ascending, all negative ones among them, and the
        largest absolute value of all; radii count as this. Lanczos' method sees one of several equal ones: what is
        found is lifted, until nothing negative is left."""

        def product(direction: np.ndarray) -> np.ndarray:
            given = torch.from_numpy(direction.reshape(1, -1))
            lifted = given - self.inward(vector[None], given) + 2 * (given @ known) @ known.T
            return (self.curved(vector[None], given) + largest * lifted).numpy()[0]

        negative: list[Tensor] = []
        largest, known = 0.0, vector.new_zeros(self.size, 0)
        hessian = LinearOperator((self.size, self.size), matvec=product, dtype=np.float64)
        first = np.random.default_rng(0).standard_normal(self.size)
        find = partial(eigsh, hessian, v0=first, ncv=min(8 * AT_ONCE, self.size))
        largest = float(abs(find(k=1)[0][0]))
        while True:
            values, vectors = map(torch.from_numpy, find(k=min(AT_ONCE, self.size - 1), which="SA"))
            new = values < -ZERO * largest
            if not new.any():
                return torch.cat([*negative, values]).sort().values, largest
            negative.append(values[new])
            known = torch.cat([known, vectors[:, new]], dim=1)

    def rotations(self, vector: Tensor) -> Tensor:
        """Tangents (G, P) of what leaves the objective as it is: rotations of hidden spaces, and for a loss of
        differences of logits the same number on every entry of a free bias."""
        layout = self.layout
        features, weights, bias = layout.views(vector[None])
        chain = [features[0], *(weight[0] for weight in weights)]
        free = [layout.activation == "linear" or level == 0 for level in range(len(chain) - 1)]
        tangents = []
        for level in (level for level, is_free in enumerate(free) if is_free):
            width = chain[level].shape[0]
            for a, b in torch.combinations(torch.arange(width)).tolist():
                skew = torch.zeros(width, width, dtype=vector.dtype)
                skew[a, b], skew[b, a] = 1, -1
                parts = [torch.zeros_like(part) for part in chain] + (
                    [] if bias is None else [torch.zeros_like(bias[0])]
                )
                parts[level], parts[level + 1] = skew @ chain[level], -chain[level + 1] @ skew
                tangents.append(torch.cat([part.flatten() for part in parts]))
        if bias is not None and layout.loss.reads_differences(layout.classes) and not self.decay[-1]:
            tangents.append(torch.cat([torch.zeros(self.size - layout.classes), torch.ones(layout.classes)]).double())
        return torch.stack(tangents) if tangents else vector.new_zeros(0, self.size)


def _check(surface: _Surface) -> None:
    """``ValueError`` where torch has no second derivative of the loss."""
    ones = torch.ones(1, surface.size, dtype=torch.float64)
    try:
        surface.products(ones, ones)
    except (NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"loss: torch has no second derivative of it ({reason}); write it in plain operations"
        ) from error


def _starts(surface: _Surface, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian starts (B, P) of log-uniform scale, and how many steps down each takes first, half of them none."""
    generator = torch.Generator().manual_seed(seed)
    low, high = map(math.log, SCALES)
    scales = (low + (high - low) * torch.rand(count, 1, generator=generator, dtype=torch.float64)).exp()
    draws = torch.randn(count, surface.size, generator=generator, dtype=torch.float64)
    descents = torch.randint(-MOST_DESCENTS, MOST_DESCENTS, (count,), generator=generator).clamp_min(0)
    return surface.domains(draws * scales), descents


def _critical(
    surface: _Surface, starts: Tensor, descents: Tensor, report: Callable[[int, int], None] | None
) -> Tensor:
    """Critical points to which Levenberg-Marquardt on the gradient leads, after some steps down; starts that reach
    none are left out."""
    x, damping = starts.clone(), torch.full((len(starts),), DAMPING, dtype=torch.float64)
    active = torch.arange(len(x))
    for iteration in range(ITERATIONS):
        down = iteration < descents[active]
        x[active], damping[active], ended = _step(surface, x[active], damping[active], down)
        active = active[~(ended & ~down) & (damping[active] < MOST_DAMPING)]
        if report is not None:
            report(len(starts) - len(active), len(starts))
        if not len(active):
            break
    return x[surface.gradients(x).norm(dim=1) <= STATIONARY * surface.unit(surface.values(x))]


def _step(surface: _Surface, x: Tensor, damping: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A damped Newton step of every start, kept where it lowers the gradient's norm, or, ``down``, by the Hessian's
    absolute value, the objective; the next points and dampings, and whether points need no more steps."""
    value, gradient = surface.values(x), surface.gradients(x)
    whole = surface.size <= LARGEST_HESSIAN
    curvatures, axes = surface.spectra(x) if whole else surface.krylov_spectra(x, gradient)
    largest, mu = curvatures.abs().amax(dim=1, keepdim=True), damping[:, None]
    newton = curvatures / (curvatures.square() + mu * largest.square())
    descent = 1 / (curvatures.abs() + mu * largest)
    along = (axes.mT @ gradient[:, :, None])[:, :, 0]
    step = (axes @ (torch.where(down[:, None], descent, newton) * along)[:, :, None])[:, :, 0]
    there = surface.domains(x - step)
    lower = surface.values(there) < value
    nearer = surface.gradients(there).norm(dim=1) < gradient.norm(dim=1)
    better = torch.where(down, lower, nearer)
    ended = gradient.norm(dim=1) <= EXACT * surface.unit(value)
    return torch.where(better[:, None], there, x), torch.where(better, damping / 8, damping * 4), ended


def _merged(surface: _Surface, vectors: Tensor) -> list[tuple[Tensor, int]]:
    """One vector of each kind, by value, and how many there are of it."""
    kinds: list[tuple[Tensor, Tensor, int]] = []
    for vector in vectors:
        signature = _signature(surface, vector)
        for number, (known, one, count) in enumerate(kinds):
            if bool((known - signature).abs().max() <= SAME * known.abs().max()):
                kinds[number] = known, one, count + 1
                break
        else:
            kinds.append((signature, vector, 1))
    return [(vector, count) for signature, vector, count in sorted(kinds, key=lambda kind: float(kind[0][0]))]


def _signature(surface: _Surface, vector: Tensor) -> Tensor:
    """What rotations of hidden spaces and permutations of classes leave as it is."""
    features, weights, _ = surface.layout.views(vector[None])
    spectra = [torch.linalg.svdvals(factor[0]) for factor in (features, *weights)]
    return torch.cat([surface.value(vector)[None], *spectra])


def _described(
    problem: Problem, surface: _Surface, vector: Tensor, count: int, optimum: float | None
) -> CriticalPoint:
    logits, read = surface.logits(vector)
    live = torch.linalg.svdvals(logits)
    gauge = None
    if surface.size <= LARGEST_HESSIAN:
        every = surface.spectra(vector[None])[0][0]
        curvature, largest = every[every.abs().argsort()[surface.radii :].sort().values], float(every.abs().max())
        rotations = surface.rotations(vector)
        gauge = int(torch.linalg.matrix_rank(rotations, rtol=ZERO)) if rotations.norm() > ZERO else 0
    else:
        curvature, largest = surface.lowest(vector)
    value, zero = float(surface.value(vector)), ZERO * largest
    return CriticalPoint(
        value=value,
        gradient_norm=float(grad(surface.value)(vector).norm()),
        least_eigenvalue=float(curvature[0]),
        index=int((curvature < -zero).sum()),
        flat=None if gauge is None else int((curvature.abs() <= zero).sum()) - gauge,
        gauge=gauge,
        dimension=surface.size - surface.radii,
        live_directions=int((live > ZERO * max(1.0, float(live[0]))).sum()),
        kinks=sum(int((layer.abs() <= ZERO).sum()) for layer in read),
        is_global=None if optimum is None else value <= optimum * (1 + GLOBAL),
        starts=count,
        eigenvalues=curvature,
        point=Minimiser.unpack(problem, vector, surface.layout.tied),
    )
