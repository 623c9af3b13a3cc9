"""How deep may a thin network be and still learn? Backprop, distillation and hints.

This is Figure 2 of Romero et al., "FitNets" (arXiv 1412.6550), on CIFAR-10, small
enough for a CPU. The networks are maxout networks of 3x3 kernels with 3 to 19 layers.
All have about the same number of multiplications, start from the paper's first weights,
and have no BatchNorm. Each is trained in three ways for equally many epochs. The images
are halved to 16x16 pixels, normalised in contrast and whitened.

    python examples/depth.py --data-dir FOLDER    # FOLDER of tensorflow-datasets

Every training is stored: if the program is interrupted, the same command resumes with
the next one. Once the teacher is trained, other processes may run other --seeds in the
same folder.
"""

import argparse
import bisect
import functools

import quiet  # noqa: F401 - before all that imports TensorFlow.

# isort: split
import images
import keras
import numpy as np
import study

import keras_fitnets as kf

BLOCKS = {
    **{3: (1,), 5: (1, 1, 1), 7: (2, 2, 1), 9: (2, 3, 2)},
    **{11: (3, 3, 3), 13: (4, 4, 3), 16: (5, 5, 4), 19: (6, 6, 5)},
}
METHODS = images.METHODS
TEACHER = kf.models.Plan(((48,), (96,), (96,)), units=200)


class Job(images.Job):
    def optimizer(self, epochs):
        rate, epsilon = self.rate(0.005, epochs), self.options.epsilon
        return keras.optimizers.RMSprop(rate, epsilon=epsilon)


def plan_of(layers, width):
    """Return the plan of a network; the dense layer and the softmax count as layers."""
    blocks = [(width * at,) * count for at, count in enumerate(BLOCKS[layers], 1)]
    pools = (2,) * (len(blocks) - 1) + (kf.models.ALL,)
    return kf.models.Plan(blocks, pools, units=100)


def build(plan, **options):
    return kf.models.build(plan, (16, 16, 3), max_norm="paper", **options)


@functools.cache
def find_widest(layers, budget):
    """Return the plan of the widest network within the budget."""

    def cost(width):
        return kf.report.multiplications(build(plan_of(layers, width)))

    width = 1
    while cost(2 * width) <= budget:
        width *= 2
    more = bisect.bisect_right(range(width + 1, 2 * width), budget, key=cost)
    return plan_of(layers, width + more)


def choose_hints(plan):
    """Name the last convolution of each second block (or first), as the paper does."""
    first_two = plan.blocks[:2]
    return f"conv{len(first_two)}", f"conv{sum(map(len, first_two))}"


def load_or_train(job, method, layers, seed):
    """Return the result of one training: from its file, or else by training."""
    options = job.options
    plan = find_widest(layers, options.budget)
    student = functools.partial(build, plan, initializer="paper")
    return study.load_or_run(
        options.folder / "trainings" / f"{method}_{layers}_{seed}.json",
        lambda: job.result(
            method, student, choose_hints(plan), seed, f"{layers} layers"
        ),
    )


def format_summary(found):
    """Format mean and standard deviation over the seeds of the test accuracies."""
    lines = [f"{'layers':<8}" + "".join(f"{METHODS[name]:>20}" for name in found)]
    for layers in next(iter(found.values())):
        shown = []
        for rows in found.values():
            values = [row["test_accuracy"] for row in rows[layers]]
            shown.append(study.format_mean(values, 1))
        lines.append(f"{layers:<8}" + "".join(f"{text:>20}" for text in shown))
    return "\n".join(lines)


def draw(found, teacher, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    styles = {
        "plain": {"color": "#E69F00", "marker": "s", "linestyle": ":"},
        "kd": {"color": "#0072B2", "marker": "^", "linestyle": "--"},
        "hint": {"color": "#009E73", "marker": "o"},
    }
    depths = [int(layers) for layers in next(iter(found.values()))]
    for method, of_method in found.items():
        style = styles[method]
        rows = [[r["test_accuracy"] for r in rows] for rows in of_method.values()]
        axis.plot(depths, [np.mean(r) for r in rows], label=METHODS[method], **style)
        for layers, row in zip(depths, rows, strict=True):
            axis.plot([layers] * len(row), row, "_", color=style["color"], alpha=0.6)
    axis.axhline(teacher, color="black", linewidth=1)
    axis.text(depths[-1], teacher, "teacher", va="bottom", ha="right")
    axis.axhline(10, color="0.7", linewidth=1, zorder=0)
    axis.text(depths[0], 9, "chance", va="top", color="0.4")
    axis.set(
        xlabel="layers, of about as many multiplications",
        ylabel="test accuracy, %",
        xticks=depths,
        ylim=(0, None),
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="center", bbox_to_anchor=(0.6, 0.42))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    epochs = {"teacher_epochs": 15, "epochs": 24, "hint_epochs": 8}
    images.add_options(parser, "depth_run", **epochs)
    parser.add_argument("--budget", type=int, default=3_000_000, help="multiplications")
    parser.add_argument(
        "--epsilon", type=float, default=1e-7, help="the epsilon of RMSprop"
    )
    parser.add_argument("--layers", type=int, nargs="+", choices=BLOCKS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    kept = ("seeds", "data_dir", "layers", "methods")
    options, settings = study.parse_options(parser, arguments, kept)
    depths = options.layers or [*BLOCKS]
    job = Job(
        options,
        images.load(options),
        lambda: build(TEACHER),
        hint_layers=("conv1", "conv2"),
    )
    teacher = study.measure_accuracy(job.teacher, job.data["test"])
    found = {name: {str(layers): [] for layers in depths} for name in options.methods}
    for seed in options.seeds:
        for layers in depths:
            for method in options.methods:
                found[method][str(layers)].append(
                    load_or_train(job, method, layers, seed)
                )
    draw(found, teacher, options.folder / "depth.png")
    study.record(
        *(options.folder, settings),
        seeds=options.seeds,
        teacher={"test_accuracy": teacher, "parameters": job.teacher.count_params()},
        results=found,
    )
    print(f"\nTeacher: {teacher:.1f} %\n{format_summary(found)}")


if __name__ == "__main__":
    study.run(main)
