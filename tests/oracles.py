"""The method's formulas once more: plain loops over Python floats, straight from the papers, sharing nothing with cmon.

Activations and cosines are lists of rows, one row an image. All units count as alive.
"""

import math
from fractions import Fraction

import numpy as np


def columns(rows):
    return [list(column) for column in zip(*rows, strict=True)]


def tie_order(images):
    """The one order that equal activations of all units are taken in: any that images' names do not decide."""
    return np.random.default_rng(0).permutation(images).tolist()


def top_images(activations, count):
    """The most activating images of each unit; of equal ones the first in the one random order."""
    tops = []
    for column in columns(activations):
        left, chosen = tie_order(len(column)), []
        for _ in range(count):
            best = left[0]
            for image in left:
                if column[image] > column[best]:
                    best = image
            chosen.append(best)
            left.remove(best)
        tops.append(chosen)
    return tops


def softmax(values, a):
    largest = max(values)
    powers = [math.exp(a * (value - largest)) for value in values]
    return [power / math.fsum(powers) for power in powers]


def log_sum_exp(values):
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


def standard_deviation(rows):
    values = [value for row in rows for value in row]
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def soft_wpmi_likelihood(activations, cosines, top_k=100, a=10.0, p_start=0.998, p_end=0.97):
    probability = [softmax(row, a) for row in cosines]
    table = []
    for images in top_images(activations, top_k):
        row = []
        for concept in range(len(cosines[0])):
            terms = []
            for j, image in enumerate(images):
                p_j = p_start - (j / top_k) * (p_start - p_end)
                terms.append(math.log(1 + p_j * (probability[image][concept] - 1) + 1e-7))
            row.append(math.fsum(terms))
        table.append(row)
    return table


def wpmi_likelihood(activations, cosines, top_k=28, a=2.0):
    probability = [softmax(row, a) for row in cosines]
    return [
        [math.fsum(math.log(probability[image][c] + 1e-7) for image in images) for c in range(len(cosines[0]))]
        for images in top_images(activations, top_k)
    ]


def log_prior(likelihood):
    return [log_sum_exp(column) - math.log(len(likelihood)) for column in columns(likelihood)]


def less_prior(likelihood, lam):
    prior = log_prior(likelihood)
    return [[value - lam * prior[c] for c, value in enumerate(row)] for row in likelihood]


def soft_wpmi(activations, cosines, top_k=100, a=10.0, lam=1.0, p_start=0.998, p_end=0.97):
    return less_prior(soft_wpmi_likelihood(activations, cosines, top_k, a, p_start, p_end), lam)


def wpmi(activations, cosines, top_k=28, a=2.0, lam=0.6):
    return less_prior(wpmi_likelihood(activations, cosines, top_k, a), lam)


def cosine(first, second, least_norm=0.0):
    norms = [max(math.sqrt(math.fsum(x * x for x in values)), least_norm) for values in (first, second)]
    return math.fsum(x * y for x, y in zip(first, second, strict=True)) / (norms[0] * norms[1])


def cos_similarity(activations, cosines):
    return [[cosine(unit, concept) for concept in columns(cosines)] for unit in columns(activations)]


def cos_similarity_cubed(activations, cosines):
    def cubed(values):
        mean = math.fsum(values) / len(values)
        return [(value - mean) ** 3 for value in values]

    return [
        [cosine(cubed(unit), cubed(concept), least_norm=1e-3) for concept in columns(cosines)]
        for unit in columns(activations)
    ]


def rank_reorder(activations, cosines, p=3.0, top_fraction=0.05, scale_p=0.5):
    """Where the measure is not defined: a mean cosine of at least 1e-6, and 0 / 0 of errors is 1."""
    count = int(top_fraction * len(activations))
    table = []
    for unit, images in enumerate(top_images(activations, count)):
        ordered = [activations[image][unit] for image in images]
        random_error = math.fsum(abs(s - t) ** p for s in ordered for t in ordered) / count**2
        row = []
        for concept in range(len(cosines[0])):
            ranked = sorted(range(count), key=lambda j: -cosines[images[j]][concept])
            reordered = [0.0] * count
            for rank, j in enumerate(ranked):
                reordered[j] = ordered[rank]
            error = math.fsum(abs(s - t) ** p for s, t in zip(ordered, reordered, strict=True)) / count
            relative = error / random_error if random_error > 0 else 1.0
            mean = math.fsum(cosines[image][concept] for image in images) / count
            row.append(-relative / max(mean, 1e-6) ** scale_p)
        table.append(row)
    return table


