//! The command line of Model-GLUE: the binary glue, and the entry point for a glue with operators of your own
