"""From a plan to what is written: nothing of the plan is believed before it is compared with the model."""

from ..errors import CheckpointError, ExportError, check_known
from ..formats import Checkpoint
from ..shipping.recipe import Assignment
from ..shipping.rehearsal import assigned, file_nbytes, refusals
from ..wording import shown
from .plan import Plan
from .planfile import check_model
from .targets import TARGETS
from .units import COPY


def assignment_of(plan: Plan, checkpoint: Checkpoint, format: str | None = None) -> Assignment:
    """What a plan makes of every tensor of its model, for `shipping.ship` in a format, by default the plan's own.

    Raises
    ------
    CheckpointError : the plan is of another model, or of a version of quantlab that writes other files.
    ConfigError : a format that cannot hold plans of this target. ExportError : one that cannot hold this plan.
    """
    format = format or plan.format
    check_known(f"format of a plan for {plan.target}", format, TARGETS[plan.target].formats)
    check_model(plan, checkpoint)
    if set(plan.choices.values()) == {COPY}:
        raise ExportError(f"the plan copies every tensor of {checkpoint}: there is nothing to quantize, keep the model")
    found = assigned(checkpoint, plan.rules(), format)
    if refused := refusals(checkpoint, found, format):
        raise ExportError(refused[0])
    if format == plan.format:
        _check_same(plan, found, checkpoint)
    return found


def _check_same(plan: Plan, found: Assignment, checkpoint: Checkpoint) -> None:
    """CheckpointError unless the export is what the plan says, tensor by tensor, and as large, to the byte."""
    made = {item.spec.name: str(item.config) for item in found.taken}
    for name, choice in plan.choices.items():
        if made.get(name, COPY) != choice:
            raise CheckpointError(
                f"the plan gives {shown(name)} {choice}, and it would be written as {made.get(name, COPY)}: make the "
                f"plan again with this version of quantlab"
            )
    size = file_nbytes(checkpoint, found, plan.format)
    if size != plan.nbytes:
        raise CheckpointError(
            f"the plan says {plan.nbytes:,} bytes, and its file would have {size:,}: it is of another version of "
            f"quantlab, or something beside the model has changed; make the plan again"
        )
