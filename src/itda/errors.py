"""Every error that itda raises on purpose: what was wanted, what came, and what to do."""


class ItdaError(Exception):
    """Base of all errors that have a remedy. The command line turns it into exit code 2."""


class OptionError(ItdaError, ValueError):
    """An option has a value that cannot be used, or two options contradict each other."""


class ShapeError(ItdaError, ValueError):
    """An array has another shape or type than the one that is needed."""


class ActivationError(ItdaError, ValueError):
    """Activations hold values that cannot be decomposed: not a number, infinite, or none at all."""


class CorpusError(ItdaError, ValueError):
    """A corpus is empty, unreadable, or too small for what was asked."""


class ModelError(ItdaError, ValueError):
    """A model or its tokenizer cannot be loaded or cannot do what was asked."""


class SiteError(ItdaError, LookupError):
    """A place that the model does not have."""


class MismatchError(ItdaError, ValueError):
    """Two things that were made from different models, tokenizers, corpora or sites."""


class FormatError(ItdaError, ValueError):
    """A file is missing, damaged, of a newer format, or not one of ours."""


class OutputError(ItdaError, OSError):
    """A result cannot be written: the folder exists, is read-only, or the disk is full."""


class BackendError(ItdaError, RuntimeError):
    """A pursuit backend that was asked for by name cannot run here."""


class ClusterError(ItdaError, ConnectionError):
    """Workers cannot be reached, or were lost again and again."""


class JudgeError(ItdaError, ConnectionError):
    """A language model that was to judge does not answer, or not in the protocol."""


class MissingExtraError(ItdaError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra {extra!r}. Install it with: pip install 'itda[{extra}]'")
        self.feature, self.extra = feature, extra

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """What it is made of, so that it comes back whole from another process."""
        return type(self), (self.feature, self.extra)
