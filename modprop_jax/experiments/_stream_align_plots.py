"""The figures of `align_stream`."""

import numpy as np

from ._align_config import StreamAlignConfig
from ._align_plots import _png
from ._plots import _COLOURS, _STYLES
from ._stream_align_summary import means, Metrics


def figures(config: StreamAlignConfig, metrics: Metrics) -> dict[str, bytes]:
    """File names and PNGs: all rules with all, and each with the learner along training."""
    found = {"curves.png": curves_figure(config, metrics)} if metrics else {}
    if len(metrics) > config.left_out:
        found["matrix.png"] = matrix_figure(config, metrics)
    return found


def matrix_figure(config: StreamAlignConfig, metrics: Metrics) -> bytes:
    """Mean cosine of all rules with all, over steps and seeds: plain, and weighted by norms."""
    found, names = means(config, metrics), config.run.rules
    assert found is not None
    panels = {"mean cosine": found.cosine, "weighted by norms": found.weighted}

    def draw(figure):
        grid, image = figure.subplots(1, 2), None
        for axes, (title, by_seed) in zip(grid, panels.items()):
            cosine = by_seed.mean(0)
            image = axes.imshow(cosine, vmin=-1, vmax=1, cmap="RdBu_r")
            for (i, j), value in np.ndenumerate(cosine):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
            axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.set_title(title, fontsize="small")
        figure.colorbar(image, ax=list(grid), shrink=0.7, label="cosine of gradients")
        figure.suptitle(_title(config, "mean"), fontsize="medium")

    size = 1.6 + 0.42 * len(names)
    return _png((2 * size + 1, size + 0.5), draw)


def curves_figure(config: StreamAlignConfig, metrics: Metrics) -> bytes:
    """Cosine to the learner, block by block, plain and weighted, and the learner's loss."""
    rules = config.run.rules
    own = rules.index(config.learner)
    others = [index for index in range(len(rules)) if index != own]
    at = np.array([line["iteration"] for line in metrics])

    def along(axes, by_seed, **style):
        """Mean over seeds, and a band from the lowest to the highest."""
        axes.plot(at, by_seed.mean(1), **style)
        axes.fill_between(
            at, by_seed.min(1), by_seed.max(1), color=style["color"], alpha=0.15, lw=0
        )

    def draw(figure):
        left, middle, right = figure.subplots(1, 3)
        for axes, name in ((left, "cosine"), (middle, "weighted")):
            cosine = np.array([line[name] for line in metrics])
            for turn, index in enumerate(others):
                again, colour = divmod(turn, len(_COLOURS))
                style = {"color": _COLOURS[colour], "ls": _STYLES[again % len(_STYLES)], "lw": 1.8}
                along(axes, cosine[:, :, own, index], label=rules[index], **style)
            axes.axhline(0, color="grey", lw=0.8, ls=":")
        left.set(ylabel=f"cosine to {config.learner}")
        middle.set(ylabel="the same, weighted by norms")
        loss = np.array([line["loss"] for line in metrics])
        along(right, loss, color="black", lw=1.8)
        right.set(ylabel=f"loss, {config.learner} learning")
        for level in config.run.entry.floors.values():
            right.axhline(level, color="grey", lw=0.8, ls=":")
        for axes in (left, middle, right):
            axes.set_xlabel("step")
        if others:
            handles = left.get_legend_handles_labels()
            figure.legend(
                *handles, loc="outside lower center", ncols=8, frameon=False, fontsize="small"
            )
        figure.suptitle(_title(config, "mean and range"), fontsize="medium")

    return _png((12.0, 3.9), draw)


def _title(config: StreamAlignConfig, shown: str) -> str:
    run = config.run
    seeds = f"{run.seeds} seed{'s' if run.seeds > 1 else ''}"
    return f"{run.task} ({run.preset}), {config.learner} learning: {shown} of {seeds}"
