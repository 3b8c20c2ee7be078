"""Layout: in how many ways a training run is split over workers."""

from pydantic import Field

from cluster.errors import SpecError
from cluster.spec import Spec


class Layout(Spec):
    """One number an axis; their product is the number of workers."""

    replicate: int = Field(2, ge=1)
    """Copies of the whole model, each training on its own part of every global batch (data parallel)."""

    @property
    def num_workers(self) -> int:
        """How many worker processes the layout needs."""
        return self.replicate

    def check_batch(self, batch_size: int) -> None:
        """Raise SpecError unless each replica gets the same number of rows of a full global batch."""
        if batch_size % self.replicate:
            lower = batch_size - batch_size % self.replicate
            raise SpecError(
                f"train.batch_size={batch_size} rows do not divide over layout.replicate={self.replicate}; "
                f"give train.batch_size={max(lower, self.replicate)} or another replicate"
            )