def pearson(first, second, least_deviation=0.0):
    """Pearson's correlation; 0 where either deviates by no more than `least_deviation`, or is constant."""
    means = [math.fsum(values) / len(values) for values in (first, second)]
    centred = [[x - mean for x in values] for values, mean in zip((first, second), means, strict=True)]
    deviations = [math.sqrt(math.fsum(x * x for x in values) / len(values)) for values in centred]
    if min(first) == max(first) or min(second) == max(second) or deviations[1] <= least_deviation:
        return 0.0
    return math.fsum(x * y for x, y in zip(*centred, strict=True)) / len(first) / (deviations[0] * deviations[1])


def top_down_weights(column, power):
    """ln(I / r)^power of each image's rank r by one unit; equal ones share the mean of the ranks that they take up."""
    weights = []
    for value in column:
        above, equal = sum(other > value for other in column), sum(other == value for other in column)
        ranks = range(above + 1, above + equal + 1)
        weights.append(math.fsum(math.log(len(column) / rank) ** power for rank in ranks) / equal)
    return weights


def top_down(activations, cosines, power=2.0):
    words = columns(cosines)
    return [
        [math.sqrt(len(cosines)) * pearson(weights, word, least_deviation=1e-6) for word in words]
        for weights in (top_down_weights(column, power) for column in columns(activations))
    ]


ORACLES = {
    "top_down": top_down,
    "soft_wpmi": soft_wpmi,
    "wpmi": wpmi,
    "rank_reorder": rank_reorder,
    "cos_similarity": cos_similarity,
    "cos_similarity_cubed": cos_similarity_cubed,
}


def best_concept(scores):
    return [max(range(len(row)), key=lambda c: (row[c], -c)) for row in scores]


def prior_perplexity(likelihood, concepts):
    """exp of the entropy over units of softmax L[:, c]; the median over the units' concepts c."""
    entropies = []
    for concept in concepts:
        column = [row[concept] for row in likelihood]
        share = [math.exp(value - log_sum_exp(column)) for value in column]
        entropies.append(-math.fsum(x * math.log(x) for x in share if x > 0))
    entropies.sort()
    middle = len(entropies) // 2
    median = entropies[middle] if len(entropies) % 2 else (entropies[middle - 1] + entropies[middle]) / 2
    return math.exp(median)


def unified_embedding(concepts, scores, features, temperature=1.0):
    """Equation 1 for one unit: its best concepts' features, weighted by the softmax of their scores."""
    weights = softmax(scores, 1 / temperature)
    dimensions = range(len(features[0]))
    return [math.fsum(w * features[c][d] for w, c in zip(weights, concepts, strict=True)) for d in dimensions]


def d_anchor(units, anchors):
    nearest = [min(math.dist(unit, anchor) for anchor in anchors) for unit in units]
    return math.fsum(nearest) / len(nearest)


def spread(units):
    """1 - the mean cosine over all pairs; that with a vector of 0 is 0."""
    pairs = [(one, other) for i, one in enumerate(units) for other in units[:i]]
    return 1 - math.fsum(cosine(one, other, least_norm=1e-300) for one, other in pairs) / len(pairs)


def effective_number(labels):
    shares = [labels.count(label) / len(labels) for label in set(labels)]
    return math.exp(-math.fsum(share * math.log(share) for share in shares))


