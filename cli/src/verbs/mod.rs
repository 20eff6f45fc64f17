//! One file a verb.

mod apply;
mod check;
mod compare;
mod convert;
mod delta;
mod digest;
mod generate;
mod info;
mod map;
mod measure;
mod merge;
mod picture;
mod resize;

use std::process::ExitCode;

use crate::args::Verb;
use crate::failure::Failure;

/// Does what was asked for.
pub fn run(verb: &Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Convert(arguments) => convert::run(arguments),
        Verb::Info(arguments) => info::run(arguments),
        Verb::Measure(arguments) => measure::run(arguments),
        Verb::Map(arguments) => map::run(arguments),
        Verb::Check(arguments) => check::run(arguments),
        Verb::Resize(arguments) => resize::run(arguments),
        Verb::Apply(arguments) => apply::run(arguments),
        Verb::Merge(arguments) => merge::run(arguments),
        Verb::Compare(arguments) => compare::run(arguments),
        Verb::Digest(arguments) => digest::run(arguments),
        Verb::Completions { shell } => generate::completions(*shell),
        Verb::Man => generate::man(),
    }
}
