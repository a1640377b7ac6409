//! Merge recipes: the mergekit YAML dialect checked into a plan, and an out-of-core driver that runs it