def quantile(values, share):
    """The value that `share` of the values lie above, between two of them where it falls between."""
    ordered = sorted(values, reverse=True)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interpolated(plane, y, x):
    """Bilinear interpolation of rows of numbers at a place in (0, 1) x (0, 1), in exact arithmetic.

    Position i of n lies at (i + 1/2) / n; beyond the outermost ones the plane goes on as it is there.
    """

    def weights(place, positions):
        at = min(max(Fraction(place) * positions - Fraction(1, 2), Fraction(0)), Fraction(positions - 1))
        low = math.floor(at)
        return [(low, 1 - (at - low)), (min(low + 1, positions - 1), at - low)]

    return sum(
        row_weight * column_weight * Fraction(plane[row][column])
        for row, row_weight in weights(y, len(plane))
        for column, column_weight in weights(x, len(plane[0]))
    )


def network_dissection(maps, thresholds, labels, category_of):
    """Pixels and IoU, loop by loop.

    maps[image][unit] are rows of numbers, labels[image] is {concept: rows of true and false}, an empty one where an
    image shows nothing. Returns intersections [unit][concept], IoU [unit][concept], unit areas [unit][category],
    concept areas, and with the union over all images that show anything unit areas [unit] and IoU [unit][concept].
    """
    units, concepts = len(thresholds), len(category_of)
    categories = max(category_of) + 1
    both = [[0] * concepts for _ in range(units)]
    area = [[0] * categories for _ in range(units)]
    concept_area, whole = [0] * concepts, [0] * units
    for planes, shown in zip(maps, labels, strict=True):
        if not shown:
            continue
        rows, columns = (len(next(iter(shown.values()))), len(next(iter(shown.values()))[0]))
        places = [(y, x) for y in range(rows) for x in range(columns)]
        carried = {category_of[concept] for concept in shown}
        for concept, mask in shown.items():
            concept_area[concept] += sum(mask[y][x] for y, x in places)
        for unit, plane in enumerate(planes):
            for y, x in places:
                value = interpolated(plane, Fraction(2 * y + 1, 2 * rows), Fraction(2 * x + 1, 2 * columns))
                if value > Fraction(thresholds[unit]):
                    whole[unit] += 1
                    for category in carried:
                        area[unit][category] += 1
                    for concept, mask in shown.items():
                        both[unit][concept] += bool(mask[y][x])

    def ratio(unit, concept, unit_area):
        union = unit_area + concept_area[concept] - both[unit][concept]
        return both[unit][concept] / union if union else 0.0

    iou = [[ratio(u, c, area[u][category_of[c]]) for c in range(concepts)] for u in range(units)]
    over_all = [[ratio(u, c, whole[u]) for c in range(concepts)] for u in range(units)]
    return both, iou, area, concept_area, whole, over_all


def mask_draws(maps, thresholds, labels, category_of, orders, resamples, half, top):
    """What `network_dissection` makes of labels that are exchanged and of images that are repeated, by union.

    orders[p][i] is the image whose labels image i gets, resamples[b][i] how often image i counts, half[i] whether it
    is in the first half. Of each union: the best IoU [unit][p], the `top` best concepts [unit][b], their IoU [unit][b],
    and the best concept by either half [unit], -1 where the unit is above its threshold in no labelled image of it.
    """
    units, images = range(len(thresholds)), range(len(labels))

    def dissected(chosen, given):
        _, iou, _, _, whole, over_all = network_dissection(
            [maps[i] for i in chosen], thresholds, [given[i] for i in chosen], category_of
        )
        return {"category": iou, "all": over_all}, whole

    def ranked(row):
        return sorted(range(len(row)), key=lambda concept: (-row[concept], concept))[:top]

    permuted = [dissected(images, [labels[i] for i in order])[0] for order in orders]
    repeated = [dissected([i for i in images for _ in range(times[i])], labels)[0] for times in resamples]
    halves = [dissected([i for i in images if bool(half[i]) == side], labels) for side in (True, False)]
    return {
        union: {
            "null": [[max(scores[union][u]) for scores in permuted] for u in units],
            "concept": [[ranked(scores[union][u]) for scores in repeated] for u in units],
            "score": [[[scores[union][u][c] for c in ranked(scores[union][u])] for scores in repeated] for u in units],
            "half_concept": [[ranked(iou[union][u])[0] if whole[u] else -1 for iou, whole in halves] for u in units],
        }
        for union in ("category", "all")
    }
