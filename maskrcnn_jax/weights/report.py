"""What was loaded, and from where: everything that a user should be able to check at a glance."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """The outcome of loading weights; ``str(report)`` is a few lines of text."""

    source: str  # Path of the file or run directory.
    digest: str | None  # sha256 of the file in hexadecimal digits.
    architecture: str
    norm_eps: float
    norm_eps_reason: str
    num_arrays: int  # Of the source that are in the model now.
    renamed: dict[str, str] = field(default_factory=dict)  # Present names by the old names of the file.
    reinitialised: tuple[str, ...] = ()  # Names, as in the source, of what starts from random values.
    num_classes_found: int = 0  # Of the source.

    def __str__(self) -> str:
        digest = f" (sha256 {self.digest[:8]}...)" if self.digest else ""
        lines = [
            f"weights: {self.source}{digest}",
            f"model: {self.architecture}",
            f"eps of the norms: {self.norm_eps:g}, {self.norm_eps_reason}",
            f"loaded: {self.num_arrays} arrays",
        ]
        if self.renamed:
            old, new = next(iter(self.renamed.items()))
            lines.append(f"old names: {len(self.renamed)}, such as {old}, which is now {new}")
        if self.reinitialised:
            lines.append(
                f"re-initialised at random, because the weights are for {self.num_classes_found} classes: "
                + ", ".join(self.reinitialised)
            )
        return "\n".join(lines)
