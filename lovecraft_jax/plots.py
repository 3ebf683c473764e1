"""Numbers in, matplotlib figures out. Needs the extra `plots`."""

from matplotlib.figure import Figure

from lovecraft_jax.metrics import Row


def curve(rows: list[Row], baselines: dict[str, float], title: str) -> Figure:
    """Bits per character over the steps: training, scheduled scores of the valid split, baselines as lines."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    train = [row for row in rows if row["split"] == "train"]
    valid = [row for row in rows if row["split"] == "valid" and row["scoring"] == "scheduled"]
    axes.plot([r["step"] for r in train], [r["bpc"] for r in train], color="0.6", linewidth=0.8, label="train")
    axes.plot([r["step"] for r in valid], [r["bpc"] for r in valid], "o-", color="C0", markersize=3, label="valid")
    top = axes.get_ylim()[1]
    for name, bpc in baselines.items():
        if bpc < top:
            axes.axhline(bpc, color="0.3", linestyle=":", linewidth=1)
            axes.annotate(f"{name} {bpc:.3f}", (0, bpc), xytext=(2, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="step", ylabel="bits per character", title=title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
