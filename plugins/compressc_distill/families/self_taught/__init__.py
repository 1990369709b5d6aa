"""Students that teach themselves: `generations=` of `distill`, the objective `last_epoch`."""
