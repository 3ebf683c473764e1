"""python -m lovecraft_jax.export --workdir=runs/c150 --to=page.html: takes a trained model to other programs."""

from absl import flags

from lovecraft_jax import cli
from lovecraft_jax.export.export import ending_of, export_run
from lovecraft_jax.export.import_run import import_run
from lovecraft_jax.export.weights import DTYPES, SCORED
from lovecraft_jax.run import load_run
from lovecraft_jax.runtime.console import printable
from lovecraft_jax.runtime.errors import UserError


def main() -> int:
    """Writes the model, or with --from the run, and prints its path."""
    F, file, to = flags.FLAGS, cli.optional_flag("from"), cli.optional_flag("to")
    if file and to:
        raise UserError(f"--from={file} and --to={to}: give one of them; --from makes a run in --workdir")
    if not (file or to):
        raise UserError("--to is missing; for example --to=page.html, model.safetensors, model.onnx, or hub/")
    unused = [f"--{name}" for name in (("dtype",) if file else ("like",)) if F[name].present]
    if file and not cli.optional_flag("like"):
        unused += [f"--{name}" for name in ("checkpoint", "corpus") if F[name].present]
    if unused:
        raise UserError(f"{unused[0]}: not with {'--from' if file else '--to'} alone; leave it out")
    workdir, corpus = cli.required_flag("workdir", "runs/c150"), cli.optional_flag("corpus")
    if file:
        if len(workdir) > 1:
            raise UserError(f"--from={file}: makes one run; give one --workdir")
        like = cli.optional_flag("like")
        made = import_run(file, workdir[0], load_run(like, F.checkpoint, corpus) if like else None)
        print(printable(str(made)))
        return 0
    ending_of(to)  # before a run is loaded
    run = load_run(workdir, F.checkpoint, corpus)
    if corpus:
        run.split(SCORED)  # raises UserError where it is another text
    print(printable(str(export_run(run, to, F.dtype))))
    return 0


if __name__ == "__main__":
    cli.define_run_flags("is refused: a format holds one")
    flags.DEFINE_string("to", None, "What to write: *.html, *.safetensors, *.onnx, or a folder, ending with /.")
    flags.DEFINE_enum("dtype", None, DTYPES, "How matrices are stored; float16 in a page, else float32 by default.")
    flags.DEFINE_string("from", None, "Make a run in --workdir, a new folder, from this .safetensors file.")
    flags.DEFINE_string("like", None, "With --from: a run that has the tokenizer and settings that the file lacks.")
    cli.run(main)
