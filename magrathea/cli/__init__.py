"""The commands, a function each. They import what they need when they run, so ``magrathea --help`` answers at once."""
