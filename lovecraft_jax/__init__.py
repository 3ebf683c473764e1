"""LSTM language models on prose, in JAX and Flax: train, resume, measure, generate, export.

What `__all__` names is imported when it is first used, so that `lovecraft_jax.data` and `lovecraft_jax.stylometry` need
no JAX.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lovecraft_jax.export.export import export_run
    from lovecraft_jax.export.import_run import import_run
    from lovecraft_jax.inference.sampling import Sampling
    from lovecraft_jax.run import Run, load_run
else:

    def __getattr__(name):
        """Imports what `__all__` names; Python calls this for names that the module does not have."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name in ("export_run", "import_run"):  # which need the libraries of all formats
            from lovecraft_jax.export.export import export_run
            from lovecraft_jax.export.import_run import import_run

            globals().update(export_run=export_run, import_run=import_run)
        else:
            from lovecraft_jax.inference.sampling import Sampling
            from lovecraft_jax.run import Run, load_run

            globals().update(Run=Run, Sampling=Sampling, load_run=load_run)
        return globals()[name]


__all__ = ["Run", "Sampling", "export_run", "import_run", "load_run"]
__version__ = "0.1.0"
