"""What a run will cost before it is begun: time, memory, disk and network."""

from itda.planning.machines import MACHINES, Machine, machine, this_machine
from itda.planning.models import ModelSize
from itda.planning.plans import Plan, plan

__all__ = ["MACHINES", "Machine", "ModelSize", "Plan", "machine", "plan", "this_machine"]
