import numpy as np
import pytest
from matplotlib.figure import Figure

from cmon.figures import intervals, labels
from cmon.figures.categories import label_steps


def area(box, other):
    """What two boxes (left, bottom, right, top) share."""
    wide = min(box[2], other[2]) - max(box[0], other[0])
    tall = min(box[3], other[3]) - max(box[1], other[1])
    return max(wide, 0) * max(tall, 0)


def placed_one_by_one(points, sizes, radius, extent, taken, crowd):
    """The greedy search, every cost summed box by box and dot by dot each time."""
    marks = [(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    near = [sum(np.hypot(x - a, y - b) < 40 for a, b in points) for x, y in points]
    boxes = [(-1e9, -1e9, -1e9, -1e9)] * len(points)
    for _ in range(4):
        before = list(boxes)
        for i in sorted(range(len(points)), key=lambda i: -near[i]):
            costs = []
            candidates = list(zip(*labels._candidates(points[i], sizes[i] / 2, radius, extent), strict=True))
            for box, distance in candidates:
                others = [other for j, other in enumerate(boxes) if j != i] + taken.tolist()
                cost = distance + 50 * sum(area(box, other) for other in others) + 3 * sum(area(box, m) for m in marks)
                costs.append(cost + 0.4 * sum(box[0] < x < box[2] and box[1] < y < box[3] for x, y in crowd))
            boxes[i] = tuple(candidates[int(np.argmin(np.round(costs, 6)))][0])
        if before == boxes:
            break
    return [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in boxes]


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_placed_by_the_sum_of_their_costs(seed):
    random = np.random.default_rng(seed)
    points, crowd = random.uniform(5, 95, (6, 2)), random.uniform(0, 100, (40, 2))
    sizes = np.stack([random.uniform(15, 40, 6), np.full(6, 10.0)], axis=1)
    taken = np.array([[10.0, 10, 40, 30]])
    arguments = (points, sizes, 3.0, (100.0, 100.0), taken, crowd)
    np.testing.assert_allclose(labels.place_labels(*arguments), placed_one_by_one(*arguments), atol=1e-9)


def test_no_label_is_placed_nowhere():
    nothing = np.zeros((0, 2))
    assert labels.place_labels(nothing, nothing, 3.0, (9.0, 9.0), np.zeros((0, 4)), nothing).shape == (0, 2)


@pytest.mark.parametrize("count", [2, 7, 100])
def test_every_checkpoint_is_marked_and_few_are_named(count):
    axes, steps = Figure().add_axes((0, 0, 1, 1)), 10 * np.arange(count)
    label_steps(axes, steps.astype(float), steps, False)
    (marks,) = axes.figure.artists
    assert marks.get_xdata().tolist() == steps.tolist()
    assert marks.get_transform() == axes.get_xaxis_transform()
    named = [label.get_text() for label in axes.get_xticklabels()]
    assert len(named) == min(count, 4)
    assert (named[0], named[-1]) == ("0", f"{steps[-1]}")


def test_whiskers_of_many_checkpoints_are_thin_and_none_hides_another():
    widths = {}
    for count in (3, 40, 100):
        axes, x = Figure().add_axes((0, 0, 1, 1)), np.arange(float(count))
        intervals.draw_whiskers(axes, x, x, x + 1)
        widths[count] = axes.collections[0].get_linewidth()[0]
    assert widths == {3: 0.6, 40: 0.6, 100: pytest.approx(0.24)}
