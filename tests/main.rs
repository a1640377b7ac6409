//! The end-to-end tests of `glue`, one program: it links once.

mod abort_points;
mod adapters;
mod bounded_input;
mod calibrated;
mod calibrating;
mod command_line;
mod comparing;
mod configs;
mod golden;
mod input_safety;
mod integrity;
mod interruption;
mod invariance;
mod mixing;
mod new_operator;
mod output_safety;
mod outputs;
mod program_safety;
mod progress;
mod refusals;
mod running;
mod runtime;
mod scores;
mod searching;
mod stages;
mod training;
